"""What strides, window weights and flips cost and change: windows, CPU seconds and Dice on held-out patients.

    python -m experiments.studies.strides --data-dir demo/data --workdir demo/run --output build/strides

`make demo` makes the data set and the run. Every combination predicts the test patients anew; its masks are made by the
run's own post-processing. CPU seconds are those of the prediction alone on all cores, after a warm-up that compiles, so
other work on the machine hardly changes them. Writes `strides.csv` and `strides.md`, a row as soon as it is measured;
costs are in the table.
"""

if not __package__:
    raise SystemExit("error: run this in the checkout as: python -m experiments.studies.strides")

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from data_pipeline.files import write_whole
from data_pipeline.loading import Dataset
from data_pipeline.settings import SplitName
from experiments.common import script
from experiments.common.tables import write_csv
from rdunet_jax.config import InferenceConfig, WindowWeights
from rdunet_jax.progress import progress_bar
from rdunet_jax.runs.workdir import TrainedNetwork, load_trained
from rdunet_jax.scoring.patients import PatientScores, score_patient, summarise_patients
from rdunet_jax.scoring.slices import SliceScores, score_slices, summarise
from rdunet_jax.workflows.display import markdown, number, print_table
from rdunet_jax.workflows.prediction import ct_mask, require_hounsfield, sliding_window
from rdunet_jax.workflows.seen import SeenPatients
from rdunet_jax.workflows.stored_probabilities import require_same_images

HEADER = ("stride", "weights", "flip", "windows", "CPU seconds", "3-D Dice", "Dice, tumour slices", "FP slices")
WEIGHTS: tuple[WindowWeights, ...] = ("uniform", "gaussian")


@dataclass(frozen=True)
class Settings:
    data_dir: Path
    """Folder with the data set."""
    workdir: Path
    """Folder of the run whose best network is used."""
    output: Path
    """Folder for the table."""
    strides: tuple[int, ...] = (1, 2, 4, 8)
    """Slices from one window to the next."""
    split: SplitName = "test"
    """The patients to score."""


@dataclass(frozen=True)
class Row:
    """One combination of stride, weights and flips."""

    inference: InferenceConfig
    windows: int
    seconds: float
    dice_3d: float
    dice_slices: float
    false_positive_slices: int

    def cells(self) -> tuple[str, ...]:
        flip = "yes" if self.inference.flip else "no"
        scores = (number(self.dice_3d), number(self.dice_slices), str(self.false_positive_slices))
        return (
            str(self.inference.stride),
            self.inference.window_weights,
            flip,
            str(self.windows),
            f"{self.seconds:.1f}",
            *scores,
        )


def measure(network: TrainedNetwork, data: Dataset, split: SplitName) -> Row:
    """Predicts and scores the patients of a split with the network's own windows."""
    window, inference = sliding_window(network), network.config.inference
    windows, seconds = 0, 0.0
    slices: list[SliceScores] = []
    patients: list[PatientScores] = []
    for index, example in enumerate(data.patients(split)):
        if index == 0:
            window(network.variables, example.image[: window.depth])  # compiles
        started = time.process_time()
        probabilities = window(network.variables, example.image)
        seconds += time.process_time() - started
        windows += window.count(len(example.image))
        mask = ct_mask(probabilities, example, inference)
        slices.append(score_slices(mask, example.ct_mask))
        patients.append(score_patient(mask, example.ct_mask, example.spacing_mm))
    in_slices, in_3d = summarise(slices), summarise_patients(patients)
    return Row(
        inference,
        windows,
        seconds,
        float(in_3d["mean_volumetric_dice"] or 0),
        float(in_slices["mean_dice_tumour_slices"] or 0),
        int(in_slices["false_positive_slices"] or 0),
    )


def combinations(network: TrainedNetwork, strides: tuple[int, ...]) -> Iterator[TrainedNetwork]:
    """The network with every combination of windows."""
    for flip, weights, stride in product((False, True), WEIGHTS, strides):
        inference = replace(network.config.inference, stride=stride, window_weights=weights, flip=flip)
        yield replace(network, config=replace(network.config, inference=inference))


def main(settings: Settings) -> None:
    console = script.make_console()
    network = load_trained(settings.workdir)
    data = Dataset(settings.data_dir, fold=network.config.fold)
    require_same_images(data, settings.workdir, network.config)
    require_hounsfield(data, network.config.inference)
    SeenPatients.of(data, [settings.workdir], settings.split).refuse([settings.workdir], "trained", "selected")
    every = list(combinations(network, settings.strides))
    cells = []
    with progress_bar(console) as progress:
        for one in progress.track(every, description="predicting"):
            cells.append(measure(one, data, settings.split).cells())
            write_csv(settings.output / "strides.csv", HEADER, cells)
            write_whole(settings.output / "strides.md", markdown(HEADER, cells, names=3))
    print_table(console, f"{data.patient_count(settings.split)} {settings.split} patients", HEADER, cells)


if __name__ == "__main__":
    script.run(main, __doc__)
