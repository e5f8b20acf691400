"""Tables 2 to 6, Figures 2 and 3 and the augmentation study in one report.

    python -m experiments.paper.reproduce_paper --smoke --output build/smoke
    python -m experiments.paper.reproduce_paper --data-dir data --output build/paper

Writes `report.md`, a CSV and a Markdown file for each table, and a PNG for each figure. Every network is trained once,
even if several tables need it: 24 trainings. After an interruption the same command continues. If a training fails, the
error is printed and the other trainings continue; its cells stay empty, the report lists them first, and the exit
status is 1.

--smoke fills every cell with phantoms: a training takes about a minute on 2 cores, including compilation. With the data
of the paper there are 24 trainings of up to 30 epochs at 256x256, for a GPU. Costs at full size were not measured.
"""

if not __package__:
    raise SystemExit("error: run this in the checkout as: python -m experiments.paper.reproduce_paper")

import json
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from experiments.paper import figure2_data, figure3_predictions, table2_dataset
from experiments.paper.numbers import Result
from experiments.paper.runs import SMOKE, Experiments, run_script
from experiments.paper.tables import TABLES
from rdunet_jax.files import write_whole
from rdunet_jax.runs.manifest import environment

STAGES: dict[str, Callable[[Experiments], Result]] = {
    "table2_dataset": table2_dataset.make,
    "figure2_data": figure2_data.make,
    **{f"tables {table.name}": table.make for table in TABLES},
    "figure3_predictions": figure3_predictions.make,
}
"""In the order of the report: the module and subcommand that makes a part alone, and its function."""


def main(experiments: Experiments) -> list[str]:
    """Makes all tables and figures; returns the names of what is missing."""
    output = experiments.settings.output
    results: dict[str, Result] = {}
    for stage, make in STAGES.items():
        result = experiments.attempt(stage, lambda make=make: make(experiments))
        if result is not None:
            result.write(output)
            results[stage] = result
    failed = [f"{what} ({how})" for what, how in experiments.failures.items()]
    missing = [*failed, *(cell for result in results.values() for cell in result.missing)]
    write_whole(output / "report.md", report(experiments, results, missing))
    experiments.console.print(f"report: {output / 'report.md'}", markup=False)
    return missing


def report(experiments: Experiments, results: dict[str, Result], missing: list[str]) -> str:
    """The report in Markdown; its first line names the data."""
    lines = [_first_line(experiments), ""]
    if missing:
        lines += ["**INCOMPLETE.** Failed or empty:", "", *(f"- {one}" for one in missing), ""]
    lines += [
        "# Recurrent 3D-DenseUNet (Kamal et al. 2020): the paper's tables and figures",
        "",
        "Each measure has three columns: the paper's number, ours, and ours minus the paper's. An empty cell means "
        "that the paper has no such number or that we did not run it; none of ours is copied.",
        "",
        "`Dice over`: `tumour slices` is the mean and median over all slices with tumour, where a missed one counts 0; "
        "`Keras code` averages over those slices of a patient whose Dice is neither 0 nor 1, then over patients, "
        "without the outer fifths of a scan, dilated by a square. The paper's averages can only be of the second kind: "
        "with 331 of 848 tumour slices missed, a mean over all of them is below 0.61.",
        "",
    ]
    for stage, result in results.items():
        lines += [f"## {result.title}", "", result.reading, "", result.markdown()]
        lines += [f"`python -m experiments.paper.{stage} {_flags(experiments)}`", ""]
    lines += ["## How to make it again", "", f"`python -m experiments.paper.reproduce_paper {_flags(experiments)}`", ""]
    return "\n".join([*lines, *_machine(), "", *_trainings(experiments)]) + "\n"


def _first_line(experiments: Experiments) -> str:
    which = f"data set SHA-256 {experiments.data.dataset_sha256}, split SHA-256 {experiments.data.split_sha256}"
    if not experiments.settings.smoke:
        return f"Numbers of the {which}."
    return (
        f"These are PHANTOMS, not patients: {SMOKE.patients} synthetic scans (level easy) at {SMOKE.image_size} "
        f"pixels, narrow networks, {SMOKE.steps} steps each; they show that everything runs, not how good a network is "
        f"({which})."
    )


def _flags(experiments: Experiments) -> str:
    """Flags of the command, without this machine's folders."""
    return "--smoke --output DIR" if experiments.settings.smoke else "--data-dir DATA --output DIR"


def _machine() -> list[str]:
    found = environment()
    versions = ", ".join(f"{name} {version}" for name, version in found.packages.items())
    return [
        f"- {found.system}, {os.cpu_count()} cores, devices: {', '.join(found.devices)}",
        f"- Python {found.python}, {versions}",
        f"- code {found.code_revision or 'not under version control'}",
    ]


def _trainings(experiments: Experiments) -> list[str]:
    """What was trained and how long it took, including compilation, from the manifests of the runs."""
    lines = ["| run | network | loss | augmentation | time to train |", "|---|---|---|---|--:|"]
    runs: dict[Path, str] = {}
    for table in TABLES:
        for name in experiments.variants(table.name):
            runs.setdefault(experiments.workdir(table.name, name), name)
    for workdir, name in runs.items():
        path = workdir / "manifest.json"
        if not path.exists():
            continue
        manifest = json.loads(path.read_text())
        train = manifest["config"]["train"]
        seconds = [session.get("wall_seconds") for session in manifest["sessions"]]
        # A session that was killed has no recorded time.
        time = "not known" if None in seconds else str(timedelta(seconds=round(sum(seconds))))
        changes = "all eight" if len(train["augmentation"]) == 8 else ", ".join(train["augmentation"]) or "none"
        lines.append(f"| {name} | {manifest['config']['model']['name']} | {train['loss']} | {changes} | {time} |")
    return lines


if __name__ == "__main__":
    run_script(main, __doc__)
