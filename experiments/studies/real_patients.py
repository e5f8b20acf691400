"""Leave-one-out on six real patients: each set-up is trained on five of them, and the sixth is scored.

    python -m experiments.studies.real_patients --lung1 LUNG1-001 LUNG1-002 LUNG1-003 --output build/real_patients

LUNG1-001, -002 and -003 of NSCLC-Radiomics are whole CTs; `2` to `4` are CTs of `rdunet sample-data`, cropped around
the tumour. Its `pat_1` is LUNG1-002 and is not used. The set-ups:

- `paper`: the paper's recipe, threshold and dilation, trained on patches with tumour;
- `rdunet`: the recipe `rdunet`, with the threshold and dilation of the demo, which were chosen on phantoms;
- `pretrained`: as `rdunet`, but training begins with the weights of a network trained on `realistic` phantoms;
- `restricted`: the network of `rdunet`; of its mask the largest component is kept of those that touch the lungs.

The output folder has a folder for each patient left out, with data set, run and scores of each set-up, and `page.html`
for both protocols. A piece (one set-up without one patient) that is scored is not run again, and one that was stopped
continues, so the same command finishes what was interrupted; `--patients 3 --setups rdunet` runs one piece, and two
processes can share the pieces. Pieces of a `real_patients.csv` that is given as --recorded are not run again either.
`real_patients.md` has a row for each set-up, with the 95% interval of the mean 3-D Dice and the paired difference to
`paper`; `real_patients.csv` has a row for each piece. `worst/` shows the patient with the lowest Dice of the best
set-up. Pictures of these patients are under CC BY-NC 3.0.

The settings are fixed in advance, because six patients are too few to choose them on:

- absolute Hounsfield units, as the cropped CTs and the whole ones share no extremes for min-max scaling;
- voxels of one size (384 mm divided by --image-size, 3 mm between slices), as a cropped CT and a whole one that fill
  the same image would differ in scale;
- the `tiny` network, and the learning rate of `paper_recipe.py` for so few steps;
- no validation: the network after the last step is scored;
- pretraining of 2550 steps: by its training loss, 850 steps end soon after the network begins to learn.

`--smoke` leaves out phantoms in turn instead, at a small size and for two steps; its scores mean nothing. Costs about
4 minutes for a piece on 2 cores at the default size.
"""

if not __package__:
    raise SystemExit("error: run this in the checkout as: python -m experiments.studies.real_patients")

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from data_pipeline.errors import InputError
from data_pipeline.files import atomic_folder
from data_pipeline.loading import Dataset
from data_pipeline.sample_data import fetch_sample_data
from data_pipeline.settings import DatasetSettings, PrepareOptions, Sampling
from data_pipeline.splits import write_split
from experiments.common import script
from experiments.common.steps import phantom_dataset, train_and_score
from experiments.studies.real_patients_table import (
    PROTOCOLS,
    Scores,
    read_recorded,
    read_scores,
    worst_piece,
    write_tables,
)
from rdunet_jax.config import RECIPES, InferenceConfig
from rdunet_jax.networks.models import model_config
from rdunet_jax.options import EvaluateOptions, SegmentOptions
from rdunet_jax.runs.workdir import RunConfig
from rdunet_jax.workflows import demo
from rdunet_jax.workflows.demo import show_phantoms_written
from rdunet_jax.workflows.display import print_table
from rdunet_jax.workflows.prepare import prepare_source
from rdunet_jax.workflows.segment import segment_source
from rdunet_jax.workflows.train import train_network

WHOLE = ("LUNG1-001", "LUNG1-002", "LUNG1-003")
CROPPED = ("2", "3", "4")
STEPS_PER_EPOCH = 50
VIEW_MM, SLICE_MM = 384, 3
"""Width of what the network sees, and the distance between its slices."""
RECIPE = {
    "paper": replace(RECIPES["paper"], selection="any_tumour"),
    "rdunet": RECIPES["rdunet"],
}
INFERENCE = {
    "paper": InferenceConfig(window_batch=4),
    "rdunet": replace(demo.INFERENCE, stride=1),
}


@dataclass(frozen=True)
class Setup:
    """One way to train.

    Attributes:
        recipe: of the training and the prediction.
        pretrained: whether training begins with the network trained on phantoms.
        network: another set-up whose network is scored, in place of training one.
        restricted: whether the mask is restricted to the largest component that touches the lungs.
    """

    recipe: Literal["paper", "rdunet"]
    pretrained: bool = False
    network: str | None = None
    restricted: bool = False


