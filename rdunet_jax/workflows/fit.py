"""The training loop for batches from anywhere, which makes a run that the commands can use."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import flax.linen as nn

from data_pipeline.preprocessing.intensity import normalise as normalise_by_name
from rdunet_jax.config import InferenceConfig, ModelConfig, TrainConfig
from rdunet_jax.errors import RunError
from rdunet_jax.files import locked
from rdunet_jax.networks.models import config_of, create_model
from rdunet_jax.runs.manifest import recorded_session
from rdunet_jax.runs.start import start_run
from rdunet_jax.runs.training_data import UNKNOWN, TrainingData
from rdunet_jax.runs.workdir import RunConfig
from rdunet_jax.training import loop
from rdunet_jax.training.step import Batch, Normalise, TrainState, create_state

_INFERENCE = InferenceConfig()


def fit(
    network: TrainState | nn.Module | ModelConfig | str,
    config: TrainConfig,
    *,
    normalise: Normalise | str,
    batches: Callable[[int], Iterator[Batch]],
    steps_per_epoch: int,
    validate: loop.Validate | None = None,
    workdir: Path,
    log: Callable[[str], None] = lambda line: None,
    inference: InferenceConfig = _INFERENCE,
) -> TrainState:
    """Trains on batches, or goes on from the latest checkpoint in `workdir`: see `rdunet_jax.training.loop.fit`.

    Many parameters because they are those of the loop, and what a run records beside them.

    Args:
        network: a name that `rdunet models` lists, a config, or the module that `create_model` made of one: then
            `workdir` becomes a run for `evaluate`, `segment` and `load`, which does not know its patients. A state is
            trained without a record.
        config: the recipe.
        normalise: stored grey values to the network's input: a name in `INTENSITIES`, or a function, which no command
            could find again, for a state.
        batches: (first step) to the endless batches from that step on, each with `image` and `mask`, both
            (batch, depth, rows, columns, 1).
        validate: (state, callback of progress) to a `Validation`, at each epoch's end; None for no validation.
        log: gets lines for the user.
        inference: prediction and post-processing that the run records.

    Raises:
        RunError: the folder holds another run, or as `rdunet_jax.training.loop.fit`.
        InputError: a setting is out of its range.
    """
    to_input = partial(normalise_by_name, intensity=normalise) if isinstance(normalise, str) else normalise
    train = partial(
        loop.fit,
        config=config,
        normalise=to_input,
        batches=batches,
        steps_per_epoch=steps_per_epoch,
        validate=validate,
        workdir=workdir,
        log=log,
    )
    if isinstance(network, TrainState):
        return train(network)
    if not isinstance(normalise, str):
        raise RunError(
            "normalise is a function, which a run cannot record; register it in INTENSITIES and give its name"
        )
    rows, columns = next(batches(0))["image"].shape[2:4]
    recipe = replace(config, steps_per_epoch=steps_per_epoch)
    run = RunConfig(config_of(network), recipe, inference, normalise, (rows, columns))
    with locked(workdir / ".lock", workdir):
        changes = start_run(workdir, run, TrainingData((UNKNOWN,), (), ()))
        with recorded_session(workdir, asdict(run), UNKNOWN, changes):
            return train(create_state(create_model(run.model), recipe, run.window_shape))
