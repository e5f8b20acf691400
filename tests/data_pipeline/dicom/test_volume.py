"""CT series to volumes: order, geometry, doubles, several acquisitions, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.dicom.discovery import CTSeries, discover
from data_pipeline.dicom.hounsfield import air_fraction
from data_pipeline.dicom.volume import read_chest_ct, read_volume
from data_pipeline.errors import InputError
from tests.data_pipeline.dicom.volumes import chest, volume_of
from tests.data_pipeline.dicom_files import AXIAL, uid, write_series
from tests.data_pipeline.shapes import plain_geometry, random_geometry, rotation

ORIENTATIONS = {
    "axial": AXIAL,
    "sagittal": (0, 1, 0, 0, 0, -1),
    "coronal": (1, 0, 0, 0, 0, -1),
    "feet first": (-1, 0, 0, 0, 1, 0),
    "upside down": (1, 0, 0, 0, -1, 0),
    "oblique": tuple(rotation(np.random.default_rng(5))[:2].ravel()),
}


@pytest.mark.parametrize("orientation", ORIENTATIONS.values(), ids=ORIENTATIONS.keys())
def test_slices_ascend_along_the_normal_with_their_geometry(tmp_path, orientation):
    written = write_series(tmp_path, depth=5, height=6, width=9, orientation=orientation)
    volume = volume_of(tmp_path)
    np.testing.assert_array_equal(volume.hounsfield, written.stored.astype(int) - 1024)
    assert volume.hounsfield.dtype == np.int16 and volume.hounsfield.flags.c_contiguous
    geometry = volume.geometry
    np.testing.assert_allclose(geometry.positions_mm, written.positions, atol=1e-7)
    assert geometry.sop_instance_uids == written.uids
    assert geometry.shape == (5, 6, 9) and geometry.frame_of_reference_uid == written.frame_uid
    np.testing.assert_allclose(geometry.spacing_mm, (3.0, 0.8, 0.7), rtol=1e-8)
    assert geometry.voxel_volume_mm3 == pytest.approx(3 * 0.8 * 0.7)
    assert not volume.notes and volume.patient_id == "PATIENT-1"

    index = np.array([[3.0, 2.0, 7.0]])
    point = written.points(3, [(2.0, 7.0)])
    np.testing.assert_allclose(geometry.to_index(point), index, atol=1e-6)
    np.testing.assert_allclose(geometry.to_patient(index), point, atol=1e-6)
    ras = geometry.affine_ras @ [7, 2, 3, 1]
    np.testing.assert_allclose(ras[:3] * [-1, -1, 1], point[0], atol=1e-6)


@given(st.integers(0, 2**32 - 1), st.integers(2, 9), st.booleans())
@settings(max_examples=60, deadline=None)
def test_to_index_and_to_patient_are_inverse(seed, depth, uneven):
    geometry = random_geometry(np.random.default_rng(seed), depth=depth, uneven=uneven)
    index = np.random.default_rng(seed).uniform(-3, 12, (20, 3))
    np.testing.assert_allclose(geometry.to_index(geometry.to_patient(index)), index, atol=1e-8)
    if not uneven:
        ras = geometry.affine_ras @ np.vstack([index[:, ::-1].T, np.ones(20)])
        np.testing.assert_allclose(ras[:3].T * [-1, -1, 1], geometry.to_patient(index), atol=1e-8)
    whole = np.stack([np.arange(depth), np.zeros(depth), np.zeros(depth)], axis=1).astype(float)
    np.testing.assert_allclose(geometry.to_patient(whole), geometry.positions_mm, atol=1e-9)


def test_a_mask_outside_the_body_is_mostly_air():
    hounsfield = np.full((2, 8, 8), -1000, np.int16)
    hounsfield[:, :, 4:] = 40
    mask = np.zeros(hounsfield.shape, bool)
    mask[0, 2:4, 3:7] = True
    assert air_fraction(hounsfield, mask) == 0.25
    assert air_fraction(hounsfield, np.roll(mask, -3, axis=2)) == 1


def stack(heights, shift=(0.0, 0.0)) -> np.ndarray:
    heights = np.asarray(heights, float)
    return np.stack([shift[0] * heights, shift[1] * heights, heights], axis=1)


@pytest.mark.parametrize(
    ("positions", "notes"),
    [
        (stack([0, 3, 6, 12, 15, 24, 27]), "3 slices are missing (2 gaps of up to 9 mm, 3 mm elsewhere)"),
        (stack([0, 3, 6, 10.5, 13.5]), "slices are unevenly spaced, 3 to 4.5 mm"),
        (
            stack([0, 3, 6, 9], shift=(0, 0.2)),
            "the stack is sheared by 11.3 degrees (gantry tilt), and is not resampled",
        ),
        (
            stack([0, 3, 6, 9]) + np.eye(4, 3, -1) * [1, 0, 0],
            "slices are shifted in plane, by up to 1.00 mm",
        ),
    ],
    ids=["missing", "uneven", "tilt", "shifted"],
)
def test_irregular_stacks_are_kept_as_they_are(tmp_path, positions, notes):
    written = write_series(tmp_path, positions=positions)
    volume = volume_of(tmp_path)
    assert volume.notes == (notes,)
    np.testing.assert_allclose(volume.geometry.positions_mm, positions)
    np.testing.assert_array_equal(volume.hounsfield, written.stored.astype(int) - 1024)
    if "sheared" in notes:
        np.testing.assert_allclose(
            (volume.geometry.affine_ras @ [0, 0, 3, 1])[:3], positions[3] * [-1, -1, 1], atol=1e-9
        )
    else:
        with pytest.raises(InputError, match="no affine places them"):
            _ = volume.geometry.affine_ras


def test_small_deviations_are_not_worth_a_note(tmp_path):
    write_series(tmp_path, positions=stack([0, 3.001, 5.999, 9.0]))
    volume = volume_of(tmp_path)
    assert not volume.notes and volume.geometry.affine_ras[2, 2] == pytest.approx(3)


@pytest.mark.parametrize(("true_mm", "depth"), [(1.25, 240), (0.75, 400), (0.65, 300), (4 / 3, 100)])
def test_the_spacing_of_rounded_positions_is_that_of_the_whole_stack(true_mm: float, depth: int) -> None:
    """An exporter that rounds to 0.1 mm gives gaps of two sizes; their median is up to 8% off."""
    z = np.round(np.arange(depth) * true_mm, 1)
    even = replace(plain_geometry(depth), positions_mm=np.stack([0 * z, 0 * z, z], axis=1), pixel_spacing_mm=(0.8, 0.8))
    assert even.spacing_mm[0] == pytest.approx(true_mm, abs=0.1 / (depth - 1))
    gap = np.where(np.arange(depth) < depth // 2, 0, 10 * true_mm)
    uneven = replace(even, positions_mm=np.stack([0 * z, 0 * z, z + gap], axis=1))
    assert uneven.spacing_mm[0] == np.median(np.diff(uneven.distances_mm))


def test_a_slice_stored_twice_is_dropped_once(tmp_path):
    written = write_series(tmp_path)

    def under_another_uid(index, image):
        image.SOPInstanceUID = uid(9, index)
        if index != 2:
            image.SeriesInstanceUID = uid(8)

    write_series(tmp_path / "again", edit=under_another_uid)
    (series,) = (one for one in discover(tmp_path).series if one.series_uid == written.series_uid)
    volume = read_volume(series)
    assert volume.notes == ("dropped 1 slices that are stored twice",)
    np.testing.assert_array_equal(volume.hounsfield, written.stored.astype(int) - 1024)


@pytest.mark.parametrize("name", ["0", "z"])  # read first and read last
def test_images_that_are_not_parallel_are_dropped(tmp_path, name):
    written = write_series(tmp_path)
    write_series(
        tmp_path,
        positions=np.zeros((1, 3)),
        orientation=(1, 0, 0, 0, 0, -1),
        stored=np.zeros((1, 20, 30), np.uint16),
        prefix=name,
        edit=lambda _, image: setattr(image, "SOPInstanceUID", uid(9)),
    )
    volume = volume_of(tmp_path)
    assert volume.notes == ("dropped 1 images that are not parallel to the other 4",)
    np.testing.assert_array_equal(volume.hounsfield, written.stored.astype(int) - 1024)


def second_acquisition(folder: Path, depth: int, offset: float) -> None:
    def edit(index, image):
        image.SOPInstanceUID = uid(9, index)

    stored = np.full((depth, 12, 10), 7, np.uint16)
    write_series(folder, stored=stored, origin=(-20, 30, 5 + offset), prefix="b", edit=edit, AcquisitionNumber=2)


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_a_small_second_acquisition_is_dropped_and_an_equal_one_refused(tmp_path, offset):
    for depth in (2, 6):
        written = write_series(tmp_path / str(depth), depth=6, AcquisitionNumber=1)
        second_acquisition(tmp_path / str(depth), depth, offset)
    volume = volume_of(tmp_path / "2")
    assert volume.notes == ("dropped 2 images of other acquisitions than the main one of 6",)
    np.testing.assert_array_equal(volume.hounsfield, written.stored.astype(int) - 1024)
    with pytest.raises(InputError, match="several acquisitions"):
        volume_of(tmp_path / "6")


def test_acquisition_numbers_that_merely_count_up_are_no_matter(tmp_path):
    write_series(tmp_path, depth=6, edit=lambda index, image: setattr(image, "AcquisitionNumber", index % 2))
    assert volume_of(tmp_path).hounsfield.shape[0] == 6 and not volume_of(tmp_path).notes


def only_second(**elements):
    def edit(index, image):
        for keyword, value in elements.items():
            if index == 1:
                setattr(image, keyword, value)

    return {"edit": edit}


def without_sop_instance_uid(_, image):
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    del image.SOPInstanceUID


REFUSED = {
    "one slice": (dict(depth=1), "single slice"),
    "mostly missing": (dict(positions=stack([0, 1, 2, 90, 91])), "87 slices are missing between the 5 there are"),
    "pixel spacing": (only_second(PixelSpacing=[0.8, 0.75]), "pixel spacing differs"),
    "frame of reference": (only_second(FrameOfReferenceUID=uid(55)), "frame of reference differs"),
    "same UID": (dict(edit=lambda _, image: setattr(image, "SOPInstanceUID", uid(5))), "share a SOPInstanceUID"),
    "no position": (dict(ImagePositionPatient=None), "no ImagePositionPatient|position.*incomplete"),
    "half a position": (only_second(ImagePositionPatient=[1.0, 2.0]), "incomplete"),
    "skewed axes": (dict(ImageOrientationPatient=[1, 0, 0, 0.5, 1, 0]), "orientation or pixel spacing is not valid"),
    "no spacing": (dict(PixelSpacing=[0, 1]), "orientation or pixel spacing is not valid"),
    "no rescale": (dict(RescaleSlope=None), "no RescaleSlope"),
    "zero slope": (dict(RescaleSlope=0), "rescale are not valid"),
    "optical density": (only_second(RescaleType="OD"), "not in Hounsfield units"),
    "palette": (only_second(PhotometricInterpretation="PALETTE COLOR"), "is a colour image"),
    "sign": (only_second(PixelRepresentation=9), "PixelRepresentation is neither 0 nor 1"),
    "bits": (only_second(BitsStored=17), "BitsStored is not between 1 and BitsAllocated"),
    "no bits": (only_second(BitsStored=0), "BitsStored is not between 1 and BitsAllocated"),
    "one bit": (only_second(BitsAllocated=1, BitsStored=1), "BitsAllocated is not 8, 16 or 32"),
    "two frames of pixels": (only_second(PixelData=bytes(2 * 240 + 4096)), "bytes of pixels, its header says 240"),
    "no SOP UIDs": (dict(edit=without_sop_instance_uid), "4 slices have no SOPInstanceUID"),
    "stray slice": (dict(positions=stack([-300, *range(0, 60, 3)])), "at one end are 300 mm away from the others"),
    "stray slice, whole": (dict(positions=stack([-301, *range(0, 60)])), "at one end are 301 mm away"),
    "stray at the top": (dict(positions=stack([*range(0, 90, 3), 200])), "at one end are 113 mm away"),
    "mostly missing, uneven": (dict(positions=stack([0, 1, 2, 90.5, 91.5])), "88 slices are missing"),
    "short pixels": (only_second(PixelData=b"\0" * 100), "not a readable CT image"),
    "no pixels": (dict(PixelData=None), "no PixelData|not a readable"),
    "two frames": (dict(NumberOfFrames=2), "not a single-frame grey image"),
    "giant": (dict(Rows=65535, Columns=65535), "claims 65535 x 65535 pixels"),
    "other matrix": (only_second(Rows=10, PixelData=bytes(200)), "matrix differs"),
}


@pytest.mark.parametrize(("how", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refusals_are_one_line_that_names_the_place(tmp_path, how, message):
    write_series(tmp_path, **how)
    with pytest.raises(InputError, match=message) as error:
        volume_of(tmp_path)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value) and "Canary" not in str(error.value)


def second_reconstruction(folder: Path, depth: int, offset: float, **elements) -> None:
    def edit(index, image):
        image.SOPInstanceUID = uid(9, index)

    stored = np.full((depth, 12, 10), 7, np.uint16)
    write_series(folder, stored=stored, origin=(-20, 30, 5 + offset), prefix="b", edit=edit, **elements)


@pytest.mark.parametrize("second", [dict(ConvolutionKernel="B70f"), dict(SliceThickness="5.0")], ids=str)
@pytest.mark.parametrize("offset", [0.0, 1.5, 1.0])  # at the same places, evenly and unevenly in between
def test_interleaved_reconstructions_are_told_apart(tmp_path, second, offset):
    first: dict[str, Any] = dict(ConvolutionKernel="B30f", SliceThickness="3")
    for depth in (2, 6):
        written = write_series(tmp_path / str(depth), depth=6, **first)
        second_reconstruction(tmp_path / str(depth), depth, offset, **{**first, **second})
    (name,) = second
    volume = volume_of(tmp_path / "2")
    assert volume.notes == (
        f"dropped 2 images of another reconstruction, which differs in {name}, from the main one of 6",
    )
    np.testing.assert_array_equal(volume.hounsfield, written.stored.astype(int) - 1024)
    with pytest.raises(InputError, match=f"several reconstructions, which differ in {name}"):
        volume_of(tmp_path / "6")


def test_a_thickness_that_is_the_distance_to_the_next_slice_is_no_second_reconstruction(tmp_path):
    """As planning systems write it for CTs with missing slices (LUNG1-014 and others)."""
    heights = np.array([0, 3, 6, 12, 15, 21, 24, 27.0])

    def edit(index, image):
        image.SliceThickness = float(np.append(np.diff(heights), 3)[index])

    write_series(tmp_path, positions=stack(heights), edit=edit)
    assert volume_of(tmp_path).notes == (
        "slices differ in SliceThickness",
        "2 slices are missing (2 gaps of up to 6 mm, 3 mm elsewhere)",
    )


@pytest.mark.parametrize("plane", ["sagittal", "coronal"])
def test_other_planes_are_refused_by_name(tmp_path, plane):
    write_series(tmp_path, stored=chest(), RescaleIntercept=0, orientation=ORIENTATIONS[plane])
    (series,) = discover(tmp_path).series
    with pytest.raises(InputError, match=f"the slices are {plane}; .* need axial slices"):
        read_chest_ct(series)


def test_a_file_that_is_gone_or_not_dicom_is_an_input_error(tmp_path):
    (tmp_path / "text").write_text("no DICOM")
    for name, message in (("gone", "FileNotFoundError"), ("text", "not DICOM")):
        with pytest.raises(InputError, match=message):
            read_volume(CTSeries("", "", "", (tmp_path / name,)))


def test_real_patients(real_patients):
    ibsi, lung1 = (read_volume(patient) for patient in discover(real_patients).series)
    assert lung1.hounsfield.shape == (134, 512, 512) and ibsi.hounsfield.shape == (60, 201, 204)
    assert not lung1.notes and not ibsi.notes
    np.testing.assert_allclose(lung1.geometry.spacing_mm, (3, 0.9765625, 0.9765625))
    # File 1 has the highest z, so it is the last slice.
    first_file = pydicom.dcmread(next(real_patients.glob("lung1_001/**/*001.dcm")))
    assert first_file.ImagePositionPatient[2] == lung1.geometry.positions_mm[-1, 2]
    np.testing.assert_array_equal(first_file.pixel_array.astype(int) - 1024, lung1.hounsfield[-1])
