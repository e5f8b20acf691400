"""Trains the Keras baseline and our network from the same initial weights on the same batches, and compares them.

    python -m experiments.studies.compare_keras --smoke --output build/compare_keras
    KERAS_BACKEND=tensorflow python -m experiments.studies.compare_keras --data-dir data --output build/compare_keras

The baseline is trained by Keras alone: its model, Adam, cross-entropy and `train_on_batch`, on the backend named by
KERAS_BACKEND (default `jax`; the authors used `tensorflow`). Ours is trained as by `rdunet train --recipe plain`. Both
use the paper's settings (Adam 1e-4, 0.9, 0.999, 1e-8; batch 2; cross-entropy), without dropout and augmentation, whose
random numbers differ. So both compute the same function of weights and batches, with batch normalisation in training
mode.

The remaining difference is rounding, which Adam amplifies because it divides a gradient by its own size. To show how
large that is, Keras is trained once more in double precision for the first 50 steps (`exact`). Expect Keras and ours
within 1e-5 of each other in loss and Dice over those steps. `curves.csv` and `curves.png` hold the curves. The trained
Keras weights are imported with `import_weights`, and the same evaluator scores both networks: `scores.csv`.

`--smoke` trains narrow networks on phantoms at 32 x 32. In 50 steps at the paper's learning rate they do not learn to
find tumours: their scores only show that both are scored in the same way.
"""

if not __package__:
    raise SystemExit("error: run this in the checkout as: python -m experiments.studies.compare_keras")

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float64
from matplotlib.figure import Figure
from rich.console import Console

from data_pipeline.errors import InputError
from data_pipeline.files import atomic_path
from data_pipeline.loading import Dataset
from data_pipeline.preprocessing.intensity import normalise
from experiments.common import script
from experiments.common.steps import phantom_dataset, score
from experiments.common.tables import write_csv
from experiments.keras_baseline.convert import keras_model
from experiments.keras_baseline.network import keras
from rdunet_jax.config import RECIPES
from rdunet_jax.networks.models import create_model, model_config
from rdunet_jax.runs.workdir import RunConfig, load_trained
from rdunet_jax.training.step import create_state
from rdunet_jax.workflows.demo import DATASET, INFERENCE, SLICES
from rdunet_jax.workflows.display import number, print_table
from rdunet_jax.workflows.import_weights import import_weights
from rdunet_jax.workflows.stored_probabilities import store_probabilities
from rdunet_jax.workflows.train import train_network

EXACT_STEPS = 50
"""Steps for which Keras is trained in double precision too."""
PHANTOMS = 14
SMOKE_DATASET = replace(DATASET, image_size=32)
SMOKE_SIZES = {"widths": (4, 8, 16), "recurrent_width": 16, "recurrent_layers": 1}

Curve = Float64[np.ndarray, "steps 2"]
"""Loss and soft Dice of every step."""


@dataclass(frozen=True)
class Settings:
    output: Path
    """Folder for both runs, the curves and the scores."""
    data_dir: Path | None = None
    """Folder with a data set that `rdunet prepare` made."""
    dataset: str | None = None
    """Name of the data set, if the folder holds several."""
    steps: int = 50
    """Training steps."""
    learning_rate: float = 1e-4
    """Learning rate of Adam."""
    smoke: bool = False
    """Use narrow networks on phantoms at 32 x 32 instead of the full ones on --data-dir."""


def soft_dice(targets: Any, probabilities: Any) -> Any:
    """The training Dice of the authors' code, over a whole batch, with +1 smoothing."""
    overlap: Any = keras.ops.sum(targets * probabilities)
    total: Any = keras.ops.sum(targets + probabilities)
    return (2 * overlap + 1) / (total + 1)


def train_keras(data: Dataset, run: RunConfig, steps: int) -> tuple[keras.Model, Curve]:
    """Trains with Keras from the initial weights of our run, in Keras' default precision."""
    recipe, shape = run.train, run.window_shape
    model = keras_model(run.model, run.image_size, create_state(create_model(run.model), recipe, shape).variables)
    model.compile(
        optimizer=keras.optimizers.Adam(recipe.learning_rate, beta_1=0.9, beta_2=0.999, epsilon=1e-8),
        loss=keras.losses.BinaryCrossentropy(),
        metrics=[soft_dice],
    )
    curve = []
    for batch in islice(data.batches("train", recipe.batch_size, recipe.seed, sampling=run.sampling), steps):
        images = normalise(batch["image"][..., 0], run.intensity)[..., np.newaxis]
        # (batch, depth, height, width, channels) to Keras' (batch, height, width, depth, channels)
        images, masks = (a.transpose(0, 2, 3, 1, 4).astype(keras.config.floatx()) for a in (images, batch["mask"]))
        curve.append(model.train_on_batch(images, masks))
    return model, np.array(curve, np.float64)


@contextmanager
def double_precision() -> Iterator[None]:
    """Keras and JAX compute in float64 inside the block."""
    with jax.enable_x64(True):
        try:
            keras.config.set_floatx("float64")
            keras.config.set_dtype_policy("float64")
            yield
        finally:
            keras.config.set_floatx("float32")
            keras.config.set_dtype_policy("float32")


def read_curve(workdir: Path) -> Curve:
    """The curve of one of our runs."""
    with (workdir / "steps.csv").open(newline="") as file:
        return np.array([(float(row["loss"]), float(row["dice"])) for row in csv.DictReader(file)])


