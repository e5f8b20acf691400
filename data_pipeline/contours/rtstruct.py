"""RTSTRUCT contours to masks, with an account of every contour."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64, Shaped
from pydicom import Dataset

from data_pipeline.contours.legacy_fill import fill_like
from data_pipeline.contours.rasterise import Polygon, fill, moments, snap
from data_pipeline.dicom.files import decimals, quiet_pydicom, read_dataset
from data_pipeline.dicom.geometry import FARTHEST_MM, CTGeometry
from data_pipeline.errors import InputError
from data_pipeline.settings import DEFAULT_ROI, FillRule

OFF_PLANE_MM = 0.01


@dataclass(frozen=True, eq=False)
class Contour:
    """One item of an ROI's Contour Sequence (PS3.3 C.8.8.6).

    Attributes:
        points_mm: vertices in the order drawn (LPS, mm).
        geometric_type: `CLOSED_PLANAR`, `POINT`, ... as in the file; empty if it gives none.
        sop_instance_uid: of the image it was drawn on, if it names exactly one.
        roi_name: name of its ROI.
        number: its index in that ROI, from 0.
        roi_number: ROINumber, which is unique where names may not be.
        frame_of_reference_uid: frame of `points_mm`; empty if the file gives none.
        fault: why its coordinates could not be read (`points_mm` is empty then).
    """

    points_mm: Float64[np.ndarray, "n 3"]
    geometric_type: str
    sop_instance_uid: str | None
    roi_name: str
    number: int
    roi_number: int = 0
    frame_of_reference_uid: str = ""
    fault: str = ""


@dataclass(frozen=True)
class ContourAccount:
    """What became of the contours.

    Attributes:
        used: contours in the mask, repaired ones included.
        repaired: number and what was done, for each used contour that is not quite as it should be.
        rejected: number and reason.
        total: `used` plus rejected ones.
        polygon_volume_mm3: area inside the used polygons (even-odd, exact, not counted in pixels) times slice spacing.
        polygon_centroid_mm: centroid of that area (LPS, mm).
        mask_voxels, mask_volume_mm3, mask_centroid_mm: the same of the mask.
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


def read_contours(path: Path, roi: str = DEFAULT_ROI) -> tuple[Contour, ...]:
    """Read the contours of the ROIs whose name matches.

    Args:
        path: an RTSTRUCT file.
        roi: regular expression for the whole name, without regard to case or outer blanks. If several ROIs match
            (`gtv.*`), the contours of all are returned, and `mask_from_contours` merges them.

    Raises:
        InputError: not an RTSTRUCT; no ROI matches (the message lists the names there are); the ROI has no contours.
    """
    try:
        pattern = re.compile(roi, re.IGNORECASE)
    except re.error as error:
        raise InputError(f"ROI pattern {roi!r}: not a regular expression ({error})") from error
    try:
        with quiet_pydicom():
            dataset = read_dataset(path)
            is_rtstruct = dataset.get("Modality") == "RTSTRUCT"
            names = {int(item.ROINumber): item for item in dataset.get("StructureSetROISequence") or ()}
            matching = {
                number: item
                for number, item in names.items()
                if pattern.fullmatch(str(item.get("ROIName", "")).strip())
            }
            contours = [
                _contour(item, names[number], index)
                for roi_item in dataset.get("ROIContourSequence") or ()
                if (number := int(roi_item.ReferencedROINumber)) in matching
                for index, item in enumerate(roi_item.get("ContourSequence") or ())
            ]
            listed = ", ".join(str(item.get("ROIName", "")) for item in names.values())
    except Exception as error:
        why = "not DICOM" if str(error) == "not DICOM" else type(error).__name__
        raise InputError(f"{path}: not a readable RTSTRUCT ({why}); export it again") from error
    if not is_rtstruct:
        raise InputError(f"{path}: not an RTSTRUCT; name the file with the contours")
    if not matching:
        raise InputError(f"{path}: no ROI matches {roi!r}; it has: {listed or 'none'}")
    if not contours:
        found = ", ".join(str(item.get("ROIName", "")) for item in matching.values())
        raise InputError(f"{path}: ROI {found} has no contours; export it again or choose another ROI")
    return tuple(contours)


def _contour(item: Dataset, roi: Dataset, number: int) -> Contour:
    points, fault = np.zeros((0, 3)), ""
    try:
        points = decimals(item, "ContourData").reshape(-1, 3)
    except ValueError:
        fault = "its coordinates are not a list of x, y, z"
    images = item.get("ContourImageSequence") or ()
    return Contour(
        points_mm=points,
        geometric_type=str(item.get("ContourGeometricType") or "").strip().upper(),
        sop_instance_uid=str(images[0].get("ReferencedSOPInstanceUID") or "") or None if len(images) == 1 else None,
        roi_name=str(roi.get("ROIName", "")),
        number=number,
        roi_number=int(roi.ROINumber),
        frame_of_reference_uid=str(roi.get("ReferencedFrameOfReferenceUID") or ""),
        fault=fault,
    )


