"""Opening single DICOM files that nobody vouches for: with or without preamble, truncated, or not DICOM at all."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.filereader import read_partial
from pydicom.multival import MultiValue
from pydicom.tag import Tag

HEAD_BYTES = 132
"""Bytes that `looks_like_dicom` needs: the preamble and the prefix `DICM` (DICOM PS3.10 7.1)."""
_BEFORE_PIXELS = 0x7FE00000


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


def read_dataset(
    path: Path, *, tags: Sequence[str] | None = None, until: int | None = None, pixels: bool = False
) -> Dataset:
    """Parse one DICOM file.

    Args:
        path: any regular file.
        tags: keywords of the only elements to keep; all of them if None.
        until: last tag to read, which halves the time of a header; to the pixel data if None.
        pixels: whether to read the pixel data too.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not DICOM.
        Exception: pydicom raises errors of many kinds on a damaged file. Callers turn them into their own.
    """
    last = _BEFORE_PIXELS if until is None else until
    with path.open("rb") as file, quiet_pydicom():
        if not looks_like_dicom(file.read(HEAD_BYTES)):
            raise ValueError("not DICOM")
        file.seek(0)
        return read_partial(
            file,
            stop_when=None if pixels else lambda tag, vr, length: tag > last,
            force=True,
            specific_tags=None if tags is None else [Tag(keyword) for keyword in tags],
        )


def decimals(dataset: Dataset, keyword: str) -> Float64[np.ndarray, "n"]:
    """Values of a DS element, empty if it is absent or empty.

    Parsed from the bytes where pydicom has not touched them yet: it makes a Python object of every number, which takes
    longer than all the rest for the coordinates of contours.

    Raises:
        ValueError: not numbers.
    """
    element = dataset.get_item(keyword)
    if isinstance(element, RawDataElement):
        text = (element.value or b"").strip(b" \0")
        values = text.split(b"\\") if text else []
    else:
        value = None if element is None else element.value
        values = [] if value is None else list(value) if isinstance(value, MultiValue) else [value]
    return np.array([float(value) for value in values])
