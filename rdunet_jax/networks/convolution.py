"""The one 3-D convolution of every network here, and the one place that chooses how XLA runs it.

GPUs and TPUs have a native 3-D convolution and get it unchanged (`direct`). XLA on CPU runs it in a generic loop, so
there a convolution is one of

- `winograd`: a sixth of the arithmetic, as matrix products (see `rdunet_jax.networks.winograd`), for 3x3 and 3x3x3
  kernels, float32 and at least `WINOGRAD_CHANNELS` channels in and out;
- `fold`: each depth tap becomes one 2-D convolution over all slices, and the results are shifted by the tap's offset
  and summed. XLA on CPU runs a 2-D convolution as a blocked matrix product, but its gradients naively.

`experiments/benchmarks/lowerings.py` measures them at the shapes of the full network.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from rdunet_jax.networks.winograd import convolve_winograd

Lowering = Literal["direct", "fold", "winograd"]
Dtype = jnp.dtype | type | str

WINOGRAD_CHANNELS = 16
"""With fewer, the transforms cost more than the products save."""
WINOGRAD_SIDE = 16
"""Smallest side of a plane that is cut into tiles, for the same reason."""

_PLATFORM: ContextVar[str | None] = ContextVar("platform", default=None)

bias_init = nn.initializers.zeros_init()


def kernel_init(key: Array, shape: Sequence[int], dtype: Dtype = jnp.float32) -> Array:
    """Glorot uniform, Keras' default: U(-l, l) with l = sqrt(6 / (window * (channels + features))).

    Drawn flat and reshaped: XLA compiles a flat draw in 0.3 s, a 5-D one in 1.3 s, and there is one for every kernel.
    """
    *window, channels, features = shape
    limit = math.sqrt(6 / (math.prod(window) * (channels + features)))
    return jax.random.uniform(key, (math.prod(shape),), dtype, -limit, limit).reshape(shape)


@contextmanager
def lowered_for(platform: str) -> Iterator[None]:
    """Networks that are traced inside the block get the lowerings of another platform than this process's.

    Args:
        platform: JAX's name of it, such as `cuda`; or `onnx`, whose converter takes 2-D convolutions alone.
    """
    token = _PLATFORM.set(platform)
    try:
        yield
    finally:
        _PLATFORM.reset(token)


def default_lowering(
    x: Array | jax.ShapeDtypeStruct, kernel: Array | jax.ShapeDtypeStruct, dilation: Sequence[int] = (1, 1, 1)
) -> Lowering:
    """The fastest lowering of the backend for this convolution; arguments, or their shapes, as for `convolve`."""
    platform = _PLATFORM.get() or jax.default_backend()
    if platform != "cpu":
        return "fold" if platform == "onnx" else "direct"
    suits = (
        kernel.shape[:3] in ((1, 3, 3), (3, 3, 3))
        and set(dilation) == {1}
        and x.dtype == jnp.float32  # bfloat16 has not the digits that Winograd's numbers cost
        and min(kernel.shape[3:]) >= WINOGRAD_CHANNELS
        and min(x.shape[2:4]) >= WINOGRAD_SIDE
    )
    return "winograd" if suits else "fold"


def convolve_2d(
    x: Float[Array, "batch height width channels"], kernel: Float[Array, "kh kw channels features"]
) -> Float[Array, "batch height width features"]:
    """2-D convolution, stride 1, zero padding to the input's size, lowered as a `convolve` of depth 1 would be."""
    if default_lowering(x[:, jnp.newaxis], kernel[jnp.newaxis]) == "winograd":
        return convolve_winograd(x[:, jnp.newaxis], kernel[jnp.newaxis])[:, 0]
    return _convolve_planes(x, kernel, (1, 1))


