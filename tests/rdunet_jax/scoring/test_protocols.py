"""Scores against DeepMind's surface-distance, NumPy, SciPy and plain transcriptions of the rules."""

import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import surface_distance
from scipy import ndimage

from rdunet_jax.config import PostprocessingConfig
from rdunet_jax.inference.postprocessing import histogram_threshold, threshold_and_dilate
from rdunet_jax.scoring.labels import labelled
from rdunet_jax.scoring.lesions import score_lesions
from rdunet_jax.scoring.patients import score_patient, summarise_patients
from rdunet_jax.scoring.protocols import score_protocol, summarise_protocol
from rdunet_jax.scoring.surface import surface_distances

SPACING = (3.0, 0.9, 1.1)


def mask_pairs(count: int, seed: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray, tuple[float, ...]]]:
    """Random masks in 2-D and 3-D, dense and sparse, often touching the border, with random spacing."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        shape = tuple(rng.integers(1, 12, 2 + number % 2))
        spacing = tuple(rng.uniform(0.5, 5, len(shape)).tolist())
        yield rng.random(shape) < rng.uniform(0.1, 0.9), rng.random(shape) < rng.uniform(0.1, 0.9), spacing


def scan(seed: int = 0, depth: int = 23) -> tuple[np.ndarray, np.ndarray]:
    """A tumour, a prediction that is shifted, misses slices and marks others."""
    rng = np.random.default_rng(seed)
    truth, prediction = np.zeros((2, depth, 24, 26), bool)
    truth[6:15, 8:16, 9:17] = True
    prediction[7:17, 9:18, 10:16] = True
    prediction[2, 1:3, 1:3] = prediction[depth - 3, 20:, 20:] = True
    prediction[10] = truth[10]
    prediction[11] = False
    return prediction & (rng.random(truth.shape) < 0.9) | (prediction & truth), truth


def test_surface_distances_are_deepminds() -> None:
    compared = 0
    for prediction, truth, spacing in mask_pairs(220):
        ours = surface_distances(prediction, truth, spacing)
        if not prediction.any() or not truth.any():
            assert np.isnan(ours).all()
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it calls old names of SciPy
            distances = surface_distance.compute_surface_distances(truth, prediction, spacing)
            mean = np.mean(surface_distance.compute_average_surface_distance(distances))
            hd95 = surface_distance.compute_robust_hausdorff(distances, 95)
        # 1e-9 mm: the same sums in another order
        np.testing.assert_allclose(ours, (mean, hd95), atol=1e-9)
        compared += 1
    assert compared >= 200


def test_surface_distance_of_shifted_planes_is_their_distance() -> None:
    """Two half spaces, three voxels of 2 mm apart; the box's own ends have no surface of their own in between."""
    one, other = np.zeros((2, 12, 9, 9), bool)
    one[:4], other[:7] = True, True
    assert surface_distances(one, other, (2.0, 1.0, 1.0)).hd95_mm == pytest.approx(6.0)
    assert surface_distances(one, one, (2.0, 1.0, 1.0)) == (0.0, 0.0)


def test_volumetric_scores_are_numpys() -> None:
    for prediction, truth, spacing in mask_pairs(60, seed=1):
        if truth.ndim != 3:
            continue
        between_slices, between_rows, between_columns = spacing
        scores = score_patient(prediction, truth, (between_slices, between_rows, between_columns))
        both, either = np.logical_and(prediction, truth).sum(), np.logical_or(prediction, truth).sum()
        if either:
            assert scores.iou == pytest.approx(both / either)
            assert scores.dice == pytest.approx(2 * both / (both + either))
        difference = float(prediction.sum()) - float(truth.sum())
        assert scores.volume_error_mm3 == pytest.approx(difference * np.prod(spacing))


@pytest.mark.parametrize(("predicted", "true", "dice"), [(0, 0, 1.0), (1, 0, 0.0), (0, 1, 0.0), (1, 1, 1.0)])
@pytest.mark.parametrize("depth", [1, 4])
def test_empty_and_full_masks(predicted: int, true: int, dice: float, depth: int) -> None:
    prediction, truth = (np.full((depth, 5, 5), bool(value)) for value in (predicted, true))
    scores = score_patient(prediction, truth, SPACING)
    assert (scores.dice, scores.iou) == (dice, dice)
    assert np.isnan(scores.surface.mean_mm) == (not (predicted and true))
    row = scores.row()
    assert (row["lesions"], row["lesions_missed"]) == (true, true * (1 - predicted))
    assert row["lesions_false_positive"] == predicted * (1 - true)
    paper = summarise_protocol([score_protocol(prediction, truth, SPACING, "paper")], "paper")
    assert paper["mean_dice_all_slices"] == dice
    assert paper["mean_dice_tumour_slices"] == (dice if true else None)
    assert paper["false_positive_slices"] == depth * predicted * (1 - true)
    assert paper["false_negative_slices"] == depth * true * (1 - predicted)


