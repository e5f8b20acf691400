"""Volume files for the tests, written by SimpleITK in any order of axes."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 (as its own documentation calls it)

from tests.data_pipeline.dicom_files import Written, contour, write_rtstruct, write_series

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")
AXIS_CODES = [
    "".join(code) for order in itertools.permutations(["LR", "PA", "SI"]) for code in itertools.product(*order)
]
"""All 48 orders and directions of the axes; `LPS` is that of an axial DICOM series."""
SQUARE = ((5, 6), (5, 12), (11, 12), (11, 6))


def as_image(
    values: np.ndarray,
    spacing: Sequence[float] = (3.0, 0.8, 0.7),
    origin: Sequence[float] = (-20.0, 30.0, 5.0),
    axes: str = "LPS",
    direction: np.ndarray | None = None,
) -> Any:
    """An image of (slice, row, column) values, its axes in another order."""
    image = sitk.GetImageFromArray(values)
    image.SetSpacing([float(mm) for mm in spacing[::-1]])
    image.SetOrigin([float(mm) for mm in origin])
    if direction is not None:
        image.SetDirection(np.ravel(direction).tolist())
    return sitk.DICOMOrient(image, axes)


def save(path: Path, values: np.ndarray, compress: Any = False, **place: Any) -> Path:
    """Write (slice, row, column) values; see `as_image`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(as_image(values, **place), str(path), useCompression=compress)
    return path


def chest(depth: int = 9, height: int = 20, width: int = 22, seed: int = 0) -> np.ndarray:
    """Air around a body of tissue with lungs and some noise, no two slices alike, HU."""
    rng = np.random.default_rng(seed)
    hounsfield = np.full((depth, height, width), -1000, np.int16)
    hounsfield[:, 3:-2, 2:-2] = 40
    hounsfield[:, 5:9, 4:8] = -800
    hounsfield[:, 13:16, 4:8] = -750
    return hounsfield + rng.integers(-9, 10, hounsfield.shape, dtype=np.int16)


def box(shape: tuple[int, ...], first: int = 3, last: int = 5) -> np.ndarray:
    """The mask of `SQUARE` on some slices, by the rule of contours: a centre on the left or upper edge is inside."""
    mask = np.zeros(shape, np.uint8)
    (top, left), _, (bottom, right), _ = SQUARE
    mask[first : last + 1, top:bottom, left:right] = 1
    return mask


def write_dicom(folder: Path, hounsfield: np.ndarray, with_rtstruct: bool = True, **place: Any) -> Written:
    """The same CT as DICOM, with `box` as an RTSTRUCT; equal contours would make two patients one person."""
    series = write_series(folder / "ct", stored=(hounsfield + 1024).astype(np.uint16), **place)
    if with_rtstruct:
        patient = place.get("patient", 1)
        square = np.array(SQUARE) - patient / 100
        corners = [contour(series.points(index, square), series.uids[index]) for index in range(3, 6)]
        write_rtstruct(folder / "rs", {"GTV-1": corners}, series, patient=patient)
    return series
