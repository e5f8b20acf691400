"""The training state and its jitted step (paper, section 3.3)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.training import train_state
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, PyTree, Shaped, UInt32

from rdunet_jax.config import TrainConfig
from rdunet_jax.parallel import BATCH_AXIS
from rdunet_jax.training.augmentation import augment
from rdunet_jax.training.losses import make_loss, soft_dice
from rdunet_jax.training.optimizer import make_optimizer, plateau_decay

Batch = dict[str, Shaped[Any, "batch depth height width 1"]]
Normalise = Callable[[Array], Array]
"""Stored grey values, patches on the last three axes, to the network's input."""


class TrainState(train_state.TrainState):
    """Everything that training changes; a checkpoint holds all of it."""

    batch_stats: PyTree
    plateau: optax.contrib.ReduceLROnPlateauState
    key: UInt32[Array, "words"]
    """Words of the run's random key; each step folds its number in, so a resumed run draws the same numbers."""
    average: PyTree
    """Moving average of `params` and `batch_stats`; empty unless `TrainConfig.ema` is set."""

    @property
    def variables(self) -> dict[str, PyTree]:
        """What `model.apply` takes for inference: the moving average where there is one."""
        return self.average or {"params": self.params, "batch_stats": self.batch_stats}


def create_state(model: nn.Module, config: TrainConfig, patch_shape: tuple[int, int, int]) -> TrainState:
    """A fresh state of the network, the optimizer and the plateau.

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


@partial(jax.jit, static_argnames=("config", "normalise", "mesh"), donate_argnames="state")
def train_step(
    state: TrainState, batch: Batch, config: TrainConfig, normalise: Normalise, mesh: Mesh | None = None
) -> tuple[TrainState, dict[str, Array]]:
    """One step on one batch; a step with a loss, gradient or update that is not finite changes nothing.

    Args:
        batch: `image`, stored grey values, and `mask`, 0 or 1.
        config: its augmentation, loss and moving average; the optimizer is the state's.
        mesh: the devices that share the batch; None for one.

    Returns:
        The new state (the old one's buffers are donated), and the step's `loss`, soft `dice` and whether it is
        `finite`.
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
    # The update too: an infinite rate, or a variance that overflows, would spoil the state that is kept.
    finite = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm((gradients, params, batch_stats)))
    state = jax.tree.map(partial(jnp.where, finite), after, state)
    return state, {"loss": loss, "dice": soft_dice(jax.nn.sigmoid(logits), masks), "finite": finite}


def _augment(key: Array, images: Array, masks: Array, config: TrainConfig, mesh: Mesh | None) -> tuple[Array, Array]:
    """Each device augments its own patches, with the same keys as on a single device."""
    change = partial(augment, names=config.augmentation, settings=config.augment)
    if mesh is not None:
        part = PartitionSpec(BATCH_AXIS)
        change = jax.shard_map(change, mesh=mesh, in_specs=(part, part, part), out_specs=(part, part), check_vma=False)
    return change(jax.random.split(key, len(images)), images, masks)


def _moving_average(state: TrainState, params: PyTree, batch_stats: PyTree, config: TrainConfig) -> PyTree:
    """Moves once an update, not with the batches in between, whose gradients are only accumulated."""
    if config.ema is None:
        return state.average
    part = jnp.where((state.step + 1) % config.accumulate == 0, 1 - config.ema, 0).astype(jnp.float32)
    now = {"params": params, "batch_stats": batch_stats}
    return jax.tree.map(lambda average, value: average + part * (value - average), state.average, now)
