"""Opening single DICOM files that nobody vouches for: with or without preamble, truncated, or not DICOM at all."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pydicom
from pydicom import Dataset

HEAD_BYTES = 132
"""Bytes that `looks_like_dicom` needs: the preamble and the prefix `DICM` (DICOM PS3.10 7.1)."""


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Silence pydicom's warnings: they quote the values they complain about, and so could name a patient."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def looks_like_dicom(head: bytes) -> bool:
    """Whether a file that begins with `head` is worth parsing as DICOM.

    True with the prefix `DICM` behind the preamble, and for the files without preamble that older exporters write:
    these begin with an element of group 0002 or 0008 in little endian.
    """
    return head[128:132] == b"DICM" or (len(head) >= 8 and head[:2] in (b"\x02\x00", b"\x08\x00"))


def read_dataset(path: Path, *, tags: Sequence[str] | None = None, pixels: bool = False) -> Dataset:
    """Parse one DICOM file.

    Args:
        path: any regular file.
        tags: keywords of the only elements to keep; all of them if None.
        pixels: whether to read on to the pixel data.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not DICOM.
        Exception: pydicom raises errors of many kinds on a damaged file. Callers turn them into their own.
    """
    with path.open("rb") as file:
        if not looks_like_dicom(file.read(HEAD_BYTES)):
            raise ValueError("not DICOM")
        file.seek(0)
        with quiet_pydicom():
            return pydicom.dcmread(
                file, force=True, stop_before_pixels=not pixels, specific_tags=None if tags is None else list(tags)
            )
