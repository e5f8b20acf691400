"""The distances of the tutorial's boundary loss, against SciPy and against every pair of pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from experiments.tutorials.boundary_loss import boundary, distance, signed_distance


def masks() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    blobs = ndimage.gaussian_filter(random.normal(size=(4, 24, 40)), (0, 2, 3)) > 0.05
    one_pixel = np.zeros((24, 40), bool)
    one_pixel[3, 37] = True
    return [*blobs, one_pixel, random.random((24, 40)) > 0.5]


def of_scipy(mask: np.ndarray) -> np.ndarray:
    """Signed distance in pixels."""
    inside, outside = (np.asarray(ndimage.distance_transform_edt(part)) for part in (mask, ~mask))
    return outside - inside


def of_all_pairs(mask: np.ndarray) -> np.ndarray:
    pixels = np.argwhere(np.ones_like(mask))
    distances = np.linalg.norm(pixels[:, None] - np.argwhere(mask)[None], axis=2).min(axis=1)
    return distances.reshape(mask.shape)


@pytest.mark.parametrize("mask", masks())
def test_distances_are_those_of_all_pairs_of_pixels_and_of_scipy(mask):
    # squares of distances below 2^24 are whole numbers in float32; the root rounds once
    assert np.allclose(distance(jnp.asarray(mask)), of_all_pairs(mask), rtol=2e-7)
    assert np.allclose(signed_distance(jnp.asarray(mask)), of_scipy(mask) / len(mask), rtol=2e-7, atol=1e-7)


@pytest.mark.parametrize("value", [False, True])
def test_a_slice_without_a_boundary_counts_nothing(value):
    assert not signed_distance(jnp.full((8, 8), value)).any()


def test_the_loss_is_the_mean_of_probability_times_distance():
    truth = np.stack(masks()).reshape(2, 3, 24, 40, 1).astype(np.float32)
    logits = np.random.default_rng(1).normal(size=truth.shape).astype(np.float32)
    flat = truth[..., 0].reshape(-1, 24, 40) > 0
    distances = [of_scipy(one) for one in flat]
    expected = np.mean(1 / (1 + np.exp(-logits.astype(np.float64))) * np.reshape(distances, truth.shape) / 24)
    loss, gradient = jax.value_and_grad(boundary)(jnp.asarray(logits), jnp.asarray(truth))
    assert float(loss) == pytest.approx(expected, abs=1e-6)  # float32 sums of 5,760 terms of size 1
    pushes_out = np.asarray(gradient)[..., 0].reshape(-1, 24, 40) > 0
    assert pushes_out[~flat].all() and not pushes_out[flat].any()
