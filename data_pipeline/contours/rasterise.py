"""Filling polygons on pixel grids, exactly: pixel centres, even-odd."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64, Shaped

SNAP = 2.0**20
"""Vertices are rounded to 1 / SNAP of a pixel: a nanometre, far finer than any contour, far coarser than noise."""
MOST_CROSSINGS = 2**20
"""Crossings of edges and rows that are held in memory at once (about 100 MB)."""


@dataclass(frozen=True, eq=False)
class Polygon:
    """A closed polygon on one slice.

    Attributes:
        group: polygons of a group and slice combine by even-odd, groups by union.
        slice_index: its slice.
        vertices: (row, column) in pixels, whole numbers being pixel centres; the last joins the first.
    """

    group: int
    slice_index: int
    vertices: Float64[np.ndarray, "n 2"]


def snap(vertices: Float64[np.ndarray, "n 2"]) -> Float64[np.ndarray, "n 2"]:
    """Round to the grid of `SNAP`: a vertex meant to be on a pixel centre, or on another's edge, then is."""
    return np.rint(vertices * SNAP) / SNAP


def fill(mask: Bool[np.ndarray, "depth height width"], polygons: Sequence[Polygon]) -> list[int]:
    """Set the voxels inside `polygons`, in place.

    Inside is a pixel centre (r, c) with an odd number of edges at or left of it, where an edge from row a to row b > a
    crosses row r if a <= r < b. Both rules are half-open, so polygons that share an edge neither overlap nor leave a
    gap. Vertices should have been through `snap`.

    The time grows with the number of points times the rows they span; the memory does not grow with the points.

    Returns:
        indices of the polygons that enclose no pixel centre of the grid.
    """
    _, height, width = mask.shape
    layers: dict[tuple[int, int], list[int]] = {}
    for index, polygon in enumerate(polygons):
        layers.setdefault((polygon.group, polygon.slice_index), []).append(index)
    empty = []
    for (_, slice_index), members in layers.items():
        corners = np.concatenate([polygons[index].vertices for index in members])
        box = _box(corners, height, width)
        inside = np.zeros((box.bottom - box.top, box.right - box.left), np.bool_)
        for index in members:
            flips = _flips(polygons[index].vertices, box)
            own = np.logical_xor.accumulate(flips, axis=1)
            if not own.any():
                empty.append(index)
            inside ^= own
        mask[slice_index, box.top : box.bottom, box.left : box.right] |= inside
    return sorted(empty)


class _Box(NamedTuple):
    """Rows `top` to `bottom` and columns `left` to `right` of a slice, ends not included."""

    top: int
    bottom: int
    left: int
    right: int


def _box(vertices: Float64[np.ndarray, "n 2"], height: int, width: int) -> _Box:
    """The pixels around vertices, and one more on each side for the rounding of crossings."""
    low, high = np.floor(vertices.min(axis=0)) - 1, np.ceil(vertices.max(axis=0)) + 2
    (top, left), (bottom, right) = (np.clip(ends, 0, (height, width)).astype(int).tolist() for ends in (low, high))
    return _Box(top, bottom, left, right)


