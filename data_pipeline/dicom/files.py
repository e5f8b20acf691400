"""Opening single DICOM files from any source: with or without preamble, truncated, oversized, or not DICOM at all.

A small file can claim or unpack to a very large one. The limits below keep the cost of any single file under 2 GiB of
memory and 60 s. No file of a scanner or a planning system comes near them; a file beyond them is refused.
"""

import logging
import os
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float64
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.filereader import read_dataset as parse
from pydicom.filereader import read_partial, read_preamble
from pydicom.multival import MultiValue
from pydicom.tag import Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian

HEAD_BYTES = 132
"""Bytes that `looks_like_dicom` needs: the preamble and the prefix `DICM` (DICOM PS3.10 7.1)."""
MOST_FILE_BYTES = 256 * 2**20
"""Largest file that is parsed to its end, and largest result of unpacking a deflated file (PS3.5 A.5). A CT image of
4096 x 4096 pixels has 32 MiB, a large RTSTRUCT 100 MiB."""
MOST_ITEMS = 500_000
"""Most sequence items in one file. Each costs about 1 kB of memory; a large RTSTRUCT has 50,000."""
_CHUNK = 2**20
_SMALL_FILE = 4 * 2**20  # too small to hold MOST_ITEMS, whatever its bytes
_ITEM_TAGS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")  # little and big endian
_BEFORE_PIXELS = 0x7FE00000
_LOGGERS = ("pydicom", "pylibjpeg", "libjpeg", "openjpeg", "nibabel.global")


class NotDicomError(ValueError):
    """The file does not begin like DICOM."""


class OversizedError(ValueError):
    """The file exceeds a limit of this module; the message says which."""


def describe_error(error: Exception) -> str:
    """Name an error without the text of pydicom or highdicom, which may quote values from the file."""
    missing = error.name if isinstance(error, AttributeError) else None
    return f"no {missing}" if missing else "not DICOM" if isinstance(error, NotDicomError) else type(error).__name__


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Silence the warnings and log messages of pydicom, its decoders and nibabel.

    They quote the values that they complain about, and so could name a patient.
    """
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.CRITICAL + 1)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def looks_like_dicom(head: bytes) -> bool:
    """Whether a file that begins with `head` is worth parsing as DICOM.

    True with the prefix `DICM` after the preamble, and for the files without preamble that older exporters write:
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
        until: last tag to read, which halves the time for a header; up to the pixel data if None.
        pixels: whether to read the pixel data too.

    Raises:
        OSError: the file cannot be read.
        NotDicomError: it is not DICOM.
        OversizedError: it exceeds `MOST_FILE_BYTES` (unless only a header is read) or `MOST_ITEMS`.
        Exception: pydicom raises errors of many kinds on a damaged file. Callers turn them into their own.
    """
    last = _BEFORE_PIXELS if until is None else until
    with path.open("rb") as file, quiet_pydicom():
        if not looks_like_dicom(file.read(HEAD_BYTES)):
            raise NotDicomError("not DICOM")
        _check_size(file, whole=until is None)
        file.seek(0)
        return read_partial(
            file,
            stop_when=None if pixels else lambda tag, vr, length: tag > last,
            force=True,
            specific_tags=None if tags is None else [Tag(keyword) for keyword in tags],
        )


def _check_size(file: BinaryIO, whole: bool) -> None:
    """Refuse a file that takes too much memory to parse, before pydicom does so."""
    size = file.seek(0, os.SEEK_END)
    if whole and size > MOST_FILE_BYTES:
        raise OversizedError(f"larger than {MOST_FILE_BYTES >> 20} MiB")
    file.seek(0)
    read_preamble(file, True)
    meta = parse(file, is_implicit_VR=False, is_little_endian=True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        _check_items(_inflated(file))
    elif size > _SMALL_FILE:
        _check_items(iter(lambda: file.read(_CHUNK), b""))


def _inflated(file: BinaryIO) -> Iterator[bytes]:
    """The rest of a deflated file, piece by piece, up to `MOST_FILE_BYTES`."""
    inflate, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
    packed = file.read(_CHUNK)
    while packed and not inflate.eof:
        piece = inflate.decompress(packed, _CHUNK)
        total += len(piece)
        if total > MOST_FILE_BYTES:
            raise OversizedError(f"unpacks to more than {MOST_FILE_BYTES >> 20} MiB")
        yield piece
        packed = inflate.unconsumed_tail or file.read(_CHUNK)


def _check_items(pieces: Iterable[bytes]) -> None:
    items, end = [0, 0], b""
    for piece in pieces:
        piece = end + piece
        items = [count + piece.count(tag) for count, tag in zip(items, _ITEM_TAGS, strict=True)]
        end = piece[-3:]  # a tag of four bytes that two pieces share
        if max(items) > MOST_ITEMS:
            raise OversizedError(f"more than {MOST_ITEMS} sequence items")


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


def printable(text: object, longest: int = 64) -> str:
    """Text from a file on one line and without control characters, cut to a length.

    Names of ROIs and modalities are free text: a line break in one must not break a message.
    """
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in str(text)).split())
    return line if len(line) <= longest else line[: longest - 1] + "…"
