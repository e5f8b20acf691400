"""The training loop (paper, section 3.3)."""

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from rdunet_jax.config import TrainConfig
from rdunet_jax.errors import RunError
from rdunet_jax.parallel import any_process, is_first, local, make_mesh, replicate, split_batch
from rdunet_jax.progress import progress_bar
from rdunet_jax.training.checkpointing import Checkpoints
from rdunet_jax.training.history import History, StepRow
from rdunet_jax.training.interruption import Stopped, StopRequest
from rdunet_jax.training.losses import make_loss
from rdunet_jax.training.optimizer import plateau_decay, stops_early
from rdunet_jax.training.step import Batch, Normalise, TrainState, train_step

TIMED_STEPS = 5
"""After so many steps a session tells how long it will take; the first of them compiles, and is not counted."""
SAVE_SECONDS = 600
"""Longest time between two checkpoints."""


class NotFiniteError(RunError):
    """A loss or a gradient is infinite or no number."""


def fit(
    state: TrainState,
    config: TrainConfig,
    *,
    normalise: Normalise,
    batches: Callable[[int], Iterator[Batch]],
    steps_per_epoch: int,
    validate: Callable[[TrainState, Callable[[int, int], None]], float] | None,
    workdir: Path,
    draw: Callable[[TrainState], UInt8[np.ndarray, "height width 3"]] | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> TrainState:
    """Trains until the configured end or the early stop, or goes on from the latest checkpoint in `workdir`.

    Ctrl-C or SIGTERM ends it after the running step, with a checkpoint. Everything that training depends on is in the
    checkpoint: the state and, as its step, the position in the data, whose batch i depends on the seed and i alone.

    Args:
        state: the fresh state; replaced by the checkpoint's where there is one.
        batches: (first step) to the endless batches from that step on. What a batch holds beside `image` and `mask`
            says which it is, and is told where it fails.
        validate: (state, progress callback of (done, total)) to the validation Dice; None for no validation.
        workdir: gets `checkpoints/`, `steps.csv`, `history.csv`, `history.png` and `tensorboard/`.
        draw: a picture of what the state predicts, for TensorBoard, once an epoch.
        tell: gets lines for the user.

    Raises:
        Stopped: it was asked to stop; the checkpoint is written.
        RunError: a loss or gradient is not finite (the state before it is in a checkpoint), memory or disk is short, or
            no checkpoint can be read.
    """
    total_steps = min(config.epochs * steps_per_epoch, config.steps or config.epochs * steps_per_epoch)
    decay = plateau_decay(config)
    try:
        make_loss(config.loss, config.tversky_alpha)
    except ValueError as error:
        raise RunError(str(error)) from error
    mesh = make_mesh(config.batch_size)
    if mesh.size < len(jax.devices()):
        tell(f"on {mesh.size} of {len(jax.devices())} devices: a batch of {config.batch_size} cannot be split further")
    state = replicate(state, mesh)
    checkpoints = Checkpoints(workdir / "checkpoints")
    state = checkpoints.restore_latest(like=state) or state
    first_step = step = int(state.step)
    history = History(workdir, resume_at=step, writes=is_first())
    saved_at = time.monotonic()
    with _shortage_told(config, workdir), StopRequest() as stop, progress_bar() as progress, history:
        bar = progress.add_task("", total=total_steps, completed=step)
        validation_bar = progress.add_task("validation", total=None, visible=False)

        def next_batch() -> tuple[Batch, Batch]:
            """On the devices what a step takes; at hand what tells which batch it is."""
            batch = dict(next(source))
            return batch, split_batch({name: batch.pop(name) for name in ("image", "mask")}, mesh)

        def check_stop() -> None:
            if any_process(stop.requested):
                raise Stopped

        def on_validation(done: int, total: int) -> None:
            progress.update(validation_bar, completed=done, total=total, visible=done < total)
            check_stop()

        def end_epoch() -> None:
            """Validates, decays, saves; repeated as a whole if a stop cuts it short."""
            nonlocal state, saved_at
            dice = None
            if validate is not None:
                dice = validate(local(state), on_validation)
                _, plateau = decay.update({}, local(state.plateau), value=jnp.float32(1 - dice))
                state = state.replace(plateau=replicate(plateau, mesh))
            rate = config.learning_rate * float(jnp.asarray(state.plateau.scale))
            rate /= 1 + config.step_decay * (step // config.accumulate)
            history.end_epoch(step, -(-step // steps_per_epoch), dice, rate, draw and draw(local(state)))
            checkpoints.save(step, state, dice)
            saved_at = time.monotonic()

        try:
            if step and history.epoch_is_open(step) and (step % steps_per_epoch == 0 or step == total_steps):
                end_epoch()  # a stop came between the last step of an epoch and its validation
            source = batches(step) if step < total_steps else iter(())
            ahead = None
            while step < total_steps and not stops_early(history.validation_dice, config.early_stopping):
                started = time.perf_counter()
                batch, arrays = ahead or next_batch()
                state, metrics = train_step(state, arrays, config, normalise, mesh)
                # While the devices are at work on this one.
                ahead = next_batch() if step + 1 < total_steps else None
                if not metrics["finite"]:
                    which = ", ".join(f"{name} {np.asarray(value).tolist()}" for name, value in batch.items())
                    raise NotFiniteError(
                        f"the loss ({float(metrics['loss'])}) or its gradient is not finite at step {step + 1} "
                        f"({which or 'batch ' + str(step)}); the network before it is kept: lower the learning rate, "
                        "use --clip-norm, or check these patients"
                    )
                step += 1
                seconds = time.perf_counter() - started
                history.end_step(StepRow(step, float(metrics["loss"]), float(metrics["dice"]), seconds))
                progress.update(bar, completed=step, description=history.now(-(-step // steps_per_epoch)))
                if step - first_step == TIMED_STEPS and (left := total_steps - step):
                    tell(history.estimate(left, config.batch_size, TIMED_STEPS - 1))
                if step % steps_per_epoch == 0 or step == total_steps:
                    end_epoch()
                check_stop()
                if any_process(time.monotonic() - saved_at > SAVE_SECONDS):
                    checkpoints.save(step, state)
                    saved_at = time.monotonic()
        except (Stopped, NotFiniteError):
            checkpoints.save(step, state)
            raise
        finally:
            checkpoints.close()
    return state


@contextmanager
def _shortage_told(config: TrainConfig, workdir: Path) -> Iterator[None]:
    """Too little memory or disk becomes one line that says what to do."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise RunError(
            f"the device's memory does not hold a step on a batch of {config.batch_size}; lower --batch-size (and "
            "raise --accumulate to make up for it), use --remat or --dtype bfloat16, or make --widths or the data "
            "set's image size smaller"
        ) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise RunError(f"{workdir}: {error.strerror}; make room, and the same command goes on") from error
