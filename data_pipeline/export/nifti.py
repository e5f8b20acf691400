"""Masks and probabilities on the CT's own grid as NIfTI files. They do not name the patient."""

from pathlib import Path

import nibabel as nib
import numpy as np
from jaxtyping import Float32, Shaped
from nibabel.orientations import ornt_transform

from data_pipeline.dicom.geometry import CTGeometry
from data_pipeline.errors import InputError
from data_pipeline.files import atomic_path


def write_nifti(mask: Shaped[np.ndarray, "depth height width"], geometry: CTGeometry, path: Path) -> None:
    """Write a mask as uint8 NIfTI-1 on the CT's own grid.

    The array is stored (column, row, slice). The affine maps indices to scanner coordinates (RAS, mm): DICOM's patient
    coordinates (LPS, PS3.3 C.7.6.2.1.1) with x and y negated. Both sform and qform hold it. A qform cannot
    describe slices sheared by a gantry tilt; it is left unset for them. The mask of a volume file has the order of axes
    of that file.

    Args:
        mask: bool or 0 and 1, on the grid of `geometry`.
        geometry: position of the mask's voxels.
        path: the file to write, `.nii.gz` or `.nii`.

    Raises:
        InputError: the mask has another shape, the slices are unevenly spaced, `path` has another suffix or cannot be
            written.
    """
    _write((mask != 0).astype(np.uint8), geometry, path)


def write_probabilities(
    probabilities: Float32[np.ndarray, "depth height width"], geometry: CTGeometry, path: Path
) -> None:
    """Write probabilities, 0 to 1, as float32 NIfTI-1; placed as by `write_nifti`, with the same errors."""
    _write(probabilities, geometry, path)


def _write(volume: Shaped[np.ndarray, "depth height width"], geometry: CTGeometry, path: Path) -> None:
    path = Path(path)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise InputError("not a NIfTI file name; let it end in .nii.gz", path=path)
    require_grid(volume, geometry, path)
    affine = geometry.affine_ras
    image = nib.Nifti1Image(volume.transpose(2, 1, 0), affine)
    image.set_sform(affine, code="scanner")
    image.set_qform(affine, code="scanner")
    if not np.allclose(image.get_qform(), affine, atol=1e-3):
        image.set_qform(None, code="unknown")
    image.header.set_xyzt_units("mm")
    if geometry.stored_axes is not None:
        to_stored = ornt_transform(np.array([(0, 1), (1, 1), (2, 1)]), np.array(geometry.stored_axes))
        image = image.as_reoriented(to_stored.tolist())
    with atomic_path(path) as temporary:
        nib.save(image, temporary)


def require_grid(volume: Shaped[np.ndarray, "depth height width"], geometry: CTGeometry, path: Path) -> None:
    if volume.shape != geometry.shape:
        reason = f"got an array of {volume.shape} for a CT of {geometry.shape}; use the CT's own grid"
        raise InputError(reason, path=path)
