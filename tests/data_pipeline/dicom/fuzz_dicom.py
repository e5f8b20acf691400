"""Damaged CT and RTSTRUCT files by the thousand: run as a module in a process of its own, so that a crash is seen.

    python -m tests.data_pipeline.dicom.fuzz_dicom FOLDER SEED COUNT

Each file is truncated, or has some of its bits flipped or bytes overwritten, and goes through discovery, volume and
mask. Only `InputError` may come out. Prints, as JSON, what became of the files, the longest time one of them took (s),
the growth of the peak memory (bytes), and the traceback of anything else that was raised.
"""

import json
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

import numpy as np
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    RLELossless,
)

from data_pipeline.contours.mask import mask_from_contours
from data_pipeline.contours.rtstruct import read_contours
from data_pipeline.dicom.discovery import discover
from data_pipeline.dicom.volume import read_volume
from data_pipeline.errors import InputError
from tests.data_pipeline.dicom_files import contour, jpeg_lossless, write_rtstruct, write_series

SECONDS = 10  # limit per file
SYNTAXES = (
    None,
    ImplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEG2000Lossless,
    JPEGLosslessSV1,
)


class TimeUpError(BaseException):
    """Not an Exception, so that nothing under test can swallow it."""


def main(folder: Path, seed: int, count: int) -> None:
    generator = np.random.default_rng(seed)
    patients = [make_patient(folder / str(number), syntax) for number, syntax in enumerate(SYNTAXES)]
    for patient, _ in patients:
        use(patient)  # everything is imported and warm before memory is measured
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.signal(signal.SIGALRM, time_up)
    fates: Counter[str] = Counter()
    failures, slowest = [], 0.0
    for number in range(count):
        patient, files = patients[number % len(patients)]
        path = files[generator.integers(len(files))] if number % 3 else files[-1]  # every third one the RTSTRUCT
        whole = path.read_bytes()
        path.write_bytes(damaged(whole, generator))
        start = time.perf_counter()
        signal.alarm(SECONDS)
        try:
            use(patient)
            fates["used"] += 1
        except InputError as error:
            fates["refused"] += 1
            if "\n" in str(error):
                failures.append(f"{number}: more than one line: {error}")
        except BaseException:
            failures.append(f"{number}: {traceback.format_exc()}")
        finally:
            signal.alarm(0)
            slowest = max(slowest, time.perf_counter() - start)
            path.write_bytes(whole)
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    print(json.dumps({"fates": fates, "failures": failures[:5], "slowest": slowest, "growth": growth}))


def time_up(*_: object) -> None:
    raise TimeUpError


def make_patient(folder: Path, syntax: str | None) -> tuple[Path, list[Path]]:
    def encode(_, image):
        if syntax in (RLELossless, JPEG2000Lossless):
            image.compress(syntax, generate_instance_uid=False)
        elif syntax is not None:
            image.file_meta.TransferSyntaxUID = syntax
        if syntax == JPEGLosslessSV1:
            pixels = np.frombuffer(image.PixelData, np.uint16).reshape(image.Rows, image.Columns)
            image.PixelData = encapsulate([jpeg_lossless(pixels)])
            image["PixelData"].is_undefined_length = True

    series = write_series(folder / "ct", depth=3, height=32, width=32, edit=encode)
    angles = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    outline = 16 + 8 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    contours = [contour(series.points(index, outline), series.uids[index]) for index in range(3)]
    rtstruct = write_rtstruct(folder / "rs", {"GTV-1": contours, "Lung": contours[:1]}, series)
    return folder, [*series.files, rtstruct]


def damaged(whole: bytes, generator: np.random.Generator) -> bytes:
    kind = generator.integers(4)
    if kind == 0:
        return whole[: generator.integers(len(whole))]
    content = np.frombuffer(whole, np.uint8).copy()
    # Headers matter more than pixels, and come first.
    reach = len(content) if generator.integers(2) else min(len(content), 900)
    where = generator.integers(128, max(reach, 129), 1 << generator.integers(6))
    if kind == 1:
        content[where] = generator.choice([0, 1, 0x7F, 0xFF], len(where))
    else:
        content[where] ^= (1 << generator.integers(0, 8, len(where))).astype(np.uint8)
    return content.tobytes()


def use(folder: Path) -> None:
    for patient in discover(folder).series:
        volume = read_volume(patient)
        for rtstruct in patient.rtstructs:
            mask_from_contours(read_contours(rtstruct), volume.geometry)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
