"""The network's grid against means written out."""

import numpy as np

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


def test_mask_pixels_are_those_at_least_half_filled() -> None:
    mask = np.zeros((3, 512, 512), bool)
    mask[0, 10:12, 10:12] = True  # one pixel wholly
    mask[0, 20:21, 20:22] = True  # one by half
    mask[0, 30, 30] = True  # one by a quarter: lost beside the others
    mask[1, 30, 30] = True  # by a quarter, but the slice's only tumour
    grid = mask_to_network_grid(mask, 256)
    assert np.argwhere(grid).tolist() == [[0, 5, 5], [0, 10, 10], [1, 15, 15]]
