"""How older public code fills contours, by name, so that its masks can be reproduced. Not for new work.

`pixel_centre` is ours (`rasterise.fill`). The others, as checked voxel by voxel against rt-utils 1.2.7 (with OpenCV
5.0) and dcmrtstruct2nii 5, and for `authors_code` written from what the code does:

- `rt_utils`: vertices are rounded to pixels, and all contours of a slice go into one `cv2.fillPoly`: even-odd, edges
  included, and each edge drawn as a line on top. Too large by half a pixel all around (3.7% of the voxels of
  LUNG1-001's tumour), and holes too small.
- `dcmrtstruct2nii`: each contour is filled by scikit-image's `polygon2mask`, edges included; contours are XORed.
- `authors_code`: the data preparation of the Keras code. Vertices are rounded up to pixels (half a pixel off on
  average) and set; then each row is filled from its first to its last set pixel, and after that each column. Holes and
  hollows are lost. A slice where two contours share such a pixel is not filled at all.

Which contours are usable, and on which slice, is decided as for `pixel_centre`.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float64, Int64
from skimage.draw import polygon2mask

from data_pipeline.contours.rasterise import Polygon, crossings, edges_of
from data_pipeline.settings import FillRule

_Layer = Bool[np.ndarray, "height width"]
_Vertices = Sequence[Float64[np.ndarray, "_ 2"]]


def fill_like(rule: FillRule, mask: Bool[np.ndarray, "depth height width"], polygons: Sequence[Polygon]) -> list[int]:
    """Set the voxels that an older rule would set, in place; otherwise as `rasterise.fill`."""
    layer = _LAYERS[rule]
    members: dict[tuple[int, int], list[Float64[np.ndarray, "n 2"]]] = {}
    for polygon in polygons:
        members.setdefault((polygon.group, polygon.slice_index), []).append(polygon.vertices)
    for (_, index), vertices in members.items():
        mask[index] |= layer(vertices, mask.shape[1:])
    return [index for index, one in enumerate(polygons) if not layer([one.vertices], mask.shape[1:]).any()]


def _rt_utils(polygons: _Vertices, shape: tuple[int, ...]) -> _Layer:
    rounded = [np.rint(vertices).astype(np.int64) for vertices in polygons]
    layer = np.zeros(shape, np.bool_)
    edges, _ = edges_of(rounded)
    _, row, column = crossings(edges, np.arange(shape[0], dtype=np.float64))
    order = np.lexsort((column, row))
    left, right = np.ceil(column[order][::2]).astype(np.int64), np.floor(column[order][1::2]).astype(np.int64)
    for y, first, last in zip(row[order][::2], left, right, strict=True):
        layer[y, max(first, 0) : max(last + 1, 0)] = True
    for vertices in rounded:
        for start, end in zip(vertices, np.roll(vertices, -1, axis=0), strict=True):
            rows, columns = _line(start, end).T
            on = (rows >= 0) & (rows < shape[0]) & (columns >= 0) & (columns < shape[1])
            layer[rows[on], columns[on]] = True
    return layer


def _line(start: Int64[np.ndarray, "2"], end: Int64[np.ndarray, "2"]) -> Int64[np.ndarray, "n 2"]:
    """Bresenham's line between pixels, from left to right, ties towards the start."""
    if start[1] > end[1]:
        start, end = end, start
    span = end - start
    major = int(np.argmax(np.abs(span)[::-1])) ^ 1  # the column, if both are as long
    length, rise = abs(int(span[major])), abs(int(span[1 - major]))
    along = np.arange(length + 1)
    pixels = np.empty((length + 1, 2), np.int64)
    pixels[:, major] = start[major] + np.sign(span[major]) * along
    pixels[:, 1 - major] = start[1 - major] - np.sign(span[1 - major]) * (
        (length - 2 * along * rise) // max(2 * length, 1)
    )
    return pixels


def _dcmrtstruct2nii(polygons: _Vertices, shape: tuple[int, ...]) -> _Layer:
    return np.logical_xor.reduce([polygon2mask(shape, vertices) for vertices in polygons])


def _authors_code(polygons: _Vertices, shape: tuple[int, ...]) -> _Layer:
    count = np.zeros(shape, np.int64)
    for vertices in polygons:
        pixels = np.unique(np.ceil(vertices).astype(np.int64), axis=0)
        pixels = pixels[((pixels >= 0) & (pixels < shape)).all(axis=1)]
        count[tuple(pixels.T)] += 1
    if count.max() > 1:
        return count > 0
    return _spans(_spans(count > 0, axis=1), axis=0)


def _spans(layer: _Layer, axis: int) -> _Layer:
    """All between the first and the last pixel of each line along `axis`."""
    onwards = np.logical_or.accumulate(layer, axis=axis)
    backwards = np.flip(np.logical_or.accumulate(np.flip(layer, axis), axis=axis), axis)
    return onwards & backwards


_LAYERS: dict[str, Callable[[_Vertices, tuple[int, ...]], _Layer]] = {
    "rt_utils": _rt_utils,
    "dcmrtstruct2nii": _dcmrtstruct2nii,
    "authors_code": _authors_code,
}
