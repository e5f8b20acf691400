"""Reading one small CT series, for the tests."""

from pathlib import Path

import numpy as np

from data_pipeline.dicom.discovery import discover
from data_pipeline.dicom.volume import CTVolume, read_volume


def volume_of(folder: Path) -> CTVolume:
    (patient,) = discover(folder).series
    return read_volume(patient)


def chest(depth: int = 4, size: int = 20) -> np.ndarray:
    """Air around a body of soft tissue with lungs and a bone, HU."""
    hounsfield = np.full((depth, size, size), -1000, np.int16)
    hounsfield[:, 3:17, 2:18] = 40
    hounsfield[:, 6:12, 4:8] = hounsfield[:, 6:12, 12:16] = -800
    hounsfield[:, 14:16, 9:11] = 700
    return hounsfield
