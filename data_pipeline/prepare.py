"""`rdunet prepare`: a folder of CTs to a data set on disk, with a report for people and one for programs."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import tensorflow_datasets as tfds
from rich.progress import Progress

from data_pipeline.account import Account
from data_pipeline.beam import pipeline_options, temporary_files_removed
from data_pipeline.errors import InputError
from data_pipeline.files import disk_faults, locked
from data_pipeline.formats.scans import opened_source
from data_pipeline.loading import FOLDER
from data_pipeline.nsclc_radiomics import Builder
from data_pipeline.privacy import in_home
from data_pipeline.records import write_checksums
from data_pipeline.settings import DatasetSettings, PrepareOptions

_DEFAULTS = PrepareOptions()


def prepare_dataset(
    source: Path,
    data_dir: Path,
    settings: DatasetSettings,
    options: PrepareOptions = _DEFAULTS,
    progress: Progress | None = None,
) -> tuple[Path, Account]:
    """Builds the data set named by `settings` under `data_dir`, whole or not at all.

    It is built beside its place and moved there at the end, so that with `overwrite` the old one stays until then.

    Args:
        source: folder of DICOM or volume files, a zip file of DICOM, a table, or one file.
        data_dir: folder of data sets; made if need be.
        settings: what the data set is made of.
        options: how it is made.
        progress: shows bars in it.

    Returns:
        The data set's folder and its account.

    Raises:
        InputError: the source has nothing to use; the data set exists and `overwrite` is not set; another process makes
            it at this moment; or the disk is full.
    """
    if not source.exists():
        raise InputError(f"{source}: no such folder; name the folder that holds the DICOM files")
    folder = data_dir / FOLDER / settings.name
    final = folder / str(Builder.VERSION)
    _refuse_existing(final, options)
    building = data_dir / FOLDER / f".partial-{settings.name}"
    with _folders(folder), locked(data_dir / FOLDER / f".lock-{settings.name}", folder):
        _refuse_existing(final, options)  # another process may have made it since
        _clear(building, final)  # left by a process that was killed
        try:
            with disk_faults(folder):
                building.mkdir()
                account = _build(source, building, settings, options, progress)
                built = building / FOLDER / settings.name / final.name
                write_checksums(built)
                if final.exists():
                    os.replace(final, building / "old")
                os.replace(built, final)
                _remove_old_index(data_dir)
        finally:
            _clear(building, final)
    return final, account


def _remove_old_index(data_dir: Path) -> None:
    """Removes the index that earlier versions kept beside the data sets: it holds digests of identities and their key,
    and must not be passed on with the data."""
    path = data_dir / "dicom_index.json"
    with suppress(OSError):
        with path.open("rb") as file:
            is_ours = file.read(100).startswith(b'{"format":"rdunet DICOM index')
        if is_ours:
            path.unlink()


def index_file(source: Path) -> Path | None:
    """Where the headers of a source are remembered: in the user's cache folder, away from data sets that are passed on.

    None where there is no such folder, or it cannot be written: an index only saves time.
    """
    cache = in_home(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache"))
    if cache is None:
        return None
    folder = cache / "rdunet" / "dicom"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return None
    name = hashlib.blake2b(os.fsencode(source.resolve()), digest_size=12).hexdigest()
    return folder / f"{name}.json" if os.access(folder, os.W_OK) else None


def _build(
    source: Path, building: Path, settings: DatasetSettings, options: PrepareOptions, progress: Progress | None
) -> Account:
    tfds.disable_progress_bar()
    beam_options = None if options.beam is None else pipeline_options(options.beam)
    with nullcontext() if beam_options is None else temporary_files_removed(), opened_source(source) as files:
        builder = Builder(
            source=files,
            settings=settings,
            selection=None,
            options=options,
            index=index_file(source) if files == source else None,  # unpacked files have other paths each time
            progress=progress,
            data_dir=str(building),
            file_format="array_record",
        )
        builder.download_and_prepare(
            download_dir=building / "downloads",  # nothing is downloaded; TFDS wants the folder
            download_config=tfds.download.DownloadConfig(beam_options=beam_options),
        )
    assert builder.account is not None  # set before the examples are written
    return builder.account


def _refuse_existing(final: Path, options: PrepareOptions) -> None:
    if final.exists() and not options.overwrite:
        raise InputError(f"{final.parent}: exists already; name another --data-dir, or add --overwrite to replace it")


def _clear(building: Path, final: Path) -> None:
    """Removes what is unfinished; an old data set that was moved aside for a new one that never came moves back."""
    old = building / "old"
    if old.exists() and not final.exists():
        os.replace(old, final)
    shutil.rmtree(building, ignore_errors=True)


@contextmanager
def _folders(path: Path) -> Iterator[None]:
    """Makes a folder with its parents; those it made are removed at the end if they are empty."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be made ({error.strerror}); name another --data-dir") from error
    try:
        yield
    finally:
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()
