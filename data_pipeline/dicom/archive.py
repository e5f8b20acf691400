"""A zip file of DICOM as a source: unpacked into a temporary folder, with limits.

Only regular members are unpacked, under names made here: a name in an archive may point outside the folder. A small
archive can unpack to any size, so the sizes it declares are checked first; `zipfile` never writes more than declared.
"""

import re
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_pipeline.dicom.files import HEAD_BYTES, looks_like_dicom
from data_pipeline.errors import InputError
from data_pipeline.files import renamed_in_errors

MOST_MEMBERS = 200_000
"""Most files in an archive; the collection NSCLC-Radiomics has 52,000."""
MOST_UNPACKED_BYTES = 64 * 2**30
"""Most bytes that an archive may unpack to; the collection has 27 GB."""
MOST_RATIO = 200
"""Most bytes that one packed byte may give; CT images give 2 to 10, empty ones up to 1000, but not on average."""
_RATIO_FROM_BYTES = 64 * 2**20  # smaller archives are harmless at any ratio


@contextmanager
def opened_source(source: Path) -> Iterator[Path]:
    """The folder or file to search: `source` itself, or a temporary folder with the members of a zip file.

    The temporary folder is removed at the end of the block.

    Raises:
        InputError: the archive is damaged, encrypted, beyond a limit, of another kind than zip, or holds no file; or
            there is no room to unpack it.
    """
    if not source.is_file() or _is_dicom(source):
        yield source
        return
    if not zipfile.is_zipfile(source):
        raise InputError("neither a folder, a DICOM file nor a zip file; unpack it and name the folder", path=source)
    with tempfile.TemporaryDirectory(prefix="rdunet-zip-") as folder:
        try:
            with zipfile.ZipFile(source) as archive:
                _unpack(archive, _members(archive, source), Path(folder))
        except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"a damaged zip file ({type(error).__name__}); pack it again", path=source) from error
        except RuntimeError as error:  # zipfile's, for a password
            raise InputError("an encrypted zip file; unpack it and name the folder", path=source) from error
        except OSError as error:
            raise InputError(
                f"cannot be unpacked ({error.strerror}); unpack it elsewhere and name the folder", path=source
            ) from error
        with renamed_in_errors(folder, source):
            yield Path(folder)


def _is_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return looks_like_dicom(file.read(HEAD_BYTES))
    except OSError:
        return False


def _members(archive: zipfile.ZipFile, source: Path) -> list[zipfile.ZipInfo]:
    """The regular files of an archive that is within the limits."""
    members = [one for one in archive.infolist() if not one.is_dir() and _is_regular(one)]
    unpacked = sum(one.file_size for one in members)
    if not members:
        raise InputError("an empty zip file; name one with DICOM files", path=source)
    if len(members) > MOST_MEMBERS:
        raise InputError(f"holds more than {MOST_MEMBERS} files; unpack it and name the folder", path=source)
    ratio = unpacked / max(source.stat().st_size, 1)
    if unpacked > MOST_UNPACKED_BYTES or (unpacked > _RATIO_FROM_BYTES and ratio > MOST_RATIO):
        raise InputError(
            f"unpacks to {unpacked / 2**30:.1f} GiB, {ratio:.0f} times its size; this is no archive of CT images",
            path=source,
        )
    return members


def _is_regular(member: zipfile.ZipInfo) -> bool:
    """Not a link or a device; archives made on other systems than Unix give no kind."""
    kind = stat.S_IFMT(member.external_attr >> 16)
    return kind in (0, stat.S_IFREG)


def _unpack(archive: zipfile.ZipFile, members: list[zipfile.ZipInfo], folder: Path) -> None:
    for number, member in enumerate(members):
        # Folders in the name stay readable; the number keeps equal names apart.
        name = re.sub(r"[^A-Za-z0-9._-]", "_", member.filename)[-100:]
        with archive.open(member) as packed, (folder / f"{number:06d}-{name}").open("xb") as unpacked:
            shutil.copyfileobj(packed, unpacked, 2**20)
