"""Threshold and dilation against SciPy."""

import numpy as np
import pytest
from scipy import ndimage

from data_pipeline.preprocessing.network_grid import from_network_grid, place_on_canvas
from rdunet_jax.inference.postprocessing import (
    Canvas,
    _postprocess_block,
    disk_kernel,
    postprocess,
    postprocess_on_canvas,
)


@pytest.mark.parametrize("diameter", [1, 3, 5, 7])
def test_dilation_is_scipys_slice_by_slice(diameter: int) -> None:
    probabilities = np.random.default_rng(diameter).random((5, 33, 28), np.float32)
    expected = ndimage.binary_dilation(probabilities > 0.98, disk_kernel(diameter)[np.newaxis])
    np.testing.assert_array_equal(postprocess(probabilities, 0.98, diameter), expected)


def test_the_disk_of_7_is_round() -> None:
    rows, columns = np.mgrid[-3:4, -3:4]
    np.testing.assert_array_equal(disk_kernel(7), rows**2 + columns**2 <= 9)


def test_the_threshold_itself_is_not_tumour() -> None:
    assert postprocess(np.full((1, 1, 1), 0.75, np.float32), 0.75, 1).tolist() == [[[False]]]


@pytest.mark.parametrize("diameter", [0, 2, -3])
def test_other_diameters_are_refused(diameter: int) -> None:
    with pytest.raises(ValueError, match="odd"):
        disk_kernel(diameter)


@pytest.mark.parametrize(("size", "height", "width"), [(256, 512, 512), (64, 512, 512), (32, 200, 204), (96, 600, 700)])
def test_the_compiled_program_is_resizing_then_threshold_then_dilation(size: int, height: int, width: int) -> None:
    probabilities = ndimage.gaussian_filter(np.random.default_rng(0).random((19, size, size), np.float32), (0, 2, 2))
    canvas = Canvas(*place_on_canvas(height, width), height, width)
    mask, resized = postprocess_on_canvas(probabilities, canvas, 0.5, 3, "square")
    # 2e-7: float32 sums of four products of numbers below 1, in another order than scikit-image's. A ratio such as
    # 700 / 96 is rounded too, which places a pixel some 1e-5 of the network's pixels off, where these differ by 0.1.
    exact = 512 % size == 0 and max(height, width) <= 512
    expected = from_network_grid(probabilities, height, width)
    np.testing.assert_allclose(resized, expected, atol=2e-7 if exact else 2e-6, rtol=0)
    np.testing.assert_array_equal(mask, postprocess(resized, 0.5, 3, "square"))


def test_it_compiles_once_for_a_size_of_slice() -> None:
    canvas = Canvas(16, 2, 3, 11, 9)
    before = _postprocess_block._cache_size()
    for depth, threshold in ((1, 0.3), (16, 0.4), (40, 0.5), (7, "histogram")):
        postprocess_on_canvas(np.zeros((depth, 8, 8), np.float32), canvas, threshold, 3)
    assert _postprocess_block._cache_size() == before + 1
