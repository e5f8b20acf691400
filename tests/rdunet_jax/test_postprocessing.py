"""Threshold and dilation against SciPy."""

import numpy as np
import pytest
from scipy import ndimage

from rdunet_jax.postprocessing import disk_kernel, postprocess


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
