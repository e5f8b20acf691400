"""Scores of binary masks, slice by slice (paper, section 4)."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64


@dataclass(frozen=True)
class SliceScores:
    """Every slice of one patient, scored. All arrays have one entry a slice."""

    truth_pixels: Int64[np.ndarray, " depth"]
    predicted_pixels: Int64[np.ndarray, " depth"]
    overlap_pixels: Int64[np.ndarray, " depth"]
    missing: bool = False
    """There is no prediction of this patient."""

    @property
    def both_empty(self) -> Bool[np.ndarray, " depth"]:
        """Slices with neither tumour nor prediction. Nothing that is missing counts as rightly empty."""
        return ~self.marked & (not self.missing)

    @property
    def dice(self) -> Float64[np.ndarray, " depth"]:
        """2|X∩Y| / (|X|+|Y|); 1 where both are empty, so 0 where only one is; 0 everywhere if missing."""
        total = self.truth_pixels + self.predicted_pixels
        return np.where(self.both_empty, 1.0, 2 * self.overlap_pixels / np.maximum(total, 1))

    @property
    def tumour(self) -> Bool[np.ndarray, " depth"]:
        """Slices that hold tumour in the reference contours."""
        return self.truth_pixels > 0

    @property
    def marked(self) -> Bool[np.ndarray, " depth"]:
        """Slices that hold tumour or prediction: the others only tell how much of a scan is empty."""
        return self.truth_pixels + self.predicted_pixels > 0

    @property
    def false_positive(self) -> Bool[np.ndarray, " depth"]:
        """Slices without tumour that have any predicted pixel."""
        return ~self.tumour & (self.predicted_pixels > 0)

    @property
    def false_negative(self) -> Bool[np.ndarray, " depth"]:
        """Tumour slices that the prediction does not touch."""
        return self.tumour & (self.overlap_pixels == 0)


def score_slices(
    prediction: Bool[np.ndarray, "depth height width"] | None, truth: Bool[np.ndarray, "depth height width"]
) -> SliceScores:
    """Compares a predicted mask with the truth; None is a prediction that is missing, and fails on every slice.

    Raises:
        ValueError: the shapes differ.
    """
    missing = prediction is None
    if prediction is None:
        prediction = np.zeros_like(truth)
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {prediction.shape} and truth {truth.shape} differ in shape")

    def pixels(mask: np.ndarray) -> np.ndarray:
        return mask.sum(axis=(1, 2), dtype=np.int64)

    return SliceScores(pixels(truth), pixels(prediction), pixels(prediction & truth), missing)


def summarise(scores: list[SliceScores]) -> dict[str, float | int | None]:
    """Scores pooled over the slices of all patients; a mean over no slice at all is None."""
    dice = np.concatenate([s.dice for s in scores]) if scores else np.zeros(0)
    tumour = np.concatenate([s.tumour for s in scores]) if scores else np.zeros(0, bool)
    marked = np.concatenate([s.marked for s in scores]) if scores else np.zeros(0, bool)

    def mean(values: np.ndarray) -> float | None:
        return float(values.mean()) if len(values) else None

    def median(values: np.ndarray) -> float | None:
        return float(np.median(values)) if len(values) else None

    return {
        "patients": len(scores),
        "missing_patients": sum(s.missing for s in scores),
        "slices": len(dice),
        "tumour_slices": int(tumour.sum()),
        "both_empty_slices": sum(int(s.both_empty.sum()) for s in scores),
        "mean_dice_tumour_slices": mean(dice[tumour]),
        "median_dice_tumour_slices": median(dice[tumour]),
        "mean_dice_marked_slices": mean(dice[marked]),
        "mean_dice_all_slices": mean(dice),
        "median_dice_all_slices": median(dice),
        "false_positive_slices": sum(int(s.false_positive.sum()) for s in scores),
        "false_negative_slices": sum(int(s.false_negative.sum()) for s in scores),
    }
