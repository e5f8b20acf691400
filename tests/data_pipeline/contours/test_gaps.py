"""Gaps in an ROI's run of slices: counted, and filled to the shapes that are known."""

import numpy as np
import pytest

from data_pipeline.contours.mask import mask_from_contours
from tests.data_pipeline.shapes import drawn, plain_geometry, regular

GEOMETRY = plain_geometry(depth=9, height=80, width=80)


def disk(slice_index: int, radius: float, centre=(40, 40), **fields):
    return drawn(GEOMETRY, slice_index, regular(200, radius, centre=centre), **fields)


def test_gaps_are_counted_and_left_empty_by_default():
    contours = [disk(index, 10) for index in (1, 3, 5)]
    mask, account = mask_from_contours(contours, GEOMETRY)
    assert np.flatnonzero(mask.any(axis=(1, 2))).tolist() == [1, 3, 5]
    assert (account.gap_slices, account.interpolated_slices) == (2, 0)
    assert mask_from_contours(contours[:1], GEOMETRY)[1].gap_slices == 0


def test_a_cone_is_filled_to_the_radius_in_between():
    mask, account = mask_from_contours([disk(1, 10), disk(5, 30)], GEOMETRY, interpolate_gaps=True)
    assert (account.gap_slices, account.interpolated_slices) == (3, 3)
    row, column = np.mgrid[:80, :80] - 40
    for index, radius in ((2, 15), (3, 20), (4, 25)):
        # Distances are between pixel centres, so that the outline is known to half a pixel on either side.
        wrong = mask[index] != (np.hypot(row, column) < radius)
        assert not wrong[np.abs(np.hypot(row, column) - radius) > 1].any()
    assert account.mask_voxels == mask.sum() and not mask[[0, 6, 7, 8]].any()
    np.testing.assert_allclose(account.mask_centroid_mm, np.argwhere(mask).mean(axis=0)[[2, 1, 0]])


def test_each_roi_is_interpolated_alone_and_contoured_slices_stay():
    first = [disk(index, 8, (20, 20)) for index in (0, 2)]
    second = [disk(index, 8, (60, 60), roi_number=2) for index in (1, 2, 3)]
    plain = mask_from_contours([*first, *second], GEOMETRY)[0]
    mask, account = mask_from_contours([*first, *second], GEOMETRY, interpolate_gaps=True)
    assert account.gap_slices == 1
    np.testing.assert_array_equal(mask[[0, 2, 3]], plain[[0, 2, 3]])
    np.testing.assert_array_equal(mask[1, :40, :40], plain[0, :40, :40])
    np.testing.assert_array_equal(mask[1, 40:], plain[1, 40:])


def test_shapes_that_do_not_overlap_are_not_joined():
    mask, _ = mask_from_contours([disk(1, 6, (20, 20)), disk(3, 6, (60, 60))], GEOMETRY, interpolate_gaps=True)
    assert not mask[2].any()


@pytest.mark.parametrize("rule", ["rt_utils", "authors_code"])
def test_the_fill_rule_applies_to_the_neighbours_too(rule):
    mask, _ = mask_from_contours([disk(1, 9), disk(3, 9)], GEOMETRY, fill_rule=rule, interpolate_gaps=True)
    np.testing.assert_array_equal(mask[2], mask[1])
