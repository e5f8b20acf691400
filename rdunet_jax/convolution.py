"""The one 3-D convolution of every network here, and the one place that chooses how XLA runs it.

XLA on CPU runs a 3-D convolution in a generic loop, but a 2-D one as a blocked matrix product: at 256x256x8, 33 → 32
channels, that is 1.8 s against 0.4 s. A 3-D kernel is a stack of 2-D ones, so on CPU each depth tap becomes one 2-D
convolution over all slices, and the results are shifted by the tap's offset and summed. GPUs and TPUs have a native 3-D
convolution and get it unchanged.
"""

import math
from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Lowering = Literal["direct", "fold"]
Dtype = jnp.dtype | type | str

bias_init = nn.initializers.zeros_init()


def kernel_init(key: Array, shape: Sequence[int], dtype: Dtype = jnp.float32) -> Array:
    """Glorot uniform, Keras' default: U(-l, l) with l = sqrt(6 / (window * (channels + features))).

    Drawn flat and reshaped: XLA compiles a flat draw in 0.3 s, a 5-D one in 1.3 s, and there is one for every kernel.
    """
    *window, channels, features = shape
    limit = math.sqrt(6 / (math.prod(window) * (channels + features)))
    return jax.random.uniform(key, (math.prod(shape),), dtype, -limit, limit).reshape(shape)


def default_lowering() -> Lowering:
    """`fold` where XLA's 3-D convolution is the slow one (CPU), else `direct`."""
    return "fold" if jax.default_backend() == "cpu" else "direct"


def convolve_2d(
    x: Float[Array, "batch height width channels"],
    kernel: Float[Array, "kh kw channels features"],
    *,
    dilation: Sequence[int] = (1, 1),
) -> Float[Array, "batch height width features"]:
    """2-D convolution, stride 1, zero padding to the input's size."""
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", rhs_dilation=dilation, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


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
        lowering: how XLA is asked to run it; None for the backend's best. All of them compute the same sums, in
            another order.

    Raises:
        ValueError: `kd` is even.
    """
    if kernel.shape[0] % 2 == 0:
        raise ValueError(f"the kernel's depth must be odd, and is {kernel.shape[0]} (kernel shape {kernel.shape})")
    if kernel.shape[:3] == (1, 1, 1):
        return x @ kernel[0, 0, 0]
    if (lowering or default_lowering()) == "direct":
        return lax.conv_general_dilated(
            x, kernel, (1, 1, 1), "SAME", rhs_dilation=dilation, dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
        )
    return _fold_into_2d(x, kernel, dilation)


def _fold_into_2d(x: Array, kernel: Array, dilation: Sequence[int]) -> Array:
    """One 2-D convolution over all slices for each depth tap, shifted along depth and summed."""
    batch, depth, *plane = x.shape
    slices = x.reshape(batch * depth, *plane)
    total = None
    for tap, plane_kernel in enumerate(kernel):
        offset = (tap - kernel.shape[0] // 2) * dilation[0]
        if abs(offset) >= depth:  # this tap only ever sees padding
            continue
        y = convolve_2d(slices, plane_kernel, dilation=dilation[1:])
        y = _shift_depth(y.reshape(batch, depth, *y.shape[1:]), offset)
        total = y if total is None else total + y
    assert total is not None  # the middle tap has offset 0
    return total


def _shift_depth(y: Array, offset: int) -> Array:
    """`result[:, d] = y[:, d + offset]`, zero where that lies outside."""
    if offset == 0:
        return y
    kept = lax.slice_in_dim(y, max(offset, 0), y.shape[1] + min(offset, 0), axis=1)
    padding = [(0, 0)] * y.ndim
    padding[1] = (max(-offset, 0), max(offset, 0))
    return jnp.pad(kept, padding)


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
