"""The demo with several seeds, compared with two baselines that need no training.

    python -m experiments.studies.demo_seeds --output build/demo_seeds

Each seed draws its own phantoms, split and initial weights, and runs everything that `rdunet demo` runs; a seed that is
done is not run again. The baselines show that the phantoms are not trivial and that the network learns: the same
network untrained, and the best HU threshold with the best dilation, both chosen on the training phantoms. Expect a mean
slice-wise Dice over the tumour slices of held-out phantoms above 0.7 for every seed, and below 0.2 for both baselines.
Costs about 7 minutes per seed on 2 cores.
"""

if not __package__:
    raise SystemExit("error: run this in the checkout as: python -m experiments.studies.demo_seeds")

from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np

from data_pipeline.loading import Dataset
from experiments.common import script
from experiments.common.steps import read_summaries
from experiments.common.tables import write_csv
from rdunet_jax.inference.postprocessing import dilate
from rdunet_jax.runs.workdir import load_trained
from rdunet_jax.scoring.slices import score_slices, summarise
from rdunet_jax.training.step import create_state
from rdunet_jax.workflows.demo import run_demo
from rdunet_jax.workflows.display import number, print_table
from rdunet_jax.workflows.prediction import ct_mask, sliding_window

THRESHOLDS_HU = range(-900, 301, 20)
DILATIONS = (1, 3, 5, 7)


@dataclass(frozen=True)
class Settings:
    output: Path
    """Folder for one demo per seed and for the table."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the demos."""


def untrained_dice(data: Dataset, workdir: Path) -> float | None:
    """Mean slice-wise Dice of the demo's network with its initial weights, by the same evaluation."""
    network = load_trained(workdir)
    config = network.config
    shape = (config.model.patch_depth, config.image_size, config.image_size)
    state = create_state(network.model, config.train, shape)
    window = sliding_window(replace(network, variables=state.variables))
    scores = []
    for example in data.patients("test"):
        probabilities = window(state.variables, example.image)
        scores.append(score_slices(ct_mask(probabilities, example.ct_mask.shape, config.inference), example.ct_mask))
    return summarise(scores)["mean_dice_tumour_slices"]


def threshold_dice(data: Dataset) -> float:
    """Mean slice-wise Dice of the best HU threshold and dilation, on the network's grid.

    Chosen on the training patients, scored on the test patients.
    """
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
    console, rows = script.make_console(100), []
    for seed in settings.seeds:
        folder = settings.output / f"seed-{seed}"
        if not read_summaries(folder / "run", ("paper",)):
            run_demo(folder, console, seed)
        trained = read_summaries(folder / "run", ("paper",))["paper"]["mean_dice_tumour_slices"]
        data = Dataset(folder / "data")
        rows.append((str(seed), *map(number, (trained, untrained_dice(data, folder / "run"), threshold_dice(data)))))
    header = ("seed", "trained", "untrained", "best HU threshold")
    print_table(console, "Mean slice-wise Dice, tumour slices of held-out phantoms", header, rows)
    table = settings.output / "demo_seeds.csv"
    write_csv(table, header, rows)
    console.print(f"table: {table}", markup=False)


if __name__ == "__main__":
    script.run(main, __doc__)
