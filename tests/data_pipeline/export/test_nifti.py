"""Masks as NIfTI, read back by SimpleITK and NiBabel."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813 (as its own documentation calls it)

from data_pipeline.errors import InputError
from data_pipeline.export.nifti import write_nifti
from tests.data_pipeline.export.samples import KINDS, Sample, real_sample

EVEN = [name for name, kind in KINDS.items() if kind.even and not kind.tilt]


def _assert_simpleitk_agrees(sample: Sample, mask: np.ndarray, path: Path) -> None:
    """The NIfTI and the DICOM series, both read by SimpleITK, hold the same voxels at the same places."""
    uids = {str(pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID): file for file in sample.files}
    series = sitk.ReadImage([str(uids[uid]) for uid in sample.volume.geometry.sop_instance_uids])
    nifti = sitk.ReadImage(str(path))
    assert nifti.GetPixelID() == sitk.sitkUInt8
    np.testing.assert_array_equal(sitk.GetArrayFromImage(series), sample.volume.hounsfield)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(nifti), mask)
    for corner in np.ndindex(2, 2, 2):
        index = [int(side * (size - 1)) for side, size in zip(corner, series.GetSize(), strict=True)]
        ours, theirs = nifti.TransformIndexToPhysicalPoint(index), series.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose(ours, theirs, atol=2e-3)  # mm; NIfTI holds float32


@pytest.mark.parametrize("name", EVEN)
def test_nifti_lies_where_simpleitk_puts_the_series(samples: dict[str, Sample], name: str, tmp_path: Path) -> None:
    sample = samples[name]
    mask = sample.masks(20)[0]
    write_nifti(mask, sample.volume.geometry, tmp_path / "mask.nii.gz")
    _assert_simpleitk_agrees(sample, mask, tmp_path / "mask.nii.gz")


@pytest.mark.parametrize("name", ["lung1_001", "ibsi1_lung_ct"])
def test_nifti_of_a_real_patient(real_patients: Path, name: str, tmp_path: Path) -> None:
    sample, mask = real_sample(real_patients / name)
    write_nifti(mask.astype(np.uint8), sample.volume.geometry, tmp_path / "mask.nii.gz")
    _assert_simpleitk_agrees(sample, mask, tmp_path / "mask.nii.gz")
    image = nib.load(tmp_path / "mask.nii.gz")
    assert isinstance(image, nib.Nifti1Image)
    assert image.shape == sample.volume.geometry.shape[::-1]
    assert image.header.get_xyzt_units()[0] == "mm"
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 1)
    assert nib.aff2axcodes(image.affine) == ("L", "P", "S")
    np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-4)


def test_nifti_of_tilted_slices_keeps_the_shear(samples: dict[str, Sample], tmp_path: Path) -> None:
    geometry = samples["tilted"].volume.geometry
    write_nifti(np.zeros(geometry.shape, bool), geometry, tmp_path / "mask.nii")
    image = nib.load(tmp_path / "mask.nii")
    assert isinstance(image, nib.Nifti1Image)
    assert image.affine is not None
    np.testing.assert_allclose(image.affine, geometry.affine_ras, rtol=1e-5, atol=1e-4)
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 0)


def test_nifti_refuses_what_it_cannot_say(samples: dict[str, Sample], tmp_path: Path) -> None:
    geometry = samples["uneven"].volume.geometry
    with pytest.raises(InputError, match="not evenly spaced"):
        write_nifti(np.zeros(geometry.shape, bool), geometry, tmp_path / "mask.nii.gz")
    with pytest.raises(InputError, match=r"let it end in \.nii\.gz"):
        write_nifti(np.zeros(geometry.shape, bool), geometry, tmp_path / "mask.png")
    with pytest.raises(InputError, match="use the CT's own grid"):
        write_nifti(np.zeros((3, 3, 3), bool), geometry, tmp_path / "mask.nii.gz")
    assert not any(tmp_path.iterdir())
