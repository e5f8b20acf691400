"""`rdunet train`."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
from rich.console import Console

from data_pipeline.errors import InputError
from data_pipeline.loading import Dataset
from data_pipeline.own_data import PatientData, as_dataset
from data_pipeline.preprocessing.intensity import normalise
from data_pipeline.privacy import one_line
from rdunet_jax.config import RECIPES, InferenceConfig, ModelConfig, TrackerName, TrainConfig
from rdunet_jax.files import locked
from rdunet_jax.networks.models import config_of, create_model
from rdunet_jax.parallel import ends_with_the_others, is_first
from rdunet_jax.runs.initial_weights import Source
from rdunet_jax.runs.manifest import InitialWeights, recorded_session
from rdunet_jax.runs.start import has_checkpoint, start_run
from rdunet_jax.runs.training_data import TrainingData
from rdunet_jax.runs.workdir import RunConfig
from rdunet_jax.training.history import EpochRow, StepRow, read_rows
from rdunet_jax.training.loop import fit
from rdunet_jax.training.step import create_state
from rdunet_jax.training.trackers import OpenTracker, named_tracker
from rdunet_jax.workflows.prediction import make_window, require_hounsfield
from rdunet_jax.workflows.validation import Validator

_INFERENCE = InferenceConfig()
SHOWN_LAYERS = 8
"""Names of layers in a line on the terminal; the manifest has all."""


def train_network(
    data: Dataset | PatientData,
    workdir: Path,
    network: nn.Module | ModelConfig | str,
    recipe: TrainConfig = RECIPES["paper"],
    inference: InferenceConfig = _INFERENCE,
    console: Console | None = None,
    other_dataset: bool = False,
    init_from: Path | None = None,
    trackers: Sequence[TrackerName] = (),
) -> None:
    """Trains, or goes on with a run that was stopped, and writes all that the commands need.

    Many parameters because they are what `rdunet train` takes.

    Args:
        data: a prepared data set, or data of one's own.
        network: a name that `rdunet models` lists, a config, or the module that `create_model` made of one.
        console: for progress and results (default: none are shown).
        other_dataset: go on with a run that was trained on another data set or split.
        init_from: a run or a Keras file whose weights a new run begins with; see `runs.initial_weights`.
        trackers: get what is measured, beside TensorBoard.

    Raises:
        InputError: the data or the network cannot be used, the folder holds another run, another process trains in it,
            or `init_from` cannot be used.
        RunError: see `rdunet_jax.training.loop.fit`.
    """
    if console is None or not is_first():
        console = Console(quiet=True)
    if inference.threshold == "histogram":
        raise InputError("threshold histogram: training needs a number; `evaluate` takes it on whole patients")
    data = as_dataset(data)
    run = RunConfig(config_of(network), recipe, inference, data.intensity, data.image_size, data.fold, data.voxel_mm)
    require_hounsfield(data, inference)
    check_data_fits(run, data)
    opened = [tracker_of(name, workdir, run) for name in trackers]
    with ends_with_the_others(), locked(workdir / ".lock", workdir) if is_first() else nullcontext():
        _train(data, workdir, run, other_dataset, init_from, opened, console)
        if is_first():
            _print_result(workdir, console)


def check_data_fits(run: RunConfig, data: Dataset) -> None:
    """Raises InputError where a network cannot be trained on a data set with these settings."""
    patches, batch_size = data.patch_count("train", run.sampling), run.train.batch_size
    if patches < batch_size:
        raise InputError(
            f"{data.folder}: {patches} training patches, fewer than a batch of {batch_size} (--selection "
            f"{run.train.selection}, --patch-depth {run.model.patch_depth})"
        )
    run.model.check_image_size(data.image_size)


def _train(
    data: Dataset,
    workdir: Path,
    run: RunConfig,
    other_dataset: bool,
    init_from: Path | None,
    trackers: Sequence[OpenTracker],
    console: Console,
) -> None:
    steps_per_epoch = run.train.steps_per_epoch or data.patch_count("train", run.sampling) // run.train.batch_size
    recipe = replace(run.train, steps_per_epoch=steps_per_epoch)  # a cosine schedule depends on it
    held_out = "validation" if data.patient_count("validation") else "train"
    used = data_of_run(data, recipe)
    model = create_model(run.model)
    fresh_state = partial(create_state, model, recipe, run.window_shape)
    source = _source(init_from, workdir, run, console)
    initial_weights = source.compare_layers(jax.eval_shape(fresh_state)) if source else None
    all_used = source.training_data.joined_by(used) if source else used
    changes = start_run(workdir, run, all_used, other_dataset) if is_first() else {}
    _print_plan(data, run, steps_per_epoch, held_out, console)
    state = fresh_state()
    if source and initial_weights:
        state = source.initialise(state, initial_weights)
        _print_initial_weights(source, initial_weights, run, data, console)
        del source  # its weights would stay in memory
    window = make_window(run, model, run.inference.window_batch if recipe.validation == "patients" else 1)
    with recorded_session(workdir, asdict(run), used.data_sets[-1], changes, initial_weights):
        fit(
            state,
            recipe,
            normalise=partial(normalise, intensity=run.intensity),
            batches=lambda start: data.batches("train", recipe.batch_size, recipe.seed, start, run.sampling),
            steps_per_epoch=steps_per_epoch,
            validate=Validator(data, held_out, recipe.validation, run.sampling, window, run.inference),
            workdir=workdir,
            log=partial(console.print, markup=False),
            trackers=trackers,
        )


def tracker_of(name: TrackerName, workdir: Path, run: RunConfig) -> OpenTracker:
    """A tracker by name, with the settings of a run.

    Raises:
        RunError: it is not installed.
    """
    fold = "" if run.fold is None else f", fold {run.fold}"
    return named_tracker(name, workdir, f"{run.model.name}, seed {run.train.seed}{fold}", asdict(run))


def _source(init_from: Path | None, workdir: Path, run: RunConfig, console: Console) -> Source | None:
    """The network that a new run begins with; None for none, and for a run that goes on."""
    if init_from is None:
        return None
    if has_checkpoint(workdir):
        console.print(f"--init-from is not used: {workdir} goes on from its own checkpoint", markup=False)
        return None
    return Source.load(init_from, run.model)


def data_of_run(data: Dataset, recipe: TrainConfig) -> TrainingData:
    """The data that a run with this recipe uses, by names and hashes."""
    return TrainingData.of(data.account.to_json(), data.name, validates=recipe.validation != "none")


def _print_plan(data: Dataset, run: RunConfig, steps_per_epoch: int, held_out: str, console: Console) -> None:
    recipe = run.train
    share, patients = recipe.tumour_free_share, f"{data.patient_count('train')} patients"
    if run.fold is not None:
        patients += f" without fold {run.fold}"
    chosen = f"selection {recipe.selection}{'' if share is None else f', {share:.0%} without tumour'}"
    console.print(
        f"training {run.model.name} on {data.patch_count('train', run.sampling)} patches of {patients} ({chosen}), "
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
        "the thresholded prediction, over the slices with tumour or prediction, is printed beside it"
    )


def _print_initial_weights(
    source: Source, weights: InitialWeights, run: RunConfig, data: Dataset, console: Console
) -> None:
    """What the run begins with, what does not fit, and which held-out patients the source has seen."""
    layers = len(weights.taken) + len(weights.random)
    step = "" if weights.step is None else f", step {weights.step}"
    lines = [f"initial weights of {len(weights.taken)} of {layers} layers from {weights.source}{step}"]
    for names, which in (
        (weights.random, "layers of this network that begin at random"),
        (weights.left_out, f"layers of {weights.source} that are left out"),
    ):
        if names:
            more = f" and {len(names) - SHOWN_LAYERS} more (manifest.json has all)" if len(names) > SHOWN_LAYERS else ""
            lines.append(f"{len(names)} {which}: {', '.join(names[:SHOWN_LAYERS])}{more}")
    other = [f"{name} {theirs} (here {ours})" for name, (theirs, ours) in source.other_settings(run).items()]
    if other:
        lines.append(f"settings of {weights.source} that differ: {', '.join(other)}")
    for split in ("validation", "test"):
        patients = data.fingerprints(split)
        trained = list(source.training_data.seen(patients).values()).count("trained")
        if trained:
            lines.append(
                f"NOT NEW PATIENTS: {weights.source} was trained on {trained} of the {len(patients)} {split} ones"
            )
    if not source.training_data.is_complete:
        lines.append(f"it is not recorded which patients {weights.source} was trained on")
    for line in lines:
        console.print(one_line(line), markup=False)


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
