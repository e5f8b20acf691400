"""The networks' parts against what they are defined as."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdunet_jax.networks.convlstm import ConvLSTM
from rdunet_jax.networks.layers import (
    BatchNorm,
    ChannelDropout,
    GroupNorm,
    MaxPool,
    NearestUpsample,
    PseudoDenseBlock,
    RecurrentBlock,
    TransposedUpsample,
)

X = jax.random.normal(jax.random.key(0), (2, 3, 8, 6, 5))
NORM = partial(nn.BatchNorm, use_running_average=True, epsilon=1e-3)


def conv(x, layer):
    y = jax.lax.conv_general_dilated(
        x, layer["kernel"], (1, 1, 1), "SAME", dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
    )
    return y + layer["bias"][None, None, None, None]


@pytest.mark.parametrize("dense", [True, False])
def test_block_is_its_definition(dense):
    block = PseudoDenseBlock(4, NORM, dense=dense)
    variables = block.init(jax.random.key(1), X)
    leaves, tree = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    variables = tree.unflatten(
        [jax.random.uniform(key, leaf.shape, minval=-0.3) for key, leaf in zip(keys, leaves, strict=True)]
    )
    variables["batch_stats"] = jax.tree.map(lambda leaf: jnp.abs(leaf) + 0.5, variables["batch_stats"])
    params, statistics = variables["params"], variables["batch_stats"]

    def norm(y, name):
        mean, var, scale, bias = (
            a[None, None, None, None]
            for a in (statistics[name]["mean"], statistics[name]["var"], params[name]["scale"], params[name]["bias"])
        )
        return (y - mean) / jnp.sqrt(var + 1e-3) * scale + bias

    a = nn.relu(norm(conv(X, params["conv_1"]), "norm_1"))
    b = nn.relu(norm(conv(jnp.concatenate([X, a], axis=-1) if dense else a, params["conv_2"]), "norm_2"))
    # Two layers of sums of up to 243 products, of size 100.
    y: Any = block.apply(variables, X)
    np.testing.assert_allclose(y, b, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("norm", [
    partial(BatchNorm, use_running_average=False), partial(GroupNorm, num_groups=1)
])  # fmt: skip
def test_the_variance_keeps_its_digits_at_a_large_mean(norm):
    x = 303 + 0.01 * jax.random.normal(jax.random.key(3), (2, 4, 16, 16, 1))
    exact = np.asarray(x, np.float64)  # the same numbers, in double precision
    axes = (0, 1, 2, 3) if isinstance(norm(), BatchNorm) else (1, 2, 3)
    mean, variance = exact.mean(axes, keepdims=True), exact.var(axes, keepdims=True)

    def error(**options) -> float:
        layer = norm(epsilon=1e-6, **options)
        y = np.asarray(layer.apply(layer.init(jax.random.key(0), x), x, mutable=["batch_stats"])[0])
        return float(np.abs(y - (exact - mean) / np.sqrt(variance + 1e-6)).max())

    # What is left is the error of the mean: a sum of n numbers, one after the other, is rounded n times, each time by
    # up to half a step of its size, so it is off by about sqrt(n / 12) steps. Three times that is allowed.
    count = int(np.prod([x.shape[axis] for axis in axes]))
    off = np.spacing(np.float32(303 * count)) * np.sqrt(count / 12) / count
    assert error() < 3 * off / 0.01 < 0.15
    assert error(use_fast_variance=True) > 1  # mean(x^2) - mean(x)^2: no digit is right


@pytest.mark.parametrize("temporal", [False, True])
def test_pooling_equals_flax_and_so_does_its_gradient(temporal):
    window = (2 if temporal else 1, 2, 2)
    x = X[:, :2].round(0)  # many equal values
    weight = jax.random.normal(jax.random.key(1), (2, 1 if temporal else 2, 4, 3, 5))

    def ours(x):
        return MaxPool(temporal).apply({}, x)

    def theirs(x):
        return nn.max_pool(x, window, window)

    np.testing.assert_array_equal(ours(x), theirs(x))
    if not temporal:  # over three axes the first of equal values is another one, in another order of comparing
        gradients = (jax.grad(lambda x, pool=pool: (pool(x) * weight).sum())(x) for pool in (ours, theirs))
        np.testing.assert_array_equal(*gradients)


def test_pooling_rounds_odd_sizes_up():
    y = MaxPool(temporal=True).apply({}, X[:, :, :7])
    assert isinstance(y, jax.Array)
    assert y.shape == (2, 2, 4, 3, 5)
    np.testing.assert_array_equal(y[:, 1, 3], jnp.maximum(X[:, 2, 6, ::2], X[:, 2, 6, 1::2]))


@pytest.mark.parametrize("temporal", [False, True])
def test_transposed_upsampling_is_a_loop_over_its_window(temporal):
    layer = TransposedUpsample(4, temporal)
    params: Any = layer.init(jax.random.key(1), X)["params"]
    params["bias"] = jnp.arange(4.0)
    steps = 2 if temporal else 1
    kernel = params["kernel"].reshape(steps, 2, 2, 5, 4)
    expected = np.zeros((2, 3 * steps, 16, 12, 4), np.float32)
    for t, i, j in np.ndindex(steps, 2, 2):
        expected[:, t::steps, i::2, j::2] = np.asarray(X) @ np.asarray(kernel[t, i, j]) + np.arange(4)
    y: Any = layer.apply({"params": params}, X)
    np.testing.assert_allclose(y, expected, atol=1e-5)


@pytest.mark.parametrize("temporal", [False, True])
def test_nearest_upsampling_repeats(temporal):
    expected = X.repeat(2, axis=2).repeat(2, axis=3)
    expected = expected.repeat(2, axis=1) if temporal else expected
    np.testing.assert_array_equal(NearestUpsample(temporal).apply({}, X), expected)


def test_dropout_drops_whole_channels_and_keeps_the_mean():
    x = jnp.ones((64, 2, 2, 2, 100))
    y = np.asarray(ChannelDropout(0.1, deterministic=False).apply({}, x, rngs={"dropout": jax.random.key(0)}))
    assert np.all(y == y[:, :1, :1, :1])
    np.testing.assert_allclose(np.unique(y), [0, 1 / 0.9], rtol=1e-6)
    # 6400 channels: the standard error of the share dropped is 0.004.
    np.testing.assert_allclose((y[:, 0, 0, 0] == 0).mean(), 0.1, atol=0.015)
    np.testing.assert_array_equal(ChannelDropout(0.1, deterministic=True).apply({}, x), x)


def test_recurrent_block_stacks_its_layers():
    block = RecurrentBlock(4, partial(ConvLSTM, gate_fn=nn.sigmoid), NORM, layers=2)
    variables = block.init(jax.random.key(1), X)
    params = variables["params"]
    assert set(params) == {"recurrent_1", "norm_1", "recurrent_2", "norm_2"}
    x = X
    for index in (1, 2):
        x = ConvLSTM(4, gate_fn=nn.sigmoid).apply({"params": params[f"recurrent_{index}"]}, x)
        assert isinstance(x, jax.Array)
        x = x / np.sqrt(1 + 1e-3)  # statistics at rest: mean 0, variance 1
    y: Any = block.apply(variables, X)
    np.testing.assert_allclose(y, x, atol=1e-6)
