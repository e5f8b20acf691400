"""Which epoch is the best: by the Dice of the thresholded prediction, or by the soft Dice of the probabilities?

    python -m experiments.studies.selection_rule --output build/selection_rule
    python -m experiments.studies.selection_rule --output build/selection_rule --workdir run

`rdunet train` keeps the epoch with the best soft Dice, as the authors' code does. The alternative, the Dice at one
threshold, is near 0 for many epochs at the paper's learning rate of 1e-4, because nearly all probabilities are below
the threshold: it takes one of the first epochs as the best, and halves the learning rate while the network improves.

The script applies both rules to the validation curves of one run, and writes the curves with both choices and both
learning rates as `selection_rule.csv` and `selection_rule.png`. Both rules see the same curves, so the rates of the
other rule are those that it would have set, not those that were used. Without --workdir it trains the `tiny` network
first, on phantoms at 32 x 32 in the window `hu_window`, with the paper's recipe but all patches and validation on
patches. That takes tens of minutes on two cores.
"""

if not __package__:
    raise SystemExit("error: run this in the checkout as: python -m experiments.studies.selection_rule")

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jax.numpy as jnp
import optax
from matplotlib.figure import Figure
from rich.console import Console

from data_pipeline.errors import InputError
from data_pipeline.files import atomic_path
from experiments.common import script
from experiments.common.steps import phantom_dataset
from experiments.common.tables import write_csv
from rdunet_jax.config import RECIPES, InferenceConfig, TrainConfig
from rdunet_jax.networks.models import model_config
from rdunet_jax.runs.workdir import RunConfig
from rdunet_jax.training.history import EpochRow, read_rows
from rdunet_jax.training.optimizer import plateau_decay
from rdunet_jax.workflows.demo import DATASET, SLICES
from rdunet_jax.workflows.train import train_network

PHANTOMS = 14
RECIPE = replace(RECIPES["paper"], steps_per_epoch=40, selection="all", validation="patches")
INFERENCE = InferenceConfig(window_batch=4, threshold=0.5)
HEADER = ("epoch", "step", "dice", "soft_dice", "rate_by_dice", "rate_by_soft_dice")


@dataclass(frozen=True)
class Settings:
    output: Path
    """Folder for the table, the plot, and the run if one is trained."""
    workdir: Path | None = None
    """Folder of a run that was trained with validation (None: train one on phantoms)."""
    epochs: int = 36
    """Epochs of the run that is trained."""


@dataclass(frozen=True)
class Choice:
    """What a rule makes of the validation curves of a run."""

    best: EpochRow
    """The epoch whose network is kept."""
    rates: list[float]
    """Learning rate after each epoch, by the plateau rule alone."""


def by_dice(epochs: Sequence[EpochRow], recipe: TrainConfig) -> Choice:
    """Selection and plateau by the thresholded Dice of every epoch; the first of equal ones is the best."""
    scores = [epoch.validation_dice or 0.0 for epoch in epochs]
    return Choice(epochs[scores.index(max(scores))], plateau_rates(scores, recipe))


def by_soft_dice(epochs: Sequence[EpochRow], recipe: TrainConfig) -> Choice:
    """Selection by the soft Dice, as `rdunet train`; the plateau counts from the first epoch with a Dice above 0."""
    scores = [epoch.validation_soft_dice or 0.0 for epoch in epochs]
    first = next((number for number, epoch in enumerate(epochs) if epoch.validation_dice), len(epochs))
    rates = [recipe.learning_rate] * first + plateau_rates(scores[first:], recipe)
    return Choice(epochs[scores.index(max(scores))], rates)


def plateau_rates(scores: Sequence[float], recipe: TrainConfig) -> list[float]:
    """Learning rate after each epoch with the given scores."""
    decay, rates = plateau_decay(recipe), []
    state = decay.init({})
    for score in scores:
        _, state = decay.update({}, state, value=jnp.float32(1 - score))
        assert isinstance(state, optax.contrib.ReduceLROnPlateauState)
        rates.append(recipe.learning_rate * float(jnp.asarray(state.scale)))
    return rates


def trained_on_phantoms(output: Path, epochs: int, console: Console) -> Path:
    """The folder of a run of the paper's recipe on phantoms, trained if it is not there yet."""
    data = phantom_dataset(output, replace(DATASET, image_size=32), PHANTOMS, SLICES, console)
    train_network(data, output / "run", model_config("tiny"), replace(RECIPE, epochs=epochs), INFERENCE, console)
    return output / "run"


def plot(path: Path, epochs: Sequence[EpochRow], choices: dict[str, Choice]) -> None:
    """Plots the validation curves with the epoch that each rule chooses, and the learning rates."""
    figure = Figure(figsize=(10, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    numbers = [epoch.epoch for epoch in epochs]
    left.plot(numbers, [epoch.validation_dice for epoch in epochs], "C0.-", label="Dice at the threshold")
    left.plot(numbers, [epoch.validation_soft_dice for epoch in epochs], "C1.-", label="soft Dice")
    for color, (name, choice) in zip(("C0", "C1"), choices.items(), strict=True):
        left.axvline(choice.best.epoch, color=color, linestyle="--", label=f"best by {name}")
        right.step(numbers, choice.rates, color, where="post", label=f"by {name}")
    left.set(xlabel="epoch", title="validation")
    right.set(xlabel="epoch", title="learning rate", yscale="log")
    for axes in (left, right):
        axes.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)


def main(settings: Settings) -> None:
    console = script.make_console()
    workdir = settings.workdir or trained_on_phantoms(settings.output, settings.epochs, console)
    recipe = RunConfig.load(workdir).train
    epochs = [row for row in read_rows(workdir / "history.csv", EpochRow)[0] if row.validation_soft_dice is not None]
    if not epochs:
        raise InputError(f"{workdir}: the run has no validation; name one that was trained with --validation patients")
    choices = {"Dice": by_dice(epochs, recipe), "soft Dice": by_soft_dice(epochs, recipe)}
    rates = zip(*(choice.rates for choice in choices.values()), strict=True)
    rows = [
        (one.epoch, one.step, one.validation_dice, one.validation_soft_dice, *pair)
        for one, pair in zip(epochs, rates, strict=True)
    ]
    write_csv(settings.output / "selection_rule.csv", HEADER, rows)
    plot(settings.output / "selection_rule.png", epochs, choices)
    for name, choice in choices.items():
        best = choice.best
        console.print(
            f"by {name}: epoch {best.epoch} of {len(epochs)} (Dice {best.validation_dice:.3f}, soft Dice "
            f"{best.validation_soft_dice:.3f}), learning rate at the end {choice.rates[-1]:.2g}"
        )
    console.print(f"table and plot: {settings.output} (selection_rule.csv, selection_rule.png)", markup=False)


if __name__ == "__main__":
    script.run(main, __doc__)
