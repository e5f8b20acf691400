"""Losses from logits."""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Shaped


def binary_cross_entropy(logits: Float[Array, "*shape"], targets: Shaped[Array, "*shape"]) -> Float[Array, ""]:
    """Mean binary cross-entropy over all voxels (paper, section 3.3), from logits, in float32.

    Args:
        targets: 0 or 1, any dtype.
    """
    return optax.sigmoid_binary_cross_entropy(logits.astype(jnp.float32), targets.astype(jnp.float32)).mean()
