"""Recurrent 3D-DenseUNet and its variants, and the network of a config or a name (the names: `named`).

    patch → [block, pool] per level → bottleneck → [upsample, join the skip, block] per level → 1x1x1 → logits

| Table 1 (`paper`) | height x width x depth x channels |
|---|---|
| encoder_1, pool_1 | 256x256x8x32 → 128x128x8x32 |
| encoder_2, pool_2 | 128x128x8x64 → 64x64x8x64 |
| encoder_3, pool_3 | 64x64x8x128 → 32x32x8x128 |
| bottleneck: three ConvLSTM | 32x32x8x256 |
| decoder_3, upsample_3 | 32x32x8x128 → 64x64x8x128, joined by encoder_3 |
| decoder_2, upsample_2 | 64x64x8x64 → 128x128x8x64, joined by encoder_2 |
| decoder_1, upsample_1 | 128x128x8x32 → 256x256x8x32, joined by encoder_1 |
| logits | 256x256x8x1 |
"""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from rdunet_jax.config import ModelConfig
from rdunet_jax.networks.convlstm import Bidirectional, ConvGRU, ConvLSTM, hard_sigmoid
from rdunet_jax.networks.convolution import Conv3D
from rdunet_jax.networks.layers import (
    ChannelDropout,
    MaxPool,
    ModuleDef,
    NearestUpsample,
    PseudoDenseBlock,
    RecurrentBlock,
    TransposedUpsample,
    make_norm,
)
from rdunet_jax.networks.lungnet import LungNet
from rdunet_jax.networks.named import MODELS, model_config

__all__ = ["MODELS", "RecurrentDenseUNet3D", "create_model", "model_config"]


class RecurrentDenseUNet3D(nn.Module):
    """Recurrent 3D-DenseUNet (paper, section 2 and Table 1) and its variants.

    Attributes:
        config: which variant.
        block: makes a level's block, as `block(features=, norm=, dropout=, dtype=, name=)`, which maps
            (batch, depth, height, width, channels) to the same with `features` channels; None for the config's.
        bottleneck: makes the layers between encoder and decoder, as `bottleneck(features=, norm=, dtype=, name=)`,
            which maps (batch, depth, height, width, channels) to any number of channels; None for the config's.
            `norm(name=)` makes a normalisation, `dropout()` a channel dropout or is None.
    """

    config: ModelConfig
    block: ModuleDef | None = None
    bottleneck: ModuleDef | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch depth height width 1"], *, train: bool = False
    ) -> Float[Array, "batch depth height width 1"]:
        """Logits (float32) of patches whose height and width are divisible by 2 to the number of levels.

        With `train` it normalises by the batch (apply with `mutable=["batch_stats"]`) and drops channels (with
        `rngs={"dropout": key}`).

        Raises:
            RunError: height or width cannot be halved that often.
        """
        c = self.config
        for size in x.shape[2:4]:
            c.check_image_size(size)
        dtype = jnp.dtype(c.dtype)
        temporal = c.pooling == "spatio-temporal"
        norm = make_norm(c, train)
        dropout = partial(ChannelDropout, c.dropout, deterministic=not train)
        encoder_dropout = dropout if c.dropout_after == "convolution" else None
        block = partial(self.block or _block(c), norm=norm, dtype=dtype)
        bottleneck = self.bottleneck or _bottleneck(c)

        x = x.astype(dtype)
        skips = []
        for level, width in enumerate(c.widths, 1):
            last = block(features=width, dropout=encoder_dropout, name=f"encoder_{level}")(x)
            output = _output(c, x, last)
            skips.append(output if level > len(c.widths) - c.whole_skips else last)
            x = MaxPool(temporal, name=f"pool_{level}")(output)
            if c.dropout_after == "pooling":
                x = dropout(name=f"dropout_{level}")(x)

        if bottleneck is not None:
            x = bottleneck(features=c.recurrent_width, norm=norm, dtype=dtype, name="bottleneck")(x)
        elif c.bottleneck == "block":
            x = block(features=c.recurrent_width, dropout=None, name="bottleneck")(x)

        for level, width in reversed(list(enumerate(c.widths, 1))):
            decode = block(features=width, dropout=None, name=f"decoder_{level}")
            if c.decoder == "block-first":
                x = _output(c, x, decode(x))
            x = _upsample(c, width, name=f"upsample_{level}")(x)
            skip = skips.pop()
            x = jnp.concatenate([x[:, : skip.shape[1]], skip], axis=-1)  # pooling rounds an odd depth up
            if c.decoder == "upsample-first":
                x = _output(c, x, decode(x))
        return Conv3D(1, (1, 1, 1), dtype=dtype, name="logits")(x).astype(jnp.float32)


def _block(c: ModelConfig) -> ModuleDef:
    block = nn.remat(PseudoDenseBlock) if c.remat else PseudoDenseBlock
    return partial(block, dense=c.dense, kernel_size=(c.kernel_depth, 3, 3))


def _bottleneck(c: ModelConfig) -> ModuleDef | None:
    if c.bottleneck in ("block", "none"):
        return None
    gate_fn = {"hard_sigmoid": hard_sigmoid, "sigmoid": nn.sigmoid}[c.gate]
    layer = partial(ConvGRU if c.bottleneck == "convgru" else ConvLSTM, gate_fn=gate_fn)
    if c.bottleneck == "bidirectional":
        layer = partial(Bidirectional, layer)
    return partial(RecurrentBlock, layer=layer, layers=c.recurrent_layers, normalized=c.recurrent_norm)


def _upsample(c: ModelConfig, width: int, name: str) -> nn.Module:
    temporal = c.pooling == "spatio-temporal"
    if c.upsampling == "nearest":
        return NearestUpsample(temporal, name=name)
    return TransposedUpsample(width, temporal, c.dtype, name=name)


def _output(c: ModelConfig, x: Array, last: Array) -> Array:
    """What a block hands on."""
    return jnp.concatenate([x, last], axis=-1) if c.block_output == "concatenate" else last


def create_model(
    config: ModelConfig | str, *, block: ModuleDef | None = None, bottleneck: ModuleDef | None = None
) -> nn.Module:
    """The network of a config or of a name, with a block or a bottleneck of one's own if given.

    `model.init(key, x)` and `model.apply(variables, x, train=...)` as for any Flax module: see `RecurrentDenseUNet3D`.

    Raises:
        ValueError: there is no network of that name, or it has no block or bottleneck to exchange.
    """
    if isinstance(config, str):
        config = model_config(config)
    if config.architecture == "unet":
        return RecurrentDenseUNet3D(config, block, bottleneck)
    if block is not None or bottleneck is not None:
        raise ValueError(f"network {config.name} has no block and no bottleneck to exchange")
    return LungNet(config)
