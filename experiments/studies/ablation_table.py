"""The table of `ablation.py`: one row for each recipe, paired over patients; and the scores of each run."""

import json
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from data_pipeline.errors import InputError
from data_pipeline.files import write_whole
from experiments.common.tables import read_recorded, write_csv
from rdunet_jax.scoring.intervals import compare
from rdunet_jax.workflows.display import markdown

REFERENCE = "paper"
"""The row that the others are compared with."""


@dataclass(frozen=True)
class Scores:
    """A run's scores of the validation patients."""

    cpu_seconds: float
    """Of the training, of all threads."""
    patients: dict[str, float]
    """3-D Dice by name."""
    slice_dice: float
    """Mean over the slices with tumour."""
    false_positive_share: float
    """Of the slices without tumour, those with a prediction."""

    @property
    def dice(self) -> float:
        """Mean over patients."""
        return statistics.mean(self.patients.values())


Found = dict[str, dict[int, Scores]]
"""The scores of the runs, by row and seed."""


def read_scores(folder: Path, names: Iterable[str]) -> Found:
    """The scores of all runs of these rows that are done."""
    found: Found = {}
    for name in names:
        for file in sorted((folder / "runs" / slug(name)).glob("seed-*/scores.json")):
            seed = int(file.parent.name.removeprefix("seed-"))
            found.setdefault(name, {})[seed] = Scores(**json.loads(file.read_text("utf-8")))
    return found


def keep_scores(folder: Path, name: str, seed: int, scores: Scores) -> None:
    """Writes the scores of a run where `read_scores` finds them."""
    write_whole(
        folder / "runs" / slug(name) / f"seed-{seed}" / "scores.json", json.dumps(asdict(scores), indent=1) + "\n"
    )


RUN_COLUMNS = ("recipe", "seed", "cpu_seconds", "slice_dice", "false_positive_share")
"""The columns of `scores.csv` before those of the patients."""


def write_runs(path: Path, found: Found) -> None:
    """A row for each run: `RUN_COLUMNS`, and the 3-D Dice of each patient."""
    names = sorted({name for runs in found.values() for run in runs.values() for name in run.patients})
    rows = [
        (recipe, seed, run.cpu_seconds, run.slice_dice, run.false_positive_share, *map(run.patients.get, names))
        for recipe, runs in found.items()
        for seed, run in runs.items()
    ]
    write_csv(path, (*RUN_COLUMNS, *names), rows)


def read_runs(path: Path) -> Found:
    """What `write_runs` has written.

    Raises:
        InputError: the file is absent, or is not such a table.
    """
    found: Found = {}

    def keep(row: dict[str, str]) -> None:
        recipe, seed, *run = (row.pop(column) for column in RUN_COLUMNS)
        dice = {name: float(value) for name, value in row.items()}
        cpu_seconds, slice_dice, share = map(float, run)
        found.setdefault(recipe, {})[int(seed)] = Scores(cpu_seconds, dice, slice_dice, share)

    read_recorded(path, "scores.csv", keep)
    if not found:
        raise InputError("--recorded: holds no run", path=path)
    return found


def slug(name: str) -> str:
    """The name of a row's folder."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower())


HEADER = (
    "recipe",
    "3-D Dice",
    "slice-wise Dice",
    "false positive slices",
    "CPU seconds",
    "3-D Dice, less the first row's",
    "p",
    "seeds",
)


def table_of(scores: Found) -> list[tuple[str, ...]]:
    """Rows of `HEADER`: mean ± standard deviation over seeds; the median of the cost, since the first run compiles."""
    reference = _by_patient([*scores[REFERENCE].values()]) if REFERENCE in scores else None
    table = []
    for name, by_seed in scores.items():
        test, runs = None, list(by_seed.values())
        if reference is not None and name != REFERENCE:
            test = compare(_by_patient(runs), reference)
        table.append(
            (
                name,
                _spread([run.dice for run in runs]),
                _spread([run.slice_dice for run in runs]),
                _spread([100 * run.false_positive_share for run in runs], 1) + " %",
                f"{statistics.median(run.cpu_seconds for run in runs):.0f}",
                f"{test.mean_difference:+.3f}" if test else "",
                f"{test.p_value:.2g}" if test else "",
                str(len(runs)),
            )
        )
    return table


def _by_patient(runs: Sequence[Scores]) -> Float64[np.ndarray, " patients"]:
    """Each patient's 3-D Dice, the mean over the seeds."""
    return np.mean([[run.patients[name] for name in sorted(run.patients)] for run in runs], axis=0)


def _spread(values: Sequence[float], digits: int = 3) -> str:
    mean = f"{statistics.mean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def write_table(folder: Path, names: Iterable[str]) -> list[tuple[str, ...]]:
    """Writes `scores.csv`, `ablation.csv` and `ablation.md` from all scores of these rows so far."""
    found = read_scores(folder, names)
    write_runs(folder / "scores.csv", found)
    table = table_of(found)
    write_csv(folder / "ablation.csv", HEADER, table)
    write_whole(folder / "ablation.md", markdown(HEADER, table))
    return table
