"""Patients' arrays between reading and writing: every CT is read once, by one of many processes, into a folder.

Which process reads and which writes does not matter, so the same functions serve a pool on one machine and an Apache
Beam pipeline on many (which then need to share that folder).
"""

import hashlib
import json
import multiprocessing
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from data_pipeline.dicom.discovery import CTSeries
from data_pipeline.errors import InputError
from data_pipeline.preprocessing.patches import PATCH_DEPTH, patch_starts
from data_pipeline.preprocessing.patient import prepare_patient
from data_pipeline.settings import DatasetSettings

Example = tuple[int, dict[str, Any]]
"""A key that orders the data set, and the features."""

KEYS_PER_PATIENT = 100_000
"""No CT has as many slices, so that a patient's number and a slice's make a key."""


@dataclass(frozen=True)
class Job:
    """One CT to read.

    Attributes:
        number: its place in the order of names; it names its files, which are therefore safe whatever the name is.
        name: pseudonym, or Patient ID where identities are kept; `.ct2` behind a person's second CT.
        person: the same without the ending: the split is by person.
    """

    number: int
    name: str
    person: str
    series: CTSeries

    def staged(self, staging: Path) -> Path:
        return staging / f"{self.number:05d}.npz"


Result = tuple[dict[str, Any] | None, str]
"""(record, ""), or (None, why the patient cannot be used)."""


def stage(job: Job, settings: DatasetSettings, staging: Path) -> Result:
    """Reads one patient and leaves the arrays in the folder; the record tells of them, with their digest."""
    try:
        prepared = prepare_patient(job.series, settings)
    except InputError as error:
        return None, str(error)
    arrays = {
        "image": prepared.image,
        "mask": prepared.mask.astype(np.uint8),
        "ct_mask": prepared.ct_mask.astype(np.uint8),
        "spacing_mm": np.asarray(prepared.spacing_mm, np.float32),
        "starts": patch_starts(np.asarray(prepared.mask.any(axis=(1, 2))), settings.selection),
    }
    np.savez(job.staged(staging), **arrays)
    return asdict(prepared.record) | {"patches": len(arrays["starts"]), "examples_sha256": _digest(arrays)}, ""


def stage_in_processes(
    jobs: Sequence[Job],
    settings: DatasetSettings,
    staging: Path,
    workers: int,
    progress: Progress | None = None,
) -> list[Result]:
    """`stage` of every job, in processes of this machine; shows a bar in `progress`."""
    run = partial(stage, settings=settings, staging=staging)
    workers = min(workers, len(jobs))
    task = progress.add_task("reading patients", total=len(jobs)) if progress else None
    results = []
    with ExitStack() as stack:
        found: Iterable[Result] = map(run, jobs)
        if workers > 1:  # spawn: a fork of a process in which JAX's threads run may hang
            context = multiprocessing.get_context("spawn")
            found = stack.enter_context(ProcessPoolExecutor(workers, mp_context=context)).map(run, jobs)
        for result in found:
            results.append(result)
            if progress and task is not None:
                progress.advance(task)
    return results


def stage_in_beam(
    jobs: Sequence[Job], settings: DatasetSettings, staging: Path, options: Sequence[str]
) -> list[Result]:
    """`stage` of every job by an Apache Beam pipeline with these options (such as `--runner=FlinkRunner`)."""
    import apache_beam as beam  # pyright: ignore[reportMissingImports]

    with beam.Pipeline(options=pipeline_options(options)) as pipeline:
        _ = (
            pipeline
            | beam.Create(list(jobs))
            | beam.Reshuffle()  # else one worker would read them all
            | beam.Map(_stage_and_tell, settings, staging)
        )
    return [tuple(json.loads(_told(job, staging).read_text())) for job in jobs]


def pipeline_options(options: Sequence[str]) -> Any:
    """Options of a Beam pipeline, each anew: a pipeline may change its own.

    Raises:
        InputError: Beam is not installed.
    """
    try:
        from apache_beam.options.pipeline_options import PipelineOptions  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError("Apache Beam is not installed; install the extra: pip install '.[beam]'") from error
    return PipelineOptions(list(options))


def _stage_and_tell(job: Job, settings: DatasetSettings, staging: Path) -> None:
    _told(job, staging).write_text(json.dumps(stage(job, settings, staging)))


def _told(job: Job, staging: Path) -> Path:
    return job.staged(staging).with_suffix(".json")


def whole_patient(job: Job, staging: Path) -> Iterator[Example]:
    """The one example of a whole patient."""
    with np.load(job.staged(staging)) as staged:
        arrays = {key: staged[key] for key in staged if key != "starts"}
    yield job.number * KEYS_PER_PATIENT, {"patient": job.name, "start": 0} | arrays


def patches(job: Job, staging: Path) -> Iterator[Example]:
    """An example for each patch of a patient."""
    with np.load(job.staged(staging)) as staged:
        image, mask, spacing_mm, starts = (staged[key] for key in ("image", "mask", "spacing_mm", "starts"))
    for start in starts.tolist():
        slices = slice(start, start + PATCH_DEPTH)
        yield (
            job.number * KEYS_PER_PATIENT + start,
            {
                "patient": job.name,
                "start": start,
                "image": image[slices],
                "mask": mask[slices],
                "ct_mask": np.zeros((0, 0, 0), np.uint8),
                "spacing_mm": spacing_mm,
            },
        )


def without_path(message: str) -> str:
    """The message without the path it starts with, whose folders are often named after the patient."""
    path, colon, reason = message.partition(": ")
    return reason if colon and os.sep in path else message


def _digest(arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 of names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
