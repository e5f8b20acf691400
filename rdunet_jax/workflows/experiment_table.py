"""The table of an experiment: a row for each variant, as CSV, as Markdown, and as a picture.

Mean and standard deviation are over seeds; with folds, a seed's score is that of the held-out patients of all folds
together. The test is Wilcoxon's, two-sided, of each patient's 3-D Dice, the mean over the seeds, against that of the
baseline. `patients.csv` holds these Dice, so that every p-value can be computed again.
"""

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

from rdunet_jax.config import Protocol
from rdunet_jax.files import atomic_files, write_whole
from rdunet_jax.networks.summary import count_parameters
from rdunet_jax.scoring.intervals import PairedTest, compare
from rdunet_jax.scoring.protocols import Summary
from rdunet_jax.training.history import StepRow, read_rows
from rdunet_jax.workflows.display import markdown, print_table, write_csv
from rdunet_jax.workflows.experiment_file import Variant
from rdunet_jax.workflows.experiment_plan import Plan
from rdunet_jax.workflows.train_and_score import read_summary

MEASURES: dict[str, dict[Protocol, str]] = {
    "dice": dict.fromkeys(("paper", "authors_code"), "mean_volumetric_dice"),
    "slice_dice": {"paper": "mean_dice_tumour_slices", "authors_code": "mean_patient_dice"},
    "median_slice_dice": {"paper": "median_dice_tumour_slices", "authors_code": "median_patient_dice"},
    "false_positive_slices": dict.fromkeys(("paper", "authors_code"), "false_positive_slices"),
    "false_negative_slices": dict.fromkeys(("paper", "authors_code"), "false_negative_slices"),
}
"""Column: its name in the summary of an evaluation."""
_IN_FILES_ALONE = ("median", "FP slices", "FN slices", "patients", "parameters", "seconds")
"""Columns for which a terminal has no room."""
_OF_PATIENT = ("patient", "dice", "iou", "mean_surface_distance_mm", "hd95_mm")
LABELS = {
    "dice": "3-D Dice",
    "slice_dice": "slice-wise Dice",
    "median_slice_dice": "median",
    "false_positive_slices": "FP slices",
    "false_negative_slices": "FN slices",
}


@dataclass(frozen=True)
class SeedScores:
    """The scores of a variant with one seed, of its only run or of all folds."""

    summary: Summary
    patients: list[dict[str, str]]
    """Rows of `patients.csv`."""
    seconds: float
    """Wall time of the training steps of a run, mean over folds."""

    @property
    def dice(self) -> dict[str, float]:
        """3-D Dice by patient."""
        return {row["patient"]: float(row["dice"]) for row in self.patients}


@dataclass(frozen=True)
class TableRow:
    """A variant by one protocol."""

    variant: Variant
    protocol: Protocol
    seeds: dict[int, SeedScores]
    """By seed, those that are complete."""
    parameters: int
    test: PairedTest | None
    """Against the baseline; None for itself, or where one of the two has no scores."""

    def values(self, measure: str) -> list[float]:
        """A measure by seed; undefined ones are left out."""
        found = (one.summary.get(MEASURES[measure][self.protocol]) for one in self.seeds.values())
        return [float(value) for value in found if value is not None]

    def fields(self) -> dict[str, object]:
        """The row of `table.csv`."""
        row: dict[str, object] = {"variant": self.variant.name, "protocol": self.protocol, "seeds": len(self.seeds)}
        row["patients"] = len(next(iter(self.seeds.values())).patients) if self.seeds else 0
        for measure in MEASURES:
            values = self.values(measure)
            row[f"{measure}_mean"] = statistics.mean(values) if values else None
            row[f"{measure}_sd"] = statistics.stdev(values) if len(values) > 1 else None
        test = self.test
        row["dice_difference"] = _defined(test.mean_difference) if test else None
        row["difference_low"] = _defined(test.interval.low) if test else None
        row["difference_high"] = _defined(test.interval.high) if test else None
        row["p_value"] = _defined(test.p_value) if test else None
        row["parameters"] = self.parameters
        row["seconds"] = self.seconds
        return row

    @property
    def seconds(self) -> float | None:
        """Of the training of one run, mean over all."""
        return round(statistics.mean(one.seconds for one in self.seeds.values()), 1) if self.seeds else None

    def cells(self, plan: Plan) -> dict[str, str]:
        """The row for people, by the headings of its columns."""
        experiment, test = plan.experiment, self.test
        cells = {"variant": self.variant.name}
        if len(experiment.protocols) > 1:
            cells["protocol"] = self.protocol
        for measure, label in LABELS.items():
            cells[label] = _spread(self.values(measure), 1 if measure.endswith("slices") else 3)
        if experiment.baseline:
            difference = p_value = ""
            if test is not None and test.patients > 1:
                low, high = test.interval
                difference, p_value = f"{test.mean_difference:+.3f} ({low:+.3f} to {high:+.3f})", f"{test.p_value:.2g}"
            cells |= {f"3-D Dice less that of {experiment.baseline} (95%)": difference, "p": p_value}
        cells |= {name: str(self.fields()[name]) for name in ("patients", "seeds")}
        cells["parameters"] = f"{self.parameters:,}"
        cells["seconds"] = "" if self.seconds is None else f"{self.seconds:.0f}"
        return cells