def test_lesions_counted_by_hand() -> None:
    truth, prediction = np.zeros((2, 6, 20, 20), bool)
    truth[1, 1:3, 1:3] = True  # found, by two predicted lesions
    truth[4, 10:12, 10:12] = True  # missed
    prediction[1, 1, 1] = prediction[3, 5, 5] = True  # hits the first; hits nothing
    prediction[1, 1, 3] = True  # joins the first by touching it only
    scores = score_lesions(prediction, truth)
    assert scores.found.tolist() == [True, False]
    assert scores.dice.tolist() == [2 * 1 / (4 + 1), 0.0]
    assert (scores.false_positive_lesions, scores.false_negative_lesions) == (2, 1)


def test_the_keras_protocol_is_the_references_rules() -> None:
    """REFERENCE.md's rules, slice by slice in plain Python."""
    patients = [scan(seed, depth) for seed, depth in ((0, 23), (1, 25), (2, 30))]
    scores = [score_protocol(prediction, truth, SPACING, "authors_code") for prediction, truth in patients]
    means, false_positives, false_negatives, surfaces = [], 0, 0, []
    for prediction, truth in patients:
        left_out = int(len(truth) * 0.2)
        partial = []
        for index in range(left_out, len(truth) - left_out):
            p, t = prediction[index], truth[index]
            both = (p & t).sum()
            dice = 2 * both / (p.sum() + t.sum()) if p.any() or t.any() else 1.0
            if dice not in (0, 1):
                partial.append(dice)
            false_positives += bool(not t.any() and p.any())
            false_negatives += bool(t.any() and not both)
            if p.any() and t.any():
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    distances = surface_distance.compute_surface_distances(t, p, SPACING[1:])
                    surfaces.append(np.mean(surface_distance.compute_average_surface_distance(distances)))
        means.append(np.mean(partial))
    summary = summarise_protocol(scores, "authors_code")
    assert summary["mean_patient_dice"] == pytest.approx(np.mean(means))
    assert summary["median_patient_dice"] == pytest.approx(np.median(means))
    assert (summary["false_positive_slices"], summary["false_negative_slices"]) == (false_positives, false_negatives)
    assert false_positives > 0 and false_negatives > 0
    assert summary["mean_surface_distance_mm"] == pytest.approx(np.mean(surfaces))
    assert summary["slices_with_surface_distance"] == len(surfaces)
    assert summary["patients_without_partial_dice"] == 0


@pytest.mark.parametrize("protocol", ["paper", "authors_code"])
def test_the_truth_scores_one_and_nothing_scores_as_counted(protocol) -> None:
    _, truth = scan()
    perfect = summarise_protocol([score_protocol(truth, truth, SPACING, protocol)], protocol)
    nothing = summarise_protocol([score_protocol(np.zeros_like(truth), truth, SPACING, protocol)], protocol)
    names = [name for name in perfect if "dice" in name and name.startswith(("mean", "median"))]
    assert names and all(perfect[name] == 1 for name in names)
    assert perfect["false_positive_slices"] == perfect["false_negative_slices"] == 0
    # 9 tumour slices of 23, number 6 to 14; `authors_code` leaves out 4 slices at either end, none of them with tumour
    assert nothing["false_negative_slices"] == 9
    assert nothing["false_positive_slices"] == 0
    if protocol == "paper":
        assert nothing["mean_dice_all_slices"] == pytest.approx(14 / 23)
        assert nothing["mean_dice_tumour_slices"] == 0
    else:
        assert nothing["mean_patient_dice"] == 0
        assert nothing["patients_without_partial_dice"] == perfect["patients_without_partial_dice"] == 1
        assert perfect["mean_surface_distance_mm"] == 0


@pytest.mark.parametrize("protocol", ["paper", "authors_code"])
@pytest.mark.parametrize("tumour", [True, False])
def test_a_missing_prediction_fails_everywhere(tumour: bool, protocol) -> None:
    _, truth = scan()
    truth = truth & tumour
    summary = summarise_protocol([score_protocol(None, truth, SPACING, protocol)], protocol)
    assert summary["missing_patients"] == 1
    assert summary["false_negative_slices"] == 9 * tumour and summary["false_positive_slices"] == 0
    assert summary["both_empty_slices"] == 0
    assert summary["mean_dice_all_slices" if protocol == "paper" else "mean_patient_dice"] == 0
    assert summary.get("patients_without_dice", 0) == 0  # it fails, and is in the mean
    row = score_patient(None, truth, SPACING).row()
    assert (row["missing"], row["dice"], row["iou"], row["hd95_mm"]) == (1, 0, 0, None)
    assert (row["lesions_missed"], row["lesions_false_positive"]) == (tumour, 0)
    # an empty prediction is right where there is no tumour: 14 of 23 slices, 6 of the inner 15, or all of them
    empty = summarise_protocol([score_protocol(np.zeros_like(truth), truth, SPACING, protocol)], protocol)
    assert empty["missing_patients"] == 0
    assert empty["both_empty_slices"] == (23 if protocol == "paper" else 15) - 9 * tumour


