"""Leave-one-out on five real patients: a small network is trained on four, and the fifth is scored by both protocols.

    python -m experiments.studies.real_patients --lung1 NSCLC-Radiomics/LUNG1-001 --output build/real_patients

LUNG1-001 of NSCLC-Radiomics is a whole CT of 134 slices; `1` to `4` are the CTs of `rdunet sample-data`, cropped around
the tumour. The output folder holds the data set, run and scores of each fold under the name of the patient left out,
with `page.html` for both protocols, and the table as `real_patients.csv` and `real_patients.md`. A fold that is scored
is not run again, one that was stopped continues; `--folds LUNG1-001` runs one fold.

The settings are fixed in advance, because five patients are too few to choose them on:

- absolute Hounsfield units, as the cropped CTs and the whole one share no extremes for min-max scaling;
- 96 x 96 pixels of 5.2 mm and the `tiny` network: 2 cores do 300 steps of it in four minutes;
- the paper's recipe with all eight augmentations, and the learning rate of `paper_recipe.py` for so few steps;
- all patches with tumour, so that the slices above and below a tumour are trained on too;
- no validation: the network after the last step is scored, with the paper's threshold and dilation.

Expect low scores: a mean Dice over tumour slices of about 0.3, from 0 (patient 3, whose small tumour is next to the
mediastinum) to 0.7, and on LUNG1-001 many false positives in the shoulders and along the spine, which are not in the
cropped CTs. Costs about 4 minutes per fold on 2 cores.
"""

if not __package__:
    raise SystemExit("error: run this in the checkout as: python -m experiments.studies.real_patients")

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console

from data_pipeline.errors import InputError
from data_pipeline.files import atomic_folder, write_whole
from data_pipeline.loading import Dataset
from data_pipeline.sample_data import fetch_sample_data
from data_pipeline.settings import DatasetSettings, PrepareOptions
from data_pipeline.splits import write_split
from experiments.common import script
from experiments.common.steps import read_summaries, train_and_score
from experiments.common.tables import markdown, write_csv
from rdunet_jax.config import RECIPES, InferenceConfig, Protocol, TrainConfig
from rdunet_jax.networks.models import model_config
from rdunet_jax.runs.workdir import RunConfig
from rdunet_jax.workflows.display import number, print_table
from rdunet_jax.workflows.prepare import prepare_source

PATIENTS = ("LUNG1-001", "1", "2", "3", "4")
DATASET = DatasetSettings(intensity="hu_window", image_size=96, selection="any_tumour")
RECIPE = replace(RECIPES["paper"], learning_rate=3e-3, steps_per_epoch=50, epochs=6, validation="none")
INFERENCE = InferenceConfig(window_batch=4)

PROTOCOLS: tuple[Protocol, ...] = ("paper", "authors_code")
COLUMNS: dict[str, tuple[Protocol, str]] = {
    "slices": ("paper", "slices"),
    "with tumour": ("paper", "tumour_slices"),
    "paper: Dice": ("paper", "mean_dice_tumour_slices"),
    "median": ("paper", "median_dice_tumour_slices"),
    "all slices": ("paper", "mean_dice_all_slices"),
    "FP": ("paper", "false_positive_slices"),
    "FN": ("paper", "false_negative_slices"),
    "3-D Dice": ("paper", "mean_volumetric_dice"),
    "3-D HD95, mm": ("paper", "mean_volumetric_hd95_mm"),
    "authors_code: Dice": ("authors_code", "mean_patient_dice"),
    "authors_code: FP": ("authors_code", "false_positive_slices"),
    "authors_code: FN": ("authors_code", "false_negative_slices"),
    "authors_code: MSD, mm": ("authors_code", "mean_surface_distance_mm"),
    "authors_code: HD95, mm": ("authors_code", "mean_hd95_mm"),
}
"""Column of the table: protocol and score."""
NOTE = """
Dice under `paper`: mean over the tumour slices. An empty cell is a fold that was not run, or a score that is undefined,
such as a distance where nothing was predicted; means are over the other cells.
"""


@dataclass(frozen=True)
class Settings:
    lung1: Path
    """Folder with the DICOM files of LUNG1-001, its CT and its RTSTRUCT."""
    output: Path
    """Folder for a copy of the patients, the folds and the table."""
    folds: tuple[str, ...] = PATIENTS
    """Patients to leave out, one for each fold."""


def gather(lung1: Path, dicom: Path) -> None:
    """Copies the five patients into one folder."""
    if not lung1.is_dir():
        raise InputError(f"{lung1}: no such folder; give --lung1 the folder with the DICOM files of LUNG1-001")
    if not (dicom / "lung1_001").exists():
        with atomic_folder(dicom / "lung1_001") as folder:
            shutil.copytree(lung1, folder, dirs_exist_ok=True)
    fetch_sample_data(dicom / "sample")


def run_fold(
    dicom: Path, folder: Path, left_out: str, patients: Sequence[str], recipe: TrainConfig, console: Console
) -> None:
    """Trains on all patients but one and scores that one. What is done already is not done again."""
    if read_scores(folder) is not None:
        return
    split_file = folder / "split.json"
    if not split_file.exists():
        others = [name for name in patients if name != left_out]
        write_split({"train": others, "validation": [], "test": [left_out]}, split_file)
    if not (folder / "data").exists():
        options = PrepareOptions(keep_ids=True, split_file=split_file)
        prepare_source(dicom, folder / "data", DATASET, console, options)
    data = Dataset(folder / "data")
    config = RunConfig(model_config("tiny"), recipe, INFERENCE, data.intensity, data.image_size)
    train_and_score(data, folder / "run", config, console, PROTOCOLS, html=True)


def read_scores(folder: Path) -> list[float | None] | None:
    """A fold's row of the table; None if it is not scored by both protocols yet."""
    summaries = read_summaries(folder / "run", PROTOCOLS)
    if len(summaries) < len(PROTOCOLS):
        return None
    return [summaries[protocol][score] for protocol, score in COLUMNS.values()]


def write_table(output: Path, patients: Sequence[str]) -> list[tuple[str, ...]]:
    """Writes the table of all folds as CSV and Markdown; returns its rows as text."""
    scored = {name: scores for name in patients if (scores := read_scores(output / name)) is not None}
    columns = [[value for value in column if value is not None] for column in zip(*scored.values(), strict=True)]
    means = [float(np.mean(column)) if column else None for column in columns]
    empty = [None] * len(COLUMNS)
    rows = [(name, scored.get(name, empty)) for name in patients] + [(f"mean of {len(scored)}", means or empty)]
    header = ("patient", *COLUMNS)
    write_csv(output / "real_patients.csv", header, [(name, *scores) for name, scores in rows])
    shown = [(name, *map(_cell, scores)) for name, scores in rows]
    write_whole(output / "real_patients.md", markdown(header, shown) + NOTE)
    return shown


def _cell(value: float | None) -> str:
    return "" if value is None else str(value) if isinstance(value, int) else number(value)


def main(settings: Settings) -> None:
    console = Console(width=220)
    if unknown := set(settings.folds) - set(PATIENTS):
        raise InputError(f"--folds {' '.join(sorted(unknown))}: the patients are {', '.join(PATIENTS)}")
    dicom = settings.output / "dicom"
    gather(settings.lung1, dicom)
    for left_out in settings.folds:
        run_fold(dicom, settings.output / left_out, left_out, PATIENTS, RECIPE, console)
        write_table(settings.output, PATIENTS)
    print_table(console, "The patient left out", ("patient", *COLUMNS), write_table(settings.output, PATIENTS))


if __name__ == "__main__":
    script.run(main, __doc__)
