"""Steps that several experiments share: a data set of phantoms, and a network that is trained and scored once."""

import json
from dataclasses import fields
from pathlib import Path

from rich.console import Console

from data_pipeline.errors import InputError
from data_pipeline.files import atomic_folder
from data_pipeline.loading import Dataset
from data_pipeline.settings import DatasetSettings, PrepareOptions
from rdunet_jax.config import EvaluateOptions, Protocol
from rdunet_jax.errors import RunError
from rdunet_jax.runs.workdir import RunConfig
from rdunet_jax.scoring.protocols import Summary
from rdunet_jax.workflows.demo import show_phantoms_written
from rdunet_jax.workflows.evaluate import evaluate_network, evaluation_folder
from rdunet_jax.workflows.prepare import prepare_source
from rdunet_jax.workflows.train import train_network


def phantom_dataset(
    folder: Path, settings: DatasetSettings, count: int, slices: tuple[int, int], console: Console
) -> Dataset:
    """The data set of `count` phantoms in `folder/data`; made from `folder/dicom` if it is not there yet.

    Args:
        slices: fewest and most slices of a phantom.
    """
    dicom, data_dir = folder / "dicom", folder / "data"
    try:
        return Dataset(data_dir)
    except InputError:  # there is none yet
        pass
    if not dicom.exists():
        with atomic_folder(dicom) as unfinished:
            show_phantoms_written(unfinished, count, slices, console)
    prepare_source(dicom, data_dir, settings, console, PrepareOptions(keep_ids=True))
    return Dataset(data_dir)


def train_and_score(
    data: Dataset,
    workdir: Path,
    run: RunConfig,
    console: Console,
    protocols: tuple[Protocol, ...] = ("paper",),
    html: bool = False,
) -> dict[Protocol, Summary]:
    """Summaries of a network's scores on the test patients. What is done already is not done again.

    Args:
        workdir: folder of the run.
        html: also write `page.html` of each evaluation.

    Raises:
        RunError: the folder holds a run with other settings or on another data set.
    """
    require_same(data, workdir, run)
    if len(read_summaries(workdir, protocols)) < len(protocols):
        train_network(data, workdir, run.model, run.train, run.inference, console)
    return score(data, workdir, console, protocols, html)


def score(
    data: Dataset, workdir: Path, console: Console, protocols: tuple[Protocol, ...], html: bool = False
) -> dict[Protocol, Summary]:
    """Scores a trained network on the test patients by those protocols that it is not scored by yet."""
    for protocol in protocols:
        if protocol not in read_summaries(workdir, protocols):
            evaluate_network(data, workdir, console, EvaluateOptions(protocol=protocol, html=html))
    return read_summaries(workdir, protocols)


def read_summaries(workdir: Path, protocols: tuple[Protocol, ...]) -> dict[Protocol, Summary]:
    """The summaries of the test patients, by those protocols that a run was scored by."""
    summaries: dict[Protocol, Summary] = {}
    for protocol in protocols:
        path = evaluation_folder(workdir, "test", protocol) / "summary.json"
        if path.exists():
            summaries[protocol] = json.loads(path.read_text())
    return summaries


def require_same(data: Dataset, workdir: Path, run: RunConfig) -> None:
    """Raises RunError if the folder holds a run with other settings, or one on another data set."""
    if not (workdir / "manifest.json").exists():
        return
    stored = RunConfig.load(workdir)
    parts = [(name, getattr(stored, name), getattr(run, name)) for name in ("model", "train", "inference")]
    changed = [
        f"{part}.{field.name}"
        for part, old, new in parts
        for field in fields(new)
        if getattr(old, field.name) != getattr(new, field.name)
    ]
    if changed:
        raise RunError(f"{workdir}: holds a run with other settings ({', '.join(changed)}); use another --output")
    trained_on = json.loads((workdir / "manifest.json").read_text())["dataset"]["dataset_sha256"]
    if trained_on != data.dataset_sha256:
        raise RunError(f"{workdir}: holds a run on another data set ({trained_on[:16]}…); use another --output")
