"""Mean surface distance and 95% Hausdorff distance in mm, by the definition of DeepMind's `surface-distance`.

A surface is between the voxels: wherever a neighbourhood of 2x2 pixels (2x2x2 voxels) is neither empty nor full there
is a surface element, weighed by the length (area) that marching squares (cubes) gives it. The tables of weights are the
package's. Its distances are computed here, because release 0.1 breaks on NumPy 2 where a mask is empty and calls
deprecated names of SciPy.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool
from scipy import ndimage
from surface_distance import lookup_tables


class SurfaceDistances(NamedTuple):
    """Both are NaN, undefined, if a mask is empty: it has no surface."""

    mean_mm: float
    """Mean of the two directed means: truth to prediction, and prediction to truth."""
    hd95_mm: float
    """Larger of the two directed 95th percentiles."""


def surface_distances(
    prediction: Bool[np.ndarray, "..."], truth: Bool[np.ndarray, "..."], spacing_mm: tuple[float, ...]
) -> SurfaceDistances:
    """Distances between the surfaces of two masks.

    Args:
        prediction: (height, width) or (depth, height, width).
        truth: same shape.
        spacing_mm: between neighbours along each axis.

    Raises:
        ValueError: shapes and spacing do not go together.
    """
    if prediction.shape != truth.shape or len(spacing_mm) != truth.ndim or truth.ndim not in (2, 3):
        raise ValueError(f"prediction {prediction.shape}, truth {truth.shape} and spacing {spacing_mm} do not match")
    if not prediction.any() or not truth.any():
        return SurfaceDistances(float("nan"), float("nan"))
    box = ndimage.find_objects((prediction | truth).astype(np.int8))[0]
    codes = [_neighbour_codes(mask[box]) for mask in (prediction, truth)]
    table = _weights(spacing_mm)
    borders = [(code > 0) & (code < len(table) - 1) for code in codes]
    means, percentiles = [], []
    for own, other, code in zip(borders, borders[::-1], codes, strict=True):
        distances = ndimage.distance_transform_edt(~other, sampling=spacing_mm)[own]  # type: ignore[index]
        weights = table[code[own]]
        order = np.lexsort((weights, distances))  # the package's order, so that equal distances fall alike
        distances, weights = distances[order], weights[order]
        means.append(np.sum(distances * weights) / np.sum(weights))
        index = np.searchsorted(np.cumsum(weights) / np.sum(weights), 0.95)
        percentiles.append(distances[min(index, len(distances) - 1)])
    return SurfaceDistances(float(np.mean(means)), float(max(percentiles)))


def _neighbour_codes(mask: Bool[np.ndarray, "..."]) -> np.ndarray:
    """Which of the 4 or 8 pixels around every corner of the grid are set, one bit each."""
    kernel = (
        lookup_tables.ENCODE_NEIGHBOURHOOD_2D_KERNEL if mask.ndim == 2 else lookup_tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL
    )
    return ndimage.correlate(np.pad(mask, (0, 1)).astype(np.uint8), kernel, mode="constant")


def _weights(spacing_mm: tuple[float, ...]) -> np.ndarray:
    """Length in mm, or area in mm2, of the surface element of every neighbour code."""
    if len(spacing_mm) == 2:
        return lookup_tables.create_table_neighbour_code_to_contour_length(spacing_mm)
    return lookup_tables.create_table_neighbour_code_to_surface_area(spacing_mm)
