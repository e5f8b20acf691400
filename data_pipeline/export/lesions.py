"""Volume, position and intensity of the lesions in a mask."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int16, Shaped
from scipy import ndimage

from data_pipeline.dicom.geometry import CTGeometry

_TOUCHING = np.ones((3, 3, 3), bool)


@dataclass(frozen=True)
class Lesion:
    """A connected component of a mask: voxels that share a face, an edge or a corner."""

    voxels: int
    volume_ml: float
    centroid_mm: tuple[float, float, float]
    """x, y, z in DICOM patient coordinates (LPS, PS3.3 C.7.6.2.1.1); voxels are weighted by their volume."""
    mean_hu: float
    first_slice: int
    last_slice: int
    """Numbers of the slices along the normal, from 1."""


def voxel_volumes_mm3(geometry: CTGeometry) -> Float64[np.ndarray, "depth"]:
    """Volume of the voxels of each slice.

    The thickness of a slice is half the distance between its two neighbors, at the ends the distance to the only
    neighbor. For evenly spaced slices it is the spacing; for others a single voxel volume would be wrong.
    """
    rows_mm, columns_mm = geometry.pixel_spacing_mm
    distances = geometry.distances_mm
    thickness = np.empty(len(distances))
    thickness[1:-1] = (distances[2:] - distances[:-2]) / 2
    thickness[[0, -1]] = distances[1] - distances[0], distances[-1] - distances[-2]
    return thickness * rows_mm * columns_mm


def volume_ml(mask: Shaped[np.ndarray, "depth height width"], geometry: CTGeometry) -> float:
    """Volume of a mask, bool or 0 and 1."""
    return float((mask != 0).sum(axis=(1, 2)) @ voxel_volumes_mm3(geometry)) / 1000


def measure_lesions(
    mask: Shaped[np.ndarray, "depth height width"],
    hounsfield: Int16[np.ndarray, "depth height width"],
    geometry: CTGeometry,
) -> list[Lesion]:
    """The lesions of a mask, largest volume first.

    Args:
        mask: bool or 0 and 1, on the grid of `geometry`.
        hounsfield: the CT, HU.
        geometry: of the CT.
    """
    labels = np.empty(mask.shape, np.int32)
    ndimage.label(mask, _TOUCHING, output=labels)
    volumes = voxel_volumes_mm3(geometry)
    lesions = []
    for number, box in enumerate(ndimage.find_objects(labels), 1):
        slices, rows, columns = (
            found + part.start for found, part in zip(np.nonzero(labels[box] == number), box, strict=True)
        )
        weights = volumes[slices]
        points = geometry.to_patient(np.column_stack([slices, rows, columns]).astype(np.float64))
        x, y, z = np.average(points, axis=0, weights=weights).round(2).tolist()
        lesions.append(
            Lesion(
                voxels=len(slices),
                volume_ml=round(float(weights.sum()) / 1000, 4),
                centroid_mm=(x, y, z),
                mean_hu=round(float(hounsfield[slices, rows, columns].mean()), 1),
                first_slice=int(slices.min()) + 1,
                last_slice=int(slices.max()) + 1,
            )
        )
    return sorted(lesions, key=lambda lesion: -lesion.volume_ml)