def table_rows(plan: Plan) -> list[TableRow]:
    """The rows, from the scores that are there."""
    experiment, rows = plan.experiment, []
    sizes = {network: count_parameters(network) for network in {one.training.network for one in experiment.variants}}
    for protocol in experiment.protocols:
        scores = {one.name: _scores(plan, one, protocol) for one in experiment.variants}
        baseline = scores.get(experiment.baseline or "")
        for one in experiment.variants:
            own = scores[one.name]
            test = None if baseline is None or one.name == experiment.baseline else _compared(own, baseline)
            rows.append(TableRow(one, protocol, own, sizes[one.training.network], test))
    order = {one.name: number for number, one in enumerate(experiment.variants)}
    return sorted(rows, key=lambda row: order[row.variant.name])


def _scores(plan: Plan, variant: Variant, protocol: Protocol) -> dict[int, SeedScores]:
    found = {}
    for seed in plan.experiment.seeds:
        folder = plan.scores(variant, protocol, seed, None)
        if plan.experiment.folds is not None:
            folder = plan.pooled(variant, protocol, seed)
        summary = read_summary(folder)
        if summary is None:
            continue
        with (folder / "patients.csv").open(newline="", encoding="utf-8") as file:
            patients = list(csv.DictReader(file))
        steps = [read_rows(plan.workdir(variant.training, seed, fold) / "steps.csv", StepRow)[0] for fold in plan.folds]
        seconds = statistics.mean(sum(row.seconds for row in rows) for rows in steps)
        found[seed] = SeedScores(summary, patients, seconds)
    return found


def _compared(own: Mapping[int, SeedScores], baseline: Mapping[int, SeedScores]) -> PairedTest | None:
    """The test of two variants, over the seeds and the patients that both have."""
    seeds = sorted(own.keys() & baseline.keys())
    if not seeds:
        return None
    sides = [[one[seed].dice for seed in seeds] for one in (own, baseline)]
    names = sorted(set.intersection(*(set(dice) for side in sides for dice in side)))
    first, second = (np.array([[dice[name] for name in names] for dice in side]).mean(axis=0) for side in sides)
    return compare(first, second)


def write_table(plan: Plan, console: Console) -> None:
    """Writes `table.csv`, `table.md`, `table.png` and `patients.csv` of what is scored, and prints the table."""
    output, baseline, rows = plan.experiment.output, plan.experiment.baseline, table_rows(plan)
    cells = [row.cells(plan) for row in rows]
    header, body = list(cells[0]), [list(row.values()) for row in cells]
    reading = "Mean ± standard deviation over seeds; `seconds` of the training steps of a run, with compiling."
    if baseline:
        reading += (
            f" p: Wilcoxon's signed-rank test of each patient's 3-D Dice, the mean over seeds, against `{baseline}`; "
            "not corrected for the number of variants."
        )
    with atomic_files(output) as unfinished:
        write_csv(unfinished / "table.csv", [row.fields() for row in rows])
        table = markdown(header, body, names=2 if "protocol" in header else 1)
        write_whole(unfinished / "table.md", f"{table}\n{reading}\n")
        _write_patients(unfinished / "patients.csv", rows)
        _draw(unfinished / "table.png", rows)
    shown = [{name: cell for name, cell in row.items() if name not in _IN_FILES_ALONE} for row in cells]
    print_table(console, "Mean ± standard deviation over seeds", list(shown[0]), [list(row.values()) for row in shown])
    console.print(f"table: {output / 'table.md'} (also table.csv, table.png, patients.csv)", markup=False)


def _write_patients(path: Path, rows: Sequence[TableRow]) -> None:
    """The 3-D scores of every patient by every run; nothing while no run is done."""
    patients = [
        {
            "variant": row.variant.name,
            "protocol": row.protocol,
            "seed": seed,
            "fold": patient.get("fold", ""),
            **{name: patient[name] for name in _OF_PATIENT},
        }
        for row in rows
        for seed, scores in row.seeds.items()
        for patient in scores.patients
    ]
    if patients:
        write_csv(path, patients)


def _draw(path: Path, rows: Sequence[TableRow]) -> None:
    """3-D Dice by variant: a dot for each seed, a line at the mean, one standard deviation to either side."""
    names = list(dict.fromkeys(row.variant.name for row in rows))
    protocols = list(dict.fromkeys(row.protocol for row in rows))
    figure = Figure(figsize=(7, 1 + 0.35 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for number, protocol in enumerate(protocols):
        of_protocol = [row for row in rows if row.protocol == protocol and row.seeds]
        at = [names.index(row.variant.name) + 0.3 * number for row in of_protocol]
        values = [row.values("dice") for row in of_protocol]
        spread = [statistics.stdev(one) if len(one) > 1 else 0.0 for one in values]
        means = [statistics.mean(one) for one in values]
        axes.errorbar(means, at, xerr=spread, fmt="|", markersize=12, color=f"C{number}", label=protocol)
        dots = [(value, place) for one, place in zip(values, at, strict=True) for value in one]
        axes.plot(*zip(*dots, strict=True) if dots else ((), ()), ".", color=f"C{number}", alpha=0.6)
    axes.set(yticks=range(len(names)), yticklabels=[name.replace("$", r"\$") for name in names], xlabel="3-D Dice")
    axes.set_ylim(len(names) - 0.5, -0.5)  # the first on top
    if len(protocols) > 1:
        axes.legend()
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    write_whole(path, image.getvalue())


def _spread(values: Sequence[float], digits: int) -> str:
    if not values:
        return ""
    mean = f"{statistics.mean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def _defined(value: float) -> float | None:
    return None if value != value else value