SETUPS: dict[str, Setup] = {
    "paper": Setup("paper"),
    "rdunet": Setup("rdunet"),
    "pretrained": Setup("rdunet", pretrained=True),
    "restricted": Setup("rdunet", network="rdunet", restricted=True),
}


@dataclass(frozen=True)
class Settings:
    output: Path
    """Folder for a copy of the patients, the pieces and the tables."""
    lung1: tuple[Path, Path, Path] | None = None
    """Folders with the DICOM files of LUNG1-001, LUNG1-002 and LUNG1-003, each with its CT and its RTSTRUCT."""
    patients: tuple[str, ...] = ()
    """Patients to leave out (none: all)."""
    setups: tuple[str, ...] = tuple(SETUPS)
    """Set-ups to run."""
    image_size: int = 64
    """Rows and columns of a slice on the network's grid, which is 384 mm wide."""
    steps: int = 850
    """Training steps of each piece, a multiple of 50."""
    pretraining_steps: int = 2550
    """Training steps on phantoms, a multiple of 50."""
    phantoms: int = 24
    """Phantoms of level `realistic` for pretraining."""
    recorded: Path | None = None
    """A `real_patients.csv` with pieces that are not run again."""
    smoke: bool = False
    """Leave out small phantoms in place of the patients."""


@dataclass(frozen=True)
class Study:
    """What is run: the patients, and the sizes."""

    output: Path
    patients: tuple[str, ...]
    epochs: int
    pretraining_epochs: int
    steps_per_epoch: int
    image_size: int
    phantoms: int
    slices: tuple[int, int]
    console: Console

    @classmethod
    def of(cls, settings: Settings, console: Console) -> "Study":
        """Checks the settings.

        Raises:
            InputError: a patient or set-up is unknown, or a number of steps does not fit.
        """
        patients = ("PHANTOM-001", "PHANTOM-002", "PHANTOM-003") if settings.smoke else (*WHOLE, *CROPPED)
        for flag, given, known in (
            ("--patients", settings.patients, patients),
            ("--setups", settings.setups, tuple(SETUPS)),
        ):
            if unknown := set(given) - set(known):
                raise InputError(f"{flag} {' '.join(sorted(unknown))}: the {flag[2:]} are {', '.join(known)}")
        for flag, steps in (("--steps", settings.steps), ("--pretraining-steps", settings.pretraining_steps)):
            if steps < STEPS_PER_EPOCH or steps % STEPS_PER_EPOCH:
                raise InputError(f"{flag} {steps}: give a multiple of {STEPS_PER_EPOCH}")
        if settings.smoke:
            return cls(settings.output, patients, 1, 1, 2, 32, 3, (12, 12), console)
        epochs, pretraining_epochs = settings.steps // STEPS_PER_EPOCH, settings.pretraining_steps // STEPS_PER_EPOCH
        return cls(
            settings.output,
            patients,
            epochs,
            pretraining_epochs,
            STEPS_PER_EPOCH,
            settings.image_size,
            settings.phantoms,
            (40, 50),
            console,
        )

    def run(self, data: Dataset, setup: Setup, epochs: int) -> RunConfig:
        """The settings of a run."""
        share = RECIPE[setup.recipe].tumour_free_share
        if data.patch_count("train", Sampling("all")) == data.patch_count("train", Sampling("any_tumour")):
            share = None  # all patients are cropped around their tumours
        recipe = replace(
            RECIPE[setup.recipe],
            tumour_free_share=share,
            epochs=epochs,
            steps_per_epoch=self.steps_per_epoch,
            learning_rate=3e-3,
            validation="none",
        )
        return RunConfig(model_config("tiny"), recipe, INFERENCE[setup.recipe], data.intensity, data.image_size)

    @property
    def dataset(self) -> DatasetSettings:
        """The settings of a data set."""
        pixel = VIEW_MM / self.image_size
        return DatasetSettings(intensity="hu_window", image_size=self.image_size, spacing=(pixel, pixel, SLICE_MM))


