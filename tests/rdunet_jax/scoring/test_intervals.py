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


STUDIES = 4000
"""They place a coverage of 94% to 0.4%, so that 93% is more than two standard errors below it."""


@pytest.mark.parametrize("patients", [
    5, *(pytest.param(number, marks=pytest.mark.slow) for number in (8, 20, 40))
])  # fmt: skip
@pytest.mark.parametrize("bounds", [(0.0, 1.0), None])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_95_percent_interval_contains_the_mean_in_93_of_100_studies_or_more(
    name: str, bounds: tuple[float, float] | None, patients: int
) -> None:
    """`pytest -s -m "slow or not slow"` prints the table of `docs/evaluation.md`."""
    draw, mean = DISTRIBUTIONS[name]
    rng = np.random.default_rng(0)
    intervals = np.array([mean_interval(draw(rng, patients), bounds) for _ in range(STUDIES)])
    covered = np.mean((intervals[:, 0] <= mean) & (mean <= intervals[:, 1]))
    width = (intervals[:, 1] - intervals[:, 0]).mean()
    print(f"{name}, bounds {bounds}, {patients} patients: {100 * covered:.1f}% covered, mean width {width:.2f}")
    assert covered >= 0.93


@pytest.mark.parametrize("bounds", [(0.0, 1.0), None])
def test_the_interval_of_many_patients_is_the_normal_one(bounds: tuple[float, float] | None) -> None:
    values = np.random.default_rng(0).normal(0.7, 0.1, 400)
    half = stats.norm.ppf(0.975) * values.std() / np.sqrt(400)
    # 2%: t for the normal quantile, 1.5/400, and the curve of the logit over the interval
    np.testing.assert_allclose(np.array(mean_interval(values, bounds)) - values.mean(), (-half, half), rtol=0.02)


def test_the_interval_by_hand() -> None:
    values = np.array([0.9, 0.95, 0.99, 0.4, 0.97])
    t = 2.776445105  # of 4 degrees of freedom, from a table
    mean, error = values.mean(), stats.sem(values)
    assert mean_interval(values) == pytest.approx((mean - 1.3 * t * error, mean + 1.3 * t * error))
    low, high = mean_interval(values, bounds=(0, 1))
    odds = np.array([low / (1 - low), mean / (1 - mean), high / (1 - high)])
    # the derivative of the logit is 1 / (p (1 - p))
    np.testing.assert_allclose(np.diff(np.log(odds)), 1.2 * t * error / (mean * (1 - mean)), rtol=1e-6)
    assert 0 < low < mean < high < 1
    # other bounds are another unit
    assert mean_interval(2 * values - 1, bounds=(-1, 1)) == pytest.approx((2 * low - 1, 2 * high - 1))


@pytest.mark.parametrize("value", [0.0, 0.8, 1.0])
def test_equal_values_have_an_interval_without_width(value: float) -> None:
    assert mean_interval(np.full(5, value), bounds=(0, 1)) == pytest.approx((value, value))
    assert mean_interval(np.full(5, value)) == pytest.approx((value, value))
    for few in (np.full(1, value), np.full(0, value)):
        assert np.isnan(mean_interval(few)).all() and np.isnan(mean_interval(few, bounds=(0, 1))).all()


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
    assert result.ranks.p_value == pytest.approx(stats.wilcoxon([1] * 5 + [-1000] * 3)[1])
    mirrored = compare(careful, careless, lower_is_better=True)
    assert mirrored.ranks == (3, 5, 0, result.ranks.p_value)
    # a patient that both miss is equal
    assert compare(careless, careless, lower_is_better=True).ranks == (0, 0, 8, 1.0)


def test_nothing_defined_still_counts_the_misses() -> None:
    result = compare(np.array([NAN, NAN]), np.array([1.0, NAN]), lower_is_better=True)
    assert (result.patients, result.undefined, result.ranks[:3]) == (0, (2, 1), (0, 1, 1))
    assert np.isnan([*result.means, result.p_value]).all()
