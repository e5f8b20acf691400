"""`rdunet demo`: the whole road on phantom patients, each step just as its own command takes it."""

import time
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from data_pipeline.errors import InputError
from data_pipeline.loading import Dataset
from data_pipeline.phantom import write_phantoms
from data_pipeline.settings import DatasetSettings
from rdunet_jax.cli.display import progress_bar
from rdunet_jax.cli.evaluate import evaluate_network
from rdunet_jax.cli.prepare import prepare_source
from rdunet_jax.cli.segment import segment_source
from rdunet_jax.cli.train import train_network
from rdunet_jax.config import DEMO_INFERENCE, DEMO_RECIPE
from rdunet_jax.models import model_config

TEST_SHARE, VALIDATION_SHARE = 1 / 6, 0.1
IMAGE_SIZE = 128
SLICES = (40, 60)


def run_demo(output: Path, seed: int, patients: int, console: Console) -> dict[str, float | int | None]:
    """Phantoms → DICOM → data set → training → evaluation → one phantom segmented; returns the scores' summary."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"{output}: is there already; remove it or name another --output")
    started = time.perf_counter()
    dicom, data_dir, workdir = output / "dicom", output / "data", output / "run"

    _headline(console, f"1. {patients} phantom patients as DICOM: {dicom}")
    with progress_bar(console) as progress:
        bar = progress.add_task("writing phantoms", total=patients)
        folders = write_phantoms(
            dicom, count=patients, seed=seed, slices=SLICES, on_patient=lambda *_: progress.advance(bar)
        )
    _headline(console, "2. rdunet prepare")
    settings = DatasetSettings(
        intensity="hu_window",
        image_size=IMAGE_SIZE,
        seed=seed,
        test_share=TEST_SHARE,
        validation_share=VALIDATION_SHARE,
    )
    prepare_source(dicom, data_dir, settings, None, True, None, False, console)
    data = Dataset(data_dir)

    _headline(console, "3. rdunet train")
    recipe = replace(DEMO_RECIPE, seed=seed)
    train_network(data, workdir, model_config("tiny"), recipe, DEMO_INFERENCE, console)

    _headline(console, "4. rdunet evaluate, on patients that training never saw")
    summary = evaluate_network(data, workdir, "test", None, None, console)

    _headline(console, "5. rdunet segment, on the first of them")
    name = data.account["splits"]["test"][0]
    folder = next(folder for folder in folders if folder.name == name)
    segment_source(folder, workdir, output / "segmentation", None, None, False, None, console)
    console.print(f"\nthe whole road took {time.perf_counter() - started:.0f} s")
    return summary


def _headline(console: Console, text: str) -> None:
    console.print(f"\n[bold]{text}[/bold]")
