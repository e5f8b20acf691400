"""The folded 3-D convolution against XLA's own, and its initial weights against Keras' distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdunet_jax.networks.convolution import Conv3D, convolve, kernel_init

# Sums of up to 27 * 5 products of standard normals, in another order than the oracle's: about 1e-6 of their size of 10.
TOLERANCE = {"atol": 5e-5, "rtol": 1e-5}


def inputs(depth: int, kernel_size: tuple[int, int, int], dtype=jnp.float32):
    x, kernel = jax.random.split(jax.random.key(0))
    return jax.random.normal(x, (2, depth, 12, 10, 5), dtype), jax.random.normal(kernel, (*kernel_size, 5, 3), dtype)


@pytest.mark.parametrize("depth", [2, 5])
@pytest.mark.parametrize(
    ("kernel_size", "dilation"),
    [
        ((3, 3, 3), (1, 1, 1)),
        ((1, 1, 1), (1, 1, 1)),
        ((1, 3, 3), (1, 5, 5)),
        ((5, 3, 1), (1, 1, 1)),
        ((3, 3, 3), (2, 3, 4)),
    ],
)
def test_fold_equals_direct(depth, kernel_size, dilation):
    x, kernel = inputs(depth, kernel_size)
    folded, direct = (convolve(x, kernel, dilation=dilation, lowering=lowering) for lowering in ("fold", "direct"))
    np.testing.assert_allclose(folded, direct, **TOLERANCE)


def test_direct_equals_a_naive_loop():
    x, kernel = (np.asarray(array, np.float64) for array in inputs(4, (3, 3, 3)))
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (1, 1), (0, 0)))
    expected = np.zeros((*x.shape[:4], 3))
    for d, h, w in np.ndindex(3, 3, 3):
        expected += padded[:, d : d + 4, h : h + 12, w : w + 10] @ kernel[d, h, w]
    for lowering in ("fold", "direct"):
        y = convolve(jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32), lowering=lowering)
        np.testing.assert_allclose(y, expected, **TOLERANCE)


def test_gradients_agree():
    x, kernel = inputs(8, (3, 3, 3))
    weight = jax.random.normal(jax.random.key(1), (2, 8, 12, 10, 3))

    def loss(x, kernel, lowering):
        return (convolve(x, kernel, lowering=lowering) * weight).sum()

    for folded, direct in zip(
        *(jax.grad(loss, argnums=(0, 1))(x, kernel, lowering) for lowering in ("fold", "direct")), strict=True
    ):
        # The kernel's gradient sums 2 * 8 * 12 * 10 products: its size is some 40.
        np.testing.assert_allclose(folded, direct, atol=5e-4, rtol=1e-5)


def test_bfloat16_computes_in_bfloat16_with_float32_parameters():
    x, _ = inputs(4, (3, 3, 3))
    layer = Conv3D(3, dtype=jnp.bfloat16)
    variables = layer.init(jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    y = layer.apply(variables, x)
    assert isinstance(y, jax.Array)
    assert y.dtype == jnp.bfloat16
    exact = Conv3D(3).apply(variables, x)
    # bfloat16 has 8 bits: each of 135 products is rounded by up to 2^-9.
    np.testing.assert_allclose(y.astype(jnp.float32), exact, atol=0.05)


def test_even_depth_is_refused():
    x, kernel = inputs(4, (2, 3, 3))
    with pytest.raises(ValueError, match="odd"):
        convolve(x, kernel)


def test_kernels_start_glorot_uniform():
    kernel = np.asarray(kernel_init(jax.random.key(0), (3, 3, 3, 40, 60)))
    limit = np.sqrt(6 / (27 * (40 + 60)))
    assert np.abs(kernel).max() <= limit
    # 64800 draws: the mean's standard error is 0.0023 of the limit, the variance's 0.0035 of limit^2 / 3.
    np.testing.assert_allclose(kernel.mean() / limit, 0, atol=0.01)
    np.testing.assert_allclose(kernel.var() / (limit**2 / 3), 1, atol=0.015)
    assert abs(np.corrcoef(kernel[0].ravel(), kernel[1].ravel())[0, 1]) < 0.03  # nothing was drawn twice
