"""The paper's recipe on phantoms at a reduced size: over seeds, and with each augmentation and each loss by itself.

    python -m experiments.studies.paper_recipe --output build/paper_recipe

Everything of the recipe stays as in the paper (Adam, batch 2, cross-entropy, plateau, all eight augmentations) but its
length and, for that, its rate: a small network sees 64x64 phantoms for hundreds of steps instead of tens of thousands.
Held-out phantoms are scored slice by slice through the evaluator, with the best checkpoint of the run. A run that is
there already is not trained again. Expect a mean Dice over tumour slices above 0.5 for every row; the table ends with
mean ± sd over the seeds. Costs some 25 minutes on 2 cores.
"""

import csv
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console

from data_pipeline.files import atomic_path
from data_pipeline.loading import Dataset
from data_pipeline.phantom.phantom import write_phantoms
from rdunet_jax.config import PAPER_AUGMENTATION, RECIPES, TrainConfig
from rdunet_jax.networks.models import model_config
from rdunet_jax.workflows.demo import DATASET, INFERENCE, SLICES
from rdunet_jax.workflows.display import number, print_table
from rdunet_jax.workflows.evaluate import evaluate_network
from rdunet_jax.workflows.prepare import prepare_source
from rdunet_jax.workflows.start_up import prepare_jax
from rdunet_jax.workflows.train import train_network

LOSSES = ("bce", "dice", "tversky", "focal", "iou", "bce+0.5*dice")
TVERSKY_ALPHA = 0.3
"""At 0.5 `tversky` is `dice` again."""


@dataclass(frozen=True)
class Settings:
    output: Path
    """Folder for the phantoms, a run a row, and the table."""
    seeds: int = 5
    """Runs of the whole recipe."""
    patients: int = 56
    """Phantoms, split as in the demo."""
    steps: int = 300
    """Of each run of the whole recipe."""
    short_steps: int = 150
    """Of each run with one augmentation, or one loss, by itself."""


def rows_of(settings: Settings) -> dict[str, TrainConfig]:
    """The recipes by the names of their runs."""
    reduced = replace(RECIPES["paper"], learning_rate=3e-3, steps_per_epoch=50, validation="patches")
    whole = replace(reduced, epochs=settings.steps // 50)
    short = replace(reduced, epochs=settings.short_steps // 50)
    rows = {f"seed {seed}": replace(whole, seed=seed) for seed in range(settings.seeds)}
    rows |= {
        f"augmentation {name}": replace(short, augmentation=(name,)) for name in (*PAPER_AUGMENTATION, "authors_code")
    }
    short = replace(short, augmentation=(), tversky_alpha=TVERSKY_ALPHA)
    return rows | {f"loss {formula}": replace(short, loss=formula) for formula in LOSSES}


def main(settings: Settings) -> None:
    console = Console(width=100)
    dicom, data_dir = settings.output / "dicom", settings.output / "data"
    if not data_dir.exists():
        write_phantoms(dicom, count=settings.patients, seed=0, slices=SLICES, on_patient=lambda *_: None)
        prepare_source(dicom, data_dir, DATASET, console, keep_ids=True)
    data = Dataset(data_dir)
    table, seed_dice = [], []
    for name, recipe in rows_of(settings).items():
        workdir = settings.output / name.replace(" ", "-")
        scored = workdir / "evaluation" / "test" / "summary.json"
        if not scored.exists():
            train_network(data, workdir, model_config("tiny"), recipe, INFERENCE, console)
            evaluate_network(data, workdir, console)
        summary = json.loads(scored.read_text())
        fields = ("mean_dice_tumour_slices", "median_dice_tumour_slices")
        counts = (summary["false_positive_slices"], summary["false_negative_slices"])
        if name.startswith("seed"):
            seed_dice.append(summary["mean_dice_tumour_slices"])
        table.append((name, *(number(summary[field]) for field in fields), *map(str, counts)))
    header = ("name", "mean Dice", "median Dice", "FP slices", "FN slices")
    print_table(console, f"Held-out phantoms ({data.patient_count('test')}), tumour slices", header, table)
    mean, deviation = np.mean(seed_dice), np.std(seed_dice, ddof=1)
    console.print(f"paper recipe, {len(seed_dice)} seeds: mean Dice {mean:.3f} ± {deviation:.3f} (sd)")
    with atomic_path(settings.output / "paper_recipe.csv") as path, path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *table])


if __name__ == "__main__":
    prepare_jax()
    main(tyro.cli(Settings, description=__doc__))
