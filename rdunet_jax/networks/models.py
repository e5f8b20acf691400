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

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from rdunet_jax.config import WINDOWS_HU, HuWindow, ModelConfig
from rdunet_jax.errors import RunError
from rdunet_jax.networks.convlstm import Bidirectional, ConvGRU, ConvLSTM, GateFn, hard_sigmoid
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
from rdunet_jax.registry import ARCHITECTURES, BLOCKS, BOTTLENECKS

__all__ = ["MODELS", "RecurrentDenseUNet3D", "config_of", "create_model", "model_config"]


class RecurrentDenseUNet3D(nn.Module):
    """Recurrent 3D-DenseUNet (paper, section 2 and Table 1) and its variants.

    Attributes:
        config: which variant.
        block: makes a level's block, as `block(features=, norm=, dropout=, dtype=, name=)`, which maps
            (batch, depth, height, width, channels) to the same with `features` channels; None for the one that the
            config names in `BLOCKS`.
        bottleneck: makes the layers between encoder and decoder, as `bottleneck(features=, norm=, dtype=, name=)`,
            which maps (batch, depth, height, width, channels) to any number of channels; None for the one that the
            config names in `BOTTLENECKS`.
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
        block = partial(self.block or BLOCKS[c.block](c), norm=norm, dtype=dtype)
        bottleneck = self.bottleneck or BOTTLENECKS[c.bottleneck](c)
        if self.block and not self.bottleneck and c.bottleneck == "block":
            bottleneck = partial(self.block, dropout=None)

        x = split_windows(x, c.hu_windows).astype(dtype)
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


def split_windows(
    x: Float[Array, "batch depth height width 1"], windows: Sequence[HuWindow]
) -> Float[Array, "batch depth height width channels"]:
    """Windows of an image as channels, each 0..1; the image itself where no window is named.

    Args:
        x: 0..1 over the lung window, which holds all that the others show.
    """
    low, high = WINDOWS_HU["lung"]
    channels = []
    for bottom, top in (WINDOWS_HU[name] for name in windows):
        channels.append(((x * (high - low) + (low - bottom)) / (top - bottom)).clip(0, 1))
    return jnp.concatenate(channels, axis=-1) if channels else x


@ARCHITECTURES.register("unet")
def _unet(c: ModelConfig) -> nn.Module:
    return RecurrentDenseUNet3D(c)


@ARCHITECTURES.register("lungnet")
def _lungnet(c: ModelConfig) -> nn.Module:
    return LungNet(c)


@BLOCKS.register("pseudo-dense")
def _pseudo_dense(c: ModelConfig) -> ModuleDef:
    block = nn.remat(PseudoDenseBlock) if c.remat else PseudoDenseBlock
    return partial(block, dense=c.dense, kernel_size=(c.kernel_depth, 3, 3))


@BOTTLENECKS.register("convlstm")
def _convlstm(c: ModelConfig) -> ModuleDef:
    return _recurrent(c, partial(ConvLSTM, gate_fn=_gate(c)))


@BOTTLENECKS.register("bidirectional")
def _bidirectional(c: ModelConfig) -> ModuleDef:
    return _recurrent(c, partial(Bidirectional, partial(ConvLSTM, gate_fn=_gate(c))))


@BOTTLENECKS.register("convgru")
def _convgru(c: ModelConfig) -> ModuleDef:
    return _recurrent(c, partial(ConvGRU, gate_fn=_gate(c)))


@BOTTLENECKS.register("block")
def _block(c: ModelConfig) -> ModuleDef:
    return partial(BLOCKS[c.block](c), dropout=None)


@BOTTLENECKS.register("none")
def _none(c: ModelConfig) -> None:
    return None


def _recurrent(c: ModelConfig, layer: ModuleDef) -> ModuleDef:
    return partial(RecurrentBlock, layer=layer, layers=c.recurrent_layers, normalised=c.recurrent_norm)


def _gate(c: ModelConfig) -> GateFn:
    return {"hard_sigmoid": hard_sigmoid, "sigmoid": nn.sigmoid}[c.gate]


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
    A block or bottleneck that is given here has no name, so a run cannot record it: register it in
    `rdunet_jax.registry` and name it in the config to train a network that the commands can use.

    Raises:
        ValueError: there is no network of that name, or it has no block or bottleneck to exchange.
    """
    if isinstance(config, str):
        config = model_config(config)
    if block is None and bottleneck is None:
        return ARCHITECTURES[config.architecture](config)
    if config.architecture != "unet":
        raise ValueError(f"network {config.name} has no block and no bottleneck to exchange")
    return RecurrentDenseUNet3D(config, block, bottleneck)


def config_of(network: nn.Module | ModelConfig | str) -> ModelConfig:
    """The config that makes a network: of a module, a config or a name.

    Raises:
        RunError: the module has no config that makes it again, so that no command could load what is trained.
        InputError: there is no network of that name.
    """
    if isinstance(network, str):
        return model_config(network)
    if isinstance(network, ModelConfig):
        return network
    config = getattr(network, "config", None)
    if not isinstance(config, ModelConfig) or create_model(config) != network:
        raise RunError(
            f"network {type(network).__name__}: its settings do not make it again, so no command could load what is "
            "trained; register its parts in a file, by rdunet_jax.registry, and name them in its ModelConfig"
        )
    return config
