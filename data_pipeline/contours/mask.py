"""Contours to masks on the grid of a CT, with an account of every contour."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Bool, Float64, Shaped

from data_pipeline.contours.gaps import fill_gaps, find_gaps
from data_pipeline.contours.legacy_fill import fill_like
from data_pipeline.contours.rasterise import Polygon, fill, moments, snap
from data_pipeline.contours.rtstruct import Contour
from data_pipeline.dicom.geometry import FARTHEST_MM, CTGeometry
from data_pipeline.errors import InputError
from data_pipeline.settings import FillRule

OFF_PLANE_MM = 0.01
SAME_PLANE_MM = 0.1
"""Contours of one plane differ by rounding; planes of the finest CT are farther apart."""


@dataclass(frozen=True)
class ContourAccount:
    """What happened to the contours of one CT.

    Attributes:
        used: contours in the mask, repaired ones included.
        repaired: number of each contour that was used with a change, and the change.
        rejected: number of each contour that was not used, and the reason.
        total: `used` plus rejected ones.
        polygon_volume_mm3: area inside the used polygons (even-odd, exact, not counted in pixels) times slice spacing;
            0 for a mask without contours.
        polygon_centroid_mm: centroid of that area (LPS, mm); of a mask without contours, the mask's.
        mask_voxels, mask_volume_mm3, mask_centroid_mm: the same of the mask.
        gap_slices: slices without a used contour between the first and the last slice of their ROI.
        interpolated_slices: those of them that were filled by interpolation.
    """

    used: int
    repaired: tuple[tuple[int, str], ...]
    rejected: tuple[tuple[int, str], ...]
    total: int
    polygon_volume_mm3: float
    polygon_centroid_mm: tuple[float, float, float]
    mask_voxels: int
    mask_volume_mm3: float
    mask_centroid_mm: tuple[float, float, float]
    gap_slices: int = 0
    interpolated_slices: int = 0


def mask_from_contours(
    contours: Sequence[Contour],
    geometry: CTGeometry,
    *,
    fill_rule: FillRule = "pixel_centre",
    interpolate_gaps: bool = False,
) -> tuple[Bool[np.ndarray, "depth height width"], ContourAccount]:
    """Fill contours on the grid of a CT.

    A voxel belongs to the mask if its centre is inside an odd number of the contours of its slice, ROI by ROI: an
    inner contour is a hole, and a keyhole needs no special case. A centre on an edge belongs to the polygon that
    extends to higher columns or, on a level edge, to higher rows: of two polygons that share the edge, exactly one.
    Several ROIs are merged.

    A contour belongs to the slice that it references if it is within half a slice spacing of it; else to the nearest
    slice within half a spacing. Of contours of one ROI that come to a slice from several planes, drawn on a finer
    reconstruction, those on the nearest plane are used. Vertices are rounded to 2^-20 of a pixel, for pixel centres.

    Args:
        contours: from `read_contours`.
        geometry: grid of the mask.
        fill_rule: how polygons are filled; `data_pipeline.contours.legacy_fill` describes the rules of older code.
        interpolate_gaps: whether to fill slices without contour inside an ROI's run of slices; see `fill_gaps`.

    Raises:
        InputError: the mask is empty; the message counts the reasons.
    """
    exact = fill_rule == "pixel_centre"
    fill_polygons = fill if exact else partial(fill_like, fill_rule)
    polygons, repairs, reasons = _placed(contours, geometry, exact)
    mask = np.zeros(geometry.shape, np.bool_)
    placed = list(polygons)
    empty = fill_polygons(mask, list(polygons.values()))
    for index in (placed[number] for number in empty):
        low, high = polygons[index].vertices.min(axis=0), polygons.pop(index).vertices.max(axis=0)
        on_image = (high >= 0).all() and (low <= np.array(geometry.shape[1:]) - 1).all()
        reasons[index] = "encloses no pixel centre" if on_image else "is outside the image"
    used = list(polygons.values())
    gaps = find_gaps(used)
    if interpolate_gaps:
        fill_gaps(mask, used, gaps, geometry, fill_polygons)
    voxels, mask_centroid = _voxels(mask, geometry)
    if not voxels:
        why = "; ".join(f"{count} x {reason}" for reason, count in Counter(reasons.values()).items())
        raise InputError(f"none of {len(contours)} contours gives a voxel ({why}); check the RTSTRUCT and its CT")
    areas, centroids = moments(used)
    gap_slices = len({index for gap in gaps for index in gap.slices})
    return mask, ContourAccount(
        used=len(used),
        repaired=tuple((contours[index].number, "; ".join(repairs[index])) for index in polygons if repairs[index]),
        rejected=tuple((contours[index].number, reasons[index]) for index in sorted(reasons)),
        total=len(contours),
        polygon_volume_mm3=float(areas.sum()) * geometry.voxel_volume_mm3,
        polygon_centroid_mm=_centroid(geometry, centroids, areas),
        mask_voxels=voxels,
        mask_volume_mm3=voxels * geometry.voxel_volume_mm3,
        mask_centroid_mm=mask_centroid,
        gap_slices=gap_slices,
        interpolated_slices=gap_slices if interpolate_gaps else 0,
    )


def account_of_mask(mask: Bool[np.ndarray, "depth height width"], geometry: CTGeometry) -> ContourAccount:
    """The account of a mask that was stored as voxels, without contours."""
    voxels, centroid = _voxels(mask, geometry)
    return ContourAccount(
        used=0,
        repaired=(),
        rejected=(),
        total=0,
        polygon_volume_mm3=0.0,
        polygon_centroid_mm=centroid,
        mask_voxels=voxels,
        mask_volume_mm3=voxels * geometry.voxel_volume_mm3,
        mask_centroid_mm=centroid,
    )


class _UnusableError(Exception):
    """Why a contour cannot be used."""


@dataclass(frozen=True)
class _OnSlice:
    """A contour on its slice, in pixels; the contour's own place along the slice normal; what was repaired."""

    polygon: Polygon
    height_mm: float
    repairs: list[str]


