"""The network's grid against means written out."""

import numpy as np
import pytest

from data_pipeline.preprocessing.network_grid import mask_to_network_grid, to_network_grid


def test_halving_is_the_mean_of_two_by_two() -> None:
    volume = np.random.default_rng(0).integers(-1000, 1000, (3, 512, 512)).astype(np.int16)
    expected = np.rint(volume.reshape(3, 256, 2, 256, 2).mean(axis=(2, 4)))
    np.testing.assert_array_equal(to_network_grid(volume, 256, -1024), expected)


def test_a_cropped_slice_keeps_its_scale_in_the_middle_of_the_canvas() -> None:
    volume = np.full((1, 200, 204), 7, np.int16)
    grid = to_network_grid(volume, 256, background=-1024)
    assert grid.shape == (1, 256, 256)
    assert (grid[0, 78:178, 77:179] == 7).all()
    assert (grid == 7).sum() == 100 * 102
    assert (grid != 7).sum() == (grid == -1024).sum()


def overlaps(extent: int) -> np.ndarray:
    """Part of each of `extent` equal pixels along 512 that each pixel of the canvas fills, (extent, 512)."""
    length, first = 512 / extent, np.arange(512)
    edges = np.arange(extent)[:, np.newaxis] * length
    return np.clip(np.minimum(first + 1, edges + length) - np.maximum(first, edges), 0, None) / length


@pytest.mark.parametrize("shape", [(128, 256), (96, 40), (24, 512)])
def test_rows_and_columns_are_reduced_each_by_its_own_factor(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    volume = np.full((2, 512, 512), -1024, np.int16)
    volume[:, 106:406, 46:466] = rng.integers(-1000, 1000, (2, 300, 420))
    exact = overlaps(shape[0]) @ volume @ overlaps(shape[1]).T
    # Half a unit of rounding, and sums in float32 of numbers up to 1000.
    np.testing.assert_allclose(to_network_grid(volume[:, 106:406, 46:466], shape, -1024), exact, rtol=0, atol=0.51)
    mask = np.zeros((1, 300, 420), bool)
    mask[0, 40:90, 200:230] = True
    share = overlaps(shape[0]) @ np.pad(mask[0], ((106, 106), (46, 46))) @ overlaps(shape[1]).T
    np.testing.assert_array_equal(mask_to_network_grid(mask, shape)[0], share >= 0.5 - 1e-4)  # as its rule says


def test_mask_pixels_are_those_at_least_half_filled() -> None:
    mask = np.zeros((3, 512, 512), bool)
    mask[0, 10:12, 10:12] = True  # one pixel wholly
    mask[0, 20:21, 20:22] = True  # one by half
    mask[0, 30, 30] = True  # one by a quarter: lost beside the others
    mask[1, 30, 30] = True  # by a quarter, but the slice's only tumour
    grid = mask_to_network_grid(mask, 256)
    assert np.argwhere(grid).tolist() == [[0, 5, 5], [0, 10, 10], [1, 15, 15]]


def test_a_tumour_of_one_voxel_never_fills_the_slice() -> None:
    """It fills 1/16384 of a pixel, less than the tolerance for rounding."""
    mask = np.zeros((1, 2048, 2048), bool)
    mask[0, 700, 900] = True
    assert np.argwhere(mask_to_network_grid(mask, 16)).tolist() == [[0, 700 // 128, 900 // 128]]
