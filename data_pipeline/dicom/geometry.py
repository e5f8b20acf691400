"""The position of a CT's voxels in the patient."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Float64

from data_pipeline.errors import InputError

AFFINE_TOLERANCE = 0.1
"""Largest distance of a slice from the grid of an affine, as a fraction of the smallest voxel edge."""
MISSING = 0.25
"""Difference of a distance between slices from the median, as a fraction of it, that rounding does not explain."""
FARTHEST_MM = 1e5
"""Largest coordinate accepted from a file. No scanner is larger; it keeps the arithmetic finite."""


@dataclass(frozen=True, eq=False)
class CTGeometry:
    """The position of a CT's voxels in the patient: DICOM's LPS axes, mm, slices ascending along the slice normal.

    Attributes:
        positions_mm: ImagePositionPatient of each slice, the CENTRE of its first pixel (PS3.3 C.7.6.2.1.1).
        row_cosine: first half of ImageOrientationPatient, the direction in which the column index grows.
        column_cosine: its second half, the direction in which the row index grows. Both have length 1 and are
            perpendicular; the slice normal is `row_cosine x column_cosine`.
        pixel_spacing_mm: distance between rows, distance between columns (PS3.3 10.7.1.3).
        shape: depth, height (rows), width (columns).
        sop_instance_uids: one a slice.
        frame_of_reference_uid: of the whole series; empty if the files name none.
        stored_axes: for a volume file, of each of its axes the one of (column, row, slice) that it is, and 1 or -1 for
            its direction: nibabel's orientation. None for DICOM.
    """

    positions_mm: Float64[np.ndarray, "depth 3"]
    row_cosine: Float64[np.ndarray, "3"]
    column_cosine: Float64[np.ndarray, "3"]
    pixel_spacing_mm: tuple[float, float]
    shape: tuple[int, int, int]
    sop_instance_uids: tuple[str, ...]
    frame_of_reference_uid: str
    stored_axes: tuple[tuple[int, int], ...] | None = None

    @cached_property
    def normal(self) -> Float64[np.ndarray, "3"]:
        """Direction in which the slice index grows, perpendicular to the slices."""
        return np.cross(self.row_cosine, self.column_cosine)

    @property
    def plane(self) -> Literal["sagittal", "coronal", "axial"]:
        """The anatomical plane that the slices are nearest to (LPS axes, so x is left, y is back, z is head)."""
        return ("sagittal", "coronal", "axial")[int(np.abs(self.normal).argmax())]

    @property
    def sides(self) -> tuple[str, str]:
        """Letters for the left and the right edge of a slice, of the body axis that its rows are nearest to: left and
        right, front (A) and back (P), or feet and head."""
        axis = int(np.abs(self.row_cosine).argmax())
        left, right = ("RL", "AP", "FH")[axis]
        return (left, right) if self.row_cosine[axis] > 0 else (right, left)

    @cached_property
    def distances_mm(self) -> Float64[np.ndarray, "depth"]:
        """Position of each slice along the normal, ascending."""
        return self.positions_mm @ self.normal

    @cached_property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between slices, rows and columns.

        Between slices, along the normal: the mean, which the rounding of positions in a file does not change. It is the
        median where a distance differs from that by more than `MISSING`, as where slices are missing.
        """
        gaps = np.diff(self.distances_mm)
        median = float(np.median(gaps))
        regular = bool((np.abs(gaps - median) <= MISSING * median).all())
        return (float(gaps.mean()) if regular else median, *self.pixel_spacing_mm)

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel; of the typical one, if the slices are unevenly spaced."""
        return float(np.prod(self.spacing_mm))

    @property
    def affine_error_mm(self) -> float:
        """Largest distance between a slice and its place in the evenly spaced stack from the first to the last."""
        steps = np.linspace(0.0, 1.0, self.shape[0])[:, None]
        even = self.positions_mm[0] + steps * (self.positions_mm[-1] - self.positions_mm[0])
        return float(np.linalg.norm(self.positions_mm - even, axis=1).max())

    @property
    def affine_ras(self) -> Float64[np.ndarray, "4 4"]:
        """Affine from (column, row, slice) to RAS mm: nibabel's, for `volume.transpose(2, 1, 0)`. Shear is kept.

        Raises:
            InputError: no affine describes the slices, because they are unevenly spaced or shifted in plane.
        """
        if self.affine_error_mm > AFFINE_TOLERANCE * min(self.spacing_mm):
            raise InputError(
                f"the CT's slices are not evenly spaced (up to {self.affine_error_mm:.2f} mm off), so no affine places "
                "them; export as DICOM instead, which gives each slice its own position"
            )
        between_rows, between_columns = self.pixel_spacing_mm
        affine = np.eye(4)
        affine[:3, 0] = self.row_cosine * between_columns
        affine[:3, 1] = self.column_cosine * between_rows
        affine[:3, 2] = (self.positions_mm[-1] - self.positions_mm[0]) / (self.shape[0] - 1)
        affine[:3, 3] = self.positions_mm[0]
        return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine

    def to_index(self, points_mm: Float64[np.ndarray, "n 3"]) -> Float64[np.ndarray, "n 3"]:
        """Fractional (slice, row, column) of points; whole numbers are voxel centres.

        Between slices the index and the in-plane origin are interpolated; beyond the ends they go on at the median
        spacing.
        """
        slices = self._slice_of(points_mm @ self.normal)
        return np.column_stack([slices, self._in_plane(points_mm - self._origin_of(slices))])

    def to_patient(self, index: Float64[np.ndarray, "n 3"]) -> Float64[np.ndarray, "n 3"]:
        """Points (LPS, mm) of fractional (slice, row, column) indices: the inverse of `to_index`."""
        slices, rows, columns = np.asarray(index, np.float64).T[:, :, None]
        between_rows, between_columns = self.pixel_spacing_mm
        in_plane = rows * between_rows * self.column_cosine + columns * between_columns * self.row_cosine
        return self._origin_of(slices[:, 0]) + in_plane

    def to_pixels(self, points_mm: Float64[np.ndarray, "n 3"], slice_index: int) -> Float64[np.ndarray, "n 2"]:
        """Fractional (row, column) of points projected along the normal onto one slice."""
        return self._in_plane(points_mm - self.positions_mm[slice_index])

    def _in_plane(self, offsets_mm: Float64[np.ndarray, "n 3"]) -> Float64[np.ndarray, "n 2"]:
        between_rows, between_columns = self.pixel_spacing_mm
        return np.column_stack(
            [offsets_mm @ self.column_cosine / between_rows, offsets_mm @ self.row_cosine / between_columns]
        )

    def _slice_of(self, distances_mm: Float64[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
        first, last, step = self.distances_mm[0], self.distances_mm[-1], self.spacing_mm[0]
        inside = np.interp(distances_mm, self.distances_mm, np.arange(self.shape[0], dtype=np.float64))
        return inside + np.minimum(distances_mm - first, 0.0) / step + np.maximum(distances_mm - last, 0.0) / step

    def _origin_of(self, slices: Float64[np.ndarray, "n"]) -> Float64[np.ndarray, "n 3"]:
        """ImagePositionPatient at fractional slice indices."""
        whole = np.arange(self.shape[0], dtype=np.float64)
        inside = np.stack([np.interp(slices, whole, self.positions_mm[:, axis]) for axis in range(3)], axis=1)
        drift = (self.positions_mm[-1] - self.positions_mm[0]) / (self.distances_mm[-1] - self.distances_mm[0])
        beyond = np.minimum(slices, 0.0) + np.maximum(slices - whole[-1], 0.0)
        return inside + beyond[:, None] * self.spacing_mm[0] * drift
