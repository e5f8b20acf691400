"""Training: the state, the jitted step, and the loop (paper, section 3.3)."""

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training import train_state
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, PyTree, Shaped, UInt8, UInt32

from rdunet_jax.config import TrainConfig
from rdunet_jax.errors import RunError
from rdunet_jax.parallel import BATCH_AXIS, any_process, is_first, local, make_mesh, replicate, split_batch
from rdunet_jax.progress import progress_bar
from rdunet_jax.training.augmentation import augment
from rdunet_jax.training.checkpointing import Checkpoints
from rdunet_jax.training.history import History, StepRow
from rdunet_jax.training.interruption import Stopped, StopRequest
from rdunet_jax.training.losses import make_loss
from rdunet_jax.training.optimizer import make_optimizer, plateau_decay, stops_early

Batch = dict[str, Shaped[Any, "batch depth height width 1"]]
Normalise = Callable[[Array], Array]
"""Stored gray values, patches on the last three axes, to the network's input."""


TIMED_STEPS = 5
"""After so many steps a session tells how long it will take; the first of them compiles, and is not counted."""
SAVE_SECONDS = 600
"""Longest time between two checkpoints."""


class NotFiniteError(RunError):
    """A loss or a gradient is infinite or no number."""


class TrainState(train_state.TrainState):
    """Everything that training changes; a checkpoint holds it whole."""

    batch_stats: PyTree
    plateau: optax.contrib.ReduceLROnPlateauState
    key: UInt32[Array, "words"]
    """The run's random key, as its words; each step folds its number in, so a resumed run draws the same."""
    average: PyTree
    """Moving average of `params` and `batch_stats`; empty unless `TrainConfig.ema` is set."""

    @property
    def variables(self) -> dict[str, PyTree]:
        """What `model.apply` takes for inference: the moving average where there is one."""
        return self.average or {"params": self.params, "batch_stats": self.batch_stats}


def create_state(model: nn.Module, config: TrainConfig, patch_shape: tuple[int, int, int]) -> TrainState:
    """A fresh state.

    Args:
        patch_shape: (depth, height, width).
    """

    @jax.jit  # op by op, initialising a large network takes minutes
    def create() -> TrainState:
        variables = model.init(jax.random.key(config.seed), jnp.zeros((1, *patch_shape, 1), jnp.float32))
        params, batch_stats = variables["params"], variables.get("batch_stats", {})
        state = TrainState.create(
            apply_fn=model.apply,
            params=params,
            batch_stats=batch_stats,
            tx=make_optimizer(config),
            plateau=plateau_decay(config).init(params),
            key=jax.random.key_data(jax.random.key(config.seed)),
            average={} if config.ema is None else {"params": params, "batch_stats": batch_stats},
        )
        # Python numbers are weakly typed, and the step that gets them would compile once more for its own results.
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), state)

    return create()


def soft_dice(probabilities: Float[Array, "*shape"], targets: Float[Array, "*shape"]) -> Float[Array, ""]:
    """Dice of probabilities over a whole batch, with the Keras code's +1 smoothing."""
    return (2 * (probabilities * targets).sum() + 1) / (probabilities.sum() + targets.sum() + 1)


@partial(jax.jit, static_argnames=("config", "normalise", "mesh"), donate_argnames="state")
def train_step(
    state: TrainState, batch: Batch, config: TrainConfig, normalise: Normalise, mesh: Mesh | None = None
) -> tuple[TrainState, dict[str, Array]]:
    """One step on one batch; a step whose loss or gradient is not finite changes nothing.

    Args:
        batch: `image`, stored gray values, and `mask`, 0 or 1.
        config: its augmentation, loss and moving average; the optimizer is the state's.
        mesh: the devices that share the batch; None for one.

    Returns:
        The new state (the old one's buffers are gone), and the step's `loss`, soft `dice` and whether it is `finite`.
    """
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    images = normalise(batch["image"][..., 0])[..., jnp.newaxis]
    masks = batch["mask"].astype(jnp.float32)
    images, masks = _augment(jax.random.fold_in(key, 1), images, masks, config, mesh)
    loss_function = make_loss(config.loss, config.tversky_alpha)

    def loss_of(params: PyTree) -> tuple[Array, tuple[Array, PyTree]]:
        logits, updates = state.apply_fn(
            {"params": params, "batch_stats": state.batch_stats},
            images,
            train=True,
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )
        return loss_function(logits, masks), (logits, updates)

    (loss, (logits, model_updates)), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    updates, opt_state = state.tx.update(gradients, state.opt_state, state.params)
    scale = jnp.asarray(state.plateau.scale)
    # Adam's update is proportional to its rate, so scaling the update is scaling the rate.
    updates = jax.tree.map(lambda update: update * scale.astype(update.dtype), updates)
    params, batch_stats = optax.apply_updates(state.params, updates), model_updates.get("batch_stats", {})
    after = state.replace(
        step=state.step + 1,
        params=params,
        opt_state=opt_state,
        batch_stats=batch_stats,
        average=_moving_average(state, params, batch_stats, config),
    )
    finite = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(gradients))
    state = jax.tree.map(partial(jnp.where, finite), after, state)
    return state, {"loss": loss, "dice": soft_dice(jax.nn.sigmoid(logits), masks), "finite": finite}


def _augment(key: Array, images: Array, masks: Array, config: TrainConfig, mesh: Mesh | None) -> tuple[Array, Array]:
    """Each device changes its own patches, with the keys that they have on one device too."""
    change = partial(augment, names=config.augmentation, settings=config.augment)
    if mesh is not None:
        part = PartitionSpec(BATCH_AXIS)
        change = jax.shard_map(change, mesh=mesh, in_specs=(part, part, part), out_specs=(part, part), check_vma=False)
    return change(jax.random.split(key, len(images)), images, masks)


def _moving_average(state: TrainState, params: PyTree, batch_stats: PyTree, config: TrainConfig) -> PyTree:
    """Moves once an update: not with the batches in between, whose gradients are only gathered."""
    if config.ema is None:
        return state.average
    part = jnp.where((state.step + 1) % config.accumulate == 0, 1 - config.ema, 0).astype(jnp.float32)
    now = {"params": params, "batch_stats": batch_stats}
    return jax.tree.map(lambda average, value: average + part * (value - average), state.average, now)


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
