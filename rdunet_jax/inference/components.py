"""The connected components of a mask, and which of them post-processing keeps.

Voxels that share a face, an edge or a corner belong to one component (26-neighbourhood), as the lesions of the scores
and reports do.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64
from scipy import ndimage

from rdunet_jax.config import PostprocessingConfig

Mask = Bool[np.ndarray, "depth height width"]
_NEIGHBOURS = np.ones((3, 3, 3), bool)


def fill_holes(mask: Mask) -> Mask:
    """Each slice with its holes filled: background that 4-neighbours in the slice do not join to its border.

    Slice by slice (2-D), because contours are drawn so: the outline in a slice encloses a cavity, also where the cavity
    is open to the slice above. What is enclosed in 3-D is enclosed in each of its slices, and so is filled too.
    """
    filled = mask.copy()
    for index in np.flatnonzero(mask.any(axis=(1, 2))):
        ((rows, columns),) = ndimage.find_objects(mask[index].astype(np.int8))
        filled[index, rows, columns] = ndimage.binary_fill_holes(mask[index, rows, columns])
    return filled


@dataclass(frozen=True, eq=False)
class Components:
    """The components of a mask.

    Attributes:
        labels: number of the component of each voxel, from 1; 0 outside of the mask.
        volumes_ml: of each component.
        near_lungs: whether each component holds a voxel that is in the lungs or touches them; None if that is unknown.
    """

    labels: Int32[np.ndarray, "depth height width"]
    volumes_ml: Float64[np.ndarray, " components"]
    near_lungs: Bool[np.ndarray, " components"] | None = None

    @classmethod
    def of(cls, mask: Mask, voxel_mm3: Float64[np.ndarray, " depth"], near_lungs: Mask | None = None) -> "Components":
        """Labels the components of a mask.

        Args:
            voxel_mm3: volume of the voxels of each slice: slices may be unevenly spaced.
            near_lungs: voxels in the lungs or touching them.
        """
        labels = np.empty(mask.shape, np.int32)
        count = ndimage.label(mask, _NEIGHBOURS, output=labels)
        assert isinstance(count, int)  # as it is with an output given
        touching = None
        if near_lungs is not None:
            touching = np.zeros(count, bool)
            touching[np.unique(labels[near_lungs & mask]) - 1] = True
        return cls(labels, voxel_mm3 @ count_per_slice(labels, count) / 1000, touching)

    def kept(self, postprocessing: PostprocessingConfig) -> Bool[np.ndarray, " components"]:
        """Which components stay: first those near the lungs, of them those that are large enough, of them the largest.

        The largest is taken last, so that it is not one that the other rules remove. Of equals it is the first.
        """
        keep = np.ones(len(self.volumes_ml), bool)
        if postprocessing.lungs_only and self.near_lungs is not None:
            keep &= self.near_lungs
        keep &= self.volumes_ml >= postprocessing.min_component_ml
        if postprocessing.largest_component and keep.any():
            largest = np.where(keep, self.volumes_ml, 0).argmax()
            keep = np.arange(len(keep)) == largest
        return keep

    def mask(self, keep: Bool[np.ndarray, " components"]) -> Mask:
        """The mask of some of the components."""
        return np.concatenate([[False], keep])[self.labels]


def count_per_slice(
    labels: Int32[np.ndarray, "depth height width"], count: int, where: Mask | None = None
) -> Int64[np.ndarray, "depth components"]:
    """Voxels of each component in each slice, all or those `where` a mask is True."""
    inside = [plane.ravel() if where is None else plane[where[index]] for index, plane in enumerate(labels)]
    counts = [np.bincount(numbers, minlength=count + 1)[1:] for numbers in inside]
    return np.array(counts, np.int64).reshape(len(labels), count)
