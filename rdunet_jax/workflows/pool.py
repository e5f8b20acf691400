"""`rdunet pool`: the held-out patients of all folds together, each scored by the network that was not trained on it."""

import csv
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from data_pipeline.privacy import one_line
from rdunet_jax.config import InferenceConfig
from rdunet_jax.errors import InputError
from rdunet_jax.files import atomic_files, sha256_of
from rdunet_jax.scoring.patients import Summary, summarise_rows
from rdunet_jax.scoring.protocols import ProtocolScores, summarise_protocol
from rdunet_jax.scoring.slices import SliceScores
from rdunet_jax.workflows.compare import Evaluation, limits_of
from rdunet_jax.workflows.display import number, print_table, write_csv
from rdunet_jax.workflows.evaluate import print_means, write_summary

Row = dict[str, str]
_EQUAL = ("split", "protocol", "dataset_sha256", "folds")
"""Fields of `summary.json` that the evaluations of all folds have in common."""
_PREDICTION = (*(field.name for field in fields(InferenceConfig)), "chosen_postprocessing")
"""Settings that may differ from fold to fold, which is reported."""
_SLICE_COLUMNS = ("patient", "slice", "truth_pixels", "predicted_pixels", "overlap_pixels")
_PATIENT_COLUMNS = (
    *("patient", "missing", "dice", "iou", "mean_surface_distance_mm", "hd95_mm", "truth_mm3", "volume_error_mm3"),
    *("lesions", "lesions_missed", "lesions_false_positive"),
)


def pool_folds(folders: Sequence[Path], output: Path, console: Console, some: bool = False) -> Summary:
    """Pools the evaluations of all folds of a data set; writes the scores and returns their summary.

    The summary is what `rdunet evaluate` writes for one split: means and a confidence interval over all patients. Under
    `authors_code` the means of surface distances in plane are those of the folds, weighted by their numbers of slices.

    Args:
        folders: of the evaluations, one for each fold.
        output: folder for `summary.json`, `patients.csv` and `slices.csv`.
        some: whether folds may be missing.

    Raises:
        InputError: a folder holds no evaluation of a fold; a fold or a patient is missing or there twice; or the
            evaluations are of different protocols, data sets or folds.
    """
    evaluations = [Evaluation.load(folder) for folder in folders]
    _require_folds(evaluations, output, some)
    evaluations.sort(key=lambda one: one.summary["fold"])
    tables = [_rows(one, "patients.csv", _PATIENT_COLUMNS) for one in evaluations]
    folds = [one.summary["fold"] for one in evaluations]
    patients = [{**row, "fold": str(fold)} for fold, rows in zip(folds, tables, strict=True) for row in rows]
    slices = [row for one in evaluations for row in _rows(one, "slices.csv", _SLICE_COLUMNS)]
    scores = _slice_scores(slices, {row["patient"] for row in patients if row["missing"] == "1"})
    if scores.keys() != {row["patient"] for row in patients}:
        raise InputError("slices.csv and patients.csv of a fold hold different patients; evaluate the folds again")
    protocol = evaluations[0].summary["protocol"]
    summary = summarise_protocol(list(scores.values()), protocol) | summarise_rows(list(map(_numbers, patients)))
    if protocol == "authors_code":
        summary |= _surfaces([one.summary for one in evaluations])
    differing = {name: values for name in _PREDICTION if len(set(map(str, values := _values(evaluations, name)))) > 1}
    with atomic_files(output) as unfinished:
        write_csv(unfinished / "slices.csv", slices)
        write_csv(unfinished / "patients.csv", patients)
        write_summary(unfinished, _about(evaluations, differing) | summary)
    dice = [summarise_rows(list(map(_numbers, rows)))["mean_volumetric_dice"] for rows in tables]
    rows = [(str(fold), str(len(rows)), number(mean)) for fold, rows, mean in zip(folds, tables, dice, strict=True)]
    print_table(console, "Held-out patients of each fold", ("fold", "patients", "mean Dice in 3-D"), rows)
    print_means(console, [one.slices for one in scores.values()], summary, protocol)
    for name, values in differing.items():
        console.print(f"not the same in all folds: {name} {', '.join(map(str, values))}", markup=False)
    for fold, one in zip(folds, evaluations, strict=True):
        for note in limits_of(one):
            console.print(f"fold {fold}: {note}", markup=False)
    console.print(f"scores: {output} (summary.json, patients.csv, slices.csv)", markup=False)
    return summary


