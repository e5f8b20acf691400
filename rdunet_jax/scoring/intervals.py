"""How sure a mean over patients is, and whether two runs differ."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

RESAMPLES = 10_000


class Interval(NamedTuple):
    low: float
    high: float


class PairedTest(NamedTuple):
    """Two runs on the same patients."""

    mean_difference: float
    """Of the first less the second."""
    interval: Interval
    """95%, of the mean difference."""
    p_value: float
    """Wilcoxon's signed-rank test, two-sided; 1 where no patient differs."""


def mean_interval(values: Float[np.ndarray, " patients"], confidence: float = 0.95) -> Interval:
    """Percentile bootstrap interval of the mean over patients (Efron 1979), with a fixed seed.

    Patients are resampled, not slices: slices of one patient are not independent. Of fewer than two patients it is NaN.
    """
    if len(values) < 2:
        return Interval(float("nan"), float("nan"))
    result = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return Interval(float(result.confidence_interval.low), float(result.confidence_interval.high))


def compare(one: Float[np.ndarray, " patients"], other: Float[np.ndarray, " patients"]) -> PairedTest:
    """Whether the scores of two runs differ, patient by patient.

    Raises:
        ValueError: the numbers of patients differ.
    """
    if one.shape != other.shape:
        raise ValueError(f"the runs have {len(one)} and {len(other)} patients; only the same patients can be compared")
    difference = one - other
    p_value: Any = stats.wilcoxon(difference)[1] if difference.any() else 1.0
    return PairedTest(float(difference.mean()), mean_interval(difference), float(p_value))
