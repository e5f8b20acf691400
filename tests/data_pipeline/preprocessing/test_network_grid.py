"""The network's grid against means and interpolation written out."""

import numpy as np
import pytest
from scipy import ndimage

from data_pipeline.preprocessing.network_grid import from_network_grid, mask_to_network_grid, to_network_grid


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


@pytest.mark.parametrize("size", [512, 256, 128, 96])
@pytest.mark.parametrize("shape", [(512, 512), (200, 204), (600, 700)])
def test_there_and_back_keeps_a_smooth_image(size: int, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    smooth = ndimage.gaussian_filter(rng.normal(size=(2, *shape)), (0, 25, 25))
    volume = np.rint(30_000 * smooth / np.abs(smooth).max()).astype(np.int16)
    back = from_network_grid(to_network_grid(volume, size, 0).astype(np.float32), *shape)
    inner = (slice(None), slice(30, -30), slice(30, -30))  # the canvas ends at the border, with a step in gray
    # 3% of the range: linear interpolation over 7 pixels at most, of waves some 100 pixels long.
    assert np.abs(back - volume)[inner].max() < 0.03 * 60_000


def test_mask_pixels_are_those_at_least_half_filled() -> None:
    mask = np.zeros((3, 512, 512), bool)
    mask[0, 10:12, 10:12] = True  # one pixel wholly
    mask[0, 20:21, 20:22] = True  # one by half
    mask[0, 30, 30] = True  # one by a quarter: lost beside the others
    mask[1, 30, 30] = True  # by a quarter, but the slice's only tumour
    grid = mask_to_network_grid(mask, 256)
    assert np.argwhere(grid).tolist() == [[0, 5, 5], [0, 10, 10], [1, 15, 15]]
