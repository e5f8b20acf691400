"""`rdunet demo`: all steps on phantom patients, each as its own command runs it."""

import time
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.text import Text

from data_pipeline.errors import InputError
from data_pipeline.loading import Dataset
from data_pipeline.phantom.phantom import write_phantoms
from data_pipeline.settings import DatasetSettings, PhantomLevel, PrepareOptions
from rdunet_jax.config import RECIPES, InferenceConfig
from rdunet_jax.networks.models import model_config
from rdunet_jax.options import EvaluateOptions, SegmentOptions
from rdunet_jax.progress import progress_bar
from rdunet_jax.workflows.compare import Evaluation
from rdunet_jax.workflows.evaluate import evaluate_network, evaluation_folder
from rdunet_jax.workflows.prepare import prepare_source
from rdunet_jax.workflows.segment import segment_source
from rdunet_jax.workflows.train import train_network

PATIENTS = 56
SLICES = (40, 50)
IMAGE_SIZE = 64
DATASET = DatasetSettings(intensity="hu_window", image_size=IMAGE_SIZE, test_share=1 / 7, validation_share=1 / 12)
RECIPE = replace(
    RECIPES["rdunet"], epochs=10, steps_per_epoch=85, learning_rate=3e-3, augmentation=("horizontal_flip",)
)
"""Minutes instead of days: hence a higher learning rate, and the augmentation that costs least."""
INFERENCE = InferenceConfig(window_batch=4, threshold=0.4, dilation_diameter=3, stride=4)
"""Threshold and dilation were chosen on validation phantoms."""


def run_demo(
    output: Path, console: Console, seed: int = 0, level: PhantomLevel = "easy"
) -> dict[str, float | int | None]:
    """Phantoms → DICOM → data set → training → evaluation → segmentation of one phantom.

    Args:
        output: folder for all files.
        console: for progress and results.
        seed: of the phantoms, the split and the training.
        level: of the phantoms.

    Returns:
        The summary of the scores of the test patients.

    Raises:
        InputError: `output` exists and is not an empty folder, or the seed is out of range.
    """
    settings = replace(DATASET, seed=seed)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError("already exists; remove it or name another --output", path=output)
    started = time.perf_counter()
    dicom, data_dir, workdir = output / "dicom", output / "data", output / "run"

    _headline(console, f"1. {PATIENTS} phantom patients (level {level}) as DICOM: {dicom}")
    folders = show_phantoms_written(dicom, PATIENTS, SLICES, console, seed, level)
    _headline(console, "2. rdunet prepare")
    prepare_source(dicom, data_dir, settings, console, PrepareOptions(keep_ids=True))
    data = Dataset(data_dir)

    _headline(console, "3. rdunet train")
    train_network(data, workdir, model_config("tiny"), replace(RECIPE, seed=seed), INFERENCE, console)

    _headline(console, "4. rdunet evaluate, on patients that the network was not trained on")
    summary = evaluate_network(data, workdir, console, EvaluateOptions(html=True))

    name = median_patient(workdir)
    _headline(console, f"5. rdunet segment, on {name}, the one of them with the median Dice in 3-D")
    folder = next(folder for folder in folders if folder.name == name)
    segment_source(folder, workdir, output / "segmentation", console, SegmentOptions(html=True))
    console.print(f"\nall five steps took {time.perf_counter() - started:.0f} s")
    return summary


def median_patient(workdir: Path) -> str:
    """The test patient with the median Dice in 3-D of an evaluated run: neither its best nor its worst example.

    Of an even number it is the one below the middle.
    """
    patients = Evaluation.load(evaluation_folder(workdir, "test", "paper")).patients
    ranked = sorted(patients, key=lambda name: (patients[name]["dice"], name))
    return ranked[(len(ranked) - 1) // 2]


def show_phantoms_written(
    dicom: Path,
    count: int,
    slices: tuple[int, int],
    console: Console,
    seed: int = 0,
    level: PhantomLevel = "easy",
) -> list[Path]:
    """`write_phantoms`, with a progress bar."""
    with progress_bar(console) as progress:
        bar = progress.add_task("writing phantoms", total=count)
        return write_phantoms(
            dicom, count=count, seed=seed, slices=slices, level=level, on_patient=lambda *_: progress.advance(bar)
        )


def _headline(console: Console, text: str) -> None:
    console.print(Text(f"\n{text}", style="bold"))
