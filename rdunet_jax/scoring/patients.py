"""Scores of whole patients in 3-D: overlap, volume, surface distances and lesions, on the CT's own grid."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from rdunet_jax.scoring.intervals import mean_interval
from rdunet_jax.scoring.lesions import LesionScores, score_lesions
from rdunet_jax.scoring.surface import SurfaceDistances, surface_distances

Mask = Bool[np.ndarray, "depth height width"]
Summary = dict[str, float | int | None]


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
            "mean_lesion_dice": mean(self.lesions.dice),
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


def summarise_patients(patients: Sequence[PatientScores]) -> Summary:
    """`summarise_rows` of the patients' scores."""
    return summarise_rows([patient.row() for patient in patients])


def summarise_rows(rows: Sequence[Summary]) -> Summary:
    """Means over patients, each scored as a whole, with a 95% interval of the Dice.

    A patient whose tumour was missed has no surface distance, so it is not in the means of distances: a network that
    misses tumours would look better. The medians of distances are over all patients with a tumour, where a miss is
    farther than any distance; a median that is a miss itself is None.

    Args:
        rows: a row of `PatientScores.row` for each patient.
    """
    summary: Summary = {}
    for name in ("dice", "iou", "mean_surface_distance_mm", "hd95_mm", "volume_error_mm3"):
        defined = np.array([value for row in rows if (value := row[name]) is not None], float)
        summary[f"mean_volumetric_{name}"] = mean(defined)
    interval = mean_interval(np.array([row["dice"] for row in rows], float), bounds=(0, 1))
    summary["mean_volumetric_dice_low"], summary["mean_volumetric_dice_high"] = map(_defined, interval)
    summary["patients_without_surface_distance"] = sum(row["hd95_mm"] is None for row in rows)
    for name in ("mean_surface_distance_mm", "hd95_mm"):
        ranked = [row[name] for row in rows if row["truth_mm3"]]
        summary[f"median_volumetric_{name}"] = _median(np.array([np.inf if x is None else x for x in ranked], float))
    for name in ("lesions", "lesions_missed", "lesions_false_positive"):
        summary[name] = sum(int(row[name] or 0) for row in rows)
    return summary


def mean(values: Float64[np.ndarray, " n"]) -> float | None:
    """A mean over nothing is None."""
    return float(values.mean()) if len(values) else None


def _median(values: Float64[np.ndarray, " n"]) -> float | None:
    """None where there is none, or where it is infinite."""
    median = np.median(values) if len(values) else np.inf
    return float(median) if np.isfinite(median) else None


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else value