def _about(evaluations: Sequence[Evaluation], differing: Mapping[str, list[Any]]) -> dict[str, object]:
    """What `summary.json` says beside the scores."""
    first = evaluations[0].summary
    return {
        **{name: first[name] for name in _EQUAL},
        **{name: first.get(name) for name in _PREDICTION if name not in differing},
        "settings_by_fold": differing,
        "steps": _values(evaluations, "step"),
        "training_data_known": all(_values(evaluations, "training_data_known")),
        "other_dataset": any(_values(evaluations, "other_dataset")),
        "patients_trained_on": sum(_values(evaluations, "patients_trained_on")),
        "patients_selected_on": sum(_values(evaluations, "patients_selected_on")),
    }


def _require_folds(evaluations: Sequence[Evaluation], output: Path, some: bool) -> None:
    """Raises InputError unless the evaluations are those of all folds of one data set, each once, with all patients."""
    first = evaluations[0]
    for one in evaluations:
        fold, folds = one.summary.get("fold"), one.summary.get("folds")
        if one.summary.get("split") != "test" or not isinstance(fold, int) or not isinstance(folds, list):
            raise InputError(
                f"{one.folder}: not the scores of a fold's held-out patients; evaluate runs of `rdunet train --fold`"
            )
        for name in _EQUAL:
            if one.summary[name] != first.summary[name]:
                raise InputError(
                    f"{first.folder} and {one.folder}: differ in {name}; evaluate the folds of one data set"
                )
        if one.summary.get("failed_patients"):
            raise InputError(f"{one.folder}: patients failed and are not in its scores; evaluate that run again")
        if one.folder.resolve() == output.resolve():
            raise InputError(f"{output}: holds the scores of a fold; give --output another folder")
    counts = Counter(one.summary["fold"] for one in evaluations)
    wanted = range(len(first.summary["folds"]))
    missing = [str(fold) for fold in wanted if not (counts[fold] or some)]
    twice = [str(fold) for fold, count in counts.items() if count > 1]
    if missing or twice:
        found = f"fold {', '.join(missing)} is missing" if missing else f"fold {', '.join(twice)} is there twice"
        raise InputError(f"{found} of {len(wanted)}; name the evaluations of all folds, each once")
    held_out = Counter(name for one in evaluations for name in one.patients)
    shared = [name for name, count in held_out.items() if count > 1]
    if shared:
        raise InputError(f"patient {one_line(shared[0])} is in several folds; evaluate the folds of one data set")


def _values(evaluations: Sequence[Evaluation], name: str) -> list[Any]:
    return [one.summary.get(name) for one in evaluations]


def _rows(evaluation: Evaluation, file: str, columns: Sequence[str]) -> list[Row]:
    """Raises InputError if the file is absent or damaged."""
    path = evaluation.folder / file
    try:
        if "files" in evaluation.summary and sha256_of(path) != evaluation.summary["files"][file]:
            raise ValueError("not what was written with summary.json")
        with path.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream, strict=True))
        for row in rows:
            _numbers(row)
            if None in row or not all(row[column] is not None for column in columns):
                raise KeyError("a row is not complete")
    except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
        raise InputError(
            f"{path}: cannot be read as scores ({one_line(str(error))}); make it again with `rdunet evaluate`"
        ) from error
    return rows


def _numbers(row: Mapping[str, Any]) -> Summary:
    """A row's scores; an empty cell is an undefined one."""
    names = [name for name in row if name not in ("patient", "seen", "fold", None)]
    return {name: float(row[name]) if row[name] else None for name in names}


def _slice_scores(rows: Sequence[Row], missing: set[str]) -> dict[str, ProtocolScores]:
    """The slices of each patient, by name."""
    of_patient: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        of_patient[row["patient"]].append(row)
    scores = {}
    for name, own in of_patient.items():
        counts = ("truth_pixels", "predicted_pixels", "overlap_pixels")
        columns = [np.array([int(row[count]) for row in own], np.int64) for count in counts]
        scores[name] = ProtocolScores(int(own[0]["slice"]), SliceScores(*columns, missing=name in missing), [])
    return scores


def _surfaces(summaries: Sequence[Mapping[str, Any]]) -> Summary:
    """Means of the surface distances in plane, over the slices of all folds."""
    counts = [one["slices_with_surface_distance"] for one in summaries]
    total = sum(counts)
    means: Summary = {
        name: sum(one[name] * count for one, count in zip(summaries, counts, strict=True) if count) / total
        for name in ("mean_surface_distance_mm", "mean_hd95_mm")
        if total
    }
    return means | {"slices_with_surface_distance": total}
