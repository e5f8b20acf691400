"""Convolutional LSTM over the depth axis (Shi et al. 2015; the paper's recurrent block), as in Keras' `ConvLSTM2D`.

One step, with `*` a 3x3 convolution and gates split in the order i, f, c, o:

    i, f, o = gate_fn(W * x + U * h + b)        c' = f c + i tanh(W_c * x + U_c * h + b_c)        h' = o tanh(c')
"""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rdunet_jax.convolution import Dtype, add_bias, convolve_2d, kernel_init

GateFn = Callable[[Array], Array]


def hard_sigmoid(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """clip(0.2 x + 0.5, 0, 1): Keras 2's recurrent activation, with which the paper's authors trained.

    Neither `jax.nn.hard_sigmoid` nor Keras 3's: those are relu6(x + 3) / 6.
    """
    return jnp.clip(0.2 * x + 0.5, 0, 1)


def unit_forget_bias(key: Array, shape: Sequence[int], dtype: Dtype = jnp.float32) -> Float[Array, "gates"]:
    """Zeros, but ones for the forget gate: the second quarter of a bias of gates i, f, c, o (Keras)."""
    del key
    (size,) = shape
    return jnp.zeros(size, dtype).at[size // 4 : size // 2].set(1)


def recurrent_kernel_init(key: Array, shape: Sequence[int], dtype: Dtype = jnp.float32) -> Array:
    """Orthogonal over the kernel as a (kh * kw * channels, features) matrix, as Keras does it."""
    return nn.initializers.orthogonal()(key, tuple(shape), dtype)


def scan_over_depth(cell: type[nn.Module], depth: int, reverse: bool = False) -> Callable[..., nn.Module]:
    """Lifts a recurrent cell to run along axis 1, its parameters shared by all steps.

    On CPU the loop is unrolled: inside a rolled one XLA runs the convolutions' gradients in a generic loop, 30 times
    slower (depth 8: 4.5 s against 0.13 s). Elsewhere it stays rolled, which compiles sooner.
    """
    unroll = depth if jax.default_backend() == "cpu" else 1
    return nn.scan(
        cell,
        variable_broadcast="params",
        split_rngs={"params": False},
        in_axes=1,
        out_axes=1,
        reverse=reverse,
        unroll=unroll,
    )


class ConvLSTMCell(nn.Module):
    """The state's half of one step; the input's half of the gates comes in ready, as it needs no state."""

    features: int
    kernel_size: Sequence[int] = (3, 3)
    gate_fn: GateFn = hard_sigmoid
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        carry: tuple[Float[Array, "batch height width features"], Float[Array, "batch height width features"]],
        input_gates: Float[Array, "batch height width gates"],
    ) -> tuple[tuple[Array, Array], Float[Array, "batch height width features"]]:
        """One step from (h, c) to (h', c'); returns ((h', c'), h')."""
        h, c = carry
        shape = (*self.kernel_size, self.features, 4 * self.features)
        kernel = self.param("recurrent_kernel", recurrent_kernel_init, shape)
        gates = input_gates + convolve_2d(h, kernel.astype(self.dtype))
        i, f, candidate, o = jnp.split(gates, 4, axis=-1)
        c = self.gate_fn(f) * c + self.gate_fn(i) * jnp.tanh(candidate)
        h = self.gate_fn(o) * jnp.tanh(c)
        return (h, c), h


class ConvLSTM(nn.Module):
    """Keras' `ConvLSTM2D(features, kernel_size, padding="same", return_sequences=True)` along depth.

    The input-to-gates convolution stands outside the scan, as one convolution over all slices.
    """

    features: int
    kernel_size: Sequence[int] = (3, 3)
    gate_fn: GateFn = hard_sigmoid
    reverse: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch depth height width channels"]
    ) -> Float[Array, "batch depth height width features"]:
        batch, depth, height, width, channels = x.shape
        kernel = self.param("kernel", kernel_init, (*self.kernel_size, channels, 4 * self.features))
        bias = self.param("bias", unit_forget_bias, (4 * self.features,))
        slices = x.astype(self.dtype).reshape(batch * depth, height, width, channels)
        gates = add_bias(convolve_2d(slices, kernel.astype(self.dtype)), bias.astype(self.dtype))
        gates = gates.reshape(batch, depth, height, width, -1)
        zeros = jnp.zeros((batch, height, width, self.features), self.dtype)
        cell = scan_over_depth(ConvLSTMCell, depth, self.reverse)
        _, y = cell(self.features, self.kernel_size, self.gate_fn, self.dtype, name="cell")((zeros, zeros), gates)
        return y
