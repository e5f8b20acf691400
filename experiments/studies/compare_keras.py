"""The Keras baseline and our network from the same initial weights on the same batches: both curves, and both scores.

    python -m experiments.studies.compare_keras --smoke --output build/compare_keras
    KERAS_BACKEND=tensorflow python -m experiments.studies.compare_keras --data-dir data --output build/compare_keras

Keras trains itself: its model, its Adam, its cross-entropy, its `train_on_batch`, on the backend that KERAS_BACKEND
names (`jax` unless set; `tensorflow` is the baseline as it was run). Ours is trained by `rdunet train --recipe plain`.
Both by the paper's settings (Adam 1e-4, 0.9, 0.999, 1e-8; batch 2; cross-entropy), and both without dropout and
augmentation, whose random numbers differ: so both are the same function of weights and batches, with batch
normalisation in training mode.

What then differs is rounding, carried on by Adam, which divides a gradient by its own size. How much that is, Keras
shows against itself, trained once more in double precision for the first 50 steps (`exact`). Expect Keras and ours
within 1e-5 of each other in loss and Dice over those steps. `curves.csv` and `curves.png` hold both. The trained Keras
weights come back by `import_weights`, and the same evaluator scores both networks: `scores.csv`.

`--smoke` trains narrow networks on phantoms at 32 x 32. In 50 steps at the paper's rate they learn nothing worth a
Dice: their scores only show that both are scored alike.
"""

import csv
import os
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import keras
import numpy as np
import tyro
from jaxtyping import Float64
from keras import ops
from matplotlib.figure import Figure
from rich.console import Console

from data_pipeline.errors import InputError
from data_pipeline.files import atomic_path
from data_pipeline.loading import Dataset
from data_pipeline.phantom.phantom import write_phantoms
from data_pipeline.preprocessing.intensity import normalise
from experiments.keras_baseline.convert import keras_model
from rdunet_jax.config import RECIPES, EvaluateOptions
from rdunet_jax.networks.models import create_model, model_config
from rdunet_jax.runs.workdir import RunConfig, load_trained
from rdunet_jax.training.step import create_state
from rdunet_jax.workflows.demo import DATASET, INFERENCE, SLICES
from rdunet_jax.workflows.display import number, print_table
from rdunet_jax.workflows.evaluate import evaluate_network
from rdunet_jax.workflows.import_weights import import_weights
from rdunet_jax.workflows.prepare import prepare_source
from rdunet_jax.workflows.start_up import mistakes_in_one_line, prepare_jax
from rdunet_jax.workflows.stored_probabilities import store_probabilities
from rdunet_jax.workflows.train import train_network

EXACT_STEPS = 50
"""As far as Keras is trained in double precision too."""
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
    """Its name, where the folder holds several."""
    steps: int = 50
    """Training steps."""
    learning_rate: float = 1e-4
    """Adam's."""
    smoke: bool = False
    """Narrow networks on phantoms at 32 x 32, instead of the full ones on --data-dir."""


def soft_dice(targets: Any, probabilities: Any) -> Any:
    """The Keras code's training Dice, over a whole batch, with +1 smoothing."""
    overlap: Any = ops.sum(targets * probabilities)
    total: Any = ops.sum(targets + probabilities)
    return (2 * overlap + 1) / (total + 1)


def train_keras(data: Dataset, run: RunConfig, steps: int) -> tuple[keras.Model, Curve]:
    """Keras' own training, from the weights that our run starts from; in Keras' default precision."""
    recipe, shape = run.train, (run.model.patch_depth, run.image_size, run.image_size)
    model = keras_model(run.model, run.image_size, create_state(create_model(run.model), recipe, shape).variables)
    model.compile(
        optimizer=keras.optimizers.Adam(recipe.learning_rate, beta_1=0.9, beta_2=0.999, epsilon=1e-8),
        loss=keras.losses.BinaryCrossentropy(),
        metrics=[soft_dice],
    )
    curve = []
    for batch in islice(data.batches("train", recipe.batch_size, recipe.seed), steps):
        images = normalise(batch["image"][..., 0], run.intensity)[..., np.newaxis]
        # (batch, depth, height, width, channels) to Keras' (batch, height, width, depth, channels)
        images, masks = (a.transpose(0, 2, 3, 1, 4).astype(keras.config.floatx()) for a in (images, batch["mask"]))
        curve.append(model.train_on_batch(images, masks))
    return model, np.array(curve, np.float64)


def train_keras_exactly(data: Dataset, run: RunConfig, steps: int) -> Curve:
    """The same in double precision."""
    with jax.enable_x64(True):
        try:
            keras.config.set_floatx("float64")
            keras.config.set_dtype_policy("float64")
            return train_keras(data, run, steps)[1]
        finally:
            keras.config.set_floatx("float32")
            keras.config.set_dtype_policy("float32")


