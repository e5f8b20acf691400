"""How precise a mean over patients is, and whether two runs differ."""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import special, stats


class Interval(NamedTuple):
    """Both are NaN where there are fewer than two values."""

    low: float
    high: float


class RankTest(NamedTuple):
    """Two runs on the same patients by rank alone, where an undefined score is worse than any defined one."""

    better: int
    """Patients on which the first run is better."""
    worse: int
    equal: int
    p_value: float
    """Wilcoxon's signed-rank test, two-sided: a miss of one run is a larger difference than any other. 1 where no
    patient differs, NaN for fewer than two patients."""


class PairedTest(NamedTuple):
    """Two runs on the same patients."""

    patients: int
    """For whom the score of both is defined: the means and the first test are over them."""
    undefined: tuple[int, int]
    """Patients for whom the score of the first, and of the second, is undefined."""
    means: tuple[float, float]
    mean_difference: float
    """Of the first less the second."""
    interval: Interval
    """95%, of the mean difference."""
    p_value: float
    """Wilcoxon's signed-rank test, two-sided; 1 where no patient differs, NaN for fewer than two patients."""
    ranks: RankTest
    """Over all patients."""


def mean_interval(
    values: Float[np.ndarray, " patients"], bounds: tuple[float, float] | None = None, confidence: float = 0.95
) -> Interval:
    """Confidence interval of the mean over patients, who are few and whose scores are skewed.

    Student's t interval, with t times 1 + 1/n for scores between bounds, on the logit scale: the logit of the mean, and
    its standard error by the delta method. So it stays within the bounds and is longer towards the middle, where the
    missed patients would be. Without bounds, t times 1 + 1.5/n. With these factors the simulation in
    `tests/rdunet_jax/scoring/test_intervals.py` finds a coverage of 93% or more; Student's t alone covers 90% at 5.

    Args:
        bounds: lowest and highest possible value; None where there are none, as for distances and differences.

    Returns:
        NaN for fewer than two values. If all values are equal the interval has no width, which says nothing of how
        rare other values are.
    """
    count = len(values)
    if count < 2:
        return Interval(float("nan"), float("nan"))
    mean, error = float(values.mean()), float(values.std(ddof=1)) / math.sqrt(count)
    student = float(stats.t.ppf((1 + confidence) / 2, count - 1))
    if bounds is None:
        half = student * (1 + 1.5 / count) * error
        return Interval(mean - half, mean + half)
    low, span = bounds[0], bounds[1] - bounds[0]
    share = (mean - low) / span
    if error == 0 or not 0 < share < 1:
        return Interval(mean, mean)
    half = student * (1 + 1 / count) * error / span / (share * (1 - share))
    ends = low + span * special.expit(special.logit(share) + np.array([-half, half]))
    return Interval(*ends.tolist())


def compare(
    one: Float[np.ndarray, " patients"], other: Float[np.ndarray, " patients"], lower_is_better: bool = False
) -> PairedTest:
    """Whether the scores of two runs differ, patient by patient.

    Args:
        one: NaN where the score is undefined, which is the worst.
        other: of the same patients, in the same order.
        lower_is_better: as for distances.

    Raises:
        ValueError: the numbers of patients differ.
    """
    if one.shape != other.shape:
        raise ValueError(f"the runs have {len(one)} and {len(other)} patients; only the same patients can be compared")
    defined = np.isfinite(one) & np.isfinite(other)
    difference = (one - other)[defined]
    means = [float(side[defined].mean()) if defined.any() else float("nan") for side in (one, other)]
    return PairedTest(
        patients=int(defined.sum()),
        undefined=(int((~np.isfinite(one)).sum()), int((~np.isfinite(other)).sum())),
        means=(means[0], means[1]),
        mean_difference=means[0] - means[1],
        interval=mean_interval(difference),
        p_value=_wilcoxon(difference),
        ranks=_rank_test(-one if lower_is_better else one, -other if lower_is_better else other),
    )


def _rank_test(one: Float[np.ndarray, " patients"], other: Float[np.ndarray, " patients"]) -> RankTest:
    """Higher is better; NaN is the worst."""
    missed = ~np.isfinite(one), ~np.isfinite(other)
    difference = np.where(missed[0] | missed[1], 0.0, one - other)
    beyond = 2 * np.abs(difference).max(initial=1.0)
    difference += beyond * (missed[1].astype(float) - missed[0].astype(float))
    better, worse = int((difference > 0).sum()), int((difference < 0).sum())
    return RankTest(better, worse, len(difference) - better - worse, _wilcoxon(difference))


def _wilcoxon(difference: Float[np.ndarray, " patients"]) -> float:
    if len(difference) < 2:
        return float("nan")
    p_value: Any = stats.wilcoxon(difference)[1] if difference.any() else 1.0
    return float(p_value)
