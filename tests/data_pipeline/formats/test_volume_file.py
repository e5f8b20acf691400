"""Volume files in any order of axes come to the order of an axial DICOM series."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (as its own documentation calls it)
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.dicom.discovery import discover
from data_pipeline.dicom.volume import read_volume
from data_pipeline.errors import InputError
from data_pipeline.export.nifti import write_nifti
from data_pipeline.formats.volume_file import read_image, read_labels, read_stored
from data_pipeline.preprocessing.network_grid import mask_to_network_grid, to_network_grid
from tests.data_pipeline.dicom_files import write_series
from tests.data_pipeline.formats.volumes import AXIS_CODES, SUFFIXES, box, chest, save

PLACE_MM = 2e-3
"""NIfTI stores places in 32 bits: 1e-7 of 300 mm, summed over axes, and DICOM's cosines to 12 digits."""


@given(
    axes=st.sampled_from(AXIS_CODES),
    suffix=st.sampled_from(SUFFIXES),
    compress=st.booleans(),
    spacing=st.tuples(*[st.floats(0.5, 5.0).map(lambda mm: round(mm, 3))] * 2),
    origin=st.tuples(*[st.floats(-300, 300).map(lambda mm: round(mm, 3))] * 3),
    crop=st.tuples(*[st.integers(0, 3)] * 3),
    seed=st.integers(0, 99),
)
@settings(max_examples=30, deadline=None)
def test_any_orientation_spacing_and_crop_equals_dicom(
    tmp_path_factory, axes, suffix, compress, spacing, origin, crop, seed
) -> None:
    folder = tmp_path_factory.mktemp("in")
    cut = tuple(slice(first, None) for first in crop)
    hounsfield, mask = chest(seed=seed)[cut], box((9, 20, 22))[cut]
    place = {"spacing": (spacing[0], spacing[1], spacing[1]), "origin": origin}
    write_series(folder / "ct", stored=(hounsfield + 1024).astype(np.uint16), **place)
    expected = read_volume(discover(folder / "ct").series[0])
    np.testing.assert_array_equal(expected.hounsfield, hounsfield)

    image = save(folder / f"image{suffix}", hounsfield, compress, axes=axes, **place)
    labels = save(folder / f"labels{suffix}", mask, compress, axes=axes, **place)
    if spacing[1] > 1.5 * spacing[0]:
        read = read_stored(image)
        got, geometry = read.values.astype(np.int16), read.geometry
    else:
        got, geometry, notes = read_image(image)
        assert notes == ()
    np.testing.assert_array_equal(got, expected.hounsfield)
    np.testing.assert_array_equal(read_labels(labels, expected.geometry), mask)
    corners = np.array([[0, 0, 0], np.array(hounsfield.shape) - 1.0])
    assert np.abs(geometry.to_patient(corners) - expected.geometry.to_patient(corners)).max() < PLACE_MM
    for read, of_dicom in ((got, expected.hounsfield), (mask.astype(bool), read_labels(labels, geometry) > 0)):
        reduce = (
            mask_to_network_grid if read.dtype == bool else lambda volume, size: to_network_grid(volume, size, -1024)
        )
        np.testing.assert_array_equal(reduce(read, 16), reduce(of_dicom, 16))

    write_nifti(mask, geometry, folder / "out.nii.gz")
    out = nib.Nifti1Image.load(folder / "out.nii.gz")
    stored = sitk.ReadImage(str(labels))  # the mask comes out in the order in which the file had it
    np.testing.assert_array_equal(np.asarray(out.dataobj), sitk.GetArrayFromImage(stored).transpose(2, 1, 0))
    again = sitk.ReadImage(str(folder / "out.nii.gz"))
    assert np.allclose(again.GetOrigin(), stored.GetOrigin(), atol=PLACE_MM)
    assert np.allclose(again.GetDirection(), stored.GetDirection(), atol=1e-4)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_oblique_volume_keeps_its_place(tmp_path: Path, suffix: str) -> None:
    angle = np.radians(20)
    turned = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    hounsfield = chest()
    row, column = turned[:, 0], turned[:, 1]
    write_series(
        tmp_path / "ct",
        stored=(hounsfield + 1024).astype(np.uint16),
        orientation=[*row, *column],
        spacing=(3, 0.8, 0.8),
    )
    expected = read_volume(discover(tmp_path / "ct").series[0])
    save(tmp_path / f"a{suffix}", hounsfield, direction=turned, spacing=(3, 0.8, 0.8), axes="RAS")
    got, geometry, _ = read_image(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(got, expected.hounsfield)
    assert np.abs(geometry.positions_mm - expected.geometry.positions_mm).max() < PLACE_MM
    assert np.abs(geometry.normal - expected.geometry.normal).max() < 1e-5


def test_scaled_and_fractional_values_are_rounded_and_padding_is_air(tmp_path: Path) -> None:
    values = chest().astype(np.float32) + np.float32(0.25)
    values[:, 0, 0] = -3024
    got, _, notes = read_image(save(tmp_path / "a.nii.gz", values))
    expected = chest()
    expected[:, 0, 0] = -1024
    np.testing.assert_array_equal(got, expected)
    assert notes == (
        "fractional HU were rounded in 9 of 9 slices",
        "padding below -1024 HU was set to air in 9 of 9 slices",
    )
    image = nib.Nifti1Image(((chest() + 1024) // 2).astype(np.int16).transpose(2, 1, 0), np.diag([-0.7, -0.8, 3, 1]))
    image.header.set_slope_inter(2, -1024)
    image.set_qform(image.affine, code="scanner")
    nib.save(image, tmp_path / "scaled.nii")
    got, _, _ = read_image(tmp_path / "scaled.nii")
    np.testing.assert_array_equal(got, (chest() + 1024) // 2 * 2 - 1024)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_headers_of_nifti_are_read_in_every_form(tmp_path: Path, kind) -> None:
    """Version 2, big endian, a fourth axis of one, one of the two codes, and metres."""
    affine = np.diag([-0.7, -0.8, 3.0, 1.0])
    header = kind.header_class(endianness=">")
    header.set_data_dtype(np.int16)
    values = chest().transpose(2, 1, 0)
    for number, (codes, array, units) in enumerate(
        [((1, 0), values, "mm"), ((0, 2), values[..., None], "unknown"), ((1, 1), values, "meter")]
    ):
        image = kind(array, affine / (1000 if units == "meter" else 1), header if number else None)
        image.set_qform(image.affine, code=codes[0])
        image.set_sform(image.affine, code=codes[1])
        image.header.set_xyzt_units(units)
        nib.save(image, tmp_path / f"{number}.nii.gz")
        got, geometry, _ = read_image(tmp_path / f"{number}.nii.gz")
        np.testing.assert_array_equal(got, chest())
        assert geometry.spacing_mm == pytest.approx((3, 0.8, 0.7), abs=1e-6)
    sheared = affine.copy()
    sheared[0, 2] = 0.6
    image = kind(values, sheared)
    image.set_sform(sheared, code=1)
    image.set_qform(None, code=0)
    nib.save(image, tmp_path / "sheared.nii")
    with pytest.raises(InputError, match="its axes are not perpendicular"):
        read_image(tmp_path / "sheared.nii")


def test_values_that_are_no_hounsfield_units_are_refused(tmp_path: Path) -> None:
    for name, values in {
        "shifted": chest() + 1024,
        "window": np.clip((chest() + 1000) // 6, 0, 255).astype(np.uint8),
        "unit": ((chest() + 1000) / 1400).astype(np.float32),
    }.items():
        with pytest.raises(InputError, match="not a chest CT in Hounsfield units") as error:
            read_image(save(tmp_path / f"CANARY{name}.nii.gz", values))
        assert "CANARY" not in error.value.reason
    values = chest().astype(np.float32)
    values[4, 5, 6] = np.nan
    with pytest.raises(InputError, match="no numbers"):
        read_image(save(tmp_path / "nan.nrrd", values))


def test_coronal_and_sagittal_stacks_and_other_units_are_refused(tmp_path: Path) -> None:
    for spacing, word in (((0.8, 5.0, 0.8), "coronal"), ((0.8, 0.8, 5.0), "sagittal")):
        with pytest.raises(InputError, match=f"the slices are {word}"):
            read_image(save(tmp_path / "a.nii.gz", chest(), spacing=spacing))
    for spacing in ((0.003, 0.0008, 0.0007), (300, 80, 70)):
        with pytest.raises(InputError, match="export it again in mm"):
            read_image(save(tmp_path / "a.nrrd", chest(), spacing=spacing))


def test_labels_must_be_whole_numbers_on_the_grid_of_the_ct(tmp_path: Path) -> None:
    _, geometry, _ = read_image(save(tmp_path / "image.nii.gz", chest()))
    mask = box((9, 20, 22))
    for name, values, place, message in (
        ("moved", mask, {"origin": (-20, 30, 6)}, "another grid than its CT .its corners are 1.0 mm apart"),
        ("short", mask[:-1], {}, "another grid than its CT .8 x 20 x 22 and 9 x 20 x 22 voxels"),
        ("soft", mask * np.float32(0.4), {}, "holds fractions"),
        ("negative", mask.astype(np.int16) * -1, {}, "outside 0..65535"),
    ):
        with pytest.raises(InputError, match=message):
            read_labels(save(tmp_path / f"{name}.nii.gz", values, **place), geometry)