def read_curve(workdir: Path) -> Curve:
    """The curve of a run of ours."""
    with (workdir / "steps.csv").open(newline="") as file:
        return np.array([(float(row["loss"]), float(row["dice"])) for row in csv.DictReader(file)])


def train_both(data: Dataset, output: Path, run: RunConfig, console: Console) -> dict[str, Curve]:
    """Trains `output/ours` and `output/keras`, two runs to evaluate; returns the curves by their names."""
    steps = run.train.epochs * (run.train.steps_per_epoch or 1)
    train_network(data, output / "ours", run.model, run.train, run.inference, console)
    model, curve = train_keras(data, run, steps)
    weights = output / "keras.weights.h5"
    model.save_weights(weights)
    import_weights(weights, output / "keras", run, run.model.gate)
    exact = train_keras_exactly(data, run, min(steps, EXACT_STEPS))
    return {"keras": curve, "ours": read_curve(output / "ours"), "exact": exact}


def write_curves(output: Path, curves: dict[str, Curve]) -> None:
    """`curves.csv` and `curves.png`."""
    names = [f"{name}_{what}" for name in curves for what in ("loss", "dice")]
    steps = len(curves["keras"])
    columns = np.full((steps, len(names)), np.nan)
    for place, curve in enumerate(curves.values()):
        columns[: len(curve), 2 * place : 2 * place + 2] = curve
    with atomic_path(output / "curves.csv") as path, path.open("w", newline="") as file:
        rows = (["" if np.isnan(value) else value for value in row] for row in columns.tolist())
        csv.writer(file).writerows([("step", *names), *((number, *row) for number, row in enumerate(rows, 1))])

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
    """How far two curves are apart at every step that both have."""
    steps = min(len(one), len(other))
    return np.abs(one[:steps] - other[:steps])


def score_both(data: Dataset, output: Path, console: Console) -> list[tuple[str, ...]]:
    """Scores of both networks by both protocols, through the one evaluator; the rows of `scores.csv`."""
    rows = []
    for name in ("keras", "ours"):
        paper = evaluate_network(data, output / name, console)
        keras_protocol = evaluate_network(data, output / name, console, EvaluateOptions(protocol="authors_code"))
        scores = [paper[f"{which}_dice_tumour_slices"] for which in ("mean", "median")]
        wrong = [str(paper[f"false_{which}_slices"]) for which in ("positive", "negative")]
        rows.append((name, *map(number, scores), *wrong, number(keras_protocol["mean_patient_dice"])))
    return rows


def largest_difference(data: Dataset, output: Path, console: Console) -> float:
    """Between the two networks' probabilities, over all voxels of all test patients."""
    keras_found, ours_found = (
        store_probabilities(data, output / name, "test", load_trained(output / name), console)
        for name in ("keras", "ours")
    )
    return max(float(np.abs(keras_found[one] - ours_found[one]).max()) for one in data.patients("test"))


def main(settings: Settings) -> None:
    console = Console(width=120)
    output = settings.output
    if (settings.data_dir is None) != settings.smoke:
        raise InputError("give either --data-dir, a prepared data set, or --smoke, which makes phantoms")
    if (output / "keras").exists():
        raise InputError(f"{output}: is there already; remove it or name another --output")
    data_dir = settings.data_dir or output / "data"
    if settings.smoke:
        write_phantoms(output / "dicom", count=PHANTOMS, seed=0, slices=SLICES, on_patient=lambda *_: None)
        prepare_source(output / "dicom", data_dir, SMOKE_DATASET, console, keep_ids=True)
    data = Dataset(data_dir, settings.dataset)
    network = model_config("keras", dropout=0.0, **(SMOKE_SIZES if settings.smoke else {}))
    recipe = replace(
        RECIPES["plain"],
        learning_rate=settings.learning_rate,
        epochs=1,
        steps_per_epoch=settings.steps,
        validation="none",
    )
    run = RunConfig(network, recipe, INFERENCE, data.intensity, data.image_size)
    curves = train_both(data, output, run, console)
    write_curves(output, curves)
    rows = score_both(data, output, console)
    header = ("name", "mean Dice", "median Dice", "FP slices", "FN slices", "keras protocol: Dice")
    with atomic_path(output / "scores.csv") as path, path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    print_table(console, f"Held-out patients ({data.patient_count('test')})", header, rows)
    for one, other in (("keras", "ours"), ("keras", "exact"), ("ours", "exact")):
        loss, dice = distance(curves[one][:EXACT_STEPS], curves[other]).max(axis=0)
        console.print(f"{one} and {other}, first {EXACT_STEPS} steps: loss at most {loss:.1e} apart, Dice {dice:.1e}")
    console.print(f"probabilities at most {largest_difference(data, output, console):.1e} apart")
    console.print(f"curves and scores: {output} (curves.csv, curves.png, scores.csv)", markup=False)


if __name__ == "__main__":
    prepare_jax()
    with mistakes_in_one_line("stopped; remove the output folder to begin again"):
        main(tyro.cli(Settings, description=__doc__))
