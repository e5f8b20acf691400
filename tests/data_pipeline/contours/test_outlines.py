"""Outlines against an independent point-in-polygon test and against the mask's own area."""

import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import points_in_poly

from data_pipeline.contours.outlines import outlines


def _area(polygon: np.ndarray) -> float:
    """Shoelace formula; positive if clockwise with rows downward."""
    (row, column), (next_row, next_column) = polygon.T, np.roll(polygon, -1, axis=0).T
    return float(np.sum(column * next_row - next_column * row) / 2)


def _check(mask: np.ndarray) -> None:
    polygons = outlines(mask)
    centres = np.argwhere(np.ones_like(mask))
    inside = [points_in_poly(centres, polygon).reshape(mask.shape) for polygon in polygons]
    # Never twice: readers that unite contours and readers that take even-odd see the same.
    np.testing.assert_array_equal(np.sum(inside, axis=0) if inside else np.zeros(mask.shape), mask)
    assert len(polygons) == ndimage.label(mask)[1]
    assert sum(_area(polygon) for polygon in polygons) == mask.sum()
    for polygon in polygons:
        assert _area(polygon) > 0
        sides = np.roll(polygon, -1, axis=0) - polygon
        assert ((sides == 0).sum(axis=1) == 1).all()  # along one axis, never of no length
        assert (sides % 1 == 0).all() and (polygon % 1 == 0.5).all()
        assert ((sides * np.roll(sides, 1, axis=0)).sum(axis=1) <= 0).all()  # no point within a straight side


@pytest.mark.parametrize("density", [0.0, 0.05, 0.3, 0.5, 0.7, 0.95, 1.0])
def test_random_masks(density: float) -> None:
    rng = np.random.default_rng(round(100 * density))
    for _ in range(40):
        _check(rng.random(rng.integers(1, 15, size=2)) < density)


def test_islands_within_holes_within_islands() -> None:
    row, column = np.mgrid[:31, :27]
    distance = np.maximum(abs(row - 15), abs(column - 13))
    _check(distance % 3 == 0)
    _check((distance % 3 == 0) & (column != 13))


def test_a_ring_is_one_keyhole() -> None:
    mask = np.ones((4, 5), bool)
    mask[1:3, 2] = False
    (polygon,) = outlines(mask)
    # Along the top, down the channel, around the hole, up again, and around the outside.
    expected = [(0, 2), (1, 2), (3, 2), (3, 3), (1, 3), (1, 2), (0, 2), (0, 5), (4, 5), (4, 0), (0, 0)]
    walk = [tuple(point) for point in (polygon + 0.5).astype(int).tolist()]
    # (1, 2) lies within the straight way down; on the way back it is a corner.
    assert walk == [point for index, point in enumerate(expected) if index != 1]


def test_noise_of_full_size_is_no_trap() -> None:
    mask = np.random.default_rng(0).random((256, 256)) < 0.7
    assert sum(_area(polygon) for polygon in outlines(mask)) == mask.sum()