@pytest.mark.parametrize("predicted", [True, False])
def test_a_patient_without_tumour_has_no_dice_by_the_authors_code(predicted: bool) -> None:
    """Nothing but false positives, or nothing at all: a mean over nothing, which must not count as 1."""
    prediction, truth = scan()
    empty = np.zeros_like(truth)
    without = score_protocol(prediction if predicted else empty, empty, SPACING, "authors_code")
    scored = score_protocol(prediction, truth, SPACING, "authors_code")
    alone, both = summarise_protocol([without], "authors_code"), summarise_protocol([without, scored], "authors_code")
    assert alone["mean_patient_dice"] is alone["median_patient_dice"] is None
    assert alone["patients_without_dice"] == both["patients_without_dice"] == 1
    assert (alone["false_positive_slices"] or 0) > 0 or not predicted
    assert both["mean_patient_dice"] == summarise_protocol([scored], "authors_code")["mean_patient_dice"]
    assert both["patients"] == 2


def test_distances_of_all_patients_rank_a_miss_as_the_worst() -> None:
    prediction, truth = scan()
    empty = np.zeros_like(truth)
    found, missed, healthy = (
        score_patient(*pair, SPACING) for pair in ((prediction, truth), (empty, truth), (empty, empty))
    )
    one = summarise_patients([found])
    assert one["median_volumetric_hd95_mm"] == one["mean_volumetric_hd95_mm"] == found.surface.hd95_mm
    three = summarise_patients([found, found, missed, healthy])
    assert three["median_volumetric_hd95_mm"] == found.surface.hd95_mm
    assert three["patients_without_surface_distance"] == 2
    assert summarise_patients([found, missed, missed])["median_volumetric_hd95_mm"] is None
    assert summarise_patients([healthy])["median_volumetric_mean_surface_distance_mm"] is None


@pytest.mark.parametrize("protocol", ["paper", "authors_code"])
def test_every_score_has_a_label(protocol) -> None:
    prediction, truth = scan()
    summary = summarise_protocol([score_protocol(prediction, truth, SPACING, protocol)], protocol)
    summary |= summarise_patients([score_patient(prediction, truth, SPACING)])
    assert list(labelled(summary).values()) == list(summary.values())


@pytest.mark.parametrize("diameter", [1, 3, 7])
def test_square_dilation_is_scipys(diameter: int) -> None:
    probabilities = np.random.default_rng(0).random((4, 20, 30)).astype(np.float32)
    expected = ndimage.binary_dilation(probabilities > 0.97, np.ones((1, diameter, diameter)))
    np.testing.assert_array_equal(
        threshold_and_dilate(probabilities, PostprocessingConfig(0.97, diameter, "square")), expected
    )


def test_threshold_and_dilation_move_the_counts_as_table_6() -> None:
    """False positive slices fall and false negative ones rise with the threshold; dilation changes Dice alone."""
    rng = np.random.default_rng(0)
    _, truth = scan()
    probabilities = np.clip(0.55 * truth + rng.random(truth.shape) * 0.5 * rng.random((len(truth), 1, 1)), 0, 1)
    probabilities[8] *= 0.9
    grid = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    counts, dice = {}, {}
    for diameter in (1, 7):
        masks = [threshold_and_dilate(probabilities, PostprocessingConfig(threshold, diameter)) for threshold in grid]
        summaries = [summarise_protocol([score_protocol(mask, truth, SPACING, "paper")], "paper") for mask in masks]
        counts[diameter] = [(s["false_positive_slices"], s["false_negative_slices"]) for s in summaries]
        dice[diameter] = [s["mean_dice_tumour_slices"] for s in summaries]
    positives, negatives = (np.array(column) for column in zip(*counts[1], strict=True))
    assert (np.diff(positives) <= 0).all() and positives[0] > positives[-1]
    assert (np.diff(negatives) >= 0).all() and negatives[0] < negatives[-1]
    assert [fp for fp, _ in counts[7]] == positives.tolist()
    assert dice[7] != dice[1]


def test_the_histogram_threshold_lies_between_two_clear_groups() -> None:
    probabilities = np.full((4, 8, 8), 0.01)
    probabilities[1, :4], probabilities[2, :4] = 0.35, 0.85
    assert 0.35 <= histogram_threshold(probabilities) < 0.85
    assert histogram_threshold(np.zeros((2, 4, 4))) == 0.7
