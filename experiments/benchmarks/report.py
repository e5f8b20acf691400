"""What a benchmark prints and writes: a table, a JSON file and a plot."""

import json
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from data_pipeline.files import write_whole
from experiments.benchmarks.case import MATMUL
from experiments.benchmarks.plots import plot_times
from experiments.benchmarks.race import Result
from experiments.benchmarks.timing import machine, machine_in_words
from experiments.common import script

BASELINE = "keras-tensorflow"
COLUMNS = ("contestant", "median (range)", "first run", "peak memory", "GFLOP/s", "of matmul", "x baseline")

console = script.make_console()


def report(path: Path, title: str, settings: dict[str, object], results: dict[str, Result], flops: float) -> None:
    """Prints a comparison and writes it as `path` (JSON) and as a plot beside it.

    Args:
        settings: recorded with the results.
        results: by contestant; `matmul`, the matrix product, is among them.
        flops: arithmetic of one run, counted as direct convolutions.
    """
    products = results["matmul"].median
    assert products is not None
    machine_rate = 10 * 2 * MATMUL**3 / products / 1e9
    baseline = results[BASELINE].median if BASELINE in results else None
    table = Table(title=title)
    for column in COLUMNS:
        table.add_column(column)
    contestants = {name: result for name, result in results.items() if name != "matmul"}
    for name, result in contestants.items():
        table.add_row(name, *_cells(result, flops, machine_rate, baseline))
    console.print(table)
    console.print(f"float32 matrix product of {MATMUL}: {machine_rate:.0f} GFLOP/s")
    console.print(machine_in_words())
    found = {package: number for result in contestants.values() for package, number in result.versions.items()}
    console.print("versions: " + ", ".join(f"{package} {number}" for package, number in sorted(found.items())))
    record = {
        "settings": settings,
        "matmul_gflops": machine_rate,
        "flops": flops,
        "results": {name: asdict(result) | {"median": result.median} for name, result in results.items()},
    }
    write_record(path, record)
    plot_times(path.with_suffix(".png"), path.stem, results)


def _cells(result: Result, flops: float, machine_rate: float, baseline: float | None) -> list[str]:
    """A contestant's cells after its name."""
    median, at_most = result.median, "<" if result.over is not None else ""
    cells = [
        result.in_words(),
        f"{result.first_seconds:.1f} s" if result.first_seconds else "",
        f"{result.peak / 2**20:.0f} MiB",
    ]
    if not median:
        return [*cells, "", "", ""]
    rate = flops / median / 1e9
    ratio = f"{'>' if at_most else ''}{median / baseline:.2f}" if baseline else ""
    return [*cells, f"{at_most}{rate:.0f}", f"{at_most}{rate / machine_rate:.2f}", ratio]


def write_record(path: Path, record: dict[str, object]) -> None:
    """Writes a record as JSON, with the machine that it was measured on."""
    write_whole(path, json.dumps({"machine": machine(), **record}, indent=1) + "\n")
    console.print(f"record: {path}", markup=False)
