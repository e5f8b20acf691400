"""`rdunet segment`: the CTs of a source, one after the other or by Apache Beam."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from threading import Lock

from rich.console import Console

from data_pipeline.errors import InputError
from data_pipeline.formats.scans import find_scans, opened_source
from data_pipeline.preprocessing.patient import inputs_sha256
from rdunet_jax.options import SegmentOptions
from rdunet_jax.workflows.prediction import as_runs
from rdunet_jax.workflows.segment_ct import (
    OUTPUTS,
    Session,
    is_full_disk,
    open_session,
    remove_earlier,
    segment_ct,
)
from rdunet_jax.workflows.segment_many import Job, in_beam, jobs_of, stamps, summarise
from rdunet_jax.workflows.segment_report import CTReport, SourceReport, is_done, reason_of
from rdunet_jax.workflows.start_up import is_shortage, prepare_jax

_DEFAULTS = SegmentOptions()


def segment_source(
    source: Path, workdir: Path | Sequence[Path], output: Path, console: Console, options: SegmentOptions = _DEFAULTS
) -> int:
    """Segments every CT in a folder; returns how many failed or are incomplete.

    One CT is written into `output`, several into a folder each, with `report.csv` for all of them. A CT that fails is
    reported, and the others are still segmented. Of several, those that an earlier command has segmented with the same
    network and settings are not segmented again. The volume of one CT is in host memory as a whole, with its mask and
    probabilities; memory on the device does not depend on its length.

    Args:
        source: folder with DICOM or volume files, a zip file of DICOM, a table, or one file.
        workdir: folder of the run whose best network is used, or those of several, whose probabilities are averaged.
        output: folder for masks, pictures and reports.
        console: for the progress bar and the results.
        options: formats, post-processing, identities, Beam.

    Raises:
        InputError: there is no network or no CT, none of the CTs can be segmented, the disk is full, or Beam failed.
    """
    workdirs = as_runs(workdir)
    session = open_session(workdirs, options, console)
    with opened_source(source) as folder:
        found = find_scans(folder)
        about_source = SourceReport.of(found, folder, options.keep_ids)
        for line in about_source.lines():
            session.say(line)
        jobs = jobs_of(found.series, about_source, session.patients, options, output)
        if len(jobs) == 1:
            return int(_segment_alone(jobs[0], session, source).status != "segmented")
        before = stamps(jobs)
        if options.beam is not None:
            in_beam(jobs, options.beam, _segment_in_worker, workdirs, options)
        else:
            for job in jobs:
                session.say(f"{job.number} of {len(jobs)}: {job.patient}")
                _segment_one(job, session)
        wrong, failures = summarise(jobs, before, session.settings_sha256, output, session.say)
    if len(failures) == len(jobs):
        raise InputError(f"none of its {len(failures)} CT series can be segmented: {failures[0]}", path=source)
    return wrong


_lock = Lock()


@lru_cache(maxsize=1)
def _session_of_worker(workdirs: tuple[Path, ...], options: SegmentOptions) -> Session:
    prepare_jax()
    return open_session(workdirs, options, Console(quiet=True))


def _segment_in_worker(job: Job, workdirs: tuple[Path, ...], options: SegmentOptions) -> None:
    """Segments one of several CTs in a worker of Beam, which loads the network once."""
    with _lock:  # a worker may have several threads
        session = _session_of_worker(workdirs, options)
    _segment_one(job, replace(session, console=Console(quiet=True)))


def _segment_alone(job: Job, session: Session, source: Path) -> CTReport:
    """Segments the only CT of a source.

    Raises:
        InputError: it cannot be segmented.
    """
    report = session.new_report(job)
    try:
        segment_ct(job.series, report, session, job.folder)
    except InputError as error:
        if is_full_disk(error):
            raise
        reason = reason_of(error, session.options.keep_ids)
        raise InputError(f"cannot be segmented: {reason}", path=source) from error
    return report


def _segment_one(job: Job, session: Session) -> None:
    """Segments one of several CTs, unless that is done. Its report says whether it failed.

    Raises:
        InputError: the disk is full.
    """
    report = session.new_report(job)
    assert report.settings_sha256 is not None
    if is_done(job.folder, report.settings_sha256, lambda: inputs_sha256(job.inputs)):
        session.say("segmented by an earlier command")
        return
    try:
        segment_ct(job.series, report, session, job.folder)
    except Exception as error:
        _take_failure(error, report, session)
        for name in OUTPUTS - set(report.files.values()):
            remove_earlier(job.folder / name)
        report.write(job.folder)


def _take_failure(error: Exception, report: CTReport, session: Session) -> None:
    """Notes why one of several CTs failed. Raises the error again where the next CT would fail too."""
    if isinstance(error, InputError):
        if is_full_disk(error):
            raise error
        report.failure = reason_of(error, session.options.keep_ids)
    elif is_shortage(error):
        report.failure = "not enough memory"
    else:  # one CT must not stop the others; the error's own text may hold values from the file
        report.failure = f"unexpected {type(error).__name__}; segment this CT alone to see where"
    report.status = "failed"
    session.say(f"failed: {report.failure}")
