"""Each change that could better the paper's recipe, alone, on phantoms: what helps, what does not, and what it costs.

    python -m experiments.studies.ablation --output build/ablation
    python -m experiments.studies.ablation --output build/ablation --rows paper "cosine schedule" --seeds 1
    python -m experiments.studies.ablation --output build/ablation --recorded experiments/studies/ablation_scores.csv
    python -m experiments.studies.ablation --output build/ablation --smoke

The first row is the paper's recipe at a reduced size: the network `tiny`, 64 x 64 pixels, 600 steps, and for that a
higher learning rate. The following rows change one thing in it. The last rows are the recipe `rdunet`, and it with the
paper's value of one of its parts. All rows are scored on the same validation patients, which also select the best epoch
of each run. They are of a cohort of phantoms that no other script or command uses: whoever chooses a recipe by this
table has seen no test patient of the demo.

A row is trained once for each seed of initial weights, order and augmentation. A run that is scored is not run again,
so the table can be made in pieces, and by several processes with other --rows each, once the data sets are written; it
is written anew after each run. `scores.csv` holds the scores of each run; given as --recorded to a later call, its runs
are not run again either. The test is Wilcoxon's: each patient's 3-D Dice, the mean over the seeds, against that of the
first row.
"""

if not __package__:
    raise SystemExit("error: run this in the checkout as: python -m experiments.studies.ablation")

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from data_pipeline.errors import InputError
from data_pipeline.files import atomic_folder
from data_pipeline.loading import Dataset
from data_pipeline.phantom.phantom import write_phantoms
from data_pipeline.settings import DatasetSettings, Intensity, PrepareOptions
from experiments.common import script
from experiments.studies.ablation_table import HEADER, REFERENCE, Scores, keep_scores, read_runs, slug, write_table
from rdunet_jax.config import PAPER_AUGMENTATION, RECIPES, HuWindow, InferenceConfig, TrainConfig
from rdunet_jax.networks.models import model_config
from rdunet_jax.runs.workdir import load_trained
from rdunet_jax.scoring.slices import score_slices, summarise
from rdunet_jax.workflows.display import print_table
from rdunet_jax.workflows.prediction import ct_mask, sliding_window
from rdunet_jax.workflows.prepare import prepare_source
from rdunet_jax.workflows.train import train_network

COHORT = 1000
"""Seed of the phantoms, which are used here only."""
INFERENCE = InferenceConfig(window_batch=4, threshold=0.5, dilation_diameter=3, stride=4)
BOTH_WINDOWS: tuple[HuWindow, ...] = ("lung", "soft_tissue")
PARTS = ("selection", "tumour_free_share", "loss", "schedule", "ema")
"""The settings of training that differ between the recipes `rdunet` and `paper`."""


@dataclass(frozen=True)
class Size:
    """What a run costs."""

    patients: int = 40
    slices: tuple[int, int] = (40, 50)
    matrix: int = 256
    image_size: int = 64
    validation_share: float = 0.3
    steps_per_epoch: int = 150
    epochs: int = 4


SMOKE = Size(patients=5, slices=(12, 14), matrix=64, image_size=16, steps_per_epoch=2, epochs=2)


@dataclass(frozen=True)
class Row:
    """A recipe, and what it is used with."""

    recipe: TrainConfig
    intensity: Intensity = "slice_minmax"
    patch_depth: int = 8
    hu_windows: tuple[HuWindow, ...] = ()


@dataclass(frozen=True)
class Settings:
    output: Path
    """Folder for the phantoms, the runs and the table."""
    rows: tuple[str, ...] = ()
    """Rows to run (none: all). The table holds all that are scored."""
    seeds: int = 3
    """Number of runs of each row."""
    recorded: Path | None = None
    """A `scores.csv` of runs of the same size, which are not run again."""
    smoke: bool = False
    """Use few and small phantoms and few steps, to check that every row runs."""


