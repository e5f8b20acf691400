"""Protocols of scoring by name.

`paper` (section 4): every slice; dilation by a disk; mean Dice over the tumour slices, and over all slices, where two
empty masks score 1.

`authors_code` (its public code): without the first and last 20% of the slices, rounded down; dilation by a full square;
mean Dice over patients, each the mean over its slices whose Dice is neither 0 nor 1; surface distances in plane, in mm,
over the slices where both masks hold something.

Under `authors_code` a patient without such a slice, for which that code gives no number, has the mean over its tumour
slices. A patient with no tumour slice either, such as one with false positives only, has no Dice: it is left out of the
mean over patients. Both kinds are counted. A prediction that is missing (None) fails: Dice 0 on every slice, every
tumour slice a false negative. Such patients are counted, and so are the slices where both masks are empty. Both
protocols count false positive and false negative slices alike; both score masks on the CT's own grid (512 x 512 pixels
in NSCLC-Radiomics). Scores in 3-D are in `rdunet_jax.scoring.patients`.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from rdunet_jax.config import Protocol
from rdunet_jax.scoring.patients import Mask, Summary, mean
from rdunet_jax.scoring.slices import SliceScores, score_slices, summarise
from rdunet_jax.scoring.surface import SurfaceDistances, surface_distances

OUTER_SHARE = 0.2


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
    every = [patient_dice(patient.slices) for patient in scores]
    dice = np.array([one for one in every if one is not None])
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
        "mean_patient_dice": mean(dice),
        "median_patient_dice": float(np.median(dice)) if len(dice) else None,
        "patients_without_dice": len(every) - len(dice),
        "patients_without_partial_dice": sum(not _partial(patient.slices).any() for patient in scores),
        "mean_surface_distance_mm": mean(np.array([surface.mean_mm for surface in surfaces])),
        "mean_hd95_mm": mean(np.array([surface.hd95_mm for surface in surfaces])),
        "slices_with_surface_distance": len(surfaces),
    }


def patient_dice(scores: SliceScores) -> float | None:
    """The `authors_code` protocol's mean Dice of a patient.

    None where it is a mean over nothing: no slice has a Dice between 0 and 1, and none holds tumour. 0 for a missing
    prediction.
    """
    partial = _partial(scores)
    chosen = scores.dice[partial if partial.any() else scores.tumour]
    return float(chosen.mean()) if len(chosen) else (0.0 if scores.missing else None)


def _partial(scores: SliceScores) -> Bool[np.ndarray, " depth"]:
    return (scores.dice > 0) & (scores.dice < 1)