def convolve(
    x: Float[Array, "batch depth height width channels"],
    kernel: Float[Array, "kd kh kw channels features"],
    *,
    dilation: Sequence[int] = (1, 1, 1),
    lowering: Lowering | None = None,
) -> Float[Array, "batch depth height width features"]:
    """3-D convolution, stride 1, zero padding to the input's size (Keras' `same`).

    Args:
        x: input, of the kernel's dtype.
        kernel: its depth `kd` must be odd.
        dilation: spacing of the kernel's taps along depth, height and width.
        lowering: how XLA is asked to run it; None for the backend's best. `winograd` takes kernels
            of 3x3x3 and 1x3x3 without dilation.

    Raises:
        ValueError: `kd` is even.
    """
    if kernel.shape[0] % 2 == 0:
        raise ValueError(f"the kernel's depth must be odd, and is {kernel.shape[0]} (kernel shape {kernel.shape})")
    if kernel.shape[:3] == (1, 1, 1):
        return x @ kernel[0, 0, 0]
    lowering = lowering or default_lowering(x, kernel, dilation)
    if lowering == "winograd":
        return convolve_winograd(x, kernel)
    if lowering == "direct":
        return lax.conv_general_dilated(
            x, kernel, (1, 1, 1), "SAME", rhs_dilation=dilation, dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
        )
    return _fold_into_2d(x, kernel, dilation)


def _fold_into_2d(x: Array, kernel: Array, dilation: Sequence[int]) -> Array:
    """One 2-D convolution over all slices, whose channels are those of every slice that the depth taps see."""
    batch, depth, *plane, channels = x.shape
    taps, *window, _, features = kernel.shape
    offsets = [(tap - taps // 2) * dilation[0] for tap in range(taps)]
    seen = [tap for tap, offset in enumerate(offsets) if abs(offset) < depth]  # the others only ever see padding
    slices = jnp.concatenate([_shift_depth(x, offsets[tap]) for tap in seen], axis=-1)
    slices = slices.reshape(batch * depth, *plane, len(seen) * channels)
    kernel = jnp.moveaxis(kernel[seen[0] : seen[-1] + 1], 0, 2).reshape(*window, -1, features)
    return _convolve_planes(slices, kernel, dilation[1:]).reshape(batch, depth, *plane, features)


def _shift_depth(y: Array, offset: int) -> Array:
    """`result[:, d] = y[:, d + offset]`, zero where that is outside."""
    if offset == 0:
        return y
    kept = lax.slice_in_dim(y, max(offset, 0), y.shape[1] + min(offset, 0), axis=1)
    padding = [(0, 0)] * y.ndim
    padding[1] = (max(-offset, 0), max(offset, 0))
    return jnp.pad(kept, padding)


def _convolve_planes(x: Array, kernel: Array, dilation: Sequence[int]) -> Array:
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", rhs_dilation=dilation, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


class ConvWeights(nn.Module):
    """Kernel and bias of a `Conv3D`, for a caller that regroups convolutions before running them."""

    features: int
    kernel_size: Sequence[int] = (3, 3, 3)
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, channels: int) -> tuple[Float[Array, "kd kh kw channels features"], Float[Array, "features"]]:
        """Returns (kernel, bias) in the compute dtype; the parameters themselves are float32."""
        return _conv_parameters(self, channels)


class Conv3D(nn.Module):
    """3-D convolution with bias, stride 1, `same` padding; Glorot uniform kernel and zero bias as Keras starts them."""

    features: int
    kernel_size: Sequence[int] = (3, 3, 3)
    dtype: Dtype = jnp.float32
    dilation: Sequence[int] = (1, 1, 1)

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch depth height width channels"]
    ) -> Float[Array, "batch depth height width features"]:
        kernel, bias = _conv_parameters(self, x.shape[-1])
        return add_bias(convolve(x.astype(self.dtype), kernel, dilation=self.dilation), bias)


def _conv_parameters(module: ConvWeights | Conv3D, channels: int) -> tuple[Array, Array]:
    kernel = module.param("kernel", kernel_init, (*module.kernel_size, channels, module.features))
    bias = module.param("bias", bias_init, (module.features,))
    return kernel.astype(module.dtype), bias.astype(module.dtype)


def add_bias(y: Float[Array, "*space features"], bias: Float[Array, "features"]) -> Float[Array, "*space features"]:
    """y + bias over the channels (spelled out, because rank promotion is an error in this project's tests)."""
    return y + lax.broadcast_in_dim(bias, y.shape, (y.ndim - 1,))
