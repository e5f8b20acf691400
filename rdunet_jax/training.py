"""Training: the state, the jitted step, and the loop (paper, section 3.3)."""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training import train_state
from jaxtyping import Array, Float, PyTree, Shaped
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from rdunet_jax.augmentation import Augmentation, augment
from rdunet_jax.checkpointing import Checkpoints
from rdunet_jax.config import TrainConfig
from rdunet_jax.errors import RunError
from rdunet_jax.history import History, StepRow
from rdunet_jax.interruption import Stopped, StopRequest
from rdunet_jax.losses import Loss, binary_cross_entropy, make_loss

Batch = dict[str, Shaped[Any, "batch depth height width 1"]]
Normalise = Callable[[Array], Array]
"""Stored gray values, patches on the last three axes, to the network's input."""


class TrainState(train_state.TrainState):
    """Everything that training changes; a checkpoint holds it whole."""

    batch_stats: PyTree
    plateau: optax.contrib.ReduceLROnPlateauState

    @property
    def variables(self) -> dict[str, PyTree]:
        """What `model.apply` takes for inference."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def plateau_decay(config: TrainConfig) -> optax.GradientTransformationExtraArgs:
    """Halves the learning rate when validation Dice has not risen, as Keras' ReduceLROnPlateau does.

    Optax minimises, and its relative test never fires on negative values: it is fed 1 - Dice, with Keras' absolute
    min_delta of 1e-4. It is updated once an epoch, outside the chain of the optimizer, where it would count steps.
    """
    return optax.contrib.reduce_on_plateau(
        factor=config.plateau_factor,
        patience=config.plateau_patience,
        rtol=0,
        atol=1e-4,
        min_scale=config.min_learning_rate / config.learning_rate,
    )


def stops_early(dice: Sequence[float | None], patience: int | None) -> bool:
    """Whether Keras' EarlyStopping (mode `max`, min_delta 0) would have stopped by now.

    Args:
        dice: validation Dice of every epoch until now; None where nothing was validated.
        patience: epochs to wait for a better one; None waits for ever.
    """
    scores = [score for score in dice if score is not None]
    if patience is None or len(scores) < 2:
        return False
    return len(scores) - 1 - scores.index(max(scores)) >= patience


def create_state(model: nn.Module, config: TrainConfig, patch_shape: tuple[int, int, int]) -> TrainState:
    """A fresh state.

    Args:
        patch_shape: (depth, height, width).
    """

    @jax.jit  # op by op, initialising a large network takes minutes
    def create() -> TrainState:
        variables = model.init(jax.random.key(config.seed), jnp.zeros((1, *patch_shape, 1), jnp.float32))
        state = TrainState.create(
            apply_fn=model.apply,
            params=variables["params"],
            batch_stats=variables.get("batch_stats", {}),
            tx=optax.adam(config.learning_rate, b1=0.9, b2=0.999, eps=1e-8),
            plateau=plateau_decay(config).init(variables["params"]),
        )
        # Python numbers are weakly typed, and the step that gets them would compile once more for its own results.
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), state)

    return create()


def soft_dice(probabilities: Float[Array, "*shape"], targets: Float[Array, "*shape"]) -> Float[Array, ""]:
    """Dice of probabilities over a whole batch, with the Keras code's +1 smoothing."""
    return (2 * (probabilities * targets).sum() + 1) / (probabilities.sum() + targets.sum() + 1)


@partial(jax.jit, static_argnames=("normalise", "augmentation", "loss_function"), donate_argnames="state")
def train_step(
    state: TrainState,
    batch: Batch,
    key: Array,
    normalise: Normalise,
    augmentation: tuple[Augmentation, ...] = (),
    loss_function: Loss = binary_cross_entropy,
) -> tuple[TrainState, dict[str, Array]]:
    """One step of Adam on one batch.

    Args:
        batch: `image`, stored gray values, and `mask`, 0 or 1.
        key: the run's key; the step's own is derived from it and `state.step`, so a resumed run draws the same numbers.

    Returns:
        The new state (the old one's buffers are gone) and the step's `loss` and soft `dice`.
    """
    images = normalise(batch["image"][..., 0])[..., jnp.newaxis]
    masks = batch["mask"].astype(jnp.float32)
    step_key = jax.random.fold_in(key, state.step)
    images, masks = augment(jax.random.fold_in(step_key, 1), images, masks, augmentation)

    def loss_of(params: PyTree) -> tuple[Array, tuple[Array, PyTree]]:
        logits, updates = state.apply_fn(
            {"params": params, "batch_stats": state.batch_stats},
            images,
            train=True,
            rngs={"dropout": step_key},
            mutable=["batch_stats"],
        )
        return loss_function(logits, masks), (logits, updates)

    (loss, (logits, model_updates)), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    updates, opt_state = state.tx.update(gradients, state.opt_state, state.params)
    scale = jnp.asarray(state.plateau.scale)
    # Adam's update is proportional to its rate, so scaling the update is scaling the rate.
    updates = jax.tree.map(lambda update: update * scale.astype(update.dtype), updates)
    state = state.replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        opt_state=opt_state,
        batch_stats=model_updates.get("batch_stats", {}),
    )
    return state, {"loss": loss, "dice": soft_dice(jax.nn.sigmoid(logits), masks)}


