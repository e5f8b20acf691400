"""Winograd's convolution and its gradients against sums over the taps in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdunet_jax.networks.convolution import convolve, convolve_2d, default_lowering
from rdunet_jax.networks.winograd import convolve_winograd


def windows(x: np.ndarray, kernel: np.ndarray):
    """(tap, what the tap sees of the padded input), tap by tap."""
    _, depth, height, width, _ = x.shape
    reach = kernel.shape[0] // 2
    padded = np.pad(x, ((0, 0), (reach, reach), (1, 1), (1, 1), (0, 0)))
    for d, h, w in np.ndindex(*kernel.shape[:3]):
        yield (d, h, w), padded[:, d : d + depth, h : h + height, w : w + width]


def exact(x, kernel, weight):
    """Convolution in float64, and the gradients of the sum of weight * convolution."""
    x, kernel, weight = (np.asarray(array, np.float64) for array in (x, kernel, weight))
    y = sum(seen @ kernel[tap] for tap, seen in windows(x, kernel))
    for_kernel = np.zeros_like(kernel)
    for tap, seen in windows(x, kernel):
        for_kernel[tap] = np.einsum("bdhwc,bdhwn->cn", seen, weight)
    mirrored = kernel[::-1, ::-1, ::-1].swapaxes(-1, -2)
    for_x = sum(seen @ mirrored[tap] for tap, seen in windows(weight, mirrored))
    return y, for_x, for_kernel


def draw(shape, kernel_shape, seed=0):
    keys = jax.random.split(jax.random.key(seed), 3)
    x, kernel = jax.random.normal(keys[0], shape), jax.random.normal(keys[1], kernel_shape)
    return x, kernel, jax.random.normal(keys[2], (*shape[:4], kernel_shape[-1]))


@pytest.mark.parametrize(
    ("shape", "kernel_shape"),
    [
        ((1, 8, 16, 16, 5), (3, 3, 3, 5, 3)),
        ((2, 3, 8, 12, 4), (1, 3, 3, 4, 6)),
        ((2, 1, 13, 9, 2), (3, 3, 3, 2, 3)),  # neither side a multiple of the tile; a single slice
        ((1, 5, 3, 5, 3), (3, 3, 3, 3, 2)),  # smaller than a tile; an odd depth
        ((1, 4, 32, 32, 64), (3, 3, 3, 64, 32)),
    ],
)
def test_value_and_gradients(shape, kernel_shape):
    x, kernel, weight = draw(shape, kernel_shape)
    y, transpose = jax.vjp(jax.jit(convolve_winograd), x, kernel)
    for ours, expected in zip((y, *transpose(weight)), exact(x, kernel, weight), strict=True):
        # Float32 has 6e-8; the transforms' numbers go up to 8 forward and back and cancel: some 1e-5 of the largest.
        np.testing.assert_allclose(ours, expected, atol=5e-5 * np.abs(expected).max())


@pytest.mark.slow
def test_error_stays_small_with_many_channels():
    # The deepest sum of the full network: 481 channels, 27 taps.
    x, kernel, weight = draw((1, 3, 16, 16, 481), (3, 3, 3, 481, 16))
    y, transpose = jax.vjp(convolve_winograd, x, kernel)
    for ours, expected in zip((y, *transpose(weight)), exact(x, kernel, weight), strict=True):
        error = np.asarray(ours, np.float64) - expected
        assert np.abs(error).max() < 5e-5 * np.abs(expected).max()
        assert np.sqrt((error**2).mean()) < 5e-6 * expected.std()


def test_the_lowering_is_chosen_by_shape():
    def chosen(shape, kernel_shape, dilation=(1, 1, 1), dtype=jnp.float32):
        return default_lowering(jnp.zeros(shape, dtype), jnp.zeros(kernel_shape, dtype), dilation)

    assert chosen((1, 8, 64, 64, 32), (3, 3, 3, 32, 64)) == "winograd"
    assert chosen((1, 8, 64, 64, 1), (3, 3, 3, 1, 64)) == "fold"
    assert chosen((1, 8, 8, 8, 32), (3, 3, 3, 32, 64)) == "fold"
    assert chosen((1, 8, 64, 64, 32), (3, 3, 3, 32, 64), dtype=jnp.bfloat16) == "fold"
    assert chosen((1, 8, 64, 64, 32), (3, 3, 3, 32, 64), dilation=(1, 2, 2)) == "fold"
    assert chosen((1, 8, 64, 64, 32), (3, 5, 5, 32, 64)) == "fold"
    assert chosen((1, 8, 64, 64, 32), (5, 3, 3, 32, 64)) == "fold"


def test_what_is_chosen_equals_the_direct_lowering():
    x, kernel, _ = draw((1, 2, 16, 16, 16), (3, 3, 3, 16, 16))
    direct = convolve(x, kernel, lowering="direct")
    tolerance = {"atol": 5e-5 * float(jnp.abs(direct).max())}  # as above
    np.testing.assert_allclose(convolve(x, kernel), direct, **tolerance)
    plane = convolve(x[:, :1], kernel[:1], lowering="direct")
    np.testing.assert_allclose(convolve_2d(x[:, 0], kernel[0]), plane[:, 0], **tolerance)


def test_windows_that_are_vmapped_are_the_same():
    x, kernel, _ = draw((3, 4, 16, 16, 16), (3, 3, 3, 16, 16))
    mapped = jax.vmap(lambda one: convolve_winograd(one[jnp.newaxis], kernel)[0])(x)
    whole = convolve_winograd(x, kernel)
    # The same products, summed in another order.
    np.testing.assert_allclose(mapped, whole, atol=1e-5 * float(jnp.abs(whole).max()))
