"""`rdunet compare`: whether two evaluations of the same patients differ."""

import csv
from pathlib import Path

import numpy as np
from rich.console import Console

from data_pipeline.errors import InputError
from rdunet_jax.scoring.intervals import PairedTest, compare
from rdunet_jax.workflows.display import number, print_table

SCORES = ("dice", "iou", "mean_surface_distance_mm", "hd95_mm")


def compare_evaluations(one: Path, other: Path, console: Console) -> dict[str, PairedTest]:
    """Paired tests of the scores in two `patients.csv`, over the patients for whom both are defined.

    Args:
        one: folder of an evaluation, such as run/evaluation/test.

    Raises:
        InputError: a folder holds no evaluation, or the two hold other patients.
    """
    first, second = _patients(one), _patients(other)
    if first.keys() != second.keys():
        alone = ", ".join(sorted(first.keys() ^ second.keys())[:5])
        raise InputError(f"{one} and {other}: not the same patients ({alone} in one only); evaluate the same split")
    results, rows = {}, []
    for score in SCORES:
        pairs = [(first[name][score], second[name][score]) for name in first]
        pairs = np.array([pair for pair in pairs if all(pair)], float).reshape(-1, 2)
        if not len(pairs):
            continue
        result = results[score] = compare(pairs[:, 0], pairs[:, 1])
        values = (*pairs.mean(axis=0), result.mean_difference, *result.interval, result.p_value)
        rows.append((score, str(len(pairs)), *(number(None if np.isnan(value) else value) for value in values)))
    header = ("name", "patients", "first", "second", "difference", "95% from", "to", "p (Wilcoxon)")
    print_table(console, "Paired over patients, first less second", header, rows)
    return results


def _patients(folder: Path) -> dict[str, dict[str, str]]:
    path = folder / "patients.csv"
    try:
        with path.open(newline="") as file:
            return {row["patient"]: row for row in csv.DictReader(file)}
    except (OSError, KeyError) as error:
        raise InputError(f"{path}: cannot be read as scores; make it with `rdunet evaluate`") from error
