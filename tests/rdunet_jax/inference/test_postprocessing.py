"""Threshold and dilation against SciPy, resizing against scikit-image."""

from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from skimage.transform import resize

from data_pipeline.preprocessing.network_grid import to_network_grid
from data_pipeline.settings import GridShape, plane_shape
from rdunet_jax.config import PostprocessingConfig, Threshold
from rdunet_jax.errors import InputError
from rdunet_jax.inference.postprocessing import (
    CTGrid,
    _resize_block,
    canvas_of,
    dilate,
    disk_kernel,
    postprocess_on_ct,
    threshold_and_dilate,
    to_ct_grid,
)


def grid(depth: int, height: int, width: int) -> CTGrid:
    return CTGrid(height, width, (0.8, 0.7), np.full(depth, 3.0))


@pytest.mark.parametrize("diameter", [1, 3, 5, 7])
@pytest.mark.parametrize("depth", [1, 16, 21])
def test_dilation_is_scipys_slice_by_slice(diameter: int, depth: int) -> None:
    probabilities = np.random.default_rng(diameter).random((depth, 33, 28), np.float32)
    expected = ndimage.binary_dilation(probabilities > 0.98, disk_kernel(diameter)[np.newaxis])
    np.testing.assert_array_equal(threshold_and_dilate(probabilities, PostprocessingConfig(0.98, diameter)), expected)


def test_the_disk_of_7_is_round() -> None:
    rows, columns = np.mgrid[-3:4, -3:4]
    np.testing.assert_array_equal(disk_kernel(7), rows**2 + columns**2 <= 9)


def test_the_threshold_itself_is_not_tumour() -> None:
    mask = threshold_and_dilate(np.full((1, 1, 1), 0.75, np.float32), PostprocessingConfig(0.75, 1))
    assert mask.tolist() == [[[False]]]


@pytest.mark.parametrize("diameter", [0, 2, -3])
def test_other_diameters_are_refused(diameter: int) -> None:
    with pytest.raises(ValueError, match="odd"):
        disk_kernel(diameter)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"threshold": value} for value in (-0.1, 1.0, 2.0, float("nan"), float("inf"), "otsu")),
        *({"dilation_diameter": value} for value in (0, 4, -3, 2001)),
        {"kernel": "cross"},
    ],
)
def test_settings_out_of_range_are_refused_by_name(wrong) -> None:
    with pytest.raises(InputError, match=f"{next(iter(wrong))} is .*but must be"):
        PostprocessingConfig(**wrong)


@pytest.mark.parametrize(
    ("size", "height", "width"),
    [(256, 512, 512), (64, 512, 512), (32, 200, 204), (96, 600, 700), ((32, 64), 512, 400)],
)
def test_the_mask_on_the_ct_is_resizing_then_threshold_then_dilation(size: GridShape, height: int, width: int) -> None:
    noise = np.random.default_rng(0).random((19, *plane_shape(size)), np.float32)
    probabilities = ndimage.gaussian_filter(noise, (0, 2, 2))
    mask, resized, _ = postprocess_on_ct(probabilities, grid(19, height, width), PostprocessingConfig(0.5, 3, "square"))
    side, top, left, *_ = canvas_of(height, width)
    expected = np.stack(
        [np.asarray(resize(plane, (side, side), order=1, mode="edge", anti_aliasing=False)) for plane in probabilities]
    )
    expected = expected[:, top : top + height, left : left + width]
    # 2e-7: float32 sums of four products of numbers below 1, in another order than scikit-image's. A ratio such as
    # 700 / 96 is rounded too, which places a pixel some 1e-5 of the network's pixels off, where these differ by 0.1.
    exact = all(512 % extent == 0 for extent in plane_shape(size)) and max(height, width) <= 512
    np.testing.assert_allclose(resized, expected, atol=2e-7 if exact else 2e-6, rtol=0)
    np.testing.assert_array_equal(mask, ndimage.binary_dilation(resized > 0.5, np.ones((1, 3, 3))))


@pytest.mark.parametrize("size", [512, 256, 128, 96])
@pytest.mark.parametrize("shape", [(512, 512), (200, 204), (600, 700)])
def test_there_and_back_keeps_a_smooth_image(size: int, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    smooth = ndimage.gaussian_filter(rng.normal(size=(2, *shape)), (0, 25, 25))
    volume = np.rint(30_000 * smooth / np.abs(smooth).max()).astype(np.int16)
    back = to_ct_grid(to_network_grid(volume, size, 0), *shape)
    inner = (slice(None), slice(30, -30), slice(30, -30))  # the canvas ends at the border, with a step in grey
    # 3% of the range: linear interpolation over 7 pixels at most, of waves some 100 pixels long.
    assert np.abs(back - volume)[inner].max() < 0.03 * 60_000


def compiled(function: Any) -> int:
    """Number of programs that a jitted function was compiled to."""
    return function._cache_size()


def test_it_compiles_once_for_a_size_of_slice() -> None:
    before = compiled(_resize_block), compiled(dilate)
    settings: tuple[tuple[int, Threshold], ...] = ((1, 0.3), (16, 0.4), (40, 0.5), (7, "histogram"))
    for depth, threshold in settings:
        postprocess_on_ct(np.zeros((depth, 8, 8), np.float32), grid(depth, 11, 9), PostprocessingConfig(threshold, 3))
    assert (compiled(_resize_block), compiled(dilate)) == (before[0] + 1, before[1] + 1)
