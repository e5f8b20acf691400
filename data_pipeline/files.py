"""Files and folders that are written whole or not at all, and by one process at a time.

`atomic_path` and `atomic_folder` hand out a temporary path beside the final one (the same file system, so that the
closing `os.replace` is one atomic step) and remove it when anything goes wrong, Ctrl-C included. A process killed
outright may leave a temporary behind, but only under a hidden name (`is_temporary`) that nobody takes for the finished
thing.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from data_pipeline.errors import InputError

_PREFIX = ".partial-"
_DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


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
        InputError: the folder cannot be made or written, `path` is a folder, or the disk is full.
    """
    path = Path(path)
    temporary = _temporary_beside(path)
    try:
        with disk_faults(path):
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
        # surrogateescape: names of files may hold any bytes
        temporary.write_bytes(content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content)


def read_json(path: Path) -> Any:
    """The content of a JSON file in UTF-8.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON, or nested too deeply.
    """
    return parse_json(path.read_text(encoding="utf-8"))


def parse_json(text: str) -> Any:
    """`json.loads`, which raises ValueError also at text that is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal digits.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    with _temporary_folder(path, path) as temporary:
        yield temporary
        _move(temporary, path)


@contextmanager
def atomic_files(folder: Path | str) -> Iterator[Path]:
    """An empty temporary folder whose files move into `folder` if the block ends well; otherwise `folder` stays as it
    was. For files that belong together: none of them is new beside an old one when the disk is full.

    Args:
        folder: made if need be; files of the same names in it are replaced.

    Yields:
        The folder to fill, with files alone.

    Raises:
        InputError: the folder cannot be made or written, or the disk is full.
    """
    folder = Path(folder)
    with _temporary_folder(folder / "files", folder) as temporary:
        yield temporary
        for path in sorted(temporary.iterdir()):
            _move(path, folder / path.name)


@contextmanager
def _temporary_folder(beside: Path, final: Path) -> Iterator[Path]:
    """A folder that is removed at the end; errors name `final` in its place."""
    temporary = _temporary_beside(beside)
    try:
        temporary.mkdir()
    except OSError as error:
        raise InputError(f"{final}: cannot be written ({error.strerror}); name another folder") from error
    try:
        with renamed_in_errors(temporary, final), disk_faults(final):
            yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def renamed_in_errors(temporary: Path | str, final: Path | str) -> Iterator[None]:
    """An InputError of the block names `final` where it would name `temporary`, which the user does not know."""
    try:
        yield
    except InputError as error:
        old, new = str(temporary), str(final)
        path = None if error.path is None else str(error.path).replace(old, new)
        renamed = InputError(error.reason.replace(old, new), path=path, quoted=error.quoted.replace(old, new))
        raise renamed from error.__cause__ or error


@contextmanager
def disk_faults(path: Path | str) -> Iterator[None]:
    """A full, read-only or failing disk inside the block becomes an InputError that names `path`.

    Libraries in C++ (ArrayRecord, HDF5) have no error of their own for it, but quote the system's text.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        texts = {code: os.strerror(code) for code in _DISK_FAULTS}
        fault = texts.get(number or 0) or next((text for text in texts.values() if text in str(error)), None)
        if fault is None:
            raise
        raise InputError(f"{path}: cannot be written ({fault}); make room or name another folder") from error


@contextmanager
def access_faults(path: Path | str) -> Iterator[None]:
    """A file or folder that may not be read inside the block becomes an InputError that names `path`."""
    try:
        yield
    except PermissionError as error:
        raise InputError(f"{path}: may not be read ({error.strerror}); change its permissions") from error


@contextmanager
def locked(path: Path | str, what: Path | str) -> Iterator[None]:
    """Holds the lock file `path` during the block, so that one process at a time works on `what`.

    The lock is the system's (`flock`): it ends with its process, also after `kill -9`. The file says who holds it, for
    the message alone, and is removed at the end.

    Args:
        path: the lock file; its folder is made if need be.
        what: the folder or file that is protected, for the message.

    Raises:
        InputError: another process holds it (the message names process and machine), or it cannot be made.
    """
    path = Path(path)
    descriptor = _lock(path, what)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # before it is released: who waits for it sees that it is no longer the file
        os.close(descriptor)


def _lock(path: Path, what: Path | str) -> int:
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise InputError(f"{what}: cannot be written ({error.strerror}); name another folder") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(descriptor, 1000)
            os.close(descriptor)
            raise InputError(
                f"{what}: in use by {_in_words(holder)}; wait until it has ended, or name another folder"
            ) from error
        except OSError:  # a file system without locks
            return descriptor
        # Its holder may have removed the file between our opening and locking it; then the lock protects nothing.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                os.truncate(descriptor, 0)
                with suppress(OSError):  # a full disk: the file is locked all the same
                    os.write(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
                return descriptor
        os.close(descriptor)


def _in_words(holder: bytes) -> str:
    try:
        written = json.loads(holder)
        return f"process {int(written['pid'])} on {written['host']}"
    except (ValueError, TypeError, KeyError):  # it has not written it yet
        return "another process"


def _temporary_beside(path: Path) -> Path:
    if not path.name:
        raise InputError(f"{path}: cannot be replaced; name a file or folder inside it")
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