def _placed(
    contours: Sequence[Contour], geometry: CTGeometry, exact: bool
) -> tuple[dict[int, Polygon], dict[int, list[str]], dict[int, str]]:
    """Polygons, repairs and reasons for rejection, by the index of the contour.

    Args:
        exact: whether vertices are tidied and one plane is chosen for each slice; rules of older code do neither.
    """
    place = _Placer(geometry, snap if exact else np.asarray)
    placed: dict[int, _OnSlice] = {}
    reasons: dict[int, str] = {}
    for index, contour in enumerate(contours):
        try:
            placed[index] = place(contour)
        except _UnusableError as error:
            reasons[index] = str(error)
    for index in _farther(placed, geometry) if exact else ():
        del placed[index]
        reasons[index] = "is between slices, and its slice has contours on a nearer plane"
    for index in _repeated(placed):
        del placed[index]
        reasons[index] = "repeats another contour"
    polygons = {index: one.polygon for index, one in placed.items()}
    return polygons, {index: one.repairs for index, one in placed.items()}, reasons


def _farther(placed: Mapping[int, _OnSlice], geometry: CTGeometry) -> list[int]:
    """The contours that are not on the plane of their ROI that is nearest to their slice; of two equally near, the
    lower one."""
    groups: dict[tuple[int, int], list[int]] = {}
    for index, one in placed.items():
        groups.setdefault((one.polygon.group, one.polygon.slice_index), []).append(index)
    farther = []
    for (_, slice_index), indices in groups.items():
        offs = {index: placed[index].height_mm - float(geometry.distances_mm[slice_index]) for index in indices}
        nearest = min(offs.values(), key=lambda off: (round(abs(off), 6), off))
        farther += [index for index in indices if abs(offs[index] - nearest) > SAME_PLANE_MM]
    return farther


def _repeated(placed: Mapping[int, _OnSlice]) -> list[int]:
    """The contours with the edges of an earlier one, of the same ROI on the same slice."""
    seen, repeated = set(), []
    for index, one in placed.items():
        vertices = one.polygon.vertices
        edges = np.sort(np.stack([vertices, np.roll(vertices, 1, axis=0)], axis=1).view("c16").reshape(-1, 2), axis=1)
        ordered = np.sort(edges.view("c16,c16"), axis=0).tobytes()
        fingerprint = (one.polygon.group, one.polygon.slice_index, ordered)
        if fingerprint in seen:
            repeated.append(index)
        seen.add(fingerprint)
    return repeated


