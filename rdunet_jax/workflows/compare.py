"""`rdunet compare`: whether two evaluations of the same patients differ."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from data_pipeline.privacy import one_line
from rdunet_jax.checked_json import read_checked
from rdunet_jax.errors import InputError
from rdunet_jax.files import sha256_of
from rdunet_jax.scoring.intervals import PairedTest, compare
from rdunet_jax.workflows.display import number, print_table

SCORES = ("dice", "iou")
DISTANCES = ("mean_surface_distance_mm", "hd95_mm")
_VOLUME = "truth_mm3"


@dataclass(frozen=True)
class Evaluation:
    """What `rdunet evaluate` wrote."""

    folder: Path
    summary: dict[str, Any]
    patients: dict[str, dict[str, float]]
    """By name: the scores of each patient, NaN where one is undefined."""

    @classmethod
    def load(cls, folder: Path) -> "Evaluation":
        """Reads `summary.json` and `patients.csv`.

        Raises:
            InputError: one of them is absent or damaged.
        """
        path = folder / "summary.json"
        try:
            summary = read_checked(path)
            if "protocol" not in summary:
                raise ValueError("not the summary of an evaluation")
            path = folder / "patients.csv"
            if "files" in summary and sha256_of(path) != summary["files"][path.name]:
                raise ValueError("not what was written with summary.json")
            patients = cls._patients(path)
            if len(patients) != summary.get("patients"):
                raise ValueError(f"{len(patients)} patients, but {summary.get('patients')} in summary.json")
        except FileNotFoundError:
            raise InputError(f"{path}: no such file; make it with `rdunet evaluate`") from None
        except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
            why = one_line(str(error))
            raise InputError(
                f"{path}: cannot be read as scores ({why}); make it again with `rdunet evaluate`"
            ) from error
        return cls(folder, summary, patients)

    @staticmethod
    def _patients(path: Path) -> dict[str, dict[str, float]]:
        patients: dict[str, dict[str, float]] = {}
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file, strict=True):
                name = row["patient"]
                if name in patients:
                    raise ValueError(f"patient {name} twice")
                values = {score: float(row[score] or "nan") for score in (*SCORES, *DISTANCES, _VOLUME)}
                in_range = all(0 <= values[score] <= 1 for score in SCORES) and values[_VOLUME] >= 0
                if not in_range or any(values[distance] < 0 for distance in DISTANCES) or math.inf in values.values():
                    raise ValueError(f"a score of patient {name} is out of range")
                patients[name] = values
        return patients


def compare_evaluations(one: Path, other: Path, console: Console) -> dict[str, PairedTest]:
    """Paired tests of the scores of two evaluations.

    Dice and IoU are over all patients. Distances are over the patients with tumour; where the prediction holds nothing
    there is no distance, which is counted, and is the worst in the comparison by rank.

    Args:
        one: folder of an evaluation, such as run/evaluation/test.

    Raises:
        InputError: a folder holds no evaluation, or the two are of different protocols, patients or contours.
    """
    first, second = Evaluation.load(one), Evaluation.load(other)
    _require_comparable(first, second)
    with_tumour = [name for name, scores in first.patients.items() if scores[_VOLUME] > 0]
    results = {}
    for score in (*SCORES, *DISTANCES):
        names = with_tumour if score in DISTANCES else list(first.patients)
        values = [np.array([side.patients[name][score] for name in names], float) for side in (first, second)]
        results[score] = compare(*values, lower_is_better=score in DISTANCES)
    columns = zip(*map(_column, results.values()), strict=True)
    header = ("score", "Dice", "IoU", "mean surface distance (mm)", "HD95 (mm)")
    rows = [(label, *cells) for label, cells in zip(_ROWS, columns, strict=True)]
    print_table(console, "In 3-D, paired over patients, first less second", header, rows)
    if any(any(result.undefined) for result in results.values()):
        console.print(
            "Means, difference and p leave out patients whose distance is undefined on either side, which favours the "
            "network that misses more tumours; the ranks include them, and a miss is worse than any distance."
        )
    for side, evaluation in (("first", first), ("second", second)):
        for note in limits_of(evaluation):
            console.print(f"{side}: {note}", markup=False)
    if _differ(first, second, "dataset_sha256"):
        console.print("The two evaluations read different data sets; patients and tumour volumes are the same.")
    return results


_ROWS = (
    *("patients in the means", "undefined, first", "undefined, second", "mean, first", "mean, second", "difference"),
    *("95% interval", "p (Wilcoxon)", "first better, worse, equal", "p by rank, a miss is the worst"),
)


def _column(result: PairedTest) -> tuple[str, ...]:
    """The cells of `_ROWS` for one score."""
    ranks = result.ranks
    compared = ranks.better + ranks.worse + ranks.equal
    tested = result.patients > 1
    return (
        str(result.patients),
        *map(str, result.undefined),
        *map(number, (*result.means, result.mean_difference)),
        "{} to {}".format(*map(number, result.interval)) if tested else f"n = {result.patients}",
        number(result.p_value) if tested else f"n = {result.patients}",
        f"{ranks.better}, {ranks.worse}, {ranks.equal}",
        number(ranks.p_value) if compared > 1 else f"n = {compared}",
    )


def _require_comparable(first: Evaluation, second: Evaluation) -> None:
    where = f"{first.folder} and {second.folder}"
    if _differ(first, second, "protocol"):
        protocols = f"{first.summary['protocol']} and {second.summary['protocol']}"
        raise InputError(f"{where}: scored by different protocols ({protocols}); evaluate both by the same --protocol")
    if first.patients.keys() != second.patients.keys():
        alone = ", ".join(sorted(first.patients.keys() ^ second.patients.keys())[:5])
        raise InputError(f"{where}: not the same patients ({one_line(alone)} in one only); evaluate the same split")
    for name, scores in first.patients.items():
        volumes = scores[_VOLUME], second.patients[name][_VOLUME]
        # the same voxels, multiplied by the same spacing: equal but for rounding
        if not math.isclose(*volumes, rel_tol=1e-6):
            raise InputError(
                f"{where}: patient {one_line(name)} has a tumour of {volumes[0]:.0f} mm3 in one and {volumes[1]:.0f} "
                "mm3 in the other; evaluate both on data sets of the same contours"
            )


def _differ(first: Evaluation, second: Evaluation, field: str) -> bool:
    return first.summary.get(field) != second.summary.get(field)


def limits_of(evaluation: Evaluation) -> list[str]:
    """What limits the use of an evaluation's scores."""
    summary = evaluation.summary
    notes = []
    for field, use in (("patients_trained_on", "trained on"), ("patients_selected_on", "selected on")):
        if summary.get(field):
            notes.append(f"NOT NEW PATIENTS: the network was {use} {summary[field]} of them")
    if summary.get("other_dataset"):
        notes.append("another data set than the network was trained on")
    if not summary.get("training_data_known"):
        notes.append("it is not recorded which patients this network was trained on")
    return notes
