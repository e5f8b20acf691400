"""A network that is trained and scored once: what is done already is not done again."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from data_pipeline.loading import Dataset
from rdunet_jax.checked_json import DamagedError, read_checked
from rdunet_jax.config import TrackerName
from rdunet_jax.options import EvaluateOptions
from rdunet_jax.runs.workdir import RunConfig
from rdunet_jax.scoring.protocols import Summary
from rdunet_jax.workflows.evaluate import evaluate_network
from rdunet_jax.workflows.train import train_network

Scorings = Mapping[Path, EvaluateOptions]
"""Folder of an evaluation, and its options."""


def train_and_score(
    data: Dataset,
    workdir: Path,
    run: RunConfig,
    console: Console,
    scorings: Scorings,
    init_from: Path | None = None,
    trackers: Sequence[TrackerName] = (),
) -> None:
    """Trains a network and scores it, as far as that is not done. A stopped training goes on from its checkpoint.

    Args:
        workdir: folder of the run.
        init_from, trackers: see `train_network`.

    Raises:
        InputError: as `train_network` and `evaluate_network`.
    """
    left = {folder: options for folder, options in scorings.items() if read_summary(folder) is None}
    if len(left) == len(scorings):
        train_network(
            data, workdir, run.model, run.train, run.inference, console, init_from=init_from, trackers=trackers
        )
    for folder, options in left.items():
        evaluate_network(data, workdir, console, options, folder=folder)


def read_summary(folder: Path) -> Summary | None:
    """The summary of an evaluation; None if it is not there, damaged, or lacks patients that failed."""
    try:
        summary = read_checked(folder / "summary.json")
    except (FileNotFoundError, DamagedError):
        return None
    return None if summary.get("failed_patients") else summary
