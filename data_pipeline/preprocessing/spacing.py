"""A CT resampled to a voxel size, and values of that grid back on the CT's own.

The middle of the network's grid is the middle of the CT, on each axis:

    CT, 0.7 mm     |--|--|--|--|--|--|--|--|      rows or columns
    grid, 1 mm    |---|---|---|---|---|---|---|   as many as the image size; beyond the CT is air
    slices        as many as cover the CT, at least one

Images are interpolated linearly between voxel centres, and so are masks: a voxel is tumour where the interpolated mask
is at least one half. Slices are taken as evenly spaced.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int16, Shaped

from data_pipeline.errors import InputError
from data_pipeline.settings import VoxelSize


@dataclass(frozen=True)
class _Axis:
    """One axis: voxels of the CT, voxels of the grid, and edge of the grid's voxels in voxels of the CT."""

    ct: int
    grid: int
    ratio: float

    @property
    def on_ct(self) -> Float64[np.ndarray, " grid"]:
        """Place of the grid's voxels, in indices of the CT."""
        return (np.arange(self.grid) - (self.grid - 1) / 2) * self.ratio + (self.ct - 1) / 2

    @property
    def on_grid(self) -> Float64[np.ndarray, " ct"]:
        """Place of the CT's voxels, in indices of the grid."""
        return (np.arange(self.ct) - (self.ct - 1) / 2) / self.ratio + (self.grid - 1) / 2


@dataclass(frozen=True)
class Resampling:
    """From a CT's grid to the network's, by slices, rows and columns, and back."""

    slices: _Axis
    rows: _Axis
    columns: _Axis

    @classmethod
    def of(
        cls,
        shape: tuple[int, int, int],
        spacing_mm: tuple[float, float, float],
        size: tuple[int, int],
        voxel_mm: VoxelSize,
        slices: int | None = None,
    ) -> "Resampling":
        """The resampling of a CT.

        Args:
            shape, spacing_mm: of the CT: slices, rows, columns.
            size: rows and columns of the network's grid.
            voxel_mm: of the network's grid.
            slices: of the network's grid, where they are known; spacings that were stored in 32 bits may give another
                number.
        """
        rows_mm, columns_mm, slices_mm = voxel_mm
        edges = (slices_mm, rows_mm, columns_mm)
        ratios = [edge / mm for edge, mm in zip(edges, spacing_mm, strict=True)]
        grid = (slices or max(1, round(shape[0] / ratios[0])), *size)
        return cls(*(_Axis(*each) for each in zip(shape, grid, ratios, strict=True)))

    def image(
        self, hounsfield: Int16[np.ndarray, "depth height width"], air: int
    ) -> Int16[np.ndarray, "slices rows columns"]:
        """The CT on the network's grid, HU; `air` beyond the CT."""
        return np.rint(self._to_grid(hounsfield, float(air))).astype(np.int16)

    def mask(self, mask: Bool[np.ndarray, "depth height width"]) -> Bool[np.ndarray, "slices rows columns"]:
        """A mask on the network's grid. One too thin to fill half of any voxel keeps the voxels that it fills most.

        Raises:
            InputError: nothing is left of it.
        """
        share = self._to_grid(mask, 0.0)
        most = float(share.max())
        if not most:
            raise InputError(
                "the tumour is between the voxels of --spacing or outside the field of --image-size; give other values"
            )
        return (share > 0) & (share >= min(0.5, most) - 1e-4)  # as on the network's grid without resampling

    def lost(self, mask: Bool[np.ndarray, "depth height width"]) -> float:
        """Fraction of a mask's voxels that are outside the field of the network's grid."""
        return 1 - float(mask[:, *(self._inside(axis)[1] for axis in (self.rows, self.columns))].sum() / mask.sum())

    @property
    def filled(self) -> tuple[slice, slice]:
        """Rows and columns of the network's grid that the CT fills."""
        rows, columns = (self._inside(axis)[0] for axis in (self.rows, self.columns))
        return rows, columns

    def to_ct(self, values: Shaped[np.ndarray, "slices rows columns"]) -> Float32[np.ndarray, "depth height width"]:
        """Values of the network's grid on the CT's own, interpolated linearly; 0 outside the field."""
        axes = [(axis.on_grid, axis.grid) for axis in (self.slices, self.rows, self.columns)]
        return _interpolated(values, axes, 0.0)

    def _to_grid(
        self, values: Shaped[np.ndarray, "depth height width"], outside: float
    ) -> Float32[np.ndarray, "slices rows columns"]:
        axes = [(axis.on_ct, axis.ct) for axis in (self.slices, self.rows, self.columns)]
        return _interpolated(values, axes, outside)

    @staticmethod
    def _inside(axis: _Axis) -> tuple[slice, slice]:
        """Voxels of the grid whose centre is in the CT, and voxels of the CT whose centre is in the grid."""
        runs = []
        for places, size in ((axis.on_ct, axis.ct), (axis.on_grid, axis.grid)):
            (within,) = np.nonzero((places >= -0.5) & (places <= size - 0.5))
            runs.append(slice(int(within[0]), int(within[-1]) + 1) if len(within) else slice(0, 0))
        return runs[0], runs[1]


def _interpolated(
    values: Shaped[np.ndarray, "a b c"], axes: list[tuple[Float64[np.ndarray, "_"], int]], outside: float
) -> Float32[np.ndarray, "i j k"]:
    """Linear interpolation at a grid of places; from half a voxel beyond the first and last ones on it is `outside`.

    Slice by slice: float copies of a whole scan would cost gigabytes.
    """
    (slices, depth), *plane_axes = axes
    output = np.empty([len(places) for places, _ in axes], np.float32)
    for index, place in enumerate(np.clip(slices, 0, depth - 1)):
        low = int(place)
        plane = values[low].astype(np.float32)
        if place > low:
            plane += np.float32(place - low) * (values[low + 1].astype(np.float32) - plane)
        for axis, (places, size) in enumerate(plane_axes):
            plane = _along(plane, axis, places, size)
        output[index] = plane
    for axis, (places, size) in enumerate(plane_axes, 1):
        beyond = (places < -0.5) | (places > size - 0.5)
        output[(slice(None),) * axis + (beyond,)] = outside
    return output


def _along(
    plane: Float[np.ndarray, "height width"], axis: int, places: Float64[np.ndarray, " n"], size: int
) -> Float32[np.ndarray, "rows columns"]:
    places = np.clip(places, 0, size - 1)
    low = np.minimum(places.astype(int), max(size - 2, 0))
    share = (places - low).astype(np.float32)
    share = share[:, None] if axis == 0 else share
    first, second = (np.take(plane, np.minimum(one, size - 1), axis) for one in (low, low + 1))
    return first + share * (second - first)
