"""Small files that claim, or unpack to, large ones: refused in one line, in little time and memory.

They are used in a process of their own, whose peak memory is measured: decoders allocate outside Python's own accounts.
"""

import json
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from tests.data_pipeline.dicom_files import contour, jpeg_lossless, write_rtstruct, write_series

USE = """
import json, resource, sys, time
from pathlib import Path
from data_pipeline.contours.mask import mask_from_contours
from data_pipeline.contours.rtstruct import read_contours
from data_pipeline.dicom.discovery import discover
from data_pipeline.dicom.volume import read_volume
from data_pipeline.errors import InputError

def use(folder):
    found = discover(folder)
    reasons = [one.reason for one in found.rejected]
    for series in found.series:
        try:
            geometry = read_volume(series).geometry
            for path in series.rtstructs:
                mask_from_contours(read_contours(path), geometry)
        except InputError as error:
            reasons.append(str(error))
    return reasons

reports = {}
for folder in sorted(Path(sys.argv[1]).iterdir()):
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    try:
        reasons = use(folder)
    except InputError as error:
        reasons = [str(error)]
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    reports[folder.name] = {"reasons": reasons, "MiB": grown / 1024, "seconds": time.process_time() - start}
print(json.dumps(reports))
"""


def encapsulated(syntax: str, frame: bytes):
    def edit(_, image):
        image.file_meta.TransferSyntaxUID = syntax
        image.PixelData = encapsulate([frame])
        image["PixelData"].is_undefined_length = True

    return edit


def jpeg2000(rows: int, columns: int, samples: int = 1) -> bytes:
    """The head of a JPEG 2000 code stream (ISO 15444-1 A.5.1): one tile of the image's size."""
    size = (columns, rows, 0, 0, columns, rows, 0, 0)
    siz = b"\0\0" + b"".join(value.to_bytes(4, "big") for value in size) + samples.to_bytes(2, "big")
    siz += b"\x0f\x01\x01" * samples
    return b"\xff\x4f\xff\x51" + (len(siz) + 2).to_bytes(2, "big") + siz + b"\xff\x52" + bytes(500) + b"\xff\xd9"


def rle() -> bytes:
    """Two segments of runs: 2 bytes give 128."""
    segment = b"\x81\x00" * (4 * 2**20)
    header = np.zeros(16, "<u4")
    header[:3] = 2, 64, 64 + len(segment)
    return header.tobytes() + segment + segment


def deflated_bomb(folder: Path) -> None:
    """A valid CT image with a gigabyte of pixels for its 12 x 10, deflated to 1 MB."""
    series = write_series(folder / "ct", edit=lambda _, image: setattr(image, "PixelData", b""))
    for path in series.files[:1]:
        whole = path.read_bytes()
        at = whole.index(ExplicitVRLittleEndian.encode() + b"\0")
        syntax = DeflatedExplicitVRLittleEndian.encode()  # longer by two: the group length grows with it
        meta_end = 144 + int.from_bytes(whole[140:144], "little")
        meta = whole[: at - 2] + len(syntax).to_bytes(2, "little") + syntax + whole[at + 20 : meta_end]
        meta = (
            meta[:140]
            + (int.from_bytes(whole[140:144], "little") + len(syntax) - 20).to_bytes(4, "little")
            + meta[144:]
        )
        pack = zlib.compressobj(9, wbits=-15)
        head = whole[meta_end:-12] + b"\xe0\x7f\x10\x00OW\0\0" + (2**30).to_bytes(4, "little")
        path.write_bytes(
            meta + pack.compress(head) + b"".join(pack.compress(bytes(2**20)) for _ in range(1024)) + pack.flush()
        )


def many_items(folder: Path) -> None:
    """An RTSTRUCT of two million empty items, 8 bytes each in the file and a kilobyte each in memory."""
    series = write_series(folder / "ct")
    path = write_rtstruct(
        folder / "rs",
        {"GTV-1": [contour(series.points(1, [(2, 2), (2, 8), (8, 8)]))]},
        series,
        edit=lambda dataset: setattr(dataset.file_meta, "TransferSyntaxUID", ImplicitVRLittleEndian),
    )
    items = b"\xfe\xff\x00\xe0\0\0\0\0" * 2_000_000
    path.write_bytes(path.read_bytes() + b"\x06\x30\x39\x00" + len(items).to_bytes(4, "little") + items)


def images(syntax: str, frame: bytes):
    return lambda folder: write_series(folder / "ct", height=32, width=32, edit=encapsulated(syntax, frame)) and None


def jpeg_of(rows: int, columns: int) -> bytes:
    stream = bytearray(jpeg_lossless(np.zeros((32, 32), int)))
    at = stream.index(b"\xff\xc3")
    stream[at + 5 : at + 9] = rows.to_bytes(2, "big") + columns.to_bytes(2, "big")
    return bytes(stream)


def jpeg_ls(rows: int, columns: int) -> bytes:
    head = b"\xff\xd8\xff\xf7\x00\x0b\x10" + rows.to_bytes(2, "big") + columns.to_bytes(2, "big") + b"\x01\x01\x11\x00"
    return head + b"\xff\xda\x00\x08\x01\x01\x00\x00\x00\x00" + bytes(100) + b"\xff\xd9"


BOMBS = {
    "deflated": (deflated_bomb, "unpacks to more than 256 MiB"),
    "JPEG 2000": (images(JPEG2000Lossless, jpeg2000(60000, 60000)), "hold 60000 x 60000 pixels of 1 samples"),
    "JPEG 2000, samples": (images(JPEG2000Lossless, jpeg2000(32, 32, 16384)), "hold 32 x 32 pixels of 16384 samples"),
    "JPEG 2000, none": (images(JPEG2000Lossless, b"\xff\x4f\xff\x51"), "hold no frame"),
    "JPEG": (images(JPEGLosslessSV1, jpeg_of(65535, 65535)), "hold 65535 x 65535 pixels"),
    "JPEG, second frame": (
        images(JPEGLosslessSV1, jpeg_of(32, 32)[:-2] + jpeg_of(65535, 65535)[2:]),
        "hold 32 x 32 pixels of 1 samples and 65535 x 65535 pixels",
    ),
    "JPEG-LS": (images(JPEGLSLossless, jpeg_ls(65535, 65535)), "hold 65535 x 65535 pixels"),
    "RLE": (images(RLELossless, rle()), "more RLE data than 32 x 32 pixels"),
    "items": (many_items, "more than 500000 sequence items"),
}


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process reports on each bomb: reasons, growth of its memory, processor time."""
    folder = tmp_path_factory.mktemp("bombs")
    for name, (make, _) in BOMBS.items():
        make(folder / name)
    root = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-c", USE, str(folder)]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout)


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_before_they_are_unpacked(reports, name) -> None:
    report = reports[name]
    assert any(BOMBS[name][1] in reason for reason in report["reasons"]), report["reasons"]
    # The limits are 2 GiB and 60 s for any file; refusing takes next to nothing.
    assert report["MiB"] < 300 and report["seconds"] < 10
