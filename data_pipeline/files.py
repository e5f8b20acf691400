"""Files and folders that are written whole or not at all.

`atomic_path` and `atomic_folder` hand out a temporary path beside the final one (the same file system, so that the
closing `os.replace` is one atomic step) and remove it when anything goes wrong, Ctrl-C included. A process killed
outright may leave a temporary behind, but only under a hidden name (`is_temporary`) that nobody takes for the finished
thing.
"""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_pipeline.errors import InputError

_PREFIX = ".partial-"


def is_temporary(path: Path) -> bool:
    """Whether `path` is named as the unfinished files and folders of `atomic_path` and `atomic_folder` are."""
    return path.name.startswith(_PREFIX)


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """A temporary file name that becomes `path` if the block ends well; otherwise `path` stays as it was.

    The temporary name ends as `path` does, because some writers (nibabel, matplotlib) choose the format by the suffix.

    Args:
        path: the file to write; its folder is made if need be, and an existing file is replaced.

    Yields:
        The path to write to, not yet existing.

    Raises:
        InputError: the folder cannot be made or written, or `path` is a folder.
    """
    path = Path(path)
    temporary = _temporary_beside(path)
    try:
        yield temporary
        _move(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path | str, content: str | bytes) -> None:
    """Writes a file in one piece, through `atomic_path`; text as UTF-8, with its line ends unchanged.

    Raises:
        InputError: the folder cannot be made or written, or `path` is a folder.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """An empty temporary folder that becomes `path` if the block ends well; otherwise nothing is left of it.

    Args:
        path: the folder to make; it must not exist yet, or be empty.

    Yields:
        The folder to fill.

    Raises:
        InputError: `path` exists and is not an empty folder, or its parent cannot be made or written.
    """
    path = Path(path)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise InputError(f"{path}: already exists and is not an empty folder; name another one or remove it")
    temporary = _temporary_beside(path)
    try:
        temporary.mkdir()
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); name another folder") from error
    try:
        yield temporary
        _move(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _temporary_beside(path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: its folder cannot be made ({error.strerror}); name another one") from error
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"{path}: its folder cannot be written to; name another one or change its permissions")
    return path.with_name(f"{_PREFIX}{uuid.uuid4().hex[:8]}-{path.name}")


def _move(temporary: Path, path: Path) -> None:
    try:
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); name another path") from error