def fit(
    state: TrainState,
    config: TrainConfig,
    *,
    normalise: Normalise,
    batches: Callable[[int], Iterator[Batch]],
    steps_per_epoch: int,
    validate: Callable[[TrainState, Callable[[int, int], None]], float] | None,
    workdir: Path,
) -> TrainState:
    """Trains until the configured end or the early stop, or goes on from the latest checkpoint in `workdir`.

    Ctrl-C or SIGTERM ends it after the running step, with a checkpoint.

    Args:
        state: the fresh state; replaced by the checkpoint's where there is one.
        batches: (first step) to the endless batches from that step on.
        validate: (state, progress callback of (done, total)) to the validation Dice; None for no validation.
        workdir: gets `checkpoints/`, `steps.csv`, `history.csv` and `tensorboard/`.

    Raises:
        Stopped: it was asked to stop; the checkpoint is written.
        RunError: the loss is not finite; the checkpoint before it is kept.
    """
    total_steps = min(config.epochs * steps_per_epoch, config.steps or config.epochs * steps_per_epoch)
    decay = plateau_decay(config)
    try:
        loss_function = make_loss(config.loss, config.tversky_alpha)  # once: another function would compile again
    except ValueError as error:
        raise RunError(str(error)) from error
    checkpoints = Checkpoints(workdir / "checkpoints")
    if checkpoints.latest_step is not None:
        state = checkpoints.restore(checkpoints.latest_step, like=state)
    step = int(state.step)
    key = jax.random.key(config.seed)
    history = History(workdir, resume_at=step)
    with StopRequest() as stop, _progress() as progress, history:
        bar = progress.add_task("", total=total_steps, completed=step)
        validation_bar = progress.add_task("validation", total=None, visible=False)

        def on_validation(done: int, total: int) -> None:
            progress.update(validation_bar, completed=done, total=total, visible=done < total)
            stop.check()

        def end_epoch() -> None:
            """Validates, decays, saves; repeated as a whole if a stop cuts it short."""
            nonlocal state
            dice = None
            if validate is not None:
                dice = validate(state, on_validation)
                _, plateau = decay.update({}, state.plateau, value=jnp.float32(1 - dice))
                state = state.replace(plateau=plateau)
            rate = config.learning_rate * float(jnp.asarray(state.plateau.scale))
            history.end_epoch(step, -(-step // steps_per_epoch), dice, rate)
            checkpoints.save(step, state, dice)

        try:
            if step and history.epoch_is_open(step) and (step % steps_per_epoch == 0 or step == total_steps):
                end_epoch()  # a stop came between the last step of an epoch and its validation
            source = batches(step) if step < total_steps else iter(())
            while step < total_steps and not stops_early(history.validation_dice, config.early_stopping):
                started = time.perf_counter()
                state, metrics = train_step(state, next(source), key, normalise, config.augmentation, loss_function)
                loss, dice = float(metrics["loss"]), float(metrics["dice"])
                step += 1
                if not np.isfinite(loss):
                    raise RunError(f"the loss is {loss} at step {step}; lower the learning rate or check the data")
                history.end_step(StepRow(step, loss, dice, time.perf_counter() - started))
                progress.update(
                    bar,
                    completed=step,
                    description=f"epoch {-(-step // steps_per_epoch)}  loss {loss:.4f}  {history.last}",
                )
                if step % steps_per_epoch == 0 or step == total_steps:
                    end_epoch()
                stop.check()
        except Stopped:
            checkpoints.save(step, state)
            raise
        finally:
            checkpoints.close()
    return state


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        transient=True,
    )
