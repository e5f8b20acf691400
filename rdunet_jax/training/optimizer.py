"""The optimizer (paper, section 3.3): Adam, its decay on a plateau as in Keras, and the options of `TrainConfig`."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rdunet_jax.config import TrainConfig


def learning_rate(config: TrainConfig, updates: Any) -> Any:
    """The rate after so many updates (a number or a JAX array), by Keras 2's `decay` and the cosine schedule.

    A plateau scales it further. The cosine falls from 1 to 0 over all updates of the run (Loshchilov and Hutter 2017,
    equation 5, without restarts).

    Raises:
        ValueError: the schedule is a cosine, and the number of steps per epoch is not set.
    """
    rate = config.learning_rate / (1 + config.step_decay * updates)
    if config.schedule != "cosine":
        return rate
    if config.total_steps is None:
        raise ValueError("a cosine schedule needs the number of steps per epoch")
    return rate * optax.cosine_decay_schedule(1.0, max(config.total_steps // config.accumulate, 1))(updates)


def make_optimizer(config: TrainConfig) -> optax.GradientTransformationExtraArgs:
    """Adam with the config's clipping, decay by step, cosine schedule and accumulation.

    The plateau's scale, which changes once an epoch, is not part of it: the step multiplies the update by it.
    """

    varies = config.step_decay or config.schedule == "cosine"
    rate = partial(learning_rate, config) if varies else config.learning_rate
    adam = optax.chain(scale_by_keras_adam(b1=0.9, b2=0.999, eps=1e-8), optax.scale_by_learning_rate(rate))
    if config.clip_norm is not None:
        adam = optax.chain(optax.clip_by_global_norm(config.clip_norm), adam)
    if config.accumulate > 1:
        adam = optax.MultiSteps(adam, config.accumulate).gradient_transformation()
    return optax.with_extra_args_support(adam)


def scale_by_keras_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """Adam as Keras has it: epsilon is added to the root of the second moment before that is corrected for its start.

    Optax adds it afterwards, as Kingma and Ba (2015) do in their algorithm 1; Keras' rule is the one given just before
    their section 2.1. At the first step Keras' epsilon weighs 32 times as much, and the gradients of a mean over all
    voxels of a patch are small enough to show it: over 50 steps from the same weights, Optax's rule gave losses that
    differ from Keras' by 1e-5, in double precision too; with this rule only rounding remains. The state is that of
    `scale_by_adam`.
    """
    adam = optax.scale_by_adam(b1, b2, eps)

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        _, state = adam.update(updates, state, params)
        assert isinstance(state, optax.ScaleByAdamState)
        count = jnp.asarray(state.count, jnp.float32)
        correction = jnp.sqrt(1 - b2**count) / (1 - b1**count)
        return jax.tree.map(lambda m, v: correction * m / (jnp.sqrt(v) + eps), state.mu, state.nu), state

    return optax.GradientTransformation(adam.init, update)


def plateau_decay(config: TrainConfig) -> optax.GradientTransformationExtraArgs:
    """Halves the learning rate when the validation's soft Dice has not risen, as Keras' ReduceLROnPlateau does.

    Optax minimises, and its relative test never fires on negative values: it gets 1 - Dice, with Keras' absolute
    min_delta of 1e-4. It is updated once an epoch, outside the optimizer's chain, where it would count steps.
    """
    return optax.contrib.reduce_on_plateau(
        factor=config.plateau_factor,
        patience=config.plateau_patience,
        rtol=0,
        atol=1e-4,
        min_scale=config.min_learning_rate / config.learning_rate,
    )


def stops_early(dice: Sequence[float], patience: int | None) -> bool:
    """Whether Keras' EarlyStopping (mode `max`, min_delta 0) would have stopped by now.

    Args:
        dice: validation Dice of the epochs until now that count (`History.counted_dice`).
        patience: epochs to wait for a better one; None: never stop.
    """
    return patience is not None and len(dice) > 1 and len(dice) - 1 - int(np.argmax(dice)) >= patience