def rows_of(size: Size) -> dict[str, Row]:
    """The rows of the table by name: the paper's recipe, each change alone, our recipe, and it without each part."""
    length = {"learning_rate": 3e-3, "steps_per_epoch": size.steps_per_epoch, "epochs": size.epochs}
    paper, ours = (replace(RECIPES[name], validation="patients", **length) for name in ("paper", "rdunet"))

    def changed(**changes: Any) -> Row:
        return Row(replace(paper, **changes))

    def without(part: str) -> Row:
        """Our recipe with the paper's value of one setting."""
        return Row(replace(ours, **{part: getattr(paper, part)}), intensity="hu_window")

    return {
        REFERENCE: changed(),
        "all patches": changed(selection="all"),
        "any patch with tumour": changed(selection="any_tumour"),
        "tumour-free share 0.25": changed(tumour_free_share=0.25),
        "tumour-free share 0.5": changed(tumour_free_share=0.5),
        "hu_window": Row(paper, intensity="hu_window"),
        "hu_window, two windows": Row(paper, intensity="hu_window", hu_windows=BOTH_WINDOWS),
        "loss bce+0.5*dice": changed(loss="bce+0.5*dice"),
        "loss bce+dice": changed(loss="bce+dice"),
        "cosine schedule": changed(schedule="cosine"),
        "EMA 0.98": changed(ema=0.98),
        "last network, not the best": changed(validation="none"),
        "no augmentation": changed(augmentation=()),
        "flips alone": changed(augmentation=("horizontal_flip",)),
        "gamma added": changed(augmentation=(*PAPER_AUGMENTATION, "gamma")),
        "contrast added": changed(augmentation=(*PAPER_AUGMENTATION, "contrast")),
        "elastic added": changed(augmentation=(*PAPER_AUGMENTATION, "elastic")),
        "patches of 4 slices": Row(paper, patch_depth=4),
        "patches of 16 slices": Row(paper, patch_depth=16),
        "rdunet": Row(ours, intensity="hu_window"),
        "rdunet, slice_minmax": Row(ours),
        "rdunet, all patches": Row(replace(ours, selection="all", tumour_free_share=None), intensity="hu_window"),
        "rdunet, two windows": Row(ours, intensity="hu_window", hu_windows=BOTH_WINDOWS),
        **{f"rdunet, the paper's {part}": without(part) for part in PARTS},
    }


def dataset_of(folder: Path, size: Size, intensity: Intensity, console: Console) -> Dataset:
    """The cohort's data set with this intensity; made if it is not there yet, as the phantoms are."""
    settings = DatasetSettings(
        intensity, size.image_size, test_share=0, validation_share=size.validation_share, seed=COHORT
    )
    try:
        return Dataset(folder / "data", settings.name)
    except InputError:  # there is none yet
        pass
    dicom = folder / "dicom"
    if not dicom.exists():
        console.print(f"writing {size.patients} phantoms: {dicom}", markup=False)
        with atomic_folder(dicom) as unfinished:
            write_phantoms(unfinished, count=size.patients, seed=COHORT, slices=size.slices, matrix=size.matrix)
    prepare_source(dicom, folder / "data", settings, Console(quiet=True), PrepareOptions(keep_ids=True))
    return Dataset(folder / "data", settings.name)


def train_and_score(row: Row, data: Dataset, workdir: Path, console: Console) -> Scores:
    """Trains a row's recipe and scores the validation patients."""
    started = time.process_time()
    network = model_config("tiny", patch_depth=row.patch_depth, hu_windows=row.hu_windows)
    train_network(data, workdir, network, row.recipe, INFERENCE, console)
    cpu_seconds = time.process_time() - started
    trained = load_trained(workdir)
    window = sliding_window(trained)
    dice, slices = {}, []
    for example in data.patients("validation"):
        mask = ct_mask(window(trained.variables, example.image), example, INFERENCE)
        dice[example.name] = float(2 * (mask & example.ct_mask).sum() / (mask.sum() + example.ct_mask.sum()))
        slices.append(score_slices(mask, example.ct_mask))
    summary = summarise(slices)
    tumour_free = sum(int((one.truth_pixels == 0).sum()) for one in slices)
    return Scores(
        cpu_seconds,
        dice,
        summary["mean_dice_tumour_slices"] or 0.0,
        (summary["false_positive_slices"] or 0) / tumour_free,
    )


def main(settings: Settings) -> None:
    console = script.make_console()
    size = SMOKE if settings.smoke else Size()
    rows = rows_of(size)
    unknown = sorted(set(settings.rows) - set(rows))
    if unknown:
        raise InputError(f"--rows: no row is called {', '.join(unknown)}; the rows are: {', '.join(rows)}")
    folder, table = settings.output / ("smoke" if settings.smoke else "full"), []
    for name, runs in (read_runs(settings.recorded) if settings.recorded else {}).items():
        for seed, scores in runs.items():
            keep_scores(folder, name, seed, scores)
    for seed in range(settings.seeds):
        for name in settings.rows or rows:
            row = rows[name]
            workdir = folder / "runs" / slug(name) / f"seed-{seed}"
            if (workdir / "scores.json").exists():
                continue
            console.rule(f"{name}, seed {seed}")
            data = dataset_of(folder, size, row.intensity, console)
            row = replace(row, recipe=replace(row.recipe, seed=seed))
            scores = train_and_score(row, data, workdir / "run", console)
            keep_scores(folder, name, seed, scores)
            table = write_table(folder, rows)
    print_table(console, "Validation patients", HEADER, table or write_table(folder, rows))
    console.print(f"table: {folder / 'ablation.md'}", markup=False)


if __name__ == "__main__":
    script.run(main, __doc__)
