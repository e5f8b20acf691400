"""Contours drawn for the tests."""

import numpy as np

from tests.data_pipeline.shapes import inside, plain_geometry

SQUARE = [(2.5, 2.5), (2.5, 8.5), (8.5, 8.5), (8.5, 2.5)]  # 36 pixel centres


def assert_equal_off_the_edges(mask: np.ndarray, expected: np.ndarray, distance: np.ndarray) -> None:
    """Vertices are rounded by half a millionth of a pixel: a centre that chance puts there may fall either way."""
    clear = distance > 1e-5
    np.testing.assert_array_equal(mask[clear], expected[clear])


GEOMETRY = plain_geometry()


def assert_equals_the_oracle(mask, contours, geometry) -> None:
    """Voxel for voxel; the slices' contours of these patients are one each."""
    seen = set()
    for one in contours:
        index = int(np.rint(geometry.to_index(one.points_mm)[0, 0]))
        seen.add(index)
        on_slice = [c for c in contours if int(np.rint(geometry.to_index(c.points_mm)[0, 0])) == index]
        pixels = np.concatenate([geometry.to_pixels(c.points_mm, index) for c in on_slice])
        (top, left), (bottom, right) = pixels.min(axis=0).astype(int) - 1, pixels.max(axis=0).astype(int) + 3
        (top, left), (bottom, right) = np.maximum((top, left), 0), np.minimum((bottom, right), geometry.shape[1:])
        expected = inside(on_slice, geometry, index, rows=(top, bottom), columns=(left, right))[0]
        np.testing.assert_array_equal(mask[index, top:bottom, left:right], expected)
        assert mask[index].sum() == expected.sum()
    assert set(np.flatnonzero(mask.any(axis=(1, 2)))) <= seen
