"""The rasteriser against a naive loop, and on polygons that cost the square of their points if one is careless."""

import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.contours.rasterise import Polygon, fill, moments, snap


def naive(vertices: np.ndarray, height: int, width: int) -> np.ndarray:
    """Even-odd by the definition in `fill`, one edge and one row at a time."""
    inside = np.zeros((height, width), bool)
    for (row0, column0), (row1, column1) in zip(vertices, np.roll(vertices, -1, axis=0), strict=True):
        if row0 > row1:
            row0, column0, row1, column1 = row1, column1, row0, column0
        for row in range(height):
            if row0 <= row < row1:
                crossing = column0 + (row - row0) * (column1 - column0) / (row1 - row0)
                inside[row] ^= crossing <= np.arange(width)
    return inside


@given(st.integers(0, 2**32 - 1), st.sampled_from([1.0, 2.0, 2.0**20]))
@settings(max_examples=80, deadline=None)
def test_polygons_equal_the_naive_loop(seed, grid):
    """Self-crossing polygons, inside and over the border, with vertices on whole and half pixels or anywhere."""
    generator = np.random.default_rng(seed)
    shape = generator.integers(1, 25, 2)
    polygons = [
        Polygon(int(generator.integers(2)), int(generator.integers(2)), np.rint(points * grid) / grid)
        for points in (generator.uniform(-8, 30, (generator.integers(3, 12), 2)) for _ in range(4))
    ]
    expected, layers = np.zeros((2, *shape), bool), {}
    alone = [naive(one.vertices, *shape) for one in polygons]
    for one, inside in zip(polygons, alone, strict=True):
        key = (one.group, one.slice_index)
        layers[key] = layers.get(key, False) ^ inside
    for (_, index), inside in layers.items():
        expected[index] |= inside
    mask = np.zeros((2, *shape), bool)
    assert fill(mask, polygons) == [index for index, inside in enumerate(alone) if not inside.any()]
    np.testing.assert_array_equal(mask, expected)


def zigzag(points: int) -> np.ndarray:
    """A closed band of parallel teeth, half of the area between rows 10 and 490 and columns 5 and 505."""
    columns = np.linspace(5, 505, points)
    rows = np.where(np.arange(points) % 2, 10.0, 490.0)
    return np.concatenate([np.stack([rows, columns], axis=1), [[490.0, 505.0], [495.0, 505.0], [495.0, 5.0]]])


@pytest.mark.parametrize("points", [8_000, pytest.param(80_000, marks=pytest.mark.slow)])
def test_zigzags_cost_time_in_proportion_to_their_points_and_little_memory(points):
    polygon = Polygon(0, 0, snap(zigzag(points)))
    mask = np.zeros((1, 512, 512), bool)
    start = time.process_time()
    assert fill(mask, [polygon]) == []
    area, centroid = moments([polygon])
    assert time.process_time() - start < 5 * points / 8_000  # 0.8 s alone on one core; the square took 33 s
    # Half of 480 x 500 pixels, and the strip of 5 x 500 below; the teeth are narrower than a pixel, so that the count
    # of pixel centres is right on average only: 1%.
    expected = 480 * 500 / 2 + 5 * 500
    assert area[0] == pytest.approx(expected, rel=0.01) and mask.sum() == pytest.approx(expected, rel=0.01)
    assert centroid[0, 2] == pytest.approx(255, abs=2)
    tracemalloc.start()
    fill(mask, [polygon]), moments([polygon])
    assert tracemalloc.get_traced_memory()[1] < 200 * 2**20  # 3.9 GiB before
    tracemalloc.stop()