def train_both(data: Dataset, output: Path, run: RunConfig, console: Console) -> dict[str, Curve]:
    """Trains both networks as the runs `output/ours` and `output/keras`; returns the curves by name."""
    steps = run.train.epochs * (run.train.steps_per_epoch or 1)
    train_network(data, output / "ours", run.model, run.train, run.inference, console)
    model, curve = train_keras(data, run, steps)
    weights = output / "keras.weights.h5"
    model.save_weights(weights)
    import_weights(weights, output / "keras", run, run.model.gate)
    with double_precision():
        exact = train_keras(data, run, min(steps, EXACT_STEPS))[1]
    return {"keras": curve, "ours": read_curve(output / "ours"), "exact": exact}


def write_curves(output: Path, curves: dict[str, Curve]) -> None:
    """Writes `curves.csv` and `curves.png`."""
    names = [f"{name}_{what}" for name in curves for what in ("loss", "dice")]
    steps = len(curves["keras"])
    columns = np.full((steps, len(names)), np.nan)
    for place, curve in enumerate(curves.values()):
        columns[: len(curve), 2 * place : 2 * place + 2] = curve
    rows = ([None if np.isnan(value) else value for value in row] for row in columns.tolist())
    write_csv(output / "curves.csv", ("step", *names), [(number, *row) for number, row in enumerate(rows, 1)])

    figure = Figure(figsize=(12, 3.5), layout="constrained")
    axes = figure.subplots(1, 3)
    for place, title in enumerate(("loss", "soft Dice of the batch")):
        for name, style in (("keras", "-"), ("ours", "--")):
            axes[place].plot(np.arange(1, steps + 1), curves[name][:, place], style, label=name)
        axes[place].set(title=title, xlabel="step")
        axes[place].legend()
    for one, other in (("keras", "ours"), ("keras", "exact"), ("ours", "exact")):
        apart = distance(curves[one], curves[other])
        axes[2].plot(np.arange(1, len(apart) + 1), apart[:, 0], label=f"{one} and {other}")
    axes[2].set(title="difference of the losses", xlabel="step", yscale="log")
    axes[2].legend()
    with atomic_path(output / "curves.png") as path:
        figure.savefig(path, dpi=100)


def distance(one: Curve, other: Curve) -> Curve:
    """Absolute difference of two curves at every step that both have."""
    steps = min(len(one), len(other))
    return np.abs(one[:steps] - other[:steps])


def score_both(data: Dataset, output: Path, console: Console) -> list[tuple[str, ...]]:
    """Scores both networks by both protocols with the same evaluator; returns the rows of `scores.csv`."""
    rows = []
    for name in ("keras", "ours"):
        found = score(data, output / name, console, ("paper", "authors_code"))
        paper, authors_code = found["paper"], found["authors_code"]
        scores = [paper[f"{which}_dice_tumour_slices"] for which in ("mean", "median")]
        wrong = [str(paper[f"false_{which}_slices"]) for which in ("positive", "negative")]
        rows.append((name, *map(number, scores), *wrong, number(authors_code["mean_patient_dice"])))
    return rows


def largest_difference(data: Dataset, output: Path, console: Console) -> float:
    """Largest difference of the two networks' probabilities, over all voxels of all test patients."""
    keras_found, ours_found = (
        store_probabilities(data, output / name, "test", load_trained(output / name), console)
        for name in ("keras", "ours")
    )
    return max(float(np.abs(keras_found[one] - ours_found[one]).max()) for one in data.patients("test"))


def main(settings: Settings) -> None:
    console, output = script.make_console(), settings.output
    if (settings.data_dir is None) != settings.smoke:
        raise InputError("give either --data-dir, a data set made by `rdunet prepare`, or --smoke, for phantoms")
    if (output / "keras").exists():
        raise InputError(f"{output}: already holds a comparison; remove the folder or name another --output")
    if settings.data_dir is None:
        data = phantom_dataset(output, SMOKE_DATASET, PHANTOMS, SLICES, console)
    else:
        data = Dataset(settings.data_dir, settings.dataset)
    network = model_config("keras", dropout=0.0, **(SMOKE_SIZES if settings.smoke else {}))
    recipe = replace(
        RECIPES["plain"],
        learning_rate=settings.learning_rate,
        epochs=1,
        steps_per_epoch=settings.steps,
        selection="all" if settings.smoke else RECIPES["plain"].selection,
        validation="none",
    )
    config = RunConfig(network, recipe, INFERENCE, data.intensity, data.image_size, spacing=data.voxel_mm)
    curves = train_both(data, output, config, console)
    write_curves(output, curves)
    rows = score_both(data, output, console)
    header = ("name", "mean Dice", "median Dice", "FP slices", "FN slices", "authors_code: Dice")
    write_csv(output / "scores.csv", header, rows)
    print_table(console, f"Held-out patients ({data.patient_count('test')})", header, rows)
    for one, other in (("keras", "ours"), ("keras", "exact"), ("ours", "exact")):
        loss, dice = distance(curves[one][:EXACT_STEPS], curves[other]).max(axis=0)
        console.print(
            f"{one} and {other}, first {EXACT_STEPS} steps: loss differs by at most {loss:.1e}, Dice by {dice:.1e}"
        )
    console.print(f"probabilities differ by at most {largest_difference(data, output, console):.1e}")
    console.print(f"curves and scores: {output} (curves.csv, curves.png, scores.csv)", markup=False)


if __name__ == "__main__":
    script.run(main, __doc__, stopped="stopped; remove the output folder to start again")
