"""Patients' arrays between reading and writing: every CT is read once, by one of many processes, into a folder.

Which process reads and which writes does not matter, so the same functions serve a pool on one machine and an Apache
Beam pipeline on many (which then need to share that folder).
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from data_pipeline.account import PatientEntry, from_json
from data_pipeline.beam import for_each
from data_pipeline.errors import InputError
from data_pipeline.formats.scans import Scan
from data_pipeline.preprocessing.fingerprints import Fingerprint
from data_pipeline.preprocessing.patches import PATCH_DEPTH, patch_starts
from data_pipeline.preprocessing.patient import PreparedPatient, prepare_patient
from data_pipeline.processes import worker_pool
from data_pipeline.settings import DatasetSettings, PatchSelection

Example = tuple[int, dict[str, Any]]
"""A key that orders the data set, and the features."""

KEYS_PER_PATIENT = 100_000
"""No CT has as many slices, so that a patient's number and a slice's make a key."""


@dataclass(frozen=True)
class Job:
    """One CT to read.

    Attributes:
        number: its place in the order of names; its staged file is named after it.
        name: pseudonym, or Patient ID where identities are kept; `.ct2` behind a person's second CT.
        person: the same without the ending: the split is by person.
        series: its files.
    """

    number: int
    name: str
    person: str
    series: Scan

    def staged(self, staging: Path) -> Path:
        return staging / f"{self.number:05d}.npz"


@dataclass(frozen=True)
class Fault:
    """Why a CT cannot be used: the fields of an `InputError`. `path` and `quoted` may identify the patient."""

    reason: str
    path: str | None = None
    quoted: str = ""


@dataclass(frozen=True)
class Staged:
    """The result of a job: its entry and fingerprint, or its fault."""

    entry: PatientEntry | None
    fault: Fault | None = None
    fingerprint: Fingerprint | None = None


def stage(job: Job, settings: DatasetSettings, staging: Path) -> Staged:
    """Reads one patient and stores its arrays in the folder; the entry holds their digest.

    Raises:
        OSError: the arrays cannot be stored, as on a full disk.
    """
    try:
        prepared = prepare_patient(job.series, settings)
    except InputError as error:
        return Staged(None, _fault(error, job.series))
    except MemoryError:
        return Staged(None, Fault("not enough memory to read it; use fewer --workers"))
    except Exception as error:  # one patient must not end the others; the message may quote the file
        return Staged(None, Fault(f"cannot be read ({type(error).__name__}); its files may be damaged"))
    return Staged(_store(prepared, job.staged(staging)), fingerprint=prepared.fingerprint)


def _fault(error: InputError, series: Scan) -> Fault:
    reason, path = error.reason, error.path
    # A message made without the field begins with a path that we know.
    for known in {one for file in (*series.files, *series.mask_files) for one in (file, file.parent)}:
        if reason.startswith(f"{known}: "):
            reason, path = reason.removeprefix(f"{known}: "), known
    return Fault(reason, None if path is None else str(path), error.quoted)


def _store(prepared: PreparedPatient, path: Path) -> PatientEntry:
    arrays = {
        "image": prepared.image,
        "mask": prepared.mask.astype(np.uint8),
        "ct_mask": prepared.ct_mask.astype(np.uint8),
        "spacing_mm": np.asarray(prepared.spacing_mm, np.float32),
    }
    np.savez(path, **arrays)
    # They follow from the mask, but with them the digest is that of a data set that stores these patches.
    arrays["starts"] = patch_starts(prepared.record.holds_tumour, "tumour_run")
    record = {field.name: getattr(prepared.record, field.name) for field in fields(prepared.record)}
    return PatientEntry(**record, examples_sha256=_digest(arrays), fingerprint=str(prepared.fingerprint))


def stage_in_processes(
    jobs: Sequence[Job], settings: DatasetSettings, staging: Path, workers: int, progress: Progress | None = None
) -> list[Staged]:
    """`stage` of every job, in processes of this machine; shows a bar in `progress`.

    Where a process is ended from outside (most often for lack of memory), the jobs that are left go on in a process
    each, so that the one that ends it again is known.
    """
    task = progress.add_task("reading patients", total=len(jobs)) if progress else None
    staged: list[Staged] = []

    def keep(one: Staged) -> None:
        staged.append(one)
        if progress and task is not None:
            progress.advance(task)

    workers = min(workers, len(jobs))
    if workers <= 1:
        for job in jobs:
            keep(stage(job, settings, staging))
        return staged
    pool = worker_pool(workers)
    try:
        futures: list[Future[Staged]] = [pool.submit(stage, job, settings, staging) for job in jobs]
        for future in futures:
            keep(future.result())
    except BrokenProcessPool:
        for job in jobs[len(staged) :]:
            keep(_stage_alone(job, settings, staging))
    finally:
        pool.shutdown(cancel_futures=True)
    return staged


def _stage_alone(job: Job, settings: DatasetSettings, staging: Path) -> Staged:
    with worker_pool(1) as pool:
        try:
            return pool.submit(stage, job, settings, staging).result()
        except BrokenProcessPool:
            return Staged(None, Fault("its reading ended the process, most often for lack of memory"))


def stage_in_beam(
    jobs: Sequence[Job], settings: DatasetSettings, staging: Path, options: Sequence[str]
) -> list[Staged]:
    """`stage` of every job by an Apache Beam pipeline with these options (such as `runner=FlinkRunner`)."""
    for_each(jobs, options, _stage_to_file, settings, staging)
    return [from_json(Staged, json.loads(_result_file(job, staging).read_text(encoding="utf-8"))) for job in jobs]


def _stage_to_file(job: Job, settings: DatasetSettings, staging: Path) -> None:
    result = asdict(stage(job, settings, staging))
    _result_file(job, staging).write_text(json.dumps(result), encoding="utf-8")  # escaped to ASCII


def _result_file(job: Job, staging: Path) -> Path:
    return job.staged(staging).with_suffix(".json")


def slices(job: Job, staging: Path) -> Iterator[Example]:
    """An example for each slice of a patient."""
    return _parts(job, staging, depth=1)


def patches(job: Job, staging: Path, selection: PatchSelection) -> Iterator[Example]:
    """An example for each selected patch of a patient."""
    return _parts(job, staging, PATCH_DEPTH, selection)


def _parts(job: Job, staging: Path, depth: int, selection: PatchSelection = "all") -> Iterator[Example]:
    with np.load(job.staged(staging)) as staged:
        image, mask, spacing_mm = (staged[key] for key in ("image", "mask", "spacing_mm"))
    for start in patch_starts(mask.any(axis=(1, 2)), selection, depth).tolist():
        arrays = {
            "image": image[start : start + depth],
            "mask": mask[start : start + depth],
            "ct_mask": np.zeros((0, 0, 0), np.uint8),
            "spacing_mm": spacing_mm,
        }
        yield job.number * KEYS_PER_PATIENT + start, {"patient": job.name, "start": start} | arrays


def whole_patient(job: Job, staging: Path) -> Iterator[Example]:
    """The one example of a whole patient."""
    with np.load(job.staged(staging)) as staged:
        yield job.number * KEYS_PER_PATIENT, {"patient": job.name, "start": 0} | dict(staged)


def ct_mask(job: Job, staging: Path) -> Iterator[Example]:
    """The one example of a patient whose slices are examples of their own: its mask on the CT's grid."""
    with np.load(job.staged(staging)) as staged:
        arrays = dict(staged) | {name: staged[name][:0] for name in ("image", "mask")}
    yield job.number * KEYS_PER_PATIENT, {"patient": job.name, "start": 0} | arrays


def _digest(arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 of names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
