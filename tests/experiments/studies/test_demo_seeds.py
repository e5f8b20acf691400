"""The rows over all seeds in the table of `demo_seeds.py`, by hand."""

from experiments.studies.demo_seeds import HEADER, cells, together


def summary(dice: float, hd95: float | None, false_slices: int, lesions: int) -> dict[str, float | int | None]:
    return {
        "mean_volumetric_dice": dice,
        "mean_dice_tumour_slices": dice - 0.1,
        "mean_volumetric_hd95_mm": hd95,
        "slices": 100,
        "tumour_slices": 30,
        "false_positive_slices": false_slices,
        "lesions_false_positive": lesions,
    }


def test_seeds_together_are_means_of_scores_and_sums_of_counts() -> None:
    row = cells(together([summary(0.5, 4.0, 1, 0), summary(0.7, None, 2, 5)]))
    assert row == ("0.600", "0.500", "3 of 140", "4.000", "5")
    assert len(row) == len(HEADER) - 2


def test_a_distance_that_no_seed_defines_is_not_a_number() -> None:
    assert cells(together([summary(0.0, None, 0, 0)]))[3] == cells(summary(0.0, None, 0, 0))[3]
