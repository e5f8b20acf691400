"""Scores against sets of pixels, and the edge cases by hand."""

import numpy as np
import pytest

from rdunet_jax.scoring.slices import score_slices, summarise


def test_against_sets_of_pixels() -> None:
    rng = np.random.default_rng(0)
    prediction, truth = rng.random((2, 40, 6, 7)) > rng.random((2, 40, 1, 1))
    scores = score_slices(prediction, truth)
    for index in range(40):
        x, y = (set(map(tuple, np.argwhere(mask[index]))) for mask in (prediction, truth))
        assert scores.dice[index] == pytest.approx(2 * len(x & y) / (len(x) + len(y)) if x or y else 1)
        assert scores.false_positive[index] == (not y and bool(x))
        assert scores.false_negative[index] == (bool(y) and not x & y)


def test_edge_cases(unchecked_shapes) -> None:
    empty, full = np.zeros((1, 2, 2), bool), np.ones((1, 2, 2), bool)
    assert score_slices(empty, empty).dice == 1
    assert score_slices(full, empty).dice == 0
    assert score_slices(empty, full).dice == 0
    assert score_slices(full, full).dice == 1
    with pytest.raises(ValueError, match="differ in shape"):
        score_slices(full, np.ones((2, 2, 2), bool))


def test_summary_by_hand() -> None:
    truth, prediction = np.zeros((2, 4, 1, 4), bool)
    truth[0] = truth[1] = truth[2] = [True, True, False, False]
    prediction[0] = [True, True, False, False]  # Dice 1
    prediction[1] = [False, True, True, True]  # Dice 2/5
    prediction[3] = [True, False, False, False]  # false positive; slice 2 is a false negative
    summary = summarise([score_slices(prediction, truth), score_slices(~truth, ~truth)])
    assert summary["patients"] == 2
    assert summary["slices"] == 8
    assert summary["tumour_slices"] == 7
    assert summary["mean_dice_tumour_slices"] == pytest.approx((1 + 0.4 + 0 + 4) / 7)
    assert summary["mean_dice_marked_slices"] == pytest.approx((1 + 0.4 + 0 + 0 + 4) / 8)
    assert summary["median_dice_tumour_slices"] == 1
    assert (summary["false_positive_slices"], summary["false_negative_slices"]) == (1, 1)


def test_a_mean_over_nothing_is_none() -> None:
    assert summarise([])["mean_dice_all_slices"] is None
    empty = np.zeros((3, 2, 2), bool)
    summary = summarise([score_slices(empty, empty)])
    assert summary["mean_dice_tumour_slices"] is None
    assert summary["mean_dice_all_slices"] == 1
