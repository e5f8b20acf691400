"""`bench quick` (`make bench`): a prediction and a training step, compared with the last figures of this machine."""

import json
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_pipeline.files import write_whole
from experiments.benchmarks.case import Case
from experiments.benchmarks.race import prepared, race
from experiments.benchmarks.report import console
from experiments.benchmarks.timing import machine, machine_in_words, versions
from rdunet_jax.runs.manifest import code_revision
from rdunet_jax.workflows.display import print_table

SIZE = 128
"""Rows and columns of the patch: large enough for the same lowerings as at 256."""
SLOWER = 1.2
"""A ratio above this is marked. Medians of two runs in a row differ less on a quiet machine."""
LIMIT = 600.0
"""Seconds of one run after which a program is stopped."""
FIGURES = ("predict", "train", "matmul")

_LOG = logging.getLogger(__name__)


def records_file() -> Path:
    """The JSON file with the figures of this machine, in the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return cache / "rdunet" / "benchmarks" / f"{machine()['id']}.json"


def quick(rounds: int = 5, size: int = SIZE, records: Path | None = None) -> None:
    """A prediction and a training step of our network, with the ratio to the last figures of this machine.

    The matrix product shows whether the machine itself was faster or slower: the last column is the ratio corrected for
    it. A ratio above 1.2 is marked as slower. Takes less than 3 minutes on 2 cores.

    Args:
        rounds: Timed runs of each.
        size: Rows and columns of the patch.
        records: File that the figures are read from and added to (None: one for each machine in the user's cache).
    """
    path = records or records_file()
    found = measure(Case("predict", size=size), rounds)
    earlier = [one for one in read_records(path) if one["settings"] == found["settings"]]
    show(found, earlier[-1] if earlier else None)
    write_whole(path, json.dumps([*read_records(path), found], indent=1) + "\n")
    console.print(f"figures: {path}", markup=False)


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """Median seconds and peak MiB of a prediction, a training step and a matrix product, with what they belong to."""
    with prepared(case) as predict:
        cases = {"ours predict": predict, "ours train": replace(predict, task="train"), "matmul": predict}
        results = race(cases, rounds, LIMIT, lambda *_: None, {}, lambda _: None)
    named = dict(zip(FIGURES, results.values(), strict=True))
    if stopped := [name for name, result in named.items() if result.median is None or result.over is not None]:
        raise SystemExit(f"error: {', '.join(stopped)}: a run takes more than {LIMIT:.0f} s; use a smaller --size")
    return {
        "revision": code_revision(),
        "versions": versions("jax", "flax", "numpy"),
        "settings": {"size": case.size, "batch": case.batch, "threads": case.threads},
        "seconds": {name: result.median for name, result in named.items()},
        "first_seconds": {name: result.first_seconds for name, result in named.items()},
        "peak_mib": {name: round(result.peak / 2**20) for name, result in named.items()},
    }


def show(found: dict[str, Any], last: dict[str, Any] | None) -> None:
    """Prints the figures, and their ratios to the last ones."""
    rows = []
    for name in FIGURES:
        seconds, before = found["seconds"][name], last["seconds"][name] if last else None
        ratio = corrected = ""
        if last is not None and before is not None:
            ratio = f"{seconds / before:.2f}"
            by_machine = seconds / before / (found["seconds"]["matmul"] / last["seconds"]["matmul"])
            corrected = f"{by_machine:.2f}{' SLOWER' if by_machine > SLOWER else ''}"
        rows.append((name, f"{seconds:.3f}", "" if before is None else f"{before:.3f}", ratio, corrected))
    size, batch = found["settings"]["size"], found["settings"]["batch"]
    header = ("name", "seconds", "last", "ratio", "ratio, corrected by matmul")
    print_table(console, f"Medians at {size}x{size}x8, batch {batch}", header, rows)
    if last is not None:
        console.print(f"last: code {last['revision']}, jax {last['versions'].get('jax')}")
    console.print(machine_in_words())


def read_records(path: Path) -> list[dict[str, Any]]:
    """The figures in a file, oldest first; none, with a warning, if it cannot be read."""
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
        if all(
            set(FIGURES) <= one["seconds"].keys() and {"settings", "revision", "versions"} <= one.keys()
            for one in records
        ):
            return records
        raise ValueError("other fields")
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        _LOG.warning("%s: cannot be read as figures (%s); they are not used", path, error)
        return []
