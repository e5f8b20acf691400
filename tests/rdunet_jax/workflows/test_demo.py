"""The patient that the demo shows is chosen by rule."""

import csv
import json
from pathlib import Path

import pytest

from rdunet_jax.workflows.demo import median_patient


@pytest.mark.parametrize(
    ("dice", "median"),
    [
        ({"A": 0.9, "B": 0.2, "C": 0.7}, "C"),
        ({"A": 0.9, "B": 0.2, "C": 0.7, "D": 0.8}, "C"),  # of an even number, the one below the middle
        ({"A": 0.5}, "A"),
        ({"B": 0.5, "A": 0.5, "C": 0.5}, "B"),  # of equals, by name
    ],
)
def test_the_patient_with_the_median_dice_is_shown(dice: dict[str, float], median: str, tmp_path: Path) -> None:
    folder = tmp_path / "evaluation" / "test"
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps({"protocol": "paper", "patients": len(dice)}))
    with (folder / "patients.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["patient", "dice", "iou", "mean_surface_distance_mm", "hd95_mm", "truth_mm3"])
        table.writerows([name, one, one / (2 - one), 1.0, 2.0, 100.0] for name, one in dice.items())
    assert median_patient(tmp_path) == median
