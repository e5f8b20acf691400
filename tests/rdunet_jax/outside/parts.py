"""Parts of one's own."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from rdunet_jax.config import ModelConfig
from rdunet_jax.networks.layers import ModuleDef
from rdunet_jax.registry import BOTTLENECKS, INTENSITIES, LOSSES, MODELS


class Scaled(nn.Module):
    features: int
    norm: ModuleDef
    dtype: jnp.dtype
    factor: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(self.features, name="dense")(x) * self.factor


@BOTTLENECKS.register("scaled")
def scaled(config: ModelConfig) -> ModuleDef:
    return partial(Scaled, factor=1 / config.recurrent_layers)


@LOSSES.register("squared")
def squared(logits: jax.Array, targets: jax.Array) -> jax.Array:
    return ((logits - targets) ** 2).mean()


@INTENSITIES.register("raw")
def raw(patches: jax.Array) -> jax.Array:
    return patches.astype(jnp.float32) / 1000


MODELS.register("scaled")(ModelConfig("scaled", bottleneck="scaled"))
names: list[str] = [*BOTTLENECKS, *LOSSES]