def gather(settings: Settings, study: Study) -> dict[str, Path]:
    """Copies the patients into one folder; returns the folder of each.

    Raises:
        InputError: `--lung1` is missing, or is no folder.
    """
    dicom = study.output / "dicom"
    folders = {name: dicom / name for name in study.patients}
    if all(folder.exists() for folder in folders.values()):
        return folders
    if settings.smoke:
        show_phantoms_written(dicom, len(folders), study.slices, study.console)
        return folders
    if settings.lung1 is None:
        raise InputError(f"give --lung1 and the folders of {', '.join(WHOLE)}, or --smoke, for phantoms")
    for source in settings.lung1:
        if not source.is_dir():
            raise InputError(f"{source}: no such folder; give --lung1 the folders of {', '.join(WHOLE)}")
    sample = fetch_sample_data(study.output / "sample")  # pat_1 is LUNG1-002
    sources = zip((*WHOLE, *CROPPED), (*settings.lung1, *sample[1:]), strict=True)
    for name, source in sources:
        if not folders[name].exists():
            with atomic_folder(folders[name]) as folder:
                shutil.copytree(source, folder, dirs_exist_ok=True)
    return folders


def run_piece(study: Study, left_out: str, name: str) -> None:
    """Trains one set-up on all patients but one and scores that one. What is done already is not done again."""
    folder = study.output / left_out
    if read_scores(folder / name) is not None:
        return
    setup = SETUPS[name]
    if setup.network:
        run_piece(study, left_out, setup.network)
    study.console.rule(f"{name}, without {left_out}")
    split_file = folder / "split.json"
    if not split_file.exists():
        others = [patient for patient in study.patients if patient != left_out]
        write_split({"train": others, "validation": [], "test": [left_out]}, split_file)
    try:
        data = Dataset(folder / "data")
    except InputError:  # there is none, or none that is whole
        options = PrepareOptions(keep_ids=True, split_file=split_file)
        prepare_source(study.output / "dicom", folder / "data", study.dataset, study.console, options)
        data = Dataset(folder / "data")
    init_from = pretrain(study) if setup.pretrained else None
    run = study.run(data, setup, study.epochs)
    if setup.network and not (folder / name).exists():
        with atomic_folder(folder / name) as copy:
            ignored = shutil.ignore_patterns("evaluation", ".lock")
            shutil.copytree(folder / setup.network, copy, dirs_exist_ok=True, ignore=ignored)
    options = EvaluateOptions(html=True, **restriction(setup))
    train_and_score(data, folder / name, run, study.console, PROTOCOLS, options, init_from)


def restriction(setup: Setup) -> dict[str, Any]:
    """What a set-up adds to the post-processing of its run."""
    return {"lungs_only": setup.restricted, "largest_component": setup.restricted}


def pretrain(study: Study) -> Path:
    """The folder of the network that is trained on phantoms, once for all patients."""
    folder = study.output / "pretraining"
    # Pseudonyms: those who are left out are phantoms too with `--smoke`, and of equal names.
    data = phantom_dataset(folder, study.dataset, study.phantoms, study.slices, study.console, "realistic", False)
    run = study.run(data, SETUPS["pretrained"], study.pretraining_epochs)
    train_network(data, folder / "run", run.model, run.train, run.inference, study.console)
    return folder / "run"


def show_worst(study: Study, folders: dict[str, Path], scores: Scores) -> None:
    """Segments the patient with the lowest Dice of the set-up with the highest mean, for `worst/overview.png`."""
    if (piece := worst_piece(scores)) is None:
        return
    name, patient = piece
    if not (study.output / patient / name).exists():  # recorded elsewhere
        return
    output = study.output / "worst"
    shutil.rmtree(output, ignore_errors=True)
    options = SegmentOptions(keep_ids=True, **restriction(SETUPS[name]))
    segment_source(folders[patient], study.output / patient / name, output, study.console, options)
    study.console.print(f"worst patient of the best set-up, {name}: {patient}; picture: {output}", markup=False)


def main(settings: Settings) -> None:
    console = script.make_console(160)
    study = Study.of(settings, console)
    recorded = read_recorded(settings.recorded) if settings.recorded else {}
    folders = gather(settings, study)
    scores = write_tables(study.output, tuple(SETUPS), study.patients, recorded)
    for patient in settings.patients or study.patients:
        for name in settings.setups:
            if patient not in scores.pieces[name]:
                run_piece(study, patient, name)
                scores = write_tables(study.output, tuple(SETUPS), study.patients, recorded)
    header, rows = scores.table
    print_table(console, "The patients left out in turn", header, rows)
    show_worst(study, folders, scores)


if __name__ == "__main__":
    script.run(main, __doc__)
