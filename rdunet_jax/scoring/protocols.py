"""Protocols of scoring by name.

`paper` (section 4): every slice; dilation by a disk; mean Dice over the tumour slices, and over all slices, where two
empty masks score 1.

`authors_code` (its public code): without the first and last 20% of the slices, rounded down; dilation by a full square;
mean Dice over patients, each the mean over its slices whose Dice is neither 0 nor 1; surface distances in plane, in mm,
over the slices where both masks hold something.

Under `authors_code` a patient without such a slice, which its code leaves undefined, has the mean over its tumour
slices, and is counted. A prediction that is missing (None) fails: Dice 0 on every slice and in 3-D, every tumour slice
a false negative, every lesion missed. Such patients are counted, and so are the slices where both masks are empty. Both
protocols count false positive and false negative slices alike; both score masks on the CT's own grid (512 x 512 pixels
in NSCLC-Radiomics). Beside them stand each patient's scores in 3-D, of all its slices: see `PatientScores`.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from rdunet_jax.config import Protocol
from rdunet_jax.scoring.lesions import LesionScores, score_lesions
from rdunet_jax.scoring.slices import SliceScores, score_slices, summarise
from rdunet_jax.scoring.surface import SurfaceDistances, surface_distances

Mask = Bool[np.ndarray, "depth height width"]
Summary = dict[str, float | int | None]
OUTER_SHARE = 0.2


@dataclass(frozen=True)
class PatientScores:
    """One patient as a whole. Dice and IoU are 1 if both masks are empty, 0 if only one is or none was predicted."""

    voxels_truth: int
    voxels_predicted: int
    voxels_overlap: int
    voxel_mm3: float
    surface: SurfaceDistances
    lesions: LesionScores
    missing: bool = False
    """There is no prediction of this patient."""

    @property
    def dice(self) -> float:
        total = self.voxels_truth + self.voxels_predicted
        return 2 * self.voxels_overlap / total if total else float(not self.missing)

    @property
    def iou(self) -> float:
        union = self.voxels_truth + self.voxels_predicted - self.voxels_overlap
        return self.voxels_overlap / union if union else float(not self.missing)

    @property
    def volume_error_mm3(self) -> float:
        """Predicted less true volume."""
        return (self.voxels_predicted - self.voxels_truth) * self.voxel_mm3

    def row(self) -> Summary:
        """For a table."""
        truth_mm3 = self.voxels_truth * self.voxel_mm3
        return {
            "missing": int(self.missing),
            "dice": self.dice,
            "iou": self.iou,
            "mean_surface_distance_mm": _defined(self.surface.mean_mm),
            "hd95_mm": _defined(self.surface.hd95_mm),
            "truth_mm3": truth_mm3,
            "volume_error_mm3": self.volume_error_mm3,
            "volume_error_percent": 100 * self.volume_error_mm3 / truth_mm3 if truth_mm3 else None,
            "lesions": len(self.lesions.dice),
            "lesions_missed": self.lesions.false_negative_lesions,
            "lesions_false_positive": self.lesions.false_positive_lesions,
            "mean_lesion_dice": _mean(self.lesions.dice),
        }


def score_patient(prediction: Mask | None, truth: Mask, spacing_mm: tuple[float, float, float]) -> PatientScores:
    """Scores a patient in 3-D.

    Args:
        prediction: None if it is missing.
        spacing_mm: between slices, rows and columns.

    Raises:
        ValueError: the shapes differ.
    """
    missing = prediction is None
    if prediction is None:
        prediction = np.zeros_like(truth)
    lesions = score_lesions(prediction, truth)
    return PatientScores(
        voxels_truth=int(truth.sum()),
        voxels_predicted=int(prediction.sum()),
        voxels_overlap=int((prediction & truth).sum()),
        voxel_mm3=float(np.prod(spacing_mm)),
        surface=surface_distances(prediction, truth, spacing_mm),
        lesions=lesions,
        missing=missing,
    )


@dataclass(frozen=True)
class ProtocolScores:
    """The slices of one patient that a protocol looks at."""

    first: int
    """Number of the first of them in the CT."""
    slices: SliceScores
    surfaces: list[SurfaceDistances]
    """Of every slice under `authors_code`; else, or without a prediction, empty."""


def score_protocol(
    prediction: Mask | None, truth: Mask, spacing_mm: tuple[float, float, float], protocol: Protocol
) -> ProtocolScores:
    """Scores a patient's slices by a protocol; the prediction is already dilated by its kernel, None if it is missing.

    Raises:
        ValueError: the shapes differ.
    """
    if protocol == "paper":
        return ProtocolScores(0, score_slices(prediction, truth), [])
    first = int(OUTER_SHARE * len(truth))
    inner = slice(first, len(truth) - first)
    if prediction is None:
        return ProtocolScores(first, score_slices(None, truth[inner]), [])
    scores = score_slices(prediction[inner], truth[inner])
    pairs = zip(prediction[inner], truth[inner], strict=True)
    return ProtocolScores(first, scores, [surface_distances(p, t, spacing_mm[1:]) for p, t in pairs])


def summarise_protocol(scores: list[ProtocolScores], protocol: Protocol) -> Summary:
    """One line for all patients; a mean over nothing is None."""
    summary = summarise([patient.slices for patient in scores])
    if protocol == "paper":
        return summary
    dice = np.array([patient_dice(patient.slices) for patient in scores])
    surfaces = [surface for patient in scores for surface in patient.surfaces if np.isfinite(surface.mean_mm)]
    counted = (
        "patients",
        "missing_patients",
        "slices",
        "tumour_slices",
        "both_empty_slices",
        "false_positive_slices",
        "false_negative_slices",
    )
    return {
        **{name: summary[name] for name in counted},
        "mean_patient_dice": _mean(dice),
        "median_patient_dice": float(np.median(dice)) if len(dice) else None,
        "patients_without_partial_dice": sum(not _partial(patient.slices).any() for patient in scores),
        "mean_surface_distance_mm": _mean(np.array([surface.mean_mm for surface in surfaces])),
        "mean_hd95_mm": _mean(np.array([surface.hd95_mm for surface in surfaces])),
        "slices_with_surface_distance": len(surfaces),
    }


def patient_dice(scores: SliceScores) -> float:
    """The `authors_code` protocol's mean Dice of a patient; 1 where it has neither a partial nor a tumour slice."""
    partial = _partial(scores)
    chosen = scores.dice[partial if partial.any() else scores.tumour]
    return float(chosen.mean()) if len(chosen) else float(not scores.missing)


def _partial(scores: SliceScores) -> Bool[np.ndarray, " depth"]:
    return (scores.dice > 0) & (scores.dice < 1)


def _mean(values: Float64[np.ndarray, " n"]) -> float | None:
    return float(values.mean()) if len(values) else None


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else value
