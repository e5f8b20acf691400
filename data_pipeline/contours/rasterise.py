"""Filling polygons on pixel grids, exactly: pixel centres, even-odd, all slices at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64, Shaped

SNAP = 2.0**20
"""Vertices are rounded to 1 / SNAP of a pixel: a nanometre, far finer than any contour, far coarser than noise."""


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
    """Round to the grid of `SNAP`: a vertex meant to lie on a pixel centre, or on another's edge, then does."""
    return np.rint(vertices * SNAP) / SNAP


def fill(mask: Bool[np.ndarray, "depth height width"], polygons: Sequence[Polygon]) -> list[int]:
    """Set the voxels inside `polygons`, in place.

    Inside is a pixel centre (r, c) with an odd number of edges at or left of it, where an edge from row a to row b > a
    crosses row r if a <= r < b. Both rules are half-open, so polygons that share an edge neither overlap nor leave a
    gap.
    Vertices should have been through `snap`.

    Returns:
        indices of the polygons that enclose no pixel centre of the grid.
    """
    _, height, width = mask.shape
    if not polygons:
        return []
    edges, owner = edges_of([polygon.vertices for polygon in polygons])
    edge, row, column = crossings(edges, np.arange(height, dtype=np.float64))
    owner = owner[edge]
    # The first pixel centre at or right of the crossing: from there on, the parity is flipped.
    flips = np.clip(np.ceil(column), 0, width).astype(np.int64)

    alone = _runs(owner, row, flips, height, width)
    filled = np.zeros(len(polygons), np.bool_)
    filled[alone[0][:, 0]] = True

    groups = np.array([polygon.group for polygon in polygons])
    slices = np.array([polygon.slice_index for polygon in polygons])
    layers, layer = np.unique(np.stack([groups, slices]), axis=1, return_inverse=True)
    runs, lengths = _runs(layer[owner], row, flips, height, width)
    start = (layers[1][runs[:, 0]] * height + runs[:, 1]) * width + runs[:, 2]
    inside = np.repeat(start - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())
    mask.reshape(-1)[inside] = True
    return np.flatnonzero(~filled).tolist()


def moments(polygons: Sequence[Polygon]) -> tuple[Float64[np.ndarray, "k"], Float64[np.ndarray, "k 3"]]:
    """Area in pixels inside the polygons, slice by slice, and its centroid (slice, row, column).

    Even-odd like `fill`, but exact: between neighbouring vertex rows the inside consists of trapezia (if no edges cross
    there), whose area and first moments two Gauss-Legendre nodes integrate exactly. Slices without area are left out,
    groups that overlap count twice.
    """
    outlines: dict[tuple[int, int], list[Float64[np.ndarray, "_ 2"]]] = {}
    for polygon in polygons:
        outlines.setdefault((polygon.group, polygon.slice_index), []).append(polygon.vertices)
    layers = []
    for (_, index), vertices in outlines.items():
        edges, _ = edges_of(vertices)
        rows = np.unique(edges[:, [0, 2]])
        half = np.diff(rows) / 2
        lines = ((rows[1:] + rows[:-1]) / 2)[:, None] + half[:, None] * np.array([-1.0, 1.0]) / np.sqrt(3.0)
        _, line, column = crossings(edges, lines.ravel())
        order = np.lexsort((column, line))
        left, right = column[order][0::2], column[order][1::2]
        row, weight = lines.ravel()[line[order][0::2]], half[line[order][0::2] // 2]
        width = weight * (right - left)
        layers.append((width.sum(), index * width.sum(), row @ width, (width * (right + left) / 2).sum()))
    area, *weighted = np.array(layers).T
    return area[area > 0], np.stack(weighted, axis=1)[area > 0] / area[area > 0, None]


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


def _runs(
    layer: Int64[np.ndarray, "k"], row: Int64[np.ndarray, "k"], flips: Int64[np.ndarray, "k"], height: int, width: int
) -> tuple[Int64[np.ndarray, "r 3"], Int64[np.ndarray, "r"]]:
    """Runs of inside pixels: (layer, row, first column) and length. Closed polygons cross a row evenly often."""
    key = np.sort((layer * height + row) * (width + 1) + flips)
    lengths = key[1::2] - key[0::2]
    start, lengths = key[0::2][lengths > 0], lengths[lengths > 0]
    return np.column_stack(
        [start // (width + 1) // height, start // (width + 1) % height, start % (width + 1)]
    ), lengths
