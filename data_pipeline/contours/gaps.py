"""Slices without a contour inside an ROI's run of slices: found, and filled by shape-based interpolation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float64
from scipy.ndimage import distance_transform_edt

from data_pipeline.contours.rasterise import Polygon
from data_pipeline.dicom.geometry import CTGeometry

Fill = Callable[[Bool[np.ndarray, "depth height width"], Sequence[Polygon]], list[int]]


@dataclass(frozen=True)
class Gap:
    """Neighbouring contoured slices of one ROI with slices without contour between them.

    Attributes:
        group: the ROI, as in `Polygon`.
        below, above: indices of the two slices that have contours.
    """

    group: int
    below: int
    above: int

    @property
    def slices(self) -> range:
        """The slices in between."""
        return range(self.below + 1, self.above)


def find_gaps(polygons: Sequence[Polygon]) -> list[Gap]:
    """The gaps of each ROI, in ascending order of slices."""
    gaps = []
    for group in sorted({one.group for one in polygons}):
        slices = sorted({one.slice_index for one in polygons if one.group == group})
        gaps += [Gap(group, below, above) for below, above in pairwise(slices) if above > below + 1]
    return gaps


def fill_gaps(
    mask: Bool[np.ndarray, "depth height width"],
    polygons: Sequence[Polygon],
    gaps: Sequence[Gap],
    geometry: CTGeometry,
    fill: Fill,
) -> None:
    """Interpolate the shape of an ROI on the slices of its gaps, in place.

    On a slice between two contoured ones, the signed distance to the outline (mm, positive inside) is interpolated
    linearly along the normal; the shape is where it is positive (Raya and Udupa 1990, shape-based interpolation).
    Shapes that do not overlap therefore shrink towards each other, and nothing joins them.

    Args:
        mask: of the polygons; the interpolated shapes are added to it.
        polygons: of all ROIs and slices.
        gaps: from `find_gaps(polygons)`.
        geometry: of the mask.
        fill: sets the voxels of polygons in a mask, in place.
    """
    for gap in gaps:
        below, above = (
            _signed_distance_mm(_shape(gap.group, index, polygons, mask.shape[1:], fill), geometry.pixel_spacing_mm)
            for index in (gap.below, gap.above)
        )
        start, end = geometry.distances_mm[[gap.below, gap.above]]
        for index in gap.slices:
            share = (geometry.distances_mm[index] - start) / (end - start)
            mask[index] |= (1 - share) * below + share * above > 0


def _shape(
    group: int, slice_index: int, polygons: Sequence[Polygon], shape: tuple[int, ...], fill: Fill
) -> Bool[np.ndarray, "height width"]:
    layer = np.zeros((1, *shape), np.bool_)
    here = [one for one in polygons if one.group == group and one.slice_index == slice_index]
    fill(layer, [replace(one, slice_index=0) for one in here])
    return layer[0]


def _signed_distance_mm(
    shape: Bool[np.ndarray, "height width"], spacing_mm: tuple[float, float]
) -> Float64[np.ndarray, "height width"]:
    if not shape.any():  # contours that cancel each other
        return np.full(shape.shape, -np.inf)
    inside = np.asarray(distance_transform_edt(np.pad(shape, 1), sampling=spacing_mm))[1:-1, 1:-1]
    return inside - np.asarray(distance_transform_edt(~shape, sampling=spacing_mm))
