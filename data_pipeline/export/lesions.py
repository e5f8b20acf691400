"""Volume, position, diameters and intensity of the lesions in a mask."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int16, Shaped
from scipy import ndimage

from data_pipeline.dicom.geometry import CTGeometry
from data_pipeline.export.diameters import measure_diameters

_TOUCHING = np.ones((3, 3, 3), bool)


@dataclass(frozen=True)
class Lesion:
    """A connected component of a mask: voxels that share a face, an edge or a corner."""

    voxels: int
    volume_ml: float
    centroid_mm: tuple[float, float, float]
    """x, y, z in DICOM patient coordinates (LPS, PS3.3 C.7.6.2.1.1); voxels are weighted by their volume."""
    longest_diameter_mm: float
    """Longest diameter in the plane of a slice, as RECIST measures it; see `diameters.measure_diameters`."""
    perpendicular_diameter_mm: float
    """The longest diameter perpendicular to it, on the same slice."""
    diameter_slice: int
    """The slice on which both are measured."""
    mean_hu: float
    first_slice: int
    last_slice: int
    """Numbers of the slices along the normal, from 1."""


@dataclass(frozen=True)
class Component:
    """Where a lesion is.

    Attributes:
        box: the slices, rows and columns that it covers.
        mask: its voxels in the box.
    """

    box: tuple[slice, slice, slice]
    mask: Bool[np.ndarray, "depth height width"]


def slice_thickness_mm(geometry: CTGeometry) -> Float64[np.ndarray, "depth"]:
    """Thickness of each slice: half the distance between its two neighbours, at the ends the distance to the only one.

    For evenly spaced slices it is the spacing; for others a single value would be wrong.
    """
    distances = geometry.distances_mm
    thickness = np.empty(len(distances))
    thickness[1:-1] = (distances[2:] - distances[:-2]) / 2
    thickness[[0, -1]] = distances[1] - distances[0], distances[-1] - distances[-2]
    return thickness


def voxel_volumes_mm3(geometry: CTGeometry) -> Float64[np.ndarray, "depth"]:
    """Volume of the voxels of each slice, of the slice's own thickness."""
    rows_mm, columns_mm = geometry.pixel_spacing_mm
    return slice_thickness_mm(geometry) * rows_mm * columns_mm


def volume_ml(mask: Shaped[np.ndarray, "depth height width"], geometry: CTGeometry) -> float:
    """Volume in ml of a mask, bool or 0 and 1, on the grid of `geometry`."""
    return float((mask != 0).sum(axis=(1, 2)) @ voxel_volumes_mm3(geometry)) / 1000


def find_lesions(mask: Shaped[np.ndarray, "depth height width"], geometry: CTGeometry) -> list[Component]:
    """The connected components of a mask, bool or 0 and 1, largest volume first."""
    labels = np.empty(mask.shape, np.int32)
    ndimage.label(mask, _TOUCHING, output=labels)
    components = [Component(box, labels[box] == number) for number, box in enumerate(ndimage.find_objects(labels), 1)]
    volumes = voxel_volumes_mm3(geometry)
    return sorted(components, key=lambda one: -float(one.mask.sum(axis=(1, 2)) @ volumes[one.box[0]]))


def measure_lesions(
    mask: Shaped[np.ndarray, "depth height width"],
    hounsfield: Int16[np.ndarray, "depth height width"],
    geometry: CTGeometry,
) -> list[Lesion]:
    """The lesions of a mask, in the order of `find_lesions`.

    Args:
        mask: bool or 0 and 1, on the grid of `geometry`.
        hounsfield: the CT, HU.
        geometry: of the CT.
    """
    return [measure_lesion(one, hounsfield, geometry) for one in find_lesions(mask, geometry)]


def measure_lesion(
    component: Component, hounsfield: Int16[np.ndarray, "depth height width"], geometry: CTGeometry
) -> Lesion:
    """The measures of one lesion."""
    slices, rows, columns = component.box
    counts = component.mask.sum(axis=(1, 2))
    holding = np.flatnonzero(counts)
    weights = counts * voxel_volumes_mm3(geometry)[slices]
    # Where a point is depends linearly on row and column, so a slice's mean index is at the mean of its points.
    middles = [np.argwhere(component.mask[index]).mean(axis=0) for index in holding]
    index = np.column_stack([holding, middles]) + np.array([slices.start, rows.start, columns.start])
    x, y, z = np.average(geometry.to_patient(index), axis=0, weights=weights[holding]).round(2).tolist()
    diameters = measure_diameters(component.mask, geometry.pixel_spacing_mm)
    return Lesion(
        voxels=int(counts.sum()),
        volume_ml=round(float(weights.sum()) / 1000, 4),
        centroid_mm=(x, y, z),
        longest_diameter_mm=round(diameters.longest_mm, 2),
        perpendicular_diameter_mm=round(diameters.perpendicular_mm, 2),
        diameter_slice=slices.start + diameters.slice_index + 1,
        mean_hu=round(float(hounsfield[component.box][component.mask].mean()), 1),
        first_slice=slices.start + 1,
        last_slice=slices.stop,
    )