def _flips(vertices: Float64[np.ndarray, "n 2"], box: _Box) -> Bool[np.ndarray, "rows columns"]:
    """Pixels at which the parity of a polygon changes: the first centres at or right of an odd number of crossings."""
    rows, columns = box.bottom - box.top, box.right - box.left
    lines = np.arange(box.top, box.bottom, dtype=np.float64)
    edges, _ = edges_of([vertices])
    flips = np.zeros((rows, columns + 1), np.bool_)
    step = max(1, MOST_CROSSINGS // max(rows, 1))
    for start in range(0, len(edges), step):
        _, row, column = crossings(edges[start : start + step], lines)
        # To the right of the box there are no centres; what is left of it flips its first column.
        first = np.clip(np.ceil(column) - box.left, 0, columns).astype(np.int64)
        counts = np.bincount(row * (columns + 1) + first, minlength=flips.size)
        flips ^= (counts & 1).astype(np.bool_).reshape(flips.shape)
    return flips[:, :columns]


def moments(polygons: Sequence[Polygon]) -> tuple[Float64[np.ndarray, "k"], Float64[np.ndarray, "k 3"]]:
    """Area in pixels inside the polygons, slice by slice, and its centroid (slice, row, column).

    Even-odd like `fill`, but exact: between neighbouring vertex rows the inside consists of trapezia (if no edges cross
    there), whose area and first moments two Gauss-Legendre nodes integrate exactly. Where that takes more than
    `MOST_CROSSINGS` crossings of edges and rows (a zigzag with thousands of long edges; nothing drawn comes near it),
    evenly spaced rows are used instead, and the area is approximate. Slices without area are left out; groups that
    overlap count twice.
    """
    outlines: dict[tuple[int, int], list[Float64[np.ndarray, "_ 2"]]] = {}
    for polygon in polygons:
        outlines.setdefault((polygon.group, polygon.slice_index), []).append(polygon.vertices)
    layers = []
    for (_, index), vertices in outlines.items():
        edges, _ = edges_of(vertices)
        lines, half = _sample_rows(edges)
        _, line, column = crossings(edges, lines)
        order = np.lexsort((column, line))
        left, right = column[order][0::2], column[order][1::2]
        row, weight = lines[line[order][0::2]], half[line[order][0::2] // 2]
        width = weight * (right - left)
        layers.append((width.sum(), index * width.sum(), row @ width, (width * (right + left) / 2).sum()))
    area, *weighted = np.array(layers).T
    return area[area > 0], np.stack(weighted, axis=1)[area > 0] / area[area > 0, None]


def _sample_rows(edges: Float64[np.ndarray, "n 4"]) -> tuple[Float64[np.ndarray, "k"], Float64[np.ndarray, "s"]]:
    """Two Gauss-Legendre nodes in each strip between neighbouring vertex rows, and half the height of each strip."""
    rows = np.unique(edges[:, [0, 2]])
    spanned = np.searchsorted(rows, edges[:, 2]) - np.searchsorted(rows, edges[:, 0])
    if 2 * spanned.sum() > MOST_CROSSINGS:
        rows = np.linspace(rows[0], rows[-1], max(2, MOST_CROSSINGS // (2 * len(edges))))
    half = np.diff(rows) / 2
    lines = ((rows[1:] + rows[:-1]) / 2)[:, None] + half[:, None] * np.array([-1.0, 1.0]) / np.sqrt(3.0)
    return lines.ravel(), half


def edges_of(
    polygons: Sequence[Shaped[np.ndarray, "_ 2"]],
) -> tuple[Float64[np.ndarray, "m 4"], Int64[np.ndarray, "m"]]:
    """Edges (row, column, row, column) from the lower row to the higher, and the index of their polygon.

    Level edges cross no row and are left out. That every edge is taken in one direction makes the crossings of an edge
    shared by two polygons the same numbers.
    """
    ends = [np.hstack([vertices, np.roll(vertices, -1, axis=0)]) for vertices in polygons]
    owner = np.repeat(np.arange(len(polygons)), [len(one) for one in ends])
    edges = np.concatenate(ends).astype(np.float64)
    edges = np.where((edges[:, 0] > edges[:, 2])[:, None], edges[:, [2, 3, 0, 1]], edges)
    sloped = edges[:, 0] < edges[:, 2]
    return edges[sloped], owner[sloped]


def crossings(
    edges: Float64[np.ndarray, "n 4"], lines: Float64[np.ndarray, "m"]
) -> tuple[Int64[np.ndarray, "k"], Int64[np.ndarray, "k"], Float64[np.ndarray, "k"]]:
    """Where edges cross lines of constant row (ascending): index of the edge, index of the line, column."""
    first = np.searchsorted(lines, edges[:, 0])
    count = np.searchsorted(lines, edges[:, 2]) - first
    edge = np.repeat(np.arange(len(edges)), count)
    line = np.arange(count.sum()) + np.repeat(first - np.cumsum(count) + count, count)
    row0, column0, row1, column1 = edges[edge].T
    # Multiplied before it is divided: exact wherever the crossing is a whole number and the vertices are.
    return edge, line, column0 + (lines[line] - row0) * (column1 - column0) / (row1 - row0)
