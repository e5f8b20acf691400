"""Stored pixel values of one CT image, decoded only after the size of the data has been compared with the header.

A header of 32 x 32 pixels may come with a code stream that unpacks to gigabytes. Decoders trust the stream, so its own
size is read first: the frame header of the JPEG family, the lengths of RLE segments, the length of plain pixels.
"""

import struct

import numpy as np
from pydicom import Dataset
from pydicom.encaps import get_frame
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    RLELossless,
)

MOST_PIXELS = 4096 * 4096
"""Most pixels in one image. CT scanners write 512 x 512 to 2048 x 2048."""
_SURPLUS_BYTES = 4096  # that some writers append to the pixels; a second frame is more
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}  # SOF0 to SOF15, SOF55 (JPEG-LS)
_NO_LENGTH = frozenset((0x01, *range(0xD0, 0xDA)))  # TEM, RST0 to RST7, SOI, EOI


class UnusableImageError(Exception):
    """Why an image cannot be part of a volume."""


def matrix(dataset: Dataset) -> tuple[int, int]:
    """Rows and columns of an image.

    Raises:
        UnusableImageError: none, or more than `MOST_PIXELS`.
    """
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if not 0 < rows * columns <= MOST_PIXELS:
        raise UnusableImageError(f"claims {rows} x {columns} pixels")
    return rows, columns


def stored_values(dataset: Dataset) -> tuple[np.ndarray, list[str]]:
    """Pixel values as stored, (rows, columns), 8 to 32 bits, and notes on what was ignored.

    Args:
        dataset: with its pixel data.

    Raises:
        UnusableImageError: the image is not grey, its description is not valid (PS3.3 C.7.6.3), or its data are of
            another size than the header says.
        Exception: decoders raise errors of many kinds on damaged data.
    """
    _check_description(dataset)
    rows, columns = matrix(dataset)
    syntax = dataset.file_meta.get("TransferSyntaxUID") or ImplicitVRLittleEndian
    if syntax.is_encapsulated:
        check_encoded(rows, columns, syntax, get_frame(dataset.PixelData, 0, number_of_frames=1))
        if syntax == RLELossless:
            # pylibjpeg's decoder is three times as fast, but panics on damaged data, which no `except Exception` stops.
            dataset.pixel_array_options(decoding_plugin="pydicom")
        return dataset.pixel_array, []
    expected = rows * columns * dataset.BitsAllocated // 8
    surplus = len(dataset.PixelData) - expected
    if not 0 <= surplus <= _SURPLUS_BYTES:
        raise UnusableImageError(
            f"not a readable CT image ({len(dataset.PixelData)} bytes of pixels, its header says {expected})"
        )
    notes = ["bytes after the pixels were ignored"] if surplus > 1 else []  # one pads to an even number (PS3.5 8.1.1)
    if dataset.BitsAllocated == 16 and syntax != ExplicitVRBigEndian:
        kind = "<i2" if dataset.PixelRepresentation == 1 else "<u2"
        return np.frombuffer(dataset.PixelData, kind, rows * columns).reshape(rows, columns), notes
    return dataset.pixel_array, notes


def _check_description(dataset: Dataset) -> None:
    """Refuse what would be decoded to other numbers than Hounsfield units."""
    photometric = str(dataset.get("PhotometricInterpretation") or "MONOCHROME2").strip()
    if not photometric.startswith("MONOCHROME"):
        raise UnusableImageError("is a colour image (PhotometricInterpretation is not MONOCHROME1 or MONOCHROME2)")
    if int(dataset.get("NumberOfFrames") or 1) != 1 or int(dataset.get("SamplesPerPixel") or 1) != 1:
        raise UnusableImageError("not a single-frame grey image")
    if dataset.PixelRepresentation not in (0, 1):
        raise UnusableImageError("PixelRepresentation is neither 0 nor 1")
    if dataset.BitsAllocated not in (8, 16, 32):
        raise UnusableImageError("BitsAllocated is not 8, 16 or 32")
    if not 1 <= dataset.BitsStored <= dataset.BitsAllocated:
        raise UnusableImageError(f"BitsStored is not between 1 and BitsAllocated ({dataset.BitsAllocated})")


def check_encoded(rows: int, columns: int, syntax: UID, stream: bytes) -> None:
    """Compare the size in a compressed frame with the header's.

    Raises:
        UnusableImageError: they differ, or the kind of compression is not supported.
    """
    if syntax == RLELossless:
        # PackBits (PS3.5 G.3.1) adds one byte in 128 at most, and each segment ends on an even byte.
        longest = rows * columns + rows * columns // 64 + 1024
        count, *starts = struct.unpack("<16I", stream[:64])
        ends = [*starts[1:count], len(stream)]
        if any(end - start > longest for start, end in zip(starts[:count], ends, strict=False)):
            raise UnusableImageError(f"has more RLE data than {rows} x {columns} pixels can take")
        return
    if syntax in JPEG2000TransferSyntaxes:
        sizes = _jpeg2000_size(stream)
    elif syntax in JPEGTransferSyntaxes or syntax in JPEGLSTransferSyntaxes:
        sizes = _jpeg_sizes(stream)
    else:
        raise UnusableImageError("is compressed in a way that is not supported")
    if sizes != {(rows, columns, 1)}:
        found = " and ".join(f"{r} x {c} pixels of {n} samples" for r, c, n in sorted(sizes)) or "no frame"
        raise UnusableImageError(f"its compressed data hold {found}, its header says {rows} x {columns}")


def _jpeg_sizes(stream: bytes) -> set[tuple[int, int, int]]:
    """(rows, columns, samples) of every frame header in a JPEG or JPEG-LS stream (ISO 10918-1 B.2.2)."""
    sizes = set()
    at = 2
    while (at := stream.find(b"\xff", at)) >= 0 and at + 10 <= len(stream):
        marker = stream[at + 1]
        if marker in _JPEG_FRAMES:
            rows, columns = (int.from_bytes(stream[start : start + 2], "big") for start in (at + 5, at + 7))
            sizes.add((rows, columns, stream[at + 9]))
        if marker in (0x00, 0xFF) or marker in _NO_LENGTH or marker < 0xC0:
            at += 1  # within the coded pixels, where 0xff is followed by 0 (JPEG) or by less than 0x80 (JPEG-LS)
        else:
            at += 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    return sizes


def _jpeg2000_size(stream: bytes) -> set[tuple[int, int, int]]:
    """(rows, columns, samples) of a JPEG 2000 code stream, from its SIZ segment (ISO 15444-1 A.5.1)."""
    at = stream.find(b"\xff\x4f\xff\x51")
    if at < 0 or len(stream) < at + 42:
        return set()
    right, bottom, left, top = (int.from_bytes(stream[start : start + 4], "big") for start in range(at + 8, at + 24, 4))
    return {(bottom - top, right - left, int.from_bytes(stream[at + 40 : at + 42], "big"))}
