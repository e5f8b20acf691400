"""Steps that several experiments share: a data set of phantoms, and a network that is trained and scored once."""

import json
from dataclasses import fields, replace
from pathlib import Path

from rich.console import Console

from data_pipeline.errors import InputError
from data_pipeline.files import atomic_folder
from data_pipeline.loading import Dataset
from data_pipeline.settings import DatasetSettings, PhantomLevel, PrepareOptions
from rdunet_jax.config import Protocol
from rdunet_jax.errors import RunError
from rdunet_jax.options import EvaluateOptions
from rdunet_jax.runs.workdir import RunConfig
from rdunet_jax.scoring.protocols import Summary
from rdunet_jax.workflows import train_and_score as workflow
from rdunet_jax.workflows.demo import show_phantoms_written
from rdunet_jax.workflows.evaluate import evaluate_network, evaluation_folder
from rdunet_jax.workflows.prepare import prepare_source

_OPTIONS = EvaluateOptions()


def phantom_dataset(
    folder: Path,
    settings: DatasetSettings,
    count: int,
    slices: tuple[int, int],
    console: Console,
    level: PhantomLevel = "easy",
    keep_ids: bool = True,
) -> Dataset:
    """The data set of `count` phantoms in `folder/data`; made from `folder/dicom` if it is not there yet.

    Args:
        slices: fewest and most slices of a phantom.
        level: of the phantoms.
        keep_ids: name them PHANTOM-001 and so on; otherwise by pseudonyms with the key in `folder`.
    """
    dicom, data_dir = folder / "dicom", folder / "data"
    try:
        return Dataset(data_dir)
    except InputError:  # there is none yet
        pass
    if not dicom.exists():
        with atomic_folder(dicom) as unfinished:
            show_phantoms_written(unfinished, count, slices, console, level=level)
    options = PrepareOptions(keep_ids=keep_ids, key=None if keep_ids else folder / "key")
    prepare_source(dicom, data_dir, settings, console, options)
    return Dataset(data_dir)


def train_and_score(
    data: Dataset,
    workdir: Path,
    run: RunConfig,
    console: Console,
    protocols: tuple[Protocol, ...] = ("paper",),
    options: EvaluateOptions = _OPTIONS,
    init_from: Path | None = None,
) -> dict[Protocol, Summary]:
    """Summaries of a network's scores on the test patients. What is done already is not done again.

    Args:
        workdir: folder of the run.
        options: of the evaluations, except their protocol.
        init_from: see `train_network`.

    Raises:
        RunError: the folder holds a run with other settings or on another data set.
    """
    require_same(data, workdir, run)
    scorings = {evaluation_folder(workdir, "test", one): replace(options, protocol=one) for one in protocols}
    workflow.train_and_score(data, workdir, run, console, scorings, init_from)
    return read_summaries(workdir, protocols)


def score(data: Dataset, workdir: Path, console: Console, protocols: tuple[Protocol, ...]) -> dict[Protocol, Summary]:
    """Scores a trained network on the test patients by those protocols that it is not scored by yet."""
    for protocol in protocols:
        if protocol not in read_summaries(workdir, protocols):
            evaluate_network(data, workdir, console, replace(_OPTIONS, protocol=protocol))
    return read_summaries(workdir, protocols)


def read_summaries(workdir: Path, protocols: tuple[Protocol, ...]) -> dict[Protocol, Summary]:
    """The summaries of the test patients, by those protocols that a run was scored by."""
    summaries: dict[Protocol, Summary] = {}
    for protocol in protocols:
        if summary := workflow.read_summary(evaluation_folder(workdir, "test", protocol)):
            summaries[protocol] = summary
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
