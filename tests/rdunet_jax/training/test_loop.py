"""The training loop on a tiny network: it learns, repeats, resumes and stops."""

import json
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rdunet_jax.errors import RunError
from rdunet_jax.training.checkpointing import Checkpoints
from rdunet_jax.training.history import Validation
from rdunet_jax.training.interruption import Stopped, StopRequest
from rdunet_jax.training.loop import fit
from rdunet_jax.training.optimizer import plateau_decay
from rdunet_jax.training.step import train_step
from tests.rdunet_jax.training.short_runs import CONFIG, STEPS_PER_EPOCH, assert_equal, batches, rows, run, state_of
from tests.rdunet_jax.training.small_run import Small, identity

pytestmark = pytest.mark.usefixtures("optax_promotion")


@pytest.mark.slow
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


@pytest.mark.parametrize(
    "stop_at", [pytest.param(1, marks=pytest.mark.slow), 3, pytest.param(7, marks=pytest.mark.slow)]
)
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


def test_a_cosine_schedule_takes_the_place_of_the_plateau(tmp_path: Path) -> None:
    config = replace(CONFIG, epochs=4, schedule="cosine", plateau_patience=1, steps_per_epoch=2)
    run(tmp_path, config, validate=lambda state, on_progress: 0.5, steps_per_epoch=2)
    rates = [float(row["learning_rate"]) for row in rows(tmp_path / "history.csv")]
    # (1 + cos) / 2 at a quarter, a half, three quarters and the end; float32
    assert rates == pytest.approx([0.00853553, 0.005, 0.00146447, 0], rel=1e-5, abs=1e-9)


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
    def feed(start: int) -> Iterator[dict[str, Any]]:
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


def test_a_run_compiles_its_step_once_fresh_or_resumed(tmp_path: Path) -> None:
    def steps(state) -> int:
        """Programs compiled for: a step, another, and one after the plateau was updated as an epoch's end does."""
        step = jax.jit(lambda state, batch: train_step(state, batch, CONFIG, identity)[0])
        state = step(step(state, next(batches(0))), next(batches(1)))
        _, plateau = plateau_decay(CONFIG).update({}, state.plateau, value=jnp.float32(0.5))
        step(state.replace(plateau=plateau), next(batches(2)))
        return step._cache_size()  # pyright: ignore[reportAttributeAccessIssue]

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
