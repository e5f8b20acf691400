"""Convolutional recurrent layers over the depth axis: LSTM (the paper's recurrent block), GRU, and both directions.

The LSTM (Shi et al. 2015) is Keras' `ConvLSTM2D`. One step, with `*` a 3x3 convolution, gates in the order i, f, c, o:

    i, f, o = gate_fn(W * x + U * h + b)        c' = f c + i tanh(W_c * x + U_c * h + b_c)        h' = o tanh(c')

The GRU (Cho et al. 2014, convolutional in Ballas et al. 2016), gates in the order z, r, candidate:

    z, r = gate_fn(W * x + U * h + b)           h' = z h + (1 - z) tanh(W_c * x + U_c * (r h) + b_c)

Weights with an x in their term need no state: that convolution is outside the scan, as one over all slices.
"""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rdunet_jax.networks.convolution import Dtype, Lowering, add_bias, convolve_2d, default_lowering, kernel_init

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


def default_unroll(depth: int, lowering: Lowering) -> int:
    """Steps in one iteration of the compiled loop over depth: all of them, whereby the loop vanishes, or one.

    Inside a loop XLA on CPU runs the gradients of its own convolutions naively, 30 times slower (depth 8: 4.5 s against
    0.13 s). Where that does not matter the loop stays, which compiles in half the time.
    """
    return depth if lowering == "fold" else 1


class _Recurrent(nn.Module):
    """The fields of every recurrent cell and layer."""

    features: int
    kernel_size: Sequence[int] = (3, 3)
    gate_fn: GateFn = hard_sigmoid
    dtype: Dtype = jnp.float32


class _RecurrentLayer(_Recurrent):
    """A cell along depth; with `reverse` from the last slice to the first, with the output in the input's order."""

    reverse: bool = False

    def _input_gates(self, x: Array, gates: int, bias_init: Callable[..., Array]) -> Array:
        """The input's share of all gates at all steps: (batch, depth, height, width, gates * features)."""
        kernel = self.param("kernel", kernel_init, (*self.kernel_size, x.shape[-1], gates * self.features))
        bias = self.param("bias", bias_init, (gates * self.features,))
        slices = x.astype(self.dtype).reshape(-1, *x.shape[2:])
        y = add_bias(convolve_2d(slices, kernel.astype(self.dtype)), bias.astype(self.dtype))
        return y.reshape(*x.shape[:2], *y.shape[1:])

    def _scan_over_depth(self, cell: type[_Recurrent], x: Array) -> nn.Module:
        """The cell, lifted to run along axis 1 of the input, its parameters shared by all steps."""
        state = jax.ShapeDtypeStruct((len(x), 1, *x.shape[2:4], self.features), self.dtype)
        kernel = jax.ShapeDtypeStruct((1, *self.kernel_size, self.features, self.features), self.dtype)
        scanned = nn.scan(
            cell,
            variable_broadcast="params",
            split_rngs={"params": False},
            in_axes=1,
            out_axes=1,
            reverse=self.reverse,
            unroll=default_unroll(x.shape[1], default_lowering(state, kernel)),
        )
        return scanned(self.features, self.kernel_size, self.gate_fn, self.dtype, name="cell")

    def _first_state(self, x: Array) -> Array:
        return jnp.zeros((len(x), *x.shape[2:4], self.features), self.dtype)


class ConvLSTMCell(_Recurrent):
    """The state's half of one step; the input's half of the gates comes in ready, as it needs no state."""

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


class ConvLSTM(_RecurrentLayer):
    """Keras' `ConvLSTM2D(features, kernel_size, padding="same", return_sequences=True)` along depth.

    `reverse` runs from the last slice to the first; the output's slices stay in the input's order.
    """

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch depth height width channels"]
    ) -> Float[Array, "batch depth height width features"]:
        gates = self._input_gates(x, 4, unit_forget_bias)
        zeros = self._first_state(x)
        _, y = self._scan_over_depth(ConvLSTMCell, x)((zeros, zeros), gates)
        return y


class ConvGRUCell(_Recurrent):
    """The state's half of one step of a `ConvGRU`."""

    @nn.compact
    def __call__(
        self, h: Float[Array, "batch height width features"], input_gates: Float[Array, "batch height width gates"]
    ) -> tuple[Float[Array, "batch height width features"], Float[Array, "batch height width features"]]:
        """One step from h to h'; returns (h', h')."""
        n = self.features
        kernel = self.param("recurrent_kernel", recurrent_kernel_init, (*self.kernel_size, n, 2 * n))
        candidate_kernel = self.param("candidate_kernel", recurrent_kernel_init, (*self.kernel_size, n, n))
        x_gates, x_candidate = jnp.split(input_gates, [2 * n], axis=-1)
        z, r = jnp.split(self.gate_fn(x_gates + convolve_2d(h, kernel.astype(self.dtype))), 2, axis=-1)
        candidate = jnp.tanh(x_candidate + convolve_2d(r * h, candidate_kernel.astype(self.dtype)))
        h = z * h + (1 - z) * candidate
        return h, h


class ConvGRU(_RecurrentLayer):
    """Convolutional GRU along depth; fields as `ConvLSTM`."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch depth height width channels"]
    ) -> Float[Array, "batch depth height width features"]:
        gates = self._input_gates(x, 3, nn.initializers.zeros_init())
        _, y = self._scan_over_depth(ConvGRUCell, x)(self._first_state(x), gates)
        return y


class Bidirectional(nn.Module):
    """Two recurrent layers, one in each direction along depth, their outputs joined: twice `features` channels.

    `layer` makes one of them, as `layer(features, dtype=, reverse=, name=)`.
    """

    layer: Callable[..., nn.Module]
    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch depth height width channels"]
    ) -> Float[Array, "batch depth height width both"]:
        forward = self.layer(self.features, dtype=self.dtype, name="forward")
        backward = self.layer(self.features, dtype=self.dtype, reverse=True, name="backward")
        return jnp.concatenate([forward(x), backward(x)], axis=-1)
