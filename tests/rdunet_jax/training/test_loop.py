"""The training loop on a tiny network: it learns, repeats, resumes, decays and stops."""

import csv
import json
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytest

from rdunet_jax.config import TrainConfig
from rdunet_jax.errors import RunError
from rdunet_jax.training.checkpointing import Checkpoints
from rdunet_jax.training.history import Validation
from rdunet_jax.training.interruption import Stopped, StopRequest
from rdunet_jax.training.loop import fit
from rdunet_jax.training.optimizer import make_optimizer, plateau_decay, stops_early
from rdunet_jax.training.step import create_state, train_step

pytestmark = pytest.mark.usefixtures("optax_promotion")

CONFIG = TrainConfig(epochs=4, learning_rate=0.01)
STEPS_PER_EPOCH = 3


class Small(nn.Module):
    """Two convolutions with all that a real network has: batch normalisation and dropout."""

    @nn.compact
    def __call__(self, x, *, train: bool = False):
        x = nn.Conv(4, (1, 3, 3))(x)
        x = nn.BatchNorm(use_running_average=not train)(x)
        x = nn.Dropout(0.1, broadcast_dims=(1, 2, 3), deterministic=not train)(nn.relu(x))
        return nn.Conv(1, (1, 3, 3))(x)


def identity(x):
    return x


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


def test_the_loss_falls(tmp_path: Path) -> None:
    run(tmp_path, replace(CONFIG, epochs=30, learning_rate=0.02))
    losses = [float(row["loss"]) for row in rows(tmp_path / "history.csv")]
    assert len(losses) == 30
    assert losses[-1] < 0.5 * losses[0]


def first_adam_step(p, g):
    """By the rate (0.01) against the sign of the gradient, but for epsilon, which Keras adds to sqrt(0.001 g^2)."""
    return p - 0.01 * g / (jnp.abs(g) + 1e-8 / np.float32(np.sqrt(0.001)))


def test_a_step_is_adam_on_the_mean_binary_cross_entropy() -> None:
    state, batch, key = state_of(), next(batches(0)), jax.random.key(0)
    model = Small()

    def loss_of(params):
        logits, _ = model.apply(
            {"params": params, "batch_stats": state.batch_stats},
            batch["image"],
            train=True,
            rngs={"dropout": jax.random.fold_in(key, 0)},
            mutable=["batch_stats"],
        )
        p, y = jax.nn.sigmoid(logits), batch["mask"].astype(np.float32)
        return -(y * jnp.log(p) + (1 - y) * jnp.log(1 - p)).mean()

    gradients = jax.jit(jax.grad(loss_of))(state.params)
    expected = jax.tree.map(first_adam_step, state.params, gradients)
    bias = expected["Conv_0"].pop("bias")  # its gradient is zero before a batch normalisation, but for rounding
    after, metrics = train_step(state, batch, CONFIG, identity)
    params = after.params
    assert params["Conv_0"].pop("bias").shape == bias.shape
    # 1e-4 of a step of 0.01: gradients of two differently written losses differ by rounding
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), params, expected)
    assert np.isfinite(metrics["loss"])
    assert int(after.step) == 1


def test_two_runs_are_bit_equal(tmp_path: Path) -> None:
    assert_equal(run(tmp_path / "one"), run(tmp_path / "two"))


@pytest.mark.parametrize("stop_at", [1, 3, 7])
def test_stopped_and_resumed_equals_uninterrupted(stop_at: int, tmp_path: Path) -> None:
    def feed(start: int) -> Iterator[dict[str, np.ndarray]]:
        for step, batch in enumerate(batches(start), start + 1):
            if step == stop_at + 1:  # it is fetched while the step before it runs
                signal.raise_signal(signal.SIGINT)
            yield batch

    def validate(state, on_progress) -> float:
        return float(jax.tree.reduce(lambda total, leaf: total + jnp.abs(leaf).sum(), state.params, jnp.float32(0)))

    whole = run(tmp_path / "whole", validate=validate)
    with pytest.raises(Stopped):
        run(tmp_path / "stopped", feed=feed, validate=validate)
    assert Checkpoints(tmp_path / "stopped" / "checkpoints").latest_step == stop_at
    assert_equal(run(tmp_path / "stopped", validate=validate), whole)
    for name in ("steps.csv", "history.csv"):
        one, other = (rows(tmp_path / run / name) for run in ("whole", "stopped"))
        for timing in ("seconds", "peak_memory_gib"):
            for row in one + other:
                row.pop(timing, None)
        assert one == other


def test_a_stop_during_validation_validates_again(tmp_path: Path) -> None:
    calls = []

    def validate(state, on_progress) -> float:
        calls.append(int(state.step))
        if len(calls) == 2:
            signal.raise_signal(signal.SIGTERM)
        on_progress(1, 2)
        return 0.5

    with pytest.raises(Stopped):
        run(tmp_path, validate=validate)
    assert calls == [3, 6]
    run(tmp_path, validate=validate)
    assert calls == [3, 6, 6, 9, 12]
    assert [row["step"] for row in rows(tmp_path / "history.csv")] == ["3", "6", "9", "12"]


def test_a_second_ctrl_c_acts_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopRequest():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


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


def test_a_log_file_gets_a_line_an_epoch(tmp_path: Path) -> None:
    lines: list[str] = []

    def train(epochs: int) -> list[str]:
        lines.clear()
        config = replace(CONFIG, epochs=epochs)
        fit(
            state_of(config),
            config,
            normalise=identity,
            batches=batches,
            steps_per_epoch=STEPS_PER_EPOCH,
            validate=lambda state, on_progress: Validation(0.25, 0.5),
            workdir=tmp_path,
            log=lines.append,
        )
        return lines

    compiling, first, *_, estimate, second = train(2)
    assert "compiling the training step, once" in compiling
    assert first.startswith("epoch 1: step 3 of 6, loss 0.") and first.endswith(" left")
    assert "validation Dice 0.250 (soft 0.500), rate 0.01, " in second and second.endswith("0:00:00 left")
    assert "patches/s" in estimate
    assert train(2) == ["already finished: 6 steps"]
    assert train(3)[0] == "going on from step 6 of 9"


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