def mask_from_contours(
    contours: Sequence[Contour], geometry: CTGeometry, *, fill_rule: FillRule = "pixel_center"
) -> tuple[Bool[np.ndarray, "depth height width"], ContourAccount]:
    """Fill contours on the grid of a CT.

    A voxel belongs to the mask if its centre lies inside an odd number of the contours of its slice, ROI by ROI: an
    inner contour is a hole, and a keyhole works by itself. A centre on an edge belongs to the polygon whose inside lies
    towards higher columns or, on a level edge, higher rows: of two polygons that share the edge, exactly one. Several
    ROIs are merged.

    A contour belongs to the slice that it references if it lies within half a slice spacing of it; else to the nearest
    slice within half a spacing. Vertices are rounded to 2^-20 of a pixel, so that those meant to lie on a pixel centre
    do.

    Args:
        contours: as `read_contours` gives them.
        geometry: grid of the mask.
        fill_rule: how polygons are filled; `data_pipeline.contours.legacy_fill` describes the rules of older code.

    Raises:
        InputError: not one voxel results; the message counts the reasons.
    """
    exact = fill_rule == "pixel_center"
    place = _Placer(geometry, snap if exact else np.asarray)
    polygons: dict[int, Polygon] = {}  # keys: index in `contours`
    repairs: dict[int, list[str]] = {}
    reasons: dict[int, str] = {}
    for index, contour in enumerate(contours):
        try:
            polygons[index], repairs[index] = place(contour)
        except _UnusableError as error:
            reasons[index] = str(error)

    mask = np.zeros(geometry.shape, np.bool_)
    placed = list(polygons)
    empty = fill(mask, list(polygons.values())) if exact else fill_like(fill_rule, mask, list(polygons.values()))
    for index in (placed[number] for number in empty):
        low, high = polygons[index].vertices.min(axis=0), polygons.pop(index).vertices.max(axis=0)
        on_image = (high >= 0).all() and (low <= np.array(geometry.shape[1:]) - 1).all()
        reasons[index] = "encloses no pixel centre" if on_image else "lies outside the image"
    used = list(polygons.values())
    voxels, mask_centroid = _voxels(mask, used, geometry)
    if not voxels:
        why = "; ".join(f"{count} x {reason}" for reason, count in Counter(reasons.values()).items())
        raise InputError(f"none of {len(contours)} contours gives a voxel ({why}); check the RTSTRUCT and its CT")
    areas, centroids = moments(used)
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
    )


class _UnusableError(Exception):
    """Why a contour cannot be used."""


class _Placer:
    """Finds the slice of each contour, and remembers what it has placed."""

    def __init__(self, geometry: CTGeometry, tidy: Callable[[np.ndarray], np.ndarray]) -> None:
        self._geometry = geometry
        self._tidy = tidy
        self._slices = {uid: index for index, uid in enumerate(geometry.sop_instance_uids)}
        self._seen: set[tuple[int, int, bytes]] = set()

    def __call__(self, contour: Contour) -> tuple[Polygon, list[str]]:
        """The polygon in pixels, and what was repaired. Raises _UnusableError."""
        repairs: list[str] = []
        points = self._closed(contour, repairs)
        index = self._slice(contour, points, repairs)
        vertices = self._tidy(self._geometry.to_pixels(points, index))
        vertices = vertices[(vertices != np.roll(vertices, 1, axis=0)).any(axis=1)]
        if len(vertices) < 3:
            raise _UnusableError(f"has {len(vertices)} different points, which enclose nothing")
        edges = np.sort(np.stack([vertices, np.roll(vertices, 1, axis=0)], axis=1).view("c16").reshape(-1, 2), axis=1)
        fingerprint = (contour.roi_number, index, np.sort(edges.view("c16,c16"), axis=0).tobytes())
        if fingerprint in self._seen:
            raise _UnusableError("repeats another contour")
        self._seen.add(fingerprint)
        low, high = vertices.min(axis=0), vertices.max(axis=0)
        if (low < -0.5).any() or (high > np.array(self._geometry.shape[1:]) - 0.5).any():
            repairs.append("cut at the border of the image")
        return Polygon(contour.roi_number, index, vertices), repairs

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

    def _slice(self, contour: Contour, points: Float64[np.ndarray, "n 3"], repairs: list[str]) -> int:
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
            repairs.append("names another frame of reference, though it references the slice it lies on")
        if contour.sop_instance_uid and not named_fits:
            repairs.append(
                f"references an image {'elsewhere' if named is not None else 'not in the series'}; placed by position"
            )
        if off > OFF_PLANE_MM:
            repairs.append(f"moved {off:.2f} mm onto its slice")
        if thickness > OFF_PLANE_MM:
            repairs.append(f"flattened ({thickness:.2f} mm thick)")
        return index


def _voxels(
    mask: Bool[np.ndarray, "depth height width"], polygons: Sequence[Polygon], geometry: CTGeometry
) -> tuple[int, tuple[float, float, float]]:
    """Number and centroid (LPS, mm) of the voxels in a mask that is empty away from the polygons."""
    boxes: dict[int, list[np.ndarray]] = {}
    for polygon in polygons:
        boxes.setdefault(polygon.slice_index, []).append(polygon.vertices)
    counts, means = [0], [(0.0, 0.0, 0.0)]
    for index, outlines in boxes.items():
        vertices = np.concatenate(outlines)
        # Wide enough for all rules, as those of older code reach up to a pixel beyond the vertices.
        low = np.clip(np.floor(vertices.min(axis=0)) - 1, 0, None).astype(int)
        high = np.clip(np.ceil(vertices.max(axis=0)) + 2, 0, None).astype(int)
        rows, columns = np.nonzero(mask[index, low[0] : high[0], low[1] : high[1]])
        if rows.size:  # contours may cancel each other
            counts.append(rows.size)
            means.append((index, low[0] + rows.mean(), low[1] + columns.mean()))
    return sum(counts), _centroid(geometry, np.array(means), np.array(counts))


def _centroid(
    geometry: CTGeometry, indices: Float64[np.ndarray, "n 3"], weights: Shaped[np.ndarray, "n"]
) -> tuple[float, float, float]:
    """Weighted mean (LPS, mm) of voxel indices; NaN if there is no weight."""
    total = weights.sum()
    x, y, z = (weights @ geometry.to_patient(indices) / total).tolist() if total else [np.nan] * 3
    return x, y, z
