"""ConvLSTM and ConvGRU against Keras, Flax and plain loops."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

from experiments.keras_baseline.network import keras2_hard_sigmoid
from rdunet_jax.networks import convlstm
from rdunet_jax.networks.convlstm import Bidirectional, ConvGRU, ConvLSTM, hard_sigmoid

X = jax.random.normal(jax.random.key(0), (2, 3, 6, 7, 3))


def random_variables(layer: nn.Module):
    """Variables of the layer's shapes with normal entries, so that no gate rests at its initial value."""
    variables = jax.eval_shape(layer.init, jax.random.key(1), X)
    leaves, tree = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    return tree.unflatten([0.3 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)])


@pytest.mark.parametrize(
    ("gate_fn", "keras_gate"), [(hard_sigmoid, keras2_hard_sigmoid), (nn.sigmoid, "sigmoid")], ids=["hard", "sigmoid"]
)
def test_equals_keras(gate_fn, keras_gate):
    layer = ConvLSTM(4, gate_fn=gate_fn)
    variables = random_variables(layer)
    params = variables["params"]
    theirs = keras.layers.ConvLSTM2D(4, 3, padding="same", return_sequences=True, recurrent_activation=keras_gate)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):  # Keras counts on both
        theirs.build(X.shape)
        theirs.set_weights([params["kernel"], params["cell"]["recurrent_kernel"], params["bias"]])
        expected = theirs(np.asarray(X))
    # Outputs lie within (-1, 1); three steps of float32 sums of 63 products.
    np.testing.assert_allclose(layer.apply(variables, X), expected, atol=1e-6)


def test_equals_flax_cell_after_conversion():
    layer = ConvLSTM(4, gate_fn=nn.sigmoid)
    variables = random_variables(layer)
    params = variables["params"]

    def reorder(gates):  # ours: input, forget, candidate, output; Flax: input, candidate, forget, output
        i, f, candidate, o = jnp.split(gates, 4, axis=-1)
        return jnp.concatenate([i, candidate, f, o], axis=-1)

    # Flax adds 1 to the forget gate by itself, and has a second bias.
    bias = reorder(params["bias"] - jnp.repeat(jnp.array([0.0, 1, 0, 0]), 4))
    cell = nn.ConvLSTMCell(4, (3, 3))
    converted = {
        "ih": {"kernel": reorder(params["kernel"]), "bias": bias},
        "hh": {"kernel": reorder(params["cell"]["recurrent_kernel"]), "bias": jnp.zeros(16)},
    }
    carry = cell.initialize_carry(jax.random.key(0), X[:, 0].shape)
    steps = []
    for t in range(X.shape[1]):
        carry, y = cell.apply({"params": converted}, carry, X[:, t])
        steps.append(y)
    np.testing.assert_allclose(layer.apply(variables, X), jnp.stack(steps, axis=1), atol=1e-6)


def loop(params, x, gate_fn=hard_sigmoid):
    """ConvLSTM step by step, each gate with a convolution of its own."""

    def conv(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    kernels, recurrent, biases = (
        jnp.split(array, 4, axis=-1) for array in (params["kernel"], params["cell"]["recurrent_kernel"], params["bias"])
    )
    h = c = jnp.zeros((*x[:, 0].shape[:3], 4))
    steps = []
    for t in range(x.shape[1]):
        i, f, candidate, o = (
            conv(x[:, t], w) + conv(h, u) + b[None, None, None]
            for w, u, b in zip(kernels, recurrent, biases, strict=True)
        )
        c = gate_fn(f) * c + gate_fn(i) * jnp.tanh(candidate)
        h = gate_fn(o) * jnp.tanh(c)
        steps.append(h)
    return jnp.stack(steps, axis=1)


def test_gradient_equals_a_plain_loops():
    layer = ConvLSTM(4)
    variables = random_variables(layer)
    weight = jax.random.normal(jax.random.key(3), (2, 3, 6, 7, 4))
    ours = jax.grad(lambda params, x: (layer.apply({"params": params}, x) * weight).sum(), argnums=(0, 1))
    theirs = jax.grad(lambda params, x: (loop(params, x) * weight).sum(), argnums=(0, 1))
    for a, b in zip(*(jax.tree.leaves(f(variables["params"], X)) for f in (ours, theirs)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)  # sums over 252 voxels, of size 10


@pytest.mark.parametrize("layer", [ConvLSTM(4), ConvGRU(4), Bidirectional(ConvLSTM, 4)], ids=["lstm", "gru", "both"])
def test_rolled_equals_unrolled(layer, monkeypatch):
    variables = random_variables(layer)
    y = {}
    for unroll in (1, 3):
        monkeypatch.setattr(convlstm, "default_unroll", lambda depth, lowering, unroll=unroll: unroll)
        y[unroll] = layer.apply(variables, X)
    np.testing.assert_allclose(y[1], y[3], atol=1e-6)


def test_gru_equals_a_plain_loop():
    layer = ConvGRU(4)
    params = random_variables(layer)["params"]

    def conv(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    (kz, kr, kc), (bz, br, bc) = (jnp.split(params[name], 3, axis=-1) for name in ("kernel", "bias"))
    uz, ur = jnp.split(params["cell"]["recurrent_kernel"], 2, axis=-1)
    uc = params["cell"]["candidate_kernel"]
    h = jnp.zeros((2, 6, 7, 4))
    steps = []
    for t in range(3):
        x = X[:, t]
        z = hard_sigmoid(conv(x, kz) + conv(h, uz) + bz[None, None, None])
        r = hard_sigmoid(conv(x, kr) + conv(h, ur) + br[None, None, None])
        h = z * h + (1 - z) * jnp.tanh(conv(x, kc) + conv(r * h, uc) + bc[None, None, None])
        steps.append(h)
    np.testing.assert_allclose(layer.apply({"params": params}, X), jnp.stack(steps, axis=1), atol=1e-6)


def test_bidirectional_sees_both_ends():
    layer = Bidirectional(ConvLSTM, 4)
    variables = random_variables(layer)
    y = layer.apply(variables, X)
    forward = ConvLSTM(4).apply({"params": variables["params"]["forward"]}, X)
    backward = ConvLSTM(4).apply({"params": variables["params"]["backward"]}, X[:, ::-1])
    assert isinstance(backward, jax.Array)
    np.testing.assert_allclose(y, jnp.concatenate([forward, backward[:, ::-1]], axis=-1), atol=1e-6)


def test_initial_weights_are_keras():
    params = ConvLSTM(8).init(jax.random.key(0), jnp.zeros((1, 2, 4, 4, 40)))["params"]
    recurrent = np.asarray(params["cell"]["recurrent_kernel"]).reshape(-1, 32)
    np.testing.assert_allclose(recurrent.T @ recurrent, np.eye(32), atol=1e-5)  # float32 QR of a 72 x 32 matrix
    np.testing.assert_array_equal(params["bias"], np.repeat([0, 1, 0, 0], 8))
    kernel, limit = np.asarray(params["kernel"]), np.sqrt(6 / (9 * (40 + 32)))
    assert np.abs(kernel).max() <= limit
    # 11520 draws: the variance's standard error is 0.008 of itself.
    np.testing.assert_allclose(kernel.var(), limit**2 / 3, rtol=0.04)


def test_hard_sigmoid_is_keras_2s():
    x = jnp.array([-3.0, -2.5, -1, 0, 1, 2.5, 3])
    np.testing.assert_allclose(hard_sigmoid(x), [0, 0, 0.3, 0.5, 0.7, 1, 1], atol=1e-7)
