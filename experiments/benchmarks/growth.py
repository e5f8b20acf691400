"""The cases of `bench growth`, and the exponents of its results."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from experiments.benchmarks.case import Case
from experiments.benchmarks.race import Result

Axis = Literal["slices", "windows", "pixels", "patients"]
AXES: tuple[Axis, ...] = get_args(Axis)
"""Slices of a patient, windows in a batch, rows and columns of a slice, patients."""
SLICES = (60, 120, 300, 600)


def cases_of(case: Case, axis: Axis) -> dict[int, Case]:
    """Cases by the value of the axis: patients of noise, as the grey values do not change the time."""
    sizes = (case.size // 2, case.size, 2 * case.size)
    values = {"slices": SLICES, "windows": (1, 2, 4, 8), "pixels": sizes, "patients": (1, 2, 4, 8)}[axis]
    return {value: _one(case, axis, value) for value in values}


def _one(case: Case, axis: Axis, value: int) -> Case:
    folder = Path(case.folder) / f"{axis}-{value}"
    folder.mkdir()
    shutil.copy(Path(case.folder) / "weights.npz", folder)
    field = {"slices": "slices", "windows": "batch", "pixels": "size", "patients": "patients"}[axis]
    changes = {"slices": SLICES[0], field: value}
    shape = (changes.pop("slices"), changes.get("size", case.size), changes.get("size", case.size))
    np.save(folder / "volume.npy", np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    return replace(case, folder=str(folder), **changes)  # pyright: ignore[reportArgumentType]


def fit(values: Sequence[int], results: Sequence[Result]) -> dict[str, Any]:
    """Median seconds and peak MiB for each value, and the exponent of the seconds (least squares of logarithms)."""
    seconds = [result.median for result in results]
    if None in seconds:
        raise SystemExit("error: a case was stopped; raise --limit or lower --size")
    exponent = np.polyfit(np.log(values), np.log(np.array(seconds, float)), 1)[0]
    peaks = [round(result.peak / 2**20, 1) for result in results]
    return {"values": list(values), "seconds": seconds, "peak_mib": peaks, "exponent": float(exponent)}
