"""`rdunet train`."""

import csv
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from rich.console import Console
from scipy import ndimage

from data_pipeline.errors import InputError
from data_pipeline.loading import Dataset
from data_pipeline.preprocessing.intensity import normalise
from rdunet_jax.config import InferenceConfig, ModelConfig, TrainConfig
from rdunet_jax.inference.sliding_window import SlidingWindow, network_predictor
from rdunet_jax.networks.models import create_model
from rdunet_jax.parallel import is_first
from rdunet_jax.runs.manifest import recorded_session
from rdunet_jax.runs.workdir import RunConfig
from rdunet_jax.scoring.slices import score_slices, summarise
from rdunet_jax.training.loop import fit
from rdunet_jax.training.step import TrainState, create_state
from rdunet_jax.workflows.prediction import ct_mask, predict_patients

OnProgress = Callable[[int, int], None]


def train_network(
    data: Dataset,
    workdir: Path,
    network: ModelConfig,
    recipe: TrainConfig,
    inference: InferenceConfig,
    console: Console,
) -> None:
    """Trains, or goes on with a run that was stopped."""
    if not is_first():
        console = Console(quiet=True)
    run = RunConfig(network, recipe, inference, data.intensity, data.image_size)
    patches = data.patch_count("train")
    if patches < recipe.batch_size:
        raise InputError(f"{data.folder}: {patches} training patches, fewer than a batch of {recipe.batch_size}")
    if is_first():
        run.start(workdir)
    held_out = "validation" if data.patient_count("validation") else "train"
    steps_per_epoch = recipe.steps_per_epoch or patches // recipe.batch_size
    console.print(
        f"training {network.name} on {patches} patches of {data.patient_count('train')} patients, "
        f"batch {recipe.batch_size}, {steps_per_epoch} steps an epoch, {recipe.epochs} epochs at most, "
        f"loss {recipe.loss}, {', '.join(recipe.augmentation) or 'no'} augmentation"
    )
    if recipe.validation == "none":
        console.print("no validation: the latest network is kept, not the best")
    else:
        where = f"{held_out} {recipe.validation}"
        warning = " (the data set holds no validation patients)" if held_out == "train" else ""
        console.print(f"validation Dice: mean over the slices with tumour or prediction, of the {where}{warning}")

    model = create_model(network)
    normaliser = partial(normalise, intensity=data.intensity)
    predictor = network_predictor(model, normaliser)
    state = create_state(model, recipe, (network.patch_depth, data.image_size, data.image_size))
    validations = {"patients": validate_patients, "patches": validate_patches}
    validate = validations.get(recipe.validation)
    window = SlidingWindow(
        predictor, depth=network.patch_depth, batch=inference.window_batch if recipe.validation == "patients" else 1
    )
    account = data.account
    dataset = {"name": data.folder.parent.name, **{key: account[key] for key in ("dataset_sha256", "split_sha256")}}
    with recorded_session(workdir, asdict(run), dataset):
        fit(
            state,
            recipe,
            normalise=normaliser,
            batches=lambda start: data.batches("train", recipe.batch_size, recipe.seed, start),
            steps_per_epoch=steps_per_epoch,
            validate=validate and partial(validate, window=window, data=data, split=held_out, inference=inference),
            workdir=workdir,
            draw=partial(draw_prediction, window=window, patch=next(data.patches(held_out)), inference=inference),
            tell=console.print,
        )
    if not is_first():
        return
    _tell_training(workdir, console)


def validate_patients(
    state: TrainState,
    on_progress: OnProgress,
    *,
    window: SlidingWindow,
    data: Dataset,
    split: str,
    inference: InferenceConfig,
) -> float:
    """Validation Dice on whole patients, just as `rdunet evaluate` scores them."""
    predicted = predict_patients(data.patients(split), data.patient_count(split), window, state.variables, on_progress)
    scores = [score_slices(ct_mask(found, one.ct_mask.shape, inference), one.ct_mask) for one, found in predicted]
    return summarise(scores)["mean_dice_marked_slices"] or 0.0


def validate_patches(
    state: TrainState,
    on_progress: OnProgress,
    *,
    window: SlidingWindow,
    data: Dataset,
    split: str,
    inference: InferenceConfig,
) -> float:
    """Validation Dice on patches by themselves, on the network's grid, thresholded but not dilated."""
    patches = data.patch_count(split)
    scores = []
    for number, (image, mask) in enumerate(data.patches(split), 1):
        scores.append(score_slices(window(state.variables, image) > inference.threshold, mask))
        on_progress(number, patches)
    return summarise(scores)["mean_dice_marked_slices"] or 0.0


def draw_prediction(
    state: TrainState,
    *,
    window: SlidingWindow,
    patch: tuple[np.ndarray, Bool[np.ndarray, "depth size size"]],
    inference: InferenceConfig,
) -> UInt8[np.ndarray, "size size 3"]:
    """The slice of a patch that holds most tumour, in gray, with the outlines of truth (green) and prediction (red)."""
    image, truth = patch
    index = int(truth.sum(axis=(1, 2)).argmax())
    prediction = window(state.variables, image)[index] > inference.threshold
    gray = np.asarray(image[index], np.float32)
    gray = 255 * (gray - gray.min()) / max(float(np.ptp(gray)), 1.0)
    picture = np.repeat(gray.astype(np.uint8)[..., np.newaxis], 3, axis=-1)
    for mask, colour in ((truth[index], (0, 255, 0)), (prediction, (255, 0, 0))):
        picture[mask & ~ndimage.binary_erosion(mask)] = colour
    return picture


def _tell_training(workdir: Path, console: Console) -> None:
    """The end of a training in a few lines, from what it wrote."""
    with (workdir / "steps.csv").open(newline="") as file:
        steps = list(csv.DictReader(file))
    with (workdir / "history.csv").open(newline="") as file:
        epochs = list(csv.DictReader(file))
    if not steps:
        return
    losses = [float(step["loss"]) for step in steps]
    shown = ", ".join(f"{x:.4f}" for x in losses) if len(losses) <= 10 else f"{losses[0]:.4f} to {losses[-1]:.4f}"
    # The first step of a process compiles; the median of many does not show it.
    seconds = np.median([float(step["seconds"]) for step in steps])
    memory = epochs[-1]["peak_memory_gib"]
    console.print(f"{len(steps)} steps, loss {shown}; {seconds:.2f} s a step (median), peak memory {memory} GiB")
    dice = [float(epoch["validation_dice"]) for epoch in epochs if epoch["validation_dice"]]
    if dice:
        best = epochs[int(np.argmax(dice))]["epoch"]
        console.print(f"best validation Dice {max(dice):.3f}, after epoch {best} of {len(epochs)}")
    console.print(
        f"run: {workdir} (history.csv, history.png, steps.csv, manifest.json, tensorboard, checkpoints)", markup=False
    )
