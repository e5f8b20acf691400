"""The demo with several seeds, beside the paper's recipe and two baselines that need no training.

    python -m experiments.studies.demo_seeds --output build/demo_seeds

Each seed draws its own phantoms, split and initial weights, and runs everything that `rdunet demo` runs; a seed that is
done is not run again. The same network is then trained on the same phantoms by the paper's recipe, for as many steps
and at the demo's learning rate. The baselines show that the phantoms are not trivial and that the network learns: the
same network untrained, and the best HU threshold with the best dilation, both chosen on the training phantoms.

Expect for every seed of the demo a mean 3-D Dice of at least 0.80 over held-out `easy` phantoms, a slice-wise Dice
above 0.7 over their tumour slices, and at most 5% false positive slices of those without tumour; below 0.2 slice-wise
for both baselines. Costs were not measured.
"""

if not __package__:
    raise SystemExit("error: run this in the checkout as: python -m experiments.studies.demo_seeds")

import shutil
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np

from data_pipeline.loading import Dataset
from experiments.common import script
from experiments.common.steps import read_summaries, train_and_score
from experiments.common.tables import write_csv
from rdunet_jax.config import RECIPES
from rdunet_jax.inference.postprocessing import dilate
from rdunet_jax.networks.models import model_config
from rdunet_jax.runs.workdir import RunConfig, load_trained
from rdunet_jax.scoring.patients import Summary
from rdunet_jax.scoring.slices import score_slices, summarise
from rdunet_jax.training.step import create_state
from rdunet_jax.workflows.demo import INFERENCE, RECIPE, run_demo
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
    state = create_state(network.model, config.train, config.window_shape)
    window = sliding_window(replace(network, variables=state.variables))
    scores = []
    for example in data.patients("test"):
        probabilities = window(state.variables, example.image)
        scores.append(score_slices(ct_mask(probabilities, example, config.inference), example.ct_mask))
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


def paper_config(data: Dataset, seed: int) -> RunConfig:
    """The paper's recipe, as long as the demo's and with its learning rate."""
    same = {name: getattr(RECIPE, name) for name in ("epochs", "steps_per_epoch", "learning_rate")}
    recipe = replace(RECIPES["paper"], seed=seed, validation="patients", **same)
    return RunConfig(model_config("tiny"), recipe, INFERENCE, data.intensity, data.image_size)


def cells(summary: Summary) -> tuple[str, ...]:
    """3-D Dice, slice-wise Dice, false positive slices of those without tumour, HD95, false lesions."""
    tumour_free = int(summary["slices"] or 0) - int(summary["tumour_slices"] or 0)
    return (
        number(summary["mean_volumetric_dice"]),
        number(summary["mean_dice_tumour_slices"]),
        f"{summary['false_positive_slices']} of {tumour_free}",
        number(summary["mean_volumetric_hd95_mm"]),
        str(summary["lesions_false_positive"]),
    )


def together(summaries: Sequence[Summary]) -> Summary:
    """All seeds: the means of their means, where defined, and the sums of what is counted."""
    defined = {name: [value for one in summaries if (value := one[name]) is not None] for name in MEANS}
    counts = {name: sum(int(one[name] or 0) for one in summaries) for name in COUNTS}
    return counts | {name: statistics.mean(values) if values else None for name, values in defined.items()}


MEANS = ("mean_volumetric_dice", "mean_dice_tumour_slices", "mean_volumetric_hd95_mm")
COUNTS = ("slices", "tumour_slices", "false_positive_slices", "lesions_false_positive")
HEADER = ("seed", "network", "3-D Dice", "slice-wise Dice", "false positive slices", "HD95 (mm)", "false lesions")


def main(settings: Settings) -> None:
    console, rows = script.make_console(), []
    summaries: dict[str, list[Summary]] = {"the demo's": [], "the paper's recipe": []}
    for seed in settings.seeds:
        folder = settings.output / f"seed-{seed}"
        if not read_summaries(folder / "run", ("paper",)):
            shutil.rmtree(folder, ignore_errors=True)  # a demo does not go on where it was stopped
            run_demo(folder, console, seed)
        data = Dataset(folder / "data")
        trained = read_summaries(folder / "run", ("paper",))["paper"]
        by_paper = train_and_score(data, folder / "run-paper", paper_config(data, seed), console)["paper"]
        for (name, found), summary in zip(summaries.items(), (trained, by_paper), strict=True):
            found.append(summary)
            rows.append((str(seed), name, *cells(summary)))
        for name, dice in (
            ("untrained", untrained_dice(data, folder / "run")),
            ("best HU threshold", threshold_dice(data)),
        ):
            rows.append((str(seed), name, "", number(dice), "", "", ""))
    rows += [("all", name, *cells(together(found))) for name, found in summaries.items()]
    print_table(console, "Held-out phantoms", HEADER, rows)
    table = settings.output / "demo_seeds.csv"
    write_csv(table, HEADER, rows)
    console.print(f"table: {table}", markup=False)


if __name__ == "__main__":
    script.run(main, __doc__)
