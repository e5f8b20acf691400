"""Single CT images, read and checked one by one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int16
from pydicom import Dataset

from data_pipeline.dicom.files import OversizedError, decimals, describe_error, read_dataset
from data_pipeline.dicom.geometry import FARTHEST_MM
from data_pipeline.dicom.hounsfield import Decoded, decode_hounsfield
from data_pipeline.dicom.pixels import UnusableImageError, matrix
from data_pipeline.errors import InputError

SAME_DIRECTION = 1e-3
"""Largest difference of a cosine between parallel directions, about 0.06 degrees."""
MOST_IMAGES = 8192
"""Most images in one CT series; a CT of the chest has up to 1800, at 0.2 mm."""
MOST_VOXELS = 2**31
"""Most voxels in all images of one CT, 4 GiB: 2048 slices of 1024 x 1024, or 8192 of 512 x 512."""
RECONSTRUCTION = ("ConvolutionKernel", "SliceThickness")
"""Elements that tell two reconstructions of one scan apart."""


@dataclass(frozen=True, eq=False)
class Slice:
    """One decoded CT image.

    Attributes:
        path: its file.
        position, orientation, spacing: ImagePositionPatient (x, y, z in mm), ImageOrientationPatient (cosines of the
            row, then of the column) and PixelSpacing (between rows, between columns, mm) of PS3.3 C.7.6.2.
        frame, sop, acquisition: FrameOfReferenceUID, SOPInstanceUID and AcquisitionNumber; empty if absent.
        reconstruction: values of `RECONSTRUCTION`.
        hounsfield: its pixels, HU.
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

    Returns:
        The images in the order of the files, and the stack (HU) that the `hounsfield` of most are views of.

    Raises:
        InputError: a file is not a readable CT image, or there are more than `MOST_IMAGES` or `MOST_VOXELS` in all.
    """
    if len(files) > MOST_IMAGES:
        raise InputError(
            f"holds {len(files)} images, and a CT at most {MOST_IMAGES}; export one CT volume alone",
            path=files[0].parent,
        )
    slices: list[Slice] = []
    stack, aside = np.empty((0, 0, 0), np.int16), 0
    for index, path in enumerate(files):
        try:
            dataset = read_dataset(path, pixels=True)
            rows, columns = matrix(dataset)
            if index == 0:
                _check_voxels(len(files) * rows * columns)
                stack = np.empty((len(files), rows, columns), np.int16)
            if (rows, columns) == stack.shape[1:]:
                out = stack[index]
            else:
                aside += rows * columns
                _check_voxels(stack.size + aside)
                out = np.empty((rows, columns), np.int16)
            slices.append(_slice(path, dataset, out))
        except MemoryError:
            raise
        except (UnusableImageError, OversizedError) as error:
            raise InputError(f"{error}; export the series again, or remove the file", path=path) from error
        except Exception as error:
            raise InputError(
                f"not a readable CT image ({describe_error(error)}); export the series again, or remove the file",
                path=path,
            ) from error
    return slices, stack


def _check_voxels(count: int) -> None:
    if count > MOST_VOXELS:
        raise UnusableImageError(f"the images of its series have more than {MOST_VOXELS} voxels in all")


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
