"""What `bench.py growth` runs, and the exponents of what it finds."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks.contestants import Case
from experiments.benchmarks.race import Result

SLICES = (60, 120, 300, 600)


def cases_of(case: Case) -> dict[str, dict[int, Case]]:
    """Cases by what grows and by its value: patients of noise, which costs as much as any other gray."""
    base, shortest = Path(case.folder), SLICES[0]
    number = 0

    def one(slices: int = shortest, patients: int = 1, **changes: int) -> Case:
        nonlocal number
        number += 1
        changed = replace(case, folder=str(base / str(number)), patients=patients, **changes)
        Path(changed.folder).mkdir()
        shutil.copy(base / "weights.npz", changed.folder)
        shape = (slices, changed.size, changed.size)
        np.save(Path(changed.folder) / "volume.npy", np.random.default_rng(0).integers(0, 256, shape, np.uint8))
        return changed

    sizes = (case.size // 2, case.size, 2 * case.size)
    return {
        "slices": {slices: one(slices=slices) for slices in SLICES},
        "windows a batch": {batch: one(batch=batch) for batch in (1, 2, 4, 8)},
        "rows and columns": {size: one(size=size) for size in sizes},
        "patients": {count: one(patients=count) for count in (1, 2, 4, 8)},
    }


def fit(values: Sequence[int], results: Sequence[Result]) -> dict[str, Any]:
    """Median seconds and peak MiB of each value, and the exponent of seconds, by least squares of the logarithms."""
    seconds = [result.median for result in results]
    if None in seconds:
        raise SystemExit("error: a case was given up; raise --limit or lower --size")
    exponent = np.polyfit(np.log(values), np.log(np.array(seconds, float)), 1)[0]
    peaks = [round(result.peak / 2**20, 1) for result in results]
    return {"values": list(values), "seconds": seconds, "peak_mib": peaks, "exponent": float(exponent)}
