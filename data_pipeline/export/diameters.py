"""Diameters of a lesion in the plane of its slices, as RECIST 1.1 and WHO measure them on axial CT.

The outline goes through the middles of the pixel edges between lesion and surroundings (marching squares): between the
corners of pixels a disc would measure about a pixel too much, between their centres a little too small.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64
from scipy import ndimage
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist, squareform
from skimage.measure import find_contours

_TOUCHING = np.ones((3, 3), bool)
_EQUAL_MM = 1e-6
"""Lengths that differ by less are equal but for rounding."""


@dataclass(frozen=True)
class Diameters:
    """The longest diameter of a lesion, and the one perpendicular to it.

    Attributes:
        longest_mm: the largest distance between two points of the outline of a part of the lesion in one slice.
        perpendicular_mm: the largest distance between two points of the same outline on a line perpendicular to it.
        slice_index: the slice, from 0.
    """

    longest_mm: float
    perpendicular_mm: float
    slice_index: int


def measure_diameters(mask: Bool[np.ndarray, "depth height width"], pixel_spacing_mm: tuple[float, float]) -> Diameters:
    """The longest diameter over all slices, and the longest one perpendicular to it.

    Where a slice cuts the lesion into parts that do not touch in it (not even at corners), each part is measured alone.
    Of several equally long diameters the one with the longest perpendicular counts, then the one on the first slice.

    Args:
        mask: of one lesion, not empty.
        pixel_spacing_mm: distance between rows, distance between columns.
    """
    found = []
    for index, plane in enumerate(mask):
        for part in _parts(plane):
            corners = _hull(_edge_middles(part) * pixel_spacing_mm)
            distances = squareform(pdist(corners))
            found.append((distances.max(), index, part, corners, distances))
    longest = max(length for length, *_ in found)
    best = Diameters(float(longest), 0.0, -1)
    for length, index, part, corners, distances in found:
        if length < longest - _EQUAL_MM:
            continue
        outline = _outline(part) * pixel_spacing_mm
        for one, other in np.argwhere(np.triu(distances) >= longest - _EQUAL_MM):
            across = _longest_across(outline, corners[other] - corners[one])
            if across > best.perpendicular_mm + _EQUAL_MM:
                best = Diameters(float(longest), across, index)
    return best


def _parts(plane: Bool[np.ndarray, "height width"]) -> Iterator[Bool[np.ndarray, "rows columns"]]:
    """The parts of a slice that touch, each in its own box, with a border of background."""
    labels, _ = ndimage.label(plane, _TOUCHING)  # pyright: ignore[reportGeneralTypeIssues]
    for number, box in enumerate(ndimage.find_objects(labels), 1):
        yield np.pad(labels[box] == number, 1)


def _edge_middles(part: Bool[np.ndarray, "rows columns"]) -> Float64[np.ndarray, "points 2"]:
    """(row, column) of the middle of each edge between a pixel of the part and one that is not."""
    between_rows = np.argwhere(part[1:] != part[:-1]) + np.array([0.5, 0.0])
    between_columns = np.argwhere(part[:, 1:] != part[:, :-1]) + np.array([0.0, 0.5])
    return np.concatenate([between_rows, between_columns])


def _hull(points: Float64[np.ndarray, "points 2"]) -> Float64[np.ndarray, "corners 2"]:
    """The corners of the convex hull: no two points are farther apart than two of them."""
    return points[ConvexHull(points).vertices]


def _outline(part: Bool[np.ndarray, "rows columns"]) -> Float64[np.ndarray, "lines 2 2"]:
    """Straight lines through the edge middles, from end to end; pixels that touch at a corner are joined."""
    polygons = [_bends(one) for one in find_contours(part.astype(np.float64), 0.5, fully_connected="high")]
    return np.concatenate([np.stack([one, np.roll(one, -1, axis=0)], axis=1) for one in polygons])


def _bends(polygon: Float64[np.ndarray, "points 2"]) -> Float64[np.ndarray, "bends 2"]:
    """The points of a closed polygon, whose last is its first again, without those within a straight side."""
    after = np.diff(polygon, axis=0)
    before = np.roll(after, 1, axis=0)
    return polygon[:-1][before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]


def _longest_across(outline: Float64[np.ndarray, "lines 2 2"], axis: Float64[np.ndarray, "2"]) -> float:
    """The largest distance (mm) between two points of an outline on one line perpendicular to `axis`.

    On a perpendicular line at the place t along the axis, the highest and the lowest point of the outline are piecewise
    linear in t between its vertices, and their distance is convex there. So the largest is at a vertex.
    """
    along = axis / np.linalg.norm(axis)
    across = np.array([-along[1], along[0]])
    (t0, t1), (h0, h1) = (outline @ along).T, (outline @ across).T
    longest = 0.0
    for place in np.unique(t0.round(9)):
        met = (np.minimum(t0, t1) <= place + _EQUAL_MM) & (np.maximum(t0, t1) >= place - _EQUAL_MM)
        steep = np.abs(t1 - t0) > _EQUAL_MM
        share = np.clip(np.divide(place - t0, t1 - t0, out=np.zeros_like(t0), where=steep), 0, 1)
        heights = (h0 + share * (h1 - h0))[met]
        parallel = met & ~steep  # runs along the line itself: both ends are on it
        heights = np.concatenate([heights, h1[parallel]])
        longest = max(longest, float(heights.max() - heights.min()))
    return longest
