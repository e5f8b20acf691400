"""The networks by name: Recurrent 3D-DenseUNet as the paper's Table 1 draws it and as the public Keras code builds it.

patch → [block, pool] per level → recurrent block → [upsample, join the skip, block] per level → 1x1x1 → logits
"""

import dataclasses
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from rdunet_jax.config import ModelConfig
from rdunet_jax.convlstm import hard_sigmoid
from rdunet_jax.convolution import Conv3D
from rdunet_jax.layers import (
    ChannelDropout,
    MaxPool,
    ModuleDef,
    NearestUpsample,
    PseudoDenseBlock,
    RecurrentBlock,
    TransposedUpsample,
)

MODELS: dict[str, ModelConfig] = {
    config.name: config
    for config in [
        ModelConfig("keras"),
        ModelConfig(
            "paper",
            block_output="last",
            dropout_after="convolution",
            upsampling="nearest",
            decoder="block-first",
            recurrent_norm=False,
        ),
        # The Keras form, narrow, for the demo and for tests; a short run needs running statistics that follow sooner.
        ModelConfig("tiny", widths=(8, 16, 32), recurrent_width=32, recurrent_layers=1, norm_momentum=0.9),
    ]
}


class RecurrentDenseUNet3D(nn.Module):
    """Recurrent 3D-DenseUNet (paper, section 2 and Table 1) and its variants.

    Attributes:
        config: which variant.
        block: makes a level's block, as `block(features=, norm=, dropout=, dense=, dtype=, name=)`, which maps
            (batch, depth, height, width, channels) to the same with `features` channels; None for the config's.
        bottleneck: makes what stands between encoder and decoder, as `bottleneck(features=, norm=, dtype=, name=)`,
            which maps (batch, depth, height, width, channels) to any number of channels; None for the config's.
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
            ValueError: height or width cannot be halved that often.
        """
        c = self.config
        factor = 2 ** len(c.widths)
        if x.shape[2] % factor or x.shape[3] % factor:
            raise ValueError(f"height and width must be divisible by {factor}, and are {x.shape[2]} and {x.shape[3]}")
        dtype = jnp.dtype(c.dtype)
        temporal = c.pooling == "spatio-temporal"
        norm = _norm(c, train)
        dropout = partial(ChannelDropout, c.dropout, deterministic=not train)
        block = partial(self.block or PseudoDenseBlock, norm=norm, dense=c.dense, dtype=dtype)
        encoder_dropout = dropout if c.dropout_after == "convolution" else None

        x = x.astype(dtype)
        skips = []
        for level, width in enumerate(c.widths, 1):
            last = block(features=width, dropout=encoder_dropout, name=f"encoder_{level}")(x)
            output = _output(c, x, last)
            skips.append(output if level > len(c.widths) - c.whole_skips else last)
            x = MaxPool(temporal, name=f"pool_{level}")(output)
            if c.dropout_after == "pooling":
                x = dropout(name=f"dropout_{level}")(x)

        bottleneck = self.bottleneck or _bottleneck(c)
        if bottleneck is not None:
            x = bottleneck(features=c.recurrent_width, norm=norm, dtype=dtype, name="bottleneck")(x)

        for level, width in reversed(list(enumerate(c.widths, 1))):
            decode = block(features=width, dropout=None, name=f"decoder_{level}")
            if c.decoder == "block-first":
                x = _output(c, x, decode(x))
            x = _upsample(c, width, dtype, name=f"upsample_{level}")(x)
            skip = skips.pop()
            x = jnp.concatenate([x[:, : skip.shape[1]], skip], axis=-1)  # an odd depth was rounded up in pooling
            if c.decoder == "upsample-first":
                x = _output(c, x, decode(x))
        return Conv3D(1, (1, 1, 1), dtype=dtype, name="logits")(x).astype(jnp.float32)


def _norm(c: ModelConfig, train: bool) -> ModuleDef:
    dtype = jnp.dtype(c.dtype)
    if c.norm == "group":
        return partial(nn.GroupNorm, num_groups=8, epsilon=c.norm_epsilon, dtype=dtype)
    return partial(
        nn.BatchNorm, use_running_average=not train, momentum=c.norm_momentum, epsilon=c.norm_epsilon, dtype=dtype
    )


def _bottleneck(c: ModelConfig) -> ModuleDef | None:
    if c.bottleneck == "none":
        return None
    gate_fn = {"hard_sigmoid": hard_sigmoid, "sigmoid": nn.sigmoid}[c.gate]
    return partial(RecurrentBlock, layers=c.recurrent_layers, normalized=c.recurrent_norm, gate_fn=gate_fn)


def _upsample(c: ModelConfig, width: int, dtype: jnp.dtype, name: str) -> nn.Module:
    temporal = c.pooling == "spatio-temporal"
    if c.upsampling == "nearest":
        return NearestUpsample(temporal, name=name)
    return TransposedUpsample(width, temporal, dtype, name=name)


def _output(c: ModelConfig, x: Array, last: Array) -> Array:
    """What a block hands on."""
    return jnp.concatenate([x, last], axis=-1) if c.block_output == "concatenate" else last


def model_config(name: str, **overrides: object) -> ModelConfig:
    """The named network's config, with fields replaced.

    Raises:
        ValueError: there is no network of that name.
        TypeError: there is no field of that name.
    """
    if name not in MODELS:
        raise ValueError(f"no network is called {name!r}; choose one of {', '.join(MODELS)}")
    return dataclasses.replace(MODELS[name], **overrides)  # pyright: ignore[reportArgumentType]


def create_model(
    config: ModelConfig | str, *, block: ModuleDef | None = None, bottleneck: ModuleDef | None = None
) -> nn.Module:
    """The network of a config or of a name, with a block or a bottleneck of one's own if given.

    `model.init(key, x)` and `model.apply(variables, x, train=...)` as for any Flax module: see `RecurrentDenseUNet3D`.
    """
    if isinstance(config, str):
        config = model_config(config)
    return RecurrentDenseUNet3D(config, block, bottleneck)
