"""Losses, gradients and updates that are not finite."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdunet_jax.config import TrainConfig
from rdunet_jax.errors import RunError
from rdunet_jax.training.checkpointing import Checkpoints
from rdunet_jax.training.step import create_state, train_step
from tests.rdunet_jax.training.short_runs import CONFIG, assert_equal, batches, run, state_of
from tests.rdunet_jax.training.small_run import identity

pytestmark = pytest.mark.usefixtures("optax_promotion")


def test_a_loss_that_is_not_finite_names_its_batch_and_keeps_the_state_before(tmp_path: Path) -> None:
    def feed(start: int, broken: int | None = 5) -> Iterator[dict[str, np.ndarray]]:
        for step, batch in enumerate(batches(start), start + 1):
            image = np.full_like(batch["image"], np.nan) if step == broken else batch["image"]
            yield batch | {"image": image, "patient": np.array(["P-1", "P-2"]), "start": np.array([step, 0])}

    for _ in range(2):  # the same command again fails in the same place
        with pytest.raises(RunError, match=r"at step 5 \(patient \['P-1', 'P-2'\], start \[5, 0\]\)"):
            run(tmp_path / "run", feed=feed)
        checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
        assert checkpoints.latest_step == 4
        checkpoints.close()
    assert_equal(run(tmp_path / "run", feed=batches), run(tmp_path / "whole"))


def without_a_finite_rate() -> TrainConfig:
    """A rate that the settings themselves refuse."""
    config = replace(CONFIG)
    object.__setattr__(config, "learning_rate", float("inf"))
    return config


def test_an_update_that_is_not_finite_keeps_a_network_that_is(tmp_path: Path) -> None:
    run(tmp_path, replace(CONFIG, epochs=1))
    with pytest.raises(RunError, match="the update is not finite at step 4"):
        run(tmp_path, without_a_finite_rate())
    kept = Checkpoints(tmp_path / "checkpoints").restore(3, like=state_of())
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(kept.params))
    assert int(run(tmp_path, replace(CONFIG, learning_rate=0.001)).step) == 12


def test_a_first_step_that_fails_leaves_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not finite at step 1"):
        run(tmp_path, without_a_finite_rate())
    assert not list((tmp_path / "checkpoints").glob("*"))


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    class Steep(nn.Module):
        """Finite for zeros, with an infinite gradient."""

        @nn.compact
        def __call__(self, x, *, train: bool = False):
            return jnp.sqrt(x * self.param("weight", nn.initializers.ones_init(), ())) - 1

    state = create_state(Steep(), CONFIG, (8, 8, 8))
    before = jax.device_get(state)
    zeros = {"image": np.zeros((2, 8, 8, 8, 1), np.float32), "mask": np.zeros((2, 8, 8, 8, 1), np.uint8)}
    after, metrics = train_step(state, zeros, CONFIG, identity)
    assert np.isfinite(metrics["loss"]) and not metrics["finite"]
    assert_equal(jax.device_get(after), before)
