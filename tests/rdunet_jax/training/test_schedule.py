"""The learning rate, early stopping and the choice of the best network, as Keras has them."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytest

from rdunet_jax.config import TrainConfig
from rdunet_jax.training.checkpointing import Checkpoints
from rdunet_jax.training.history import Validation
from rdunet_jax.training.optimizer import make_optimizer, plateau_decay, stops_early
from rdunet_jax.training.step import train_step
from tests.rdunet_jax.training.short_runs import CONFIG, STEPS_PER_EPOCH, batches, rows, run, state_of
from tests.rdunet_jax.training.small_run import identity

pytestmark = pytest.mark.usefixtures("optax_promotion")


def test_the_best_and_the_latest_checkpoints_are_kept(tmp_path: Path) -> None:
    dice = iter([0.3, 0.6, 0.5, 0.6])
    run(tmp_path, validate=lambda state, on_progress: next(dice))
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert (checkpoints.best_step, checkpoints.latest_step) == (6, 12)  # of equals the first
    best = checkpoints.restore(6, like=state_of())
    assert int(best.step) == 6
    checkpoints.close()


def test_without_validation_there_is_no_best(tmp_path: Path) -> None:
    run(tmp_path)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert (checkpoints.best_step, checkpoints.latest_step) == (None, 12)
    checkpoints.close()


@pytest.mark.slow
def test_the_rate_is_halved_on_a_plateau_and_has_a_floor(tmp_path: Path) -> None:
    config = replace(CONFIG, epochs=12, plateau_patience=3, min_learning_rate=0.0025)
    run(tmp_path, config, validate=lambda state, on_progress: 0.5, steps_per_epoch=1)
    rates = [float(row["learning_rate"]) for row in rows(tmp_path / "history.csv")]
    # as Keras: the first epoch is the best, after three without gain the rate is halved
    expected = [0.01] * 3 + [0.005] * 3 + [0.0025] * 6
    assert rates == pytest.approx(expected)


def metric_sequences(count: int = 500, epochs: int = 40) -> Iterator[list[float]]:
    """Metrics that rise, fall and repeat themselves."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield (np.round(rng.random(epochs), 2) * rng.random()).tolist()


@pytest.mark.slow
def test_the_plateau_traces_keras() -> None:
    decay = plateau_decay(TrainConfig())
    update = jax.jit(lambda state, dice: decay.update({}, state, value=1 - dice)[1])
    for sequence in metric_sequences():
        state = decay.init({})
        model = SimpleNamespace(optimizer=SimpleNamespace(learning_rate=1e-4))
        callback = keras.callbacks.ReduceLROnPlateau("dice", factor=0.5, patience=3, mode="max", min_lr=1e-8)
        callback.set_model(model)
        callback.on_train_begin()
        for epoch, dice in enumerate(sequence):
            state = update(state, jnp.float32(dice))
            callback.on_epoch_end(epoch, {"dice": dice})
            assert float(state.scale) * 1e-4 == pytest.approx(model.optimizer.learning_rate, rel=1e-6)  # float32


def test_early_stopping_traces_keras() -> None:
    stopped = 0
    for number, sequence in enumerate(metric_sequences()):
        patience = 1 + number % 15
        model = SimpleNamespace(stop_training=False)
        callback = keras.callbacks.EarlyStopping("dice", patience=patience, mode="max")
        callback.set_model(model)
        callback.on_train_begin()
        for epoch, dice in enumerate(sequence):
            callback.on_epoch_end(epoch, {"dice": dice})
            assert stops_early(sequence[: epoch + 1], patience) == model.stop_training
            if model.stop_training:
                stopped += 1
                break
    assert 100 < stopped <= 500  # neither answer is the only one tried


def test_a_run_stops_early_and_stays_stopped(tmp_path: Path) -> None:
    dice = iter([0.1, 0.5, 0.4, 0.5, 0.9])
    config = replace(CONFIG, epochs=5, early_stopping=2)
    state = run(tmp_path, config, validate=lambda state, progress: next(dice))
    assert int(state.step) == 4 * STEPS_PER_EPOCH
    again = run(tmp_path, config, validate=lambda state, progress: next(dice))
    assert int(again.step) == 4 * STEPS_PER_EPOCH


def test_the_scale_of_the_plateau_scales_adams_step() -> None:
    batch = next(batches(0))
    before = state_of().params
    full, _ = train_step(state_of(), batch, CONFIG, identity)
    halved = state_of()
    halved, _ = train_step(
        halved.replace(plateau=halved.plateau._replace(scale=jnp.float32(0.5))), batch, CONFIG, identity
    )
    # 1e-6: float32 rounding of p + u against p + u / 2
    jax.tree.map(
        lambda p, f, h: np.testing.assert_allclose(h - p, (f - p) / 2, atol=1e-6), before, full.params, halved.params
    )
    assert isinstance(halved.plateau, optax.contrib.ReduceLROnPlateauState)


def test_the_soft_dice_chooses_and_the_rate_waits_for_the_first_prediction(tmp_path: Path) -> None:
    """Below the threshold the network improves for four epochs; the thresholded Dice alone would keep the first."""
    soft = [0.1, 0.2, 0.3, 0.4, 0.5, 0.4, 0.4, 0.4, 0.4]
    hard = [0.0, 0.0, 0.0, 0.0, 0.1, 0.2, 0.1, 0.1, 0.1]
    results = iter([Validation(*pair) for pair in zip(hard, soft, strict=True)])
    config = replace(CONFIG, epochs=9, plateau_patience=3, early_stopping=4)
    run(tmp_path, config, validate=lambda state, on_progress: next(results), steps_per_epoch=1)
    assert Checkpoints(tmp_path / "checkpoints").best_step == 5
    rates = [float(row["learning_rate"]) for row in rows(tmp_path / "history.csv")]
    assert rates == pytest.approx([0.01] * 7 + [0.005] * 2)  # three epochs after the best, not after the first
    assert len(rates) == 9  # and stopped four epochs after the best


def test_clipping_and_decay_by_step_are_optaxs_and_keras(tmp_path: Path) -> None:
    gradients = {"w": jnp.array([3.0, 4.0])}
    config = replace(CONFIG, clip_norm=1.0, step_decay=0.5)
    ours, adam = make_optimizer(config), optax.scale_by_adam(eps=1e-8)
    state, adam_state = ours.init(gradients), adam.init(gradients)
    for step in range(3):
        updates, state = ours.update(gradients, state)
        expected, adam_state = adam.update(jax.tree.map(lambda g: g / 5, gradients), adam_state)
        rate = 0.01 / (1 + 0.5 * step)  # Keras 2: lr / (1 + decay * iterations)
        moved, before = (np.asarray(jax.tree.leaves(tree)[0]) for tree in (updates, expected))
        np.testing.assert_allclose(moved, -rate * before, rtol=1e-5)  # float32
