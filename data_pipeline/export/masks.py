"""The formats of `segment`: which files they make, what they cannot hold, and how they are written."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int16, Shaped

from data_pipeline.dicom.geometry import CTGeometry
from data_pipeline.errors import InputError
from data_pipeline.export.dicom import require_highdicom, write_rtstruct, write_seg
from data_pipeline.export.nifti import write_nifti
from data_pipeline.export.source import source_headers
from data_pipeline.export.structured_report import write_structured_report
from data_pipeline.settings import MaskFormat

MASK_FILES: dict[MaskFormat, str] = {
    "nifti": "mask.nii.gz",
    "seg": "seg.dcm",
    "rtstruct": "rtstruct.dcm",
    "sr": "sr.dcm",
}


def find_obstacle(mask_format: MaskFormat, geometry: CTGeometry, source_files: Sequence[Path]) -> InputError | None:
    """Why a format cannot hold masks of this CT; None if it can. It costs no more than reading the headers.

    NIfTI has one affine for all slices, so it holds evenly spaced slices only. DICOM SEG, RTSTRUCT and SR have a
    position for each slice and refer to the CT's images, so they need the UIDs in its headers. SEG and SR also need
    highdicom.
    """
    try:
        if mask_format == "nifti":
            _ = geometry.affine_ras
        else:
            if mask_format in ("seg", "sr"):
                require_highdicom()
            source_headers(geometry, source_files)
    except InputError as error:
        return error
    return None


def write_mask(
    mask_format: MaskFormat,
    mask: Shaped[np.ndarray, "depth height width"],
    hounsfield: Int16[np.ndarray, "depth height width"],
    geometry: CTGeometry,
    source_files: Sequence[Path],
    folder: Path,
) -> None:
    """Write a mask, or its measures, into `folder`, under the name in `MASK_FILES`.

    Args:
        mask_format: see `MASK_FILES`.
        mask: bool or 0 and 1, on the grid of `geometry`.
        hounsfield: the CT, HU.
        geometry: of the CT.
        source_files: the CT's files in any order.
        folder: made if it does not exist.

    Raises:
        InputError: the format cannot hold the mask, or the file cannot be written.
    """
    path = folder / MASK_FILES[mask_format]
    if mask_format == "nifti":
        write_nifti(mask, geometry, path)
    elif mask_format == "seg":
        write_seg(mask, geometry, source_files, path)
    elif mask_format == "rtstruct":
        write_rtstruct(mask, geometry, source_files, path)
    else:
        write_structured_report(mask, hounsfield, geometry, source_files, path)
