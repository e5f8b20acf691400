"""The demo over several seeds, beside what needs no training: is the phantom task honest, and is it learned?

    python -m experiments.studies.demo_seeds --output build/demo_seeds

Each seed draws its own phantoms, split and weights, and runs the whole road as `rdunet demo` does; a seed that is there
already is not run again. Beside it stand the same network untrained, and the best HU threshold with the best dilation,
chosen on the training phantoms. Expect a mean slice-wise Dice over the tumour slices of held-out phantoms above 0.7 for
every seed, and under 0.2 for both baselines. Costs some 7 minutes a seed on 2 cores.
"""

import csv
import json
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np
import tyro
from rich.console import Console

from data_pipeline.files import atomic_path
from data_pipeline.loading import Dataset
from rdunet_jax.inference.postprocessing import dilate
from rdunet_jax.runs.workdir import load_trained
from rdunet_jax.scoring.slices import score_slices, summarise
from rdunet_jax.training.step import create_state
from rdunet_jax.workflows.demo import run_demo
from rdunet_jax.workflows.display import number, print_table
from rdunet_jax.workflows.prediction import ct_mask, sliding_window
from rdunet_jax.workflows.start_up import prepare_jax

THRESHOLDS_HU = range(-900, 301, 20)
DILATIONS = (1, 3, 5, 7)


@dataclass(frozen=True)
class Settings:
    output: Path
    """Folder for a demo a seed and for the table."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One demo each."""


def untrained_dice(data: Dataset, workdir: Path) -> float | None:
    """The demo's network with its initial weights, through the same evaluator."""
    network = load_trained(workdir)
    run = network.config
    state = create_state(network.model, run.train, (run.model.patch_depth, run.image_size, run.image_size))
    window = sliding_window(replace(network, variables=state.variables))
    scores = []
    for example in data.patients("test"):
        probabilities = window(state.variables, example.image)
        scores.append(score_slices(ct_mask(probabilities, example.ct_mask.shape, run.inference), example.ct_mask))
    return summarise(scores)["mean_dice_tumour_slices"]


def threshold_dice(data: Dataset) -> float:
    """The best "above so many HU is tumour", then dilated, on the network's grid: chosen on train, scored on test."""
    train, test = (_tumour_slices(data, split) for split in ("train", "test"))
    grid = [(threshold, diameter) for threshold in THRESHOLDS_HU for diameter in DILATIONS]
    best = max(grid, key=lambda choice: _threshold_score(*train, *choice))
    return _threshold_score(*test, *best)


def _tumour_slices(data: Dataset, split: str) -> tuple[np.ndarray, np.ndarray]:
    pairs = [(p.image[p.mask.any((1, 2))], p.mask[p.mask.any((1, 2))]) for p in data.patients(split)]
    images, masks = zip(*pairs, strict=True)
    return np.concatenate(images), np.concatenate(masks)


def _threshold_score(images: np.ndarray, masks: np.ndarray, threshold: float, diameter: int) -> float:
    prediction = np.asarray(dilate(jax.numpy.asarray(images > threshold), diameter))
    return float(score_slices(prediction, masks).dice.mean())


def main(settings: Settings) -> None:
    console = Console(width=100)
    rows = []
    for seed in settings.seeds:
        folder = settings.output / f"seed-{seed}"
        scored = folder / "run" / "evaluation" / "test" / "summary.json"
        if not scored.exists():
            run_demo(folder, console, seed)
        trained = json.loads(scored.read_text())["mean_dice_tumour_slices"]
        data = Dataset(folder / "data")
        rows.append((str(seed), *map(number, (trained, untrained_dice(data, folder / "run"), threshold_dice(data)))))
    header = ("seed", "trained", "untrained", "best HU threshold")
    print_table(console, "Mean slice-wise Dice, tumour slices of held-out phantoms", header, rows)
    table = settings.output / "demo_seeds.csv"
    with atomic_path(table) as path, path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    console.print(f"table: {table}")


if __name__ == "__main__":
    prepare_jax()
    main(tyro.cli(Settings, description=__doc__))
