"""Tables 2 to 6, Figures 2 and 3 and the augmentations, in one go and one report.

    python -m experiments.paper.reproduce_paper --smoke --output build/smoke
    python -m experiments.paper.reproduce_paper --data-dir data --output build/paper

Writes `report.md`, and per table a CSV and a Markdown file, per figure a PNG. Every network is trained once, whichever
tables name it: 24 trainings. Killed and started again it goes on where it was. What fails is told and the others go on;
its cells stay empty, the report begins by naming them, and the exit status is 1.

--smoke fills every cell on phantoms: a training takes a minute on 2 cores beside other work, compilation included. With
the data of the paper it is 24 trainings of up to 30 epochs at 256x256, for a GPU; how long that takes was not measured.
"""

import json
import os
from datetime import timedelta
from types import ModuleType

from experiments.paper import (
    augmentation_ablation,
    figure2_data,
    figure3_predictions,
    table2_dataset,
    table3_baselines,
    table4_architectures,
    table5_losses,
    table6_postprocessing,
)
from experiments.paper.numbers import Result
from experiments.paper.runs import RUNS, SMOKE, Experiments, run_script
from rdunet_jax.files import write_whole
from rdunet_jax.runs.manifest import environment

STAGES: tuple[ModuleType, ...] = (
    table2_dataset,
    figure2_data,
    table3_baselines,
    table4_architectures,
    table5_losses,
    table6_postprocessing,
    figure3_predictions,
    augmentation_ablation,
)


def main(experiments: Experiments) -> list[str]:
    """Makes all there is to make; returns what is missing."""
    output = experiments.settings.output
    results: dict[ModuleType, Result] = {}
    for stage in STAGES:
        name = stage.__name__.rpartition(".")[2]
        result = experiments.attempt(name, lambda stage=stage: stage.make(experiments))
        if result is not None:
            result.write(output)
            results[stage] = result
    failed = [f"{what} ({how})" for what, how in experiments.failures.items()]
    missing = [*failed, *(cell for result in results.values() for cell in result.missing)]
    write_whole(output / "report.md", report(experiments, results, missing))
    experiments.console.print(f"report: {output / 'report.md'}", markup=False)
    return missing


def report(experiments: Experiments, results: dict[ModuleType, Result], missing: list[str]) -> str:
    """The whole report; its first line says what the numbers are of."""
    lines = [_first_line(experiments), ""]
    if missing:
        lines += ["**INCOMPLETE.** Failed or empty:", "", *(f"- {one}" for one in missing), ""]
    lines += [
        "# Recurrent 3D-DenseUNet (Kamal et al. 2020): the paper's tables and figures",
        "",
        "Beside each other: the paper's number, ours, and ours less the paper's. An empty cell: the paper has no such "
        "number, or we did not run it; none of ours is copied.",
        "",
        "`Dice over`: `tumour slices` is the mean and median over all slices with tumour, a missed one counting 0; "
        "`Keras code` averages over a patient's slices whose Dice is neither 0 nor 1 and then over patients, without "
        "the outer fifths of a scan, dilated by a square. The paper's averages can only be of the second kind: with "
        "331 of 848 tumour slices missed, a mean over all of them is below 0.61.",
        "",
    ]
    for stage, result in results.items():
        lines += [f"## {result.title}", "", result.reading, "", result.markdown()]
        lines += [f"`python -m {stage.__name__} {_flags(experiments)}`", ""]
    lines += ["## How it was made", "", f"`python -m experiments.paper.reproduce_paper {_flags(experiments)}`", ""]
    return "\n".join([*lines, *_machine(), "", *_trainings(experiments)]) + "\n"


def _first_line(experiments: Experiments) -> str:
    account = experiments.data.account
    which = f"data set SHA-256 {account['dataset_sha256']}, split SHA-256 {account['split_sha256']}"
    if not experiments.settings.smoke:
        return f"Numbers of the {which}."
    return (
        f"These are PHANTOMS, not patients: {SMOKE.patients} synthetic scans at {SMOKE.image_size} pixels, narrow "
        f"networks, {SMOKE.steps} steps each; they show that everything runs, not how good a network is ({which})."
    )


def _flags(experiments: Experiments) -> str:
    """Without folders, which are nobody's business."""
    return "--smoke --output DIR" if experiments.settings.smoke else "--data-dir DATA --output DIR"


def _machine() -> list[str]:
    found = environment()
    versions = ", ".join(f"{name} {version}" for name, version in found["packages"].items())
    return [
        f"- {found['system']}, {os.cpu_count()} cores, devices: {', '.join(found['devices'])}",
        f"- Python {found['python']}, {versions}",
        f"- code {found['code_revision'] or 'not under version control'}",
    ]


def _trainings(experiments: Experiments) -> list[str]:
    """What was trained, and how long it took with compilation, by the runs' own manifests."""
    lines = ["| run | network | loss | augmentation | time to train |", "|---|---|---|---|--:|"]
    for name in RUNS:
        path = experiments.workdir(name) / "manifest.json"
        if not path.exists():
            continue
        manifest = json.loads(path.read_text())
        train = manifest["config"]["train"]
        seconds = [session.get("wall_seconds") for session in manifest["sessions"]]
        # A session that was killed has no time of its own.
        time = "not known" if None in seconds else str(timedelta(seconds=round(sum(seconds))))
        changes = "all eight" if len(train["augmentation"]) == 8 else ", ".join(train["augmentation"]) or "none"
        lines.append(f"| {name} | {manifest['config']['model']['name']} | {train['loss']} | {changes} | {time} |")
    return lines


if __name__ == "__main__":
    run_script(main, __doc__)