class _Placer:
    """Finds the slice of each contour."""

    def __init__(self, geometry: CTGeometry, tidy: Callable[[np.ndarray], np.ndarray]) -> None:
        self._geometry = geometry
        self._tidy = tidy
        self._slices = {uid: index for index, uid in enumerate(geometry.sop_instance_uids)}

    def __call__(self, contour: Contour) -> _OnSlice:
        """The polygon in pixels, and what was repaired. Raises _UnusableError."""
        repairs: list[str] = []
        points = self._closed(contour, repairs)
        index, height = self._slice(contour, points, repairs)
        vertices = self._tidy(self._geometry.to_pixels(points, index))
        vertices = vertices[(vertices != np.roll(vertices, 1, axis=0)).any(axis=1)]
        if len(vertices) < 3:
            raise _UnusableError(f"has {len(vertices)} different points, which enclose nothing")
        low, high = vertices.min(axis=0), vertices.max(axis=0)
        if (low < -0.5).any() or (high > np.array(self._geometry.shape[1:]) - 0.5).any():
            repairs.append("cut at the border of the image")
        return _OnSlice(Polygon(contour.roi_number, index, vertices), height, repairs)

    def _closed(self, contour: Contour, repairs: list[str]) -> Float64[np.ndarray, "n 3"]:
        points, kind = contour.points_mm, contour.geometric_type
        if contour.fault or not len(points):
            raise _UnusableError(contour.fault or "has no points")
        if not (np.abs(points) < FARTHEST_MM).all():  # also true of NaN
            raise _UnusableError("has impossible coordinates")
        if kind == "POINT" or len(points) < 3:
            raise _UnusableError(f"has {len(points)} points, which enclose nothing")
        if kind == "OPEN_PLANAR" and np.abs(points[0] - points[-1]).max() < OFF_PLANE_MM:
            repairs.append("called open, but its ends meet")
        elif not kind:
            repairs.append("has no geometric type, taken as closed")
        elif kind not in ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR", "CLOSED_PLANAR_XOR"):
            raise _UnusableError(f"is {kind}, not closed")
        return points

    def _slice(self, contour: Contour, points: Float64[np.ndarray, "n 3"], repairs: list[str]) -> tuple[int, float]:
        """The slice, and the contour's own place along the normal."""
        geometry = self._geometry
        half = 0.5 * geometry.spacing_mm[0] * (1 + 1e-6)
        heights = points @ geometry.normal
        middle, thickness = float(heights.max() + heights.min()) / 2, float(heights.max() - heights.min())
        if thickness > half:
            raise _UnusableError(f"is not in the plane of a slice (spans {thickness:.2f} mm)")
        nearest = int(np.abs(geometry.distances_mm - middle).argmin())
        named = self._slices.get(contour.sop_instance_uid or "")
        named_fits = named is not None and abs(geometry.distances_mm[named] - middle) <= half
        index = named if named is not None and named_fits else nearest
        off = abs(float(geometry.distances_mm[index]) - middle)
        if off > half:
            raise _UnusableError(f"has no slice within half a slice spacing (the nearest is {off:.2f} mm away)")
        frames = {contour.frame_of_reference_uid, geometry.frame_of_reference_uid} - {""}
        if len(frames) > 1 and not named_fits:
            raise _UnusableError("is in another frame of reference")
        if len(frames) > 1:
            repairs.append("names another frame of reference, though it references the slice that it is on")
        if contour.sop_instance_uid and not named_fits:
            repairs.append(
                f"references an image {'elsewhere' if named is not None else 'not in the series'}; placed by position"
            )
        if off > OFF_PLANE_MM:
            repairs.append(f"moved {off:.2f} mm onto its slice")
        if thickness > OFF_PLANE_MM:
            repairs.append(f"flattened ({thickness:.2f} mm thick)")
        return index, middle


def _voxels(
    mask: Bool[np.ndarray, "depth height width"], geometry: CTGeometry
) -> tuple[int, tuple[float, float, float]]:
    """Number and centroid (LPS, mm) of the voxels of a mask."""
    counts, means = [0], [(0.0, 0.0, 0.0)]
    for index in np.flatnonzero(mask.any(axis=(1, 2))).tolist():
        in_row, in_column = mask[index].sum(axis=1), mask[index].sum(axis=0)
        count = int(in_row.sum())
        counts.append(count)
        means.append((index, in_row @ np.arange(len(in_row)) / count, in_column @ np.arange(len(in_column)) / count))
    return sum(counts), _centroid(geometry, np.array(means), np.array(counts))


def _centroid(
    geometry: CTGeometry, indices: Float64[np.ndarray, "n 3"], weights: Shaped[np.ndarray, "n"]
) -> tuple[float, float, float]:
    """Weighted mean (LPS, mm) of voxel indices; NaN if there is no weight."""
    total = weights.sum()
    x, y, z = (weights @ geometry.to_patient(indices) / total).tolist() if total else [np.nan] * 3
    return x, y, z
