"""Names of scores for people: headings of tables and pages."""

from collections.abc import Mapping

from rdunet_jax.scoring.patients import Summary

LABELS = {
    "patients": "Patients",
    "missing_patients": "Patients without a finite prediction",
    "slices": "Slices",
    "tumour_slices": "Slices with tumour",
    "both_empty_slices": "Slices with neither tumour nor prediction",
    "mean_dice_tumour_slices": "Mean Dice, slices with tumour",
    "median_dice_tumour_slices": "Median Dice, slices with tumour",
    "mean_dice_marked_slices": "Mean Dice, slices with tumour or prediction",
    "mean_dice_all_slices": "Mean Dice, all slices",
    "median_dice_all_slices": "Median Dice, all slices",
    "false_positive_slices": "False positive slices",
    "false_negative_slices": "False negative slices",
    "mean_patient_dice": "Mean Dice of a patient (authors_code)",
    "median_patient_dice": "Median Dice of a patient (authors_code)",
    "patients_without_dice": "Patients without tumour in the scored slices, left out",
    "patients_without_partial_dice": "Patients without a slice of Dice between 0 and 1",
    "mean_surface_distance_mm": "Mean surface distance of a slice (mm)",
    "mean_hd95_mm": "Mean HD95 of a slice (mm)",
    "slices_with_surface_distance": "Slices with a surface distance",
    "mean_volumetric_dice": "Mean Dice in 3-D",
    "mean_volumetric_dice_low": "95% interval of the mean Dice in 3-D, from",
    "mean_volumetric_dice_high": "95% interval of the mean Dice in 3-D, to",
    "mean_volumetric_iou": "Mean IoU in 3-D",
    "mean_volumetric_mean_surface_distance_mm": "Mean surface distance in 3-D (mm)",
    "mean_volumetric_hd95_mm": "Mean HD95 in 3-D (mm)",
    "mean_volumetric_volume_error_mm3": "Mean volume error (mm³)",
    "patients_without_surface_distance": "Patients without a surface distance, not in its means",
    "median_volumetric_mean_surface_distance_mm": "Median surface distance in 3-D, a miss is the worst (mm)",
    "median_volumetric_hd95_mm": "Median HD95 in 3-D, a miss is the worst (mm)",
    "lesions": "Lesions",
    "lesions_missed": "Lesions missed",
    "lesions_false_positive": "Lesions predicted where there is none",
    "dice": "Dice in 3-D",
    "iou": "IoU in 3-D",
    "hd95_mm": "HD95 in 3-D (mm)",
}


def labelled(scores: Mapping[str, float | int | None]) -> Summary:
    """Scores under their labels.

    Raises:
        KeyError: a score has no label.
    """
    return {LABELS[name]: value for name, value in scores.items()}
