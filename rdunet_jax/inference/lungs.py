"""The lungs in a CT, from Hounsfield units and morphology alone: no network.

The steps, on the network's grid:

1. Voxels below -400 HU, midway between aerated lung (-850) and soft tissue (50).
2. Without the air around the body: regions of a slice that touch its border and are mostly below -950 HU. Done slice by
   slice, since the airways join that air to the lungs where the mouth or a tracheostomy is in the image.
3. Of the 3-D components (by faces), those of at least 10 ml that are not mostly below -950 HU (bowel gas, air between
   the arms), and most of whose surface is in the largest component of tissue (not in the couch, whose foam is as light
   as lung).

`near_lungs` adds what belongs to the lungs or touches them.
"""

import numpy as np
from jaxtyping import Bool, Float, Float64, Int16
from scipy import ndimage

from data_pipeline.preprocessing.network_grid import place_on_canvas
from data_pipeline.settings import plane_shape
from rdunet_jax.config import ImageSize

LUNG_BELOW_HU = -400
PURE_AIR_HU = -950
SMALLEST_LUNG_ML = 10.0
CLOSING_MM = 20.0
"""Radius of the closing: it takes in the hilum, and most of a mass on the chest wall or the mediastinum, of which a
network may find the core alone."""
_NEIGHBOURS = np.ones((3, 3, 3), bool)
# Air by faces alone: it must not leak through the corners of a thin chest wall on a coarse grid.
_FACES = ndimage.generate_binary_structure(3, 1)
_FACES_IN_PLANE = _FACES & np.array([False, True, False])[:, np.newaxis, np.newaxis]

Volume = Bool[np.ndarray, "depth rows columns"]


def find_lungs(
    hounsfield: Int16[np.ndarray, "depth rows columns"],
    inside: tuple[slice, slice],
    slice_mm: Float[np.ndarray, " depth"],
    pixel_mm: tuple[float, float],
) -> Volume:
    """The lungs of a CT on the network's grid; all False where none are found.

    The lungs of a CT that is cropped inside the body are found too.

    Args:
        hounsfield: HU on the network's grid.
        inside: rows and columns of the grid that the CT fills.
        slice_mm: thickness of each slice.
        pixel_mm: distance between rows and between columns of the network's grid.
    """
    rows, columns = inside
    ct = hounsfield[:, rows, columns]
    light, pure = ct < LUNG_BELOW_HU, ct < PURE_AIR_HU
    lungs = np.zeros(hounsfield.shape, bool)
    if not ct.size:  # a CT smaller than a pixel of the network's grid
        return lungs
    lungs[:, rows, columns] = _enclosed(light & ~_around_body(light, pure), pure, slice_mm * pixel_mm[0] * pixel_mm[1])
    return lungs


def near_lungs(lungs: Volume, pixel_mm: tuple[float, float]) -> Volume:
    """The lungs, closed and filled in each slice, and the voxels that touch them.

    The closing is by a disk of `CLOSING_MM`, slice by slice; a hole is what is then enclosed in a slice, such as a
    tumour in the lung. A voxel touches a region if they share a face, an edge or a corner (26-neighbourhood).
    """
    closed = np.zeros_like(lungs)
    for index in np.flatnonzero(lungs.any(axis=(1, 2))):
        grown = _distances(~lungs[index], pixel_mm) <= CLOSING_MM
        if not grown.all():
            grown = _distances(grown, pixel_mm) > CLOSING_MM
        closed[index] = ndimage.binary_fill_holes(grown | lungs[index])
    return ndimage.binary_dilation(closed, _NEIGHBOURS)


def _distances(
    inside: Bool[np.ndarray, "rows columns"], pixel_mm: tuple[float, float]
) -> Float64[np.ndarray, "rows columns"]:
    """Distance in mm of each pixel inside to the nearest one that is not."""
    distances = ndimage.distance_transform_edt(inside, pixel_mm)
    assert isinstance(distances, np.ndarray)  # as it is without indices
    return distances


def filled_part(height: int, width: int, image_size: ImageSize) -> tuple[slice, slice]:
    """Rows and columns of the network's grid that a CT fills wholly."""
    side, top, left = place_on_canvas(height, width)
    places = zip((top, left), (height, width), plane_shape(image_size), strict=True)
    rows, columns = (
        slice(int(np.ceil(start * (extent / side))), int((start + length) * (extent / side)))
        for start, length, extent in places
    )
    return rows, columns


def _around_body(light: Volume, pure: Volume) -> Volume:
    """Regions of a slice that touch its border and are mostly pure air."""
    labels, count = _label(light, _FACES_IN_PLANE)
    border = np.zeros(count + 1, bool)
    for edge in (labels[:, [0, -1]], labels[:, :, [0, -1]]):
        border[np.unique(edge)] = True
    return (border & _mostly(labels, count, pure))[labels] & light


def _enclosed(light: Volume, pure: Volume, voxel_mm3: Float[np.ndarray, " depth"]) -> Volume:
    """The components that are lungs by volume, density and surroundings."""
    labels, count = _label(light, _FACES)
    tissue, parts = _label(~light, _NEIGHBOURS)
    if not (count and parts):
        return np.zeros_like(light)
    body = tissue == 1 + np.bincount(tissue.ravel())[1:].argmax()
    per_slice = [np.bincount(plane.ravel(), minlength=count + 1) for plane in labels]
    is_lung = np.tensordot(voxel_mm3, per_slice, 1) >= SMALLEST_LUNG_ML * 1000
    is_lung &= ~_mostly(labels, count, pure)
    is_lung[0] = False
    boxes = ndimage.find_objects(labels)
    for number in np.flatnonzero(is_lung):
        box = tuple(slice(max(side.start - 1, 0), side.stop + 1) for side in boxes[number - 1])
        own = labels[box] == number
        surface = ndimage.binary_dilation(own, _NEIGHBOURS) & ~own
        is_lung[number] = body[box][surface].mean() > 0.5 if surface.any() else False
    return is_lung[labels]


def _label(mask: Volume, neighbours: Bool[np.ndarray, "3 3 3"]) -> tuple[np.ndarray, int]:
    labels = np.empty(mask.shape, np.int32)
    count = ndimage.label(mask, neighbours, output=labels)
    assert isinstance(count, int)  # as it is with an output given
    return labels, count


def _mostly(labels: np.ndarray, count: int, what: Volume) -> Bool[np.ndarray, " labels"]:
    """Whether more than half of the voxels of each label, 0 included, are `what`."""
    voxels = np.bincount(labels.ravel(), minlength=count + 1)
    return 2 * np.bincount(labels[what], minlength=count + 1) > voxels
