"""`rdunet train`."""

from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console

from data_pipeline.errors import InputError
from data_pipeline.loading import Dataset
from data_pipeline.preprocessing.intensity import normalise
from data_pipeline.preprocessing.patches import PATCH_DEPTH
from rdunet_jax.config import InferenceConfig, ModelConfig, TrainConfig
from rdunet_jax.files import locked
from rdunet_jax.networks.models import create_model
from rdunet_jax.parallel import ends_with_the_others, is_first
from rdunet_jax.runs.manifest import recorded_session
from rdunet_jax.runs.start import start_run
from rdunet_jax.runs.training_data import TrainingData
from rdunet_jax.runs.workdir import RunConfig
from rdunet_jax.training.history import EpochRow, StepRow, read_rows
from rdunet_jax.training.loop import fit
from rdunet_jax.training.step import create_state
from rdunet_jax.workflows.prediction import make_window
from rdunet_jax.workflows.validation import Validator


def train_network(
    data: Dataset,
    workdir: Path,
    network: ModelConfig,
    recipe: TrainConfig,
    inference: InferenceConfig,
    console: Console,
    other_dataset: bool = False,
) -> None:
    """Trains, or goes on with a run that was stopped.

    Args:
        other_dataset: go on with a run that was trained on another data set or split.

    Raises:
        InputError: the data cannot be used, the folder holds another run, or another process trains in it.
        RunError: see `rdunet_jax.training.loop.fit`.
    """
    if not is_first():
        console = Console(quiet=True)
    run = RunConfig(network, recipe, inference, data.intensity, data.image_size)
    check_data_fits(network, recipe, data)
    with ends_with_the_others(), locked(workdir / ".lock", workdir) if is_first() else nullcontext():
        _train(data, workdir, run, other_dataset, console)
        if is_first():
            _print_result(workdir, console)


def check_data_fits(network: ModelConfig, recipe: TrainConfig, data: Dataset) -> None:
    """Raises InputError where a network cannot be trained on a data set with these settings."""
    patches = data.patch_count("train")
    if patches < recipe.batch_size:
        raise InputError(f"{data.folder}: {patches} training patches, fewer than a batch of {recipe.batch_size}")
    network.check_image_size(data.image_size)
    if network.patch_depth != PATCH_DEPTH:
        raise InputError(
            f"patch_depth is {network.patch_depth}, but the patches of {data.folder} have {PATCH_DEPTH} slices"
        )


def _train(data: Dataset, workdir: Path, run: RunConfig, other_dataset: bool, console: Console) -> None:
    recipe = run.train
    held_out = "validation" if data.patient_count("validation") else "train"
    used = data_of_run(data, recipe)
    changes = start_run(workdir, run, used, other_dataset) if is_first() else {}
    steps_per_epoch = recipe.steps_per_epoch or data.patch_count("train") // recipe.batch_size
    _print_plan(data, run, steps_per_epoch, held_out, console)

    model = create_model(run.model)
    normaliser = partial(normalise, intensity=run.intensity)
    state = create_state(model, recipe, (run.model.patch_depth, run.image_size, run.image_size))
    window = make_window(run, model, run.inference.window_batch if recipe.validation == "patients" else 1)
    with recorded_session(workdir, asdict(run), used.data_sets[-1], changes):
        fit(
            state,
            recipe,
            normalise=normaliser,
            batches=lambda start: data.batches("train", recipe.batch_size, recipe.seed, start),
            steps_per_epoch=steps_per_epoch,
            validate=Validator(data, held_out, recipe.validation, window, run.inference),
            workdir=workdir,
            log=partial(console.print, markup=False),
        )


def data_of_run(data: Dataset, recipe: TrainConfig) -> TrainingData:
    """The data that a run with this recipe uses, by names and hashes."""
    return TrainingData.of(data.account.to_json(), data.name, validates=recipe.validation != "none")


def _print_plan(data: Dataset, run: RunConfig, steps_per_epoch: int, held_out: str, console: Console) -> None:
    recipe = run.train
    console.print(
        f"training {run.model.name} on {data.patch_count('train')} patches of {data.patient_count('train')} patients, "
        f"batch {recipe.batch_size}, {steps_per_epoch} steps an epoch, {recipe.epochs} epochs at most, "
        f"loss {recipe.loss}, {', '.join(recipe.augmentation) or 'no'} augmentation",
        markup=False,
    )
    if recipe.validation == "none":
        console.print("no validation: the latest network is kept, not the best")
        return
    warning = " (the data set holds no validation patients)" if held_out == "train" else ""
    console.print(
        f"validation on {held_out} {recipe.validation}{warning}: the soft Dice chooses the best network; the Dice of "
        "the thresholded prediction, over the slices with tumor or prediction, is printed beside it"
    )


def _print_result(workdir: Path, console: Console) -> None:
    """The end of a training in a few lines, from its tables."""
    steps, _ = read_rows(workdir / "steps.csv", StepRow)
    epochs, _ = read_rows(workdir / "history.csv", EpochRow)
    if not steps:
        return
    losses = [step.loss for step in steps]
    shown = ", ".join(f"{x:.4f}" for x in losses) if len(losses) <= 10 else f"{losses[0]:.4f} to {losses[-1]:.4f}"
    # The first step of a process compiles; the median of many does not show it.
    seconds = np.median([step.seconds for step in steps])
    memory = f", peak memory {epochs[-1].peak_memory_gib} GiB" if epochs else ""
    console.print(f"{len(steps)} steps, loss {shown}; {seconds:.2f} s a step (median){memory}")
    scored = [epoch for epoch in epochs if epoch.validation_soft_dice is not None]
    if scored:
        best = max(scored, key=lambda epoch: (epoch.validation_soft_dice, -epoch.step))
        console.print(
            f"best validation soft Dice {best.validation_soft_dice:.3f} (Dice {best.validation_dice:.3f}), after epoch "
            f"{best.epoch} of {epochs[-1].epoch}"
        )
    console.print(
        f"run: {workdir} (history.csv, history.png, steps.csv, manifest.json, tensorboard, checkpoints)", markup=False
    )
