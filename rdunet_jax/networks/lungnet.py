"""LungNet, the dilated network of Table 3, on single slices and with its slices joined in 3-D."""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from rdunet_jax.config import ModelConfig
from rdunet_jax.networks.convolution import Conv3D
from rdunet_jax.networks.layers import ChannelDropout, ModuleDef, make_norm


class LungNet(nn.Module):
    """A stack of dilated 3x3 convolutions at full resolution, all of whose outputs are judged together.

    2-D form (`2d-lungnet`), as Anthimopoulos et al. 2018 describe it and their published code has it: ten layers of 32
    features, dilations following Fibonacci (1, 1, 2, 3, 5, 8, 13, 21, 34, 55), each convolution followed by x + norm(x)
    and a rectifier; the normalised input and all ten outputs joined; dropout 0.5; 1x1 layers of 128 and 32 features;
    1x1 logits.

    3-D form (`3d-lungnet`), the hybrid of Hossain et al. 2019: the same for each slice, with more features in layers
    that reach further, up to the 1x1 layer of 128; then dropout 0.25 and 3x3x3 layers of 64 and 32 features that join
    the slices. The abstract gives the hybrid, their published code the sizes. They trained the 2-D part first, and on
    stacks of nine slices; here all of it is trained at once, on the patches of the other networks.

    Readings: their batch normalisation stays a batch normalisation, with the config's momentum; kernels start Glorot
    uniform as in all networks here, where theirs start He normal; dropout takes whole channels, theirs single values.
    """

    config: ModelConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch depth height width 1"], *, train: bool = False
    ) -> Float[Array, "batch depth height width 1"]:
        """Logits (float32) of patches of any height and width; `train` as in `RecurrentDenseUNet3D`."""
        c = self.config
        dtype = jnp.dtype(c.dtype)
        norm = make_norm(c, train)
        layer = partial(DilatedLayer, norm=norm, dtype=dtype)
        x = x.astype(dtype)
        x = x + norm(name="input_norm")(x)
        outputs = [x]
        for index, (width, dilation) in enumerate(zip(c.widths, c.dilations, strict=True), 1):
            kernel_size, spacing = (c.kernel_depth, 3, 3), (1, dilation, dilation)
            x = layer(width, kernel_size=kernel_size, dilation=spacing, name=f"dilated_{index}")(x)
            outputs.append(x)
        x = jnp.concatenate(outputs, axis=-1)
        dropout = ChannelDropout(c.dropout, deterministic=not train, name="dropout")
        if not c.fusion_widths:
            x = dropout(x)
        x = layer(128, name="judge_1")(x)
        if c.fusion_widths:
            x = dropout(x)
            for index, width in enumerate(c.fusion_widths, 1):
                x = layer(width, kernel_size=(3, 3, 3), name=f"fusion_{index}")(x)
        else:
            x = layer(32, name="judge_2")(x)
        return Conv3D(1, (1, 1, 1), dtype=dtype, name="logits")(x).astype(jnp.float32)


class DilatedLayer(nn.Module):
    """relu(y + norm(y)) of a convolution's y."""

    features: int
    norm: ModuleDef
    kernel_size: tuple[int, int, int] = (1, 1, 1)
    dilation: tuple[int, int, int] = (1, 1, 1)
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch depth height width channels"]
    ) -> Float[Array, "batch depth height width features"]:
        y = Conv3D(self.features, self.kernel_size, self.dtype, self.dilation, name="conv")(x)
        return nn.relu(y + self.norm(name="norm")(y))
