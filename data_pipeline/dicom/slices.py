"""Single CT images, read and checked one by one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int16
from pydicom import Dataset

from data_pipeline.dicom.files import NotDicomError, OversizedError, decimals, read_dataset
from data_pipeline.dicom.geometry import FARTHEST_MM
from data_pipeline.dicom.hounsfield import Decoded, decode_hounsfield
from data_pipeline.dicom.pixels import UnusableImageError, matrix
from data_pipeline.errors import InputError

SAME_DIRECTION = 1e-3
"""Largest difference of a cosine between parallel directions, about 0.06 degrees."""
MOST_VOXELS = 2**31
"""Most voxels in one CT, 4 GiB: 512 x 512 pixels on 8192 slices."""
RECONSTRUCTION = ("ConvolutionKernel", "SliceThickness")
"""Elements that tell two reconstructions of one scan apart."""


@dataclass(frozen=True, eq=False)
class Slice:
    """One decoded CT image.

    Attributes:
        path: its file.
        position, orientation, spacing: ImagePositionPatient, ImageOrientationPatient and PixelSpacing.
        frame, sop, acquisition: FrameOfReferenceUID, SOPInstanceUID and AcquisitionNumber; empty if absent.
        reconstruction: values of `RECONSTRUCTION`.
        hounsfield: its pixels.
        decoded: what was found when they were decoded.
    """

    path: Path
    position: Float64[np.ndarray, "3"]
    orientation: Float64[np.ndarray, "6"]
    spacing: Float64[np.ndarray, "2"]
    frame: str
    sop: str
    acquisition: str
    reconstruction: tuple[str, str]
    hounsfield: Int16[np.ndarray, "height width"]
    decoded: Decoded


def read_slices(files: Sequence[Path]) -> tuple[list[Slice], Int16[np.ndarray, "files height width"]]:
    """Decode each file as it is read, into one stack; images of another matrix than the first's stay outside it.

    A new page of memory costs more than decoding it, so neither encoded pixels nor a second stack are kept.
    """
    slices: list[Slice] = []
    stack = np.empty((0, 0, 0), np.int16)
    for index, path in enumerate(files):
        try:
            dataset = read_dataset(path, pixels=True)
            if index == 0:
                stack = _empty_stack(len(files), *matrix(dataset))
            out = stack[index] if matrix(dataset) == stack.shape[1:] else np.empty(matrix(dataset), np.int16)
            slices.append(_slice(path, dataset, out))
        except (UnusableImageError, OversizedError) as error:
            raise InputError(f"{error}; export the series again, or remove the file", path=path) from error
        except Exception as error:
            raise InputError(
                f"not a readable CT image ({_why(error)}); export the series again, or remove the file", path=path
            ) from error
    return slices, stack


def _empty_stack(depth: int, rows: int, columns: int) -> Int16[np.ndarray, "depth rows columns"]:
    if depth * rows * columns > MOST_VOXELS:
        raise UnusableImageError(f"{depth} images of {rows} x {columns} pixels are too large for one CT")
    return np.empty((depth, rows, columns), np.int16)


def _why(error: Exception) -> str:
    """Name an error without pydicom's own text, which may quote values from the file."""
    missing = error.name if isinstance(error, AttributeError) else None
    return f"no {missing}" if missing else "not DICOM" if isinstance(error, NotDicomError) else type(error).__name__


def _slice(path: Path, dataset: Dataset, out: Int16[np.ndarray, "height width"]) -> Slice:
    position = decimals(dataset, "ImagePositionPatient")
    orientation = decimals(dataset, "ImageOrientationPatient")
    spacing = decimals(dataset, "PixelSpacing")
    if position.shape != (3,) or orientation.shape != (6,) or spacing.shape != (2,):
        raise UnusableImageError("position, orientation or pixel spacing is incomplete")
    axes = orientation.reshape(2, 3)
    if not (np.abs(axes @ axes.T - np.eye(2)).max() < SAME_DIRECTION and (spacing > 0).all()):  # False for NaN too
        raise UnusableImageError("orientation or pixel spacing is not valid")
    if not (np.abs(position) < FARTHEST_MM).all() or spacing.max() > FARTHEST_MM:
        raise UnusableImageError("position or pixel spacing is not valid")
    return Slice(
        path,
        position,
        orientation,
        spacing,
        frame=str(dataset.get("FrameOfReferenceUID") or ""),
        sop=str(dataset.get("SOPInstanceUID") or ""),
        acquisition=str(dataset.get("AcquisitionNumber") or ""),
        reconstruction=(
            str(dataset.get("ConvolutionKernel") or ""),
            _thickness(dataset),
        ),
        hounsfield=out,
        decoded=decode_hounsfield(dataset, out),
    )


def _thickness(dataset: Dataset) -> str:
    """SliceThickness to 0.1 mm; empty if it is absent or not a number, which is no reason to refuse an image."""
    try:
        return " ".join(f"{thickness:.1f}" for thickness in decimals(dataset, "SliceThickness"))
    except ValueError:
        return ""
