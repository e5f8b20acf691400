"""The networks by name: the paper's Table 1, the authors' public Keras code, and what Tables 3 and 4 compare them with.

Imports no JAX, because `rdunet --help` shows these settings.
"""

import dataclasses
from typing import Any

from rdunet_jax.config import ModelConfig
from rdunet_jax.registry import MODELS

__all__ = ["KERAS", "MODELS", "PAPER", "model_config"]

# The public Keras code's network; every field's default is its value.
KERAS = ModelConfig("keras")

# Table 1. Beyond its rows, read from the text: skips join "at decoder block output", which is after the upsampling,
# where the sizes agree, and so before the 1x1x1 convolution too; the recurrent layers have no normalisation.
PAPER = ModelConfig(
    "paper",
    block_output="last",
    dropout_after="convolution",
    upsampling="nearest",
    decoder="block-first",
    recurrent_norm=False,
)

# Table 4's rows, which the paper names without drawing them. Read as the paper's network with parts exchanged: the 3-D
# U-Net has plain blocks, one of 256 features at the bottom, and pools all three axes (Cicek et al. 2016); then blocks
# become pseudo-dense; then one ConvLSTM layer replaces the bottom block, with pooling in plane only, as pooling 8
# slices three times would leave it one to recur over. `paper` itself stacks three such layers.
UNET_3D = dataclasses.replace(PAPER, name="3d-unet", dense=False, bottleneck="block", pooling="spatio-temporal")
DENSE_UNET_3D = dataclasses.replace(UNET_3D, name="3d-denseunet", dense=True)
RECURRENT_UNET_3D = dataclasses.replace(PAPER, name="3d-denseunet-recurrent", recurrent_layers=1)

# Table 3's 2-D U-Net: Ronneberger et al. 2015, with their four poolings and widths, and batch normalisation and `same`
# padding as in all networks here.
UNET_2D = ModelConfig(
    "2d-unet",
    widths=(64, 128, 256, 512),
    kernel_depth=1,
    dense=False,
    block_output="last",
    dropout=0.0,
    bottleneck="block",
    recurrent_width=1024,
)

# Table 3's dilated networks: see `LungNet`.
LUNGNET_2D = ModelConfig(
    "2d-lungnet",
    architecture="lungnet",
    widths=(32,) * 10,
    dilations=(1, 1, 2, 3, 5, 8, 13, 21, 34, 55),
    kernel_depth=1,
    dropout=0.5,
)
LUNGNET_3D = dataclasses.replace(
    LUNGNET_2D,
    name="3d-lungnet",
    widths=(32, 32, 64, 64, 64, 96, 96, 128, 128, 128),
    fusion_widths=(64, 32),
    dropout=0.25,
)

# The Keras form, narrow, for the demo and for tests. A short run needs running statistics that follow sooner, and so
# few channels have none to drop.
TINY = ModelConfig("tiny", widths=(8, 16, 32), recurrent_width=32, recurrent_layers=1, norm_momentum=0.9, dropout=0.0)

for _config in (
    KERAS,
    PAPER,
    UNET_3D,
    DENSE_UNET_3D,
    RECURRENT_UNET_3D,
    UNET_2D,
    LUNGNET_2D,
    LUNGNET_3D,
    TINY,
):
    MODELS.register(_config.name)(_config)


def model_config(name: str, **overrides: Any) -> ModelConfig:
    """The named network's config, with fields replaced.

    Raises:
        InputError: there is no network of that name, or a value is outside its range.
        TypeError: there is no field of that name.
    """
    return dataclasses.replace(MODELS[name], **overrides)
