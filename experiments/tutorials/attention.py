"""A plugin with a bottleneck: attention along the depth in place of the ConvLSTM.

rdunet train --plugin experiments/tutorials/attention.py --bottleneck attention --data-dir data --workdir run
"""

from functools import partial
from math import gcd

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from rdunet_jax.config import ModelConfig
from rdunet_jax.networks.convolution import Conv3D, Dtype
from rdunet_jax.networks.layers import ModuleDef
from rdunet_jax.registry import BOTTLENECKS


class DepthAttention(nn.Module):
    """A pixel attends to itself in all slices of the patch."""

    features: int
    norm: ModuleDef
    dtype: Dtype
    heads: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch depth height width channels"]
    ) -> Float[Array, "batch depth height width features"]:
        x = self.norm(name="norm")(Conv3D(self.features, (1, 1, 1), self.dtype, name="project")(x))
        attention = nn.MultiHeadDotProductAttention(self.heads, dtype=self.dtype, name="attention")
        return x + jnp.moveaxis(attention(jnp.moveaxis(x, 1, 3)), 3, 1)


@BOTTLENECKS.register("attention")
def attention(config: ModelConfig) -> ModuleDef:
    return partial(DepthAttention, heads=gcd(4, config.recurrent_width))
