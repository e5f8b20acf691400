"""Intervals of a mean by simulation, and paired tests against SciPy and by hand."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from rdunet_jax.scoring.intervals import compare, mean_interval

NAN = float("nan")
Draw = Callable[[np.random.Generator, int], np.ndarray]
DISTRIBUTIONS: dict[str, tuple[Draw, float]] = {
    "beta(4, 2)": (lambda rng, n: rng.beta(4, 2, n), 4 / 6),
    "15% missed": (lambda rng, n: np.where(rng.random(n) < 0.15, 0, rng.beta(4, 2, n)), 0.85 * 4 / 6),
    "beta(9, 1)": (lambda rng, n: rng.beta(9, 1, n), 0.9),
}
"""How Dice may be distributed over patients, with its mean."""


@pytest.mark.slow
@pytest.mark.parametrize("patients", [5, 8, 20, 40])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_95_percent_interval_contains_the_mean_in_93_of_100_studies_or_more(name: str, patients: int) -> None:
    """3,000 studies place a coverage of 94% to 0.4%, so that 93% is more than two standard errors below it."""
    draw, mean = DISTRIBUTIONS[name]
    rng = np.random.default_rng(0)
    intervals = [mean_interval(draw(rng, patients), bounds=(0, 1), resamples=1000) for _ in range(3000)]
    covered = np.mean([one.low <= mean <= one.high for one in intervals])
    width = np.mean([one.high - one.low for one in intervals])
    print(f"{name}, {patients} patients: {100 * covered:.1f}% covered, mean width {width:.2f}")
    assert covered >= 0.93


def test_the_interval_of_many_patients_is_the_normal_one() -> None:
    values = np.random.default_rng(0).normal(0.7, 0.1, 400)
    half = stats.norm.ppf(0.975) * values.std() / np.sqrt(400)
    # 5%: 10,000 resamples place a 2.5% quantile to some 2%, and the wider of two intervals is taken
    np.testing.assert_allclose(mean_interval(values) - values.mean(), (-half, half), rtol=0.05)


def test_the_interval_is_at_least_students_and_within_its_bounds() -> None:
    values = np.array([0.9, 0.95, 0.99, 0.4, 0.97])
    student = stats.t.interval(0.95, 4, values.mean(), stats.sem(values))
    low, high = mean_interval(values)
    assert low <= student[0] and high >= student[1] > 1
    assert mean_interval(values, bounds=(0, 1)) == (max(low, 0), 1)
    assert mean_interval(np.full(5, 0.8)) == pytest.approx((0.8, 0.8))
    assert np.isnan(mean_interval(values[:1])).all() and np.isnan(mean_interval(values[:0])).all()


def test_a_paired_comparison_is_the_exact_signed_rank_test(unchecked_shapes) -> None:
    one, other = np.array([0.9, 0.8, 0.7, 0.6, 0.55]), np.array([0.8, 0.6, 0.4, 0.2, 0.05])
    result = compare(one, other)
    assert result.mean_difference == pytest.approx(0.3)
    assert result.p_value == result.ranks.p_value == pytest.approx(2 / 2**5)  # all five differences have one sign
    assert result.interval.low > 0
    assert compare(one, one).p_value == 1
    with pytest.raises(ValueError, match="same patients"):
        compare(one, other[:3])


def test_one_patient_makes_no_test() -> None:
    result = compare(np.array([0.9]), np.array([0.5]))
    assert result.mean_difference == pytest.approx(0.4)
    assert np.isnan([result.p_value, result.ranks.p_value, *result.interval]).all()


def test_a_miss_ranks_below_the_largest_distance() -> None:
    """A network that misses three tumours of eight, and is 1 mm nearer on the other five."""
    careless = np.array([1.0, 2, 3, 4, 5, NAN, NAN, NAN])
    careful = np.array([2.0, 3, 4, 5, 6, 400, 500, 600])
    result = compare(careless, careful, lower_is_better=True)
    assert (result.patients, result.undefined) == (5, (3, 0))
    assert result.mean_difference == -1  # as if the careless network was better
    # differences by hand: five of +1 (ranks 1 to 5, tied: 3 each), three misses (ranks 6 to 8, tied: 7 each)
    assert result.ranks[:3] == (5, 3, 0)
    assert result.ranks.p_value == pytest.approx(stats.wilcoxon([1] * 5 + [-1000] * 3).pvalue)
    mirrored = compare(careful, careless, lower_is_better=True)
    assert mirrored.ranks == (3, 5, 0, result.ranks.p_value)
    # a patient that both miss is equal
    assert compare(careless, careless, lower_is_better=True).ranks == (0, 0, 8, 1.0)


def test_nothing_defined_still_counts_the_misses() -> None:
    result = compare(np.array([NAN, NAN]), np.array([1.0, NAN]), lower_is_better=True)
    assert (result.patients, result.undefined, result.ranks[:3]) == (0, (2, 1), (0, 1, 1))
    assert np.isnan([*result.means, result.p_value]).all()
