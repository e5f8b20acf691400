"""Lesion by lesion: connected components in 3-D.

Voxels that touch by a face, an edge or a corner are one lesion. A lesion of the truth is found if any predicted voxel
overlaps it. Its Dice compares it with all predicted lesions that touch it, together; a missed lesion has Dice 0.
A predicted lesion that overlaps no truth is a false positive.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy import ndimage

_TOUCHING = np.ones((3, 3, 3), bool)


@dataclass(frozen=True)
class LesionScores:
    """Every lesion of one patient's truth, in scan order, and the predicted ones that hit none."""

    dice: Float64[np.ndarray, " lesions"]
    voxels: Int64[np.ndarray, " lesions"]
    """Size of each lesion of the truth."""
    found: Bool[np.ndarray, " lesions"]
    false_positive_lesions: int

    @property
    def false_negative_lesions(self) -> int:
        return int((~self.found).sum())


def score_lesions(
    prediction: Bool[np.ndarray, "depth height width"], truth: Bool[np.ndarray, "depth height width"]
) -> LesionScores:
    """Compares the lesions of a predicted mask with those of the truth.

    Raises:
        ValueError: the shapes differ.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {prediction.shape} and truth {truth.shape} differ in shape")
    true_labels, true_count = _label(truth)
    labels, count = _label(prediction)
    both = prediction & truth
    # overlap[i, j]: voxels that lesion i of the truth and predicted lesion j share
    overlap = np.zeros((true_count, count), np.int64)
    np.add.at(overlap, (true_labels[both] - 1, labels[both] - 1), 1)
    voxels = np.bincount(true_labels[truth] - 1, minlength=true_count)
    predicted = np.bincount(labels[prediction] - 1, minlength=count)
    shared = overlap.sum(axis=1)
    dice = 2 * shared / (voxels + (overlap > 0) @ predicted)
    return LesionScores(dice, voxels, shared > 0, int((overlap.sum(axis=0) == 0).sum()))


def _label(mask: Bool[np.ndarray, "depth height width"]) -> tuple[np.ndarray, int]:
    """Lesions numbered from 1, and how many."""
    labels = np.empty(mask.shape, np.int32)
    count = ndimage.label(mask, _TOUCHING, output=labels)
    assert isinstance(count, int)  # as it is with an output given
    return labels, count
