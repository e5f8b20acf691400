"""Work on many CTs by Apache Beam: on the cores of one machine, or on many machines that share a file system."""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from data_pipeline.errors import InputError
from data_pipeline.privacy import one_line

Job = TypeVar("Job")


def pipeline_options(options: Sequence[str]) -> Any:
    """Options of a Beam pipeline, such as `runner=FlinkRunner`, each anew: a pipeline may change its own.

    Raises:
        InputError: Beam is not installed.
    """
    try:
        from apache_beam.options.pipeline_options import PipelineOptions  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError("Apache Beam is not installed; install the extra: pip install '.[beam]'") from error
    return PipelineOptions([f"--{option}" for option in options])


@contextmanager
def temporary_files_removed() -> Iterator[None]:
    """Within this, Beam and its local workers make their temporary files, which they leave behind, in one folder."""
    before = tempfile.tempdir, os.environ.get("TMPDIR")
    with tempfile.TemporaryDirectory(prefix="rdunet-beam-", ignore_cleanup_errors=True) as folder:
        tempfile.tempdir = os.environ["TMPDIR"] = folder
        try:
            yield
        finally:
            tempfile.tempdir = before[0]
            if before[1] is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = before[1]


def for_each(jobs: Sequence[Job], options: Sequence[str], work: Callable[..., None], *arguments: object) -> None:
    """Calls `work(job, *arguments)` for every job, in the workers of a pipeline.

    What a job makes must go into files: nothing is returned. Jobs and arguments are pickled; `work` is a function of a
    module.

    Args:
        options: see `pipeline_options`.

    Raises:
        InputError: Beam is not installed, or has no such runner.
    """
    settings = pipeline_options(options)
    import apache_beam as beam  # pyright: ignore[reportMissingImports]

    with temporary_files_removed():
        try:
            pipeline = beam.Pipeline(options=settings)
        except ValueError as error:
            raise InputError(f"--beam {' '.join(options)}: refused by Apache Beam ({one_line(str(error))})") from error
        with pipeline:
            _ = (
                pipeline
                | beam.Create(list(jobs))
                | beam.Reshuffle()  # else one worker would get them all
                | beam.Map(work, *arguments)
            )
