"""Short runs of the training loop, for its tests."""

import csv
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from rdunet_jax.config import TrainConfig
from rdunet_jax.training.history import Validation
from rdunet_jax.training.loop import fit
from rdunet_jax.training.step import create_state
from tests.rdunet_jax.training.small_run import Small, identity

CONFIG = TrainConfig(epochs=4, learning_rate=0.01)


STEPS_PER_EPOCH = 3


def batches(start: int) -> Iterator[dict[str, np.ndarray]]:
    """Batch i depends on i alone: tumour is where it is bright."""
    while True:
        image = np.random.default_rng(start).random((2, 8, 8, 8, 1), np.float32)
        yield {"image": image, "mask": (image > 0.7).astype(np.uint8)}
        start += 1


def state_of(config: TrainConfig = CONFIG):
    return create_state(Small(), config, (8, 8, 8))


def run(workdir: Path, config: TrainConfig = CONFIG, *, feed=batches, validate=None, steps_per_epoch=STEPS_PER_EPOCH):
    """`validate` gives a soft Dice, or a `Validation`."""
    workdir.mkdir(exist_ok=True)

    def validation(state, on_progress) -> Validation:
        assert validate is not None
        measured = validate(state, on_progress)
        return measured if isinstance(measured, Validation) else Validation(measured, measured)

    return fit(
        state_of(config),
        config,
        normalise=identity,
        batches=feed,
        steps_per_epoch=steps_per_epoch,
        validate=validate and validation,
        workdir=workdir,
    )


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def assert_equal(one, other) -> None:
    """Bit by bit, leaf by leaf (two states differ in their static functions)."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)
