"""The CTs of one `rdunet segment`: jobs that any process can take, and the summary of what became of them."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.beam import for_each
from data_pipeline.errors import InputError
from data_pipeline.formats.scans import Scan
from rdunet_jax.errors import RunError
from rdunet_jax.options import SegmentOptions
from rdunet_jax.workflows.display import plural, write_csv
from rdunet_jax.workflows.segment_patients import RunPatients, load_key_of, names_of
from rdunet_jax.workflows.segment_report import REPORT, TABLE, Seen, SourceReport, stored_report, table_row


@dataclass(frozen=True)
class Job:
    """One CT to segment."""

    number: int
    """Its place among all, from 1."""
    series: Scan
    patient: str
    """What it is called in folders and reports."""
    seen: Seen
    """Whether the run has used the patient, by name."""
    source: SourceReport
    folder: Path
    """For its files."""

    @property
    def inputs(self) -> tuple[Path, ...]:
        """All files that are read for it."""
        return (*self.series.files, *self.series.mask_files)


def jobs_of(
    every: Sequence[Scan], source: SourceReport, patients: RunPatients, options: SegmentOptions, output: Path
) -> list[Job]:
    """A job for each CT: one is written into `output`, several into a folder each."""
    several = len(every) > 1
    key = load_key_of(options, required=several)
    names = names_of([one.patient_id for one in every], key, options.keep_ids)
    jobs = []
    for number, series in enumerate(every, 1):
        patient = names[series.patient_id]
        folder = output / f"{number:03d}-{patient}" if several else output
        jobs.append(Job(number, series, patient, patients.seen(series.patient_id, key), source, folder))
    return jobs


def in_beam(jobs: Sequence[Job], options: Sequence[str], work: Callable[..., None], *arguments: object) -> None:
    """`work(job, *arguments)` for each job, in the workers of an Apache Beam pipeline.

    Raises:
        InputError: Beam cannot be used, or the pipeline failed.
    """
    try:
        for_each(jobs, options, work, *arguments)
    except InputError:
        raise
    except Exception as error:  # Beam has no error of its own, and the text may quote a file
        raise RunError(
            f"the Beam pipeline failed ({type(error).__name__}, see above); start the same command again: it goes on "
            "with the CTs that are left"
        ) from error


def stamps(jobs: Sequence[Job]) -> list[tuple[int, int] | None]:
    """What changes when a report is written anew; None where there is none."""
    found = []
    for job in jobs:
        try:
            status = (job.folder / REPORT).stat()
        except OSError:
            found.append(None)
        else:
            found.append((status.st_ino, status.st_mtime_ns))
    return found


def summarise(
    jobs: Sequence[Job],
    before: Sequence[tuple[int, int] | None],
    settings_sha256: Callable[[Job], str],
    output: Path,
    say: Callable[[str], None],
) -> tuple[int, list[str]]:
    """Writes `report.csv` of all CTs and prints what became of them.

    Args:
        before: `stamps` from before the work began.
        settings_sha256: of the report that a job must have.

    Returns:
        How many failed or are incomplete, and why those failed that did.
    """
    rows = []
    for job in jobs:
        report = stored_report(job.folder, settings_sha256(job))
        if report is None:
            raise RunError(f"{job.folder / REPORT}: not written or changed meanwhile; start the same command again")
        rows.append(table_row(report, job.folder.name))
    write_csv(output / TABLE, rows)
    kinds = Counter(row["status"] for row in rows)
    kept = sum(one is not None and one == other for one, other in zip(before, stamps(jobs), strict=True))
    parts = [f"{kinds['segmented']} segmented" + (f" ({kept} by an earlier command)" if kept else "")]
    parts += [f"{kinds[name]} {name}" for name in ("incomplete", "failed") if kinds[name]]
    for row in rows:
        if row["status"] == "failed":
            say(f"failed: {row['folder']}: {row['failure']}")
    say(f"{plural(len(jobs), 'CT')}: {', '.join(parts)}")
    say(f"table: {output / TABLE}")
    return len(jobs) - kinds["segmented"], [row["failure"] for row in rows if row["status"] == "failed"]
