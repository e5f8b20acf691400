"""The tables of `real_patients.py`: one row for each set-up, paired over patients, and one for each piece."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipeline.errors import InputError
from data_pipeline.files import write_whole
from experiments.common import tables
from experiments.common.steps import read_summaries
from experiments.common.tables import write_csv
from rdunet_jax.config import Protocol
from rdunet_jax.scoring.intervals import compare, mean_interval
from rdunet_jax.workflows.display import markdown, number

PROTOCOLS: tuple[Protocol, ...] = ("paper", "authors_code")
REFERENCE = "paper"
"""The set-up with which the others are compared."""
DICE, HD95 = "3-D Dice", "3-D HD95, mm"
COLUMNS: dict[str, tuple[Protocol, str]] = {
    DICE: ("paper", "mean_volumetric_dice"),
    HD95: ("paper", "mean_volumetric_hd95_mm"),
    "lesions": ("paper", "lesions"),
    "lesions missed": ("paper", "lesions_missed"),
    "false lesions": ("paper", "lesions_false_positive"),
    "slices": ("paper", "slices"),
    "tumour slices": ("paper", "tumour_slices"),
    "Dice, tumour slices": ("paper", "mean_dice_tumour_slices"),
    "Dice, all slices": ("paper", "mean_dice_all_slices"),
    "FP slices": ("paper", "false_positive_slices"),
    "FN slices": ("paper", "false_negative_slices"),
    "authors_code: Dice": ("authors_code", "mean_patient_dice"),
    "authors_code: FP": ("authors_code", "false_positive_slices"),
    "authors_code: FN": ("authors_code", "false_negative_slices"),
    "authors_code: MSD, mm": ("authors_code", "mean_surface_distance_mm"),
    "authors_code: HD95, mm": ("authors_code", "mean_hd95_mm"),
}
"""Column of a piece: protocol and score."""
SUMS = ("lesions missed", "false lesions", "FP slices", "FN slices", "authors_code: FP", "authors_code: FN")
MEANS = ("Dice, tumour slices", "authors_code: Dice", "authors_code: HD95, mm")
NOTE = f"""
Means are over the patients; FP and FN slices, and lesions, are counted over all of them. A distance is undefined where
nothing was predicted: the number of patients in its mean is in brackets. Differences to `{REFERENCE}` are over the
patients that both set-ups scored; p is of Wilcoxon's signed-rank test, which cannot be below 0.03 for six patients.
"""

Row = dict[str, float | int | None]
Pieces = dict[str, dict[str, Row]]
"""The scored pieces: set-up, patient left out, column."""


@dataclass(frozen=True)
class Scores:
    """The scored pieces."""

    pieces: Pieces

    def column(self, setup: str, name: str, patients: Sequence[str]) -> np.ndarray:
        """One column of a set-up; NaN where it is undefined."""
        return np.array([self.pieces[setup][patient][name] for patient in patients], float)

    @property
    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Header and rows, one for each set-up."""
        header = ("set-up", "patients", DICE, "95%", f"less {REFERENCE}", "95%", "p", "better / worse", HD95)
        return (*header, *SUMS, *MEANS), [self._row(setup) for setup, scored in self.pieces.items() if scored]

    def _row(self, setup: str) -> tuple[str, ...]:
        patients = list(self.pieces[setup])
        dice, hd95 = (self.column(setup, name, patients) for name in (DICE, HD95))
        cells = [str(len(patients)), number(dice.mean()), _range(mean_interval(dice, (0, 1)))]
        shared = [patient for patient in patients if patient in self.pieces.get(REFERENCE, {})]
        if setup == REFERENCE or not shared:
            cells += ["", "", "", ""]
        else:
            test = compare(self.column(setup, DICE, shared), self.column(REFERENCE, DICE, shared))
            cells += [f"{test.mean_difference:+.3f}", _range(test.interval), number(test.p_value)]
            cells.append(f"{test.ranks.better} / {test.ranks.worse}")
        cells.append(f"{number(_mean(hd95))} ({np.isfinite(hd95).sum()})")
        cells += [f"{np.nansum(self.column(setup, name, patients)):.0f}" for name in SUMS]
        cells += [number(_mean(self.column(setup, name, patients))) for name in MEANS]
        return (setup, *cells)


def _mean(values: np.ndarray) -> float | None:
    """Of those that are defined."""
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if len(defined) else None


def _range(interval: tuple[float, float]) -> str:
    return "" if np.isnan(interval[0]) else f"{interval[0]:.3f} to {interval[1]:.3f}"


def read_scores(run: Path) -> Row | None:
    """The columns of a piece; None if it is not scored by both protocols yet."""
    summaries = read_summaries(run, PROTOCOLS)
    if len(summaries) < len(PROTOCOLS):
        return None
    return {name: summaries[protocol][score] for name, (protocol, score) in COLUMNS.items()}


def read_recorded(path: Path) -> Pieces:
    """The pieces of a `real_patients.csv`.

    Raises:
        InputError: the file is absent, or is not such a table.
    """
    pieces: Pieces = {}

    def keep(row: dict[str, str]) -> None:
        scores = {name: float(row[name]) if row[name] else None for name in COLUMNS}
        pieces.setdefault(row["set-up"], {})[row["patient"]] = {
            name: int(value) if value is not None and value.is_integer() else value for name, value in scores.items()
        }

    tables.read_recorded(path, "real_patients.csv", keep)
    if not pieces:
        raise InputError("--recorded: holds no piece", path=path)
    return pieces


def write_tables(
    output: Path, setups: Sequence[str], patients: Sequence[str], recorded: Pieces | None = None
) -> Scores:
    """Writes `real_patients.csv` and `real_patients.md` of the pieces that are scored, or recorded; returns these."""
    pieces: Pieces = {setup: {} for setup in setups}
    for setup in setups:
        known = (recorded or {}).get(setup, {})
        for patient in patients:
            row = read_scores(output / patient / setup) or known.get(patient)
            if row is not None:
                pieces[setup][patient] = row
    scores = Scores(pieces)
    rows = [(setup, patient, *row.values()) for setup, scored in pieces.items() for patient, row in scored.items()]
    write_csv(output / "real_patients.csv", ("set-up", "patient", *COLUMNS), rows)
    dice = [
        (patient, *(number(pieces[setup][patient][DICE]) if patient in pieces[setup] else "" for setup in setups))
        for patient in patients
    ]
    by_patient = markdown(("3-D Dice of the patient left out", *setups), dice)
    write_whole(output / "real_patients.md", f"{markdown(*scores.table)}{NOTE}\n{by_patient}")
    return scores


def worst_piece(scores: Scores) -> tuple[str, str] | None:
    """The set-up with the highest mean 3-D Dice, and its patient with the lowest; None if nothing is scored."""
    scored = {setup: list(patients) for setup, patients in scores.pieces.items() if patients}
    if not scored:
        return None
    best = max(scored, key=lambda setup: scores.column(setup, DICE, scored[setup]).mean())
    return best, scored[best][int(scores.column(best, DICE, scored[best]).argmin())]