def test_a_broken_latest_checkpoint_gives_way_to_the_one_before(tmp_path: Path, caplog) -> None:
    whole = run(tmp_path / "whole")
    run(tmp_path / "run")
    for file in (tmp_path / "run" / "checkpoints" / "12").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert_equal(run(tmp_path / "run"), whole)
    assert "going on from the checkpoint before it, of step 9" in caplog.text
    assert len(rows(tmp_path / "run" / "history.csv")) == 4


def test_where_no_checkpoint_can_be_read_none_is_removed(tmp_path: Path) -> None:
    run(tmp_path)
    for file in (tmp_path / "checkpoints").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    before = sorted((tmp_path / "checkpoints").rglob("*"))
    with pytest.raises(RunError, match="cannot be read as a checkpoint"):
        run(tmp_path)
    assert sorted((tmp_path / "checkpoints").rglob("*")) == before


def test_too_little_memory_says_what_to_lower(tmp_path: Path) -> None:
    def feed(start: int) -> Iterator[dict[str, np.ndarray]]:
        yield {"image": jnp.zeros(1 << 48, jnp.float32), "mask": np.zeros(1)}  # 1 PiB

    with pytest.raises(RunError, match="lower --batch-size"):
        run(tmp_path, feed=feed)


def test_two_accumulated_batches_make_the_update_of_their_mean_gradient() -> None:
    config = replace(CONFIG, accumulate=2)
    state, steps = state_of(config), [next(batches(0)), next(batches(1))]

    def gradient(batch, step):
        def loss_of(params):
            logits, _ = Small().apply(
                {"params": params, "batch_stats": state.batch_stats},
                batch["image"],
                train=True,
                rngs={"dropout": jax.random.fold_in(jax.random.key(0), step)},
                mutable=["batch_stats"],
            )
            return optax.sigmoid_binary_cross_entropy(logits, batch["mask"].astype(np.float32)).mean()

        return jax.jit(jax.grad(loss_of))(state.params)

    mean = jax.tree.map(lambda a, b: (a + b) / 2, *(gradient(batch, i) for i, batch in enumerate(steps)))
    expected = jax.device_get(jax.tree.map(first_adam_step, state.params, mean))
    start = jax.device_get(state.params)
    half, _ = train_step(state, steps[0], config, identity)
    assert_equal(jax.device_get(half.params), start)
    after, _ = train_step(half, steps[1], config, identity)
    for params in (expected, after.params):
        params["Conv_0"].pop("bias")  # its gradient is rounding before a batch normalisation
    # 1e-5 of a step of 0.01: Adam divides small gradients by themselves, which amplifies rounding
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), after.params, expected)


def test_the_moving_average_is_what_is_used() -> None:
    config = replace(CONFIG, ema=0.75)
    state = state_of(config)
    before = jax.device_get(state.params)
    state, _ = train_step(state, next(batches(0)), config, identity)
    expected = jax.tree.map(lambda old, new: 0.75 * old + 0.25 * new, before, jax.device_get(state.params))
    # float32 rounding
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), state.variables["params"], expected)


def test_clipping_and_decay_by_step_are_optaxs_and_keras(tmp_path: Path) -> None:
    gradients = {"w": jnp.array([3.0, 4.0])}
    config = replace(CONFIG, clip_norm=1.0, step_decay=0.5)
    ours, adam = make_optimizer(config), optax.scale_by_adam(eps=1e-8)
    state, adam_state = ours.init(gradients), adam.init(gradients)
    for step in range(3):
        updates, state = ours.update(gradients, state)
        expected, adam_state = adam.update(jax.tree.map(lambda g: g / 5, gradients), adam_state)
        rate = 0.01 / (1 + 0.5 * step)  # Keras 2: lr / (1 + decay * iterations)
        np.testing.assert_allclose(updates["w"], -rate * expected["w"], rtol=1e-5)  # float32


def test_a_run_compiles_its_step_once_fresh_or_resumed(tmp_path: Path) -> None:
    def steps(state) -> int:
        """Programs compiled for: a step, another, and one after the plateau was updated as an epoch's end does."""
        step = jax.jit(lambda state, batch: train_step(state, batch, CONFIG, identity)[0])
        state = step(step(state, next(batches(0))), next(batches(1)))
        _, plateau = plateau_decay(CONFIG).update({}, state.plateau, value=jnp.float32(0.5))
        step(state.replace(plateau=plateau), next(batches(2)))
        return step._cache_size()

    fresh = state_of()
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(0, fresh, soft_dice=0.0)
    restored = checkpoints.restore(0, like=fresh)
    checkpoints.close()
    assert steps(fresh) == 1
    assert steps(restored) == 1


def test_files_are_readable_by_others(tmp_path: Path) -> None:
    run(tmp_path, validate=lambda state, on_progress: 0.25)
    assert set(rows(tmp_path / "steps.csv")[0]) == {"step", "loss", "dice", "seconds"}
    assert rows(tmp_path / "history.csv")[-1]["validation_dice"] == "0.25"
    assert (tmp_path / "history.png").read_bytes().startswith(b"\x89PNG")
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))
    assert json.loads((tmp_path / "checkpoints" / "12" / "metrics" / "metrics").read_text())["soft_dice"] == 0.25
