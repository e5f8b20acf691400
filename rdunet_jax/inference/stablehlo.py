"""A predictor as a StableHLO program (`jax.export`), which needs neither this package nor Flax to run.

program = jax.export.deserialize(Path("cpu.stablehlo").read_bytes())
probabilities = program.call(windows)
"""

from typing import Any, Literal, get_args

import jax
from jax import export

from rdunet_jax.inference.sliding_window import Predictor
from rdunet_jax.networks.convolution import lowered_for

Platform = Literal["cpu", "cuda"]
PLATFORMS: tuple[Platform, ...] = get_args(Platform)


def export_predictor(
    predictor: Predictor, variables: Any, window: jax.ShapeDtypeStruct, platform: Platform
) -> export.Exported:
    """A program from windows (batch, depth, height, width), of any number, to their tumour probabilities (float32).

    It computes what `SlidingWindow` does on a batch of windows, before the mean over them. The weights are in it. Each
    platform gets its own convolution (see `networks.convolution`), on whatever machine it is exported.

    Args:
        predictor: of one window; see `network_predictor`.
        variables: what the predictor takes first.
        window: shape and dtype of one window of stored grey values.
        platform: what the program runs on.
    """
    (batch,) = export.symbolic_shape("batch")
    windows = jax.ShapeDtypeStruct((batch, *window.shape), window.dtype)

    def predict(stored: jax.Array) -> jax.Array:
        return jax.vmap(predictor, in_axes=(None, 0))(variables, stored)

    with lowered_for(platform):
        return export.export(jax.jit(predict), platforms=(platform,))(windows)
