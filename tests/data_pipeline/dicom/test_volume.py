"""CT series to volumes: order, Hounsfield units, geometry, and every kind of series that is not as it should be."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    RLELossless,
)

from data_pipeline.dicom.discovery import CTSeries, discover
from data_pipeline.dicom.hounsfield import AIR, air_fraction
from data_pipeline.dicom.volume import CTVolume, read_chest_ct, read_volume
from data_pipeline.errors import InputError
from tests.data_pipeline.dicom_files import AXIAL, jpeg_lossless, uid, write_series
from tests.data_pipeline.shapes import random_geometry, rotation


def volume_of(folder: Path) -> CTVolume:
    (patient,) = discover(folder).series
    return read_volume(patient)


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


# --- values ---


def test_rescale_differs_from_image_to_image(tmp_path):
    def edit(index, image):
        image.RescaleSlope, image.RescaleIntercept = (1, -1000) if index else (2, 10)

    stored = np.full((3, 4, 4), 100, np.uint16)
    write_series(tmp_path, stored=stored, edit=edit)
    assert volume_of(tmp_path).hounsfield[:, 0, 0].tolist() == [210, -900, -900]


def test_fractional_rescale_is_rounded_and_told(tmp_path):
    stored = np.arange(32, dtype=np.int16).reshape(2, 4, 4)
    write_series(tmp_path, stored=stored, RescaleSlope="0.5", RescaleIntercept="-0.1")
    volume = volume_of(tmp_path)
    np.testing.assert_array_equal(volume.hounsfield, np.rint(stored * 0.5 - 0.1))
    assert volume.notes == ("fractional HU were rounded in 2 of 2 slices",)


@pytest.mark.parametrize(("stored", "bits", "expected"), [(0xF005, 12, 5), (0x0FFF, 12, 4095), (0x0805, 16, 0x805)])
def test_unsigned_bits_above_the_stored_ones_are_dropped(tmp_path, stored, bits, expected):
    write_series(tmp_path, stored=np.full((2, 4, 4), stored, np.uint16), BitsStored=bits, RescaleIntercept=0)
    volume = volume_of(tmp_path)
    assert (volume.hounsfield == expected).all()
    assert bool(volume.notes) == (stored == 0xF005)


@pytest.mark.parametrize("stored", [0x0FFE, -2, 0x7FFE])
def test_signed_values_are_extended_from_their_own_sign_bit(tmp_path, stored):
    write_series(tmp_path, stored=np.full((2, 4, 4), stored, np.int16), BitsStored=12, HighBit=11, RescaleIntercept=0)
    assert (volume_of(tmp_path).hounsfield == -2).all()


@pytest.mark.parametrize(("kind", "intercept"), [(np.int16, 0), (np.uint16, -32768)])
def test_padding_becomes_air(tmp_path, kind, intercept):
    stored = np.full((2, 4, 4), 50 - intercept, kind)
    stored[0, 0], stored[0, 1], stored[1, 0] = -2000 - intercept, -3024 - intercept, 9000 - intercept
    write_series(tmp_path, stored=stored, RescaleIntercept=intercept, PixelPaddingValue=9000 - intercept)
    volume = volume_of(tmp_path)
    assert (volume.hounsfield[0, :2] == AIR).all() and (volume.hounsfield[1, 0] == AIR).all()
    assert (volume.hounsfield[:, 2:] == 50).all()
    assert volume.notes == (
        "declared padding was set to air in 1 of 2 slices",
        "padding below -1024 HU was set to air in 1 of 2 slices",
    )


def test_values_beyond_16_bits_are_clipped_and_told(tmp_path):
    write_series(tmp_path, stored=np.full((2, 4, 4), 60000, np.uint16))
    volume = volume_of(tmp_path)
    assert (volume.hounsfield == 32767).all() and volume.notes == (
        "values beyond 16 bits were clipped in 2 of 2 slices",
    )


# The same image as shipped by pydicom in every encoding, against the plain one.
ENCODED = (
    "MR_small_RLE",
    "MR_small_jp2klossless",
    "MR_small_jpeg_ls_lossless",
    "MR_small_bigendian",
    "MR_small_implicit",
)


@pytest.mark.parametrize("name", ENCODED)
def test_transfer_syntaxes_give_the_same_values(tmp_path, name):
    folders = []
    for source in ("MR_small", name):
        folders.append(tmp_path / source)
        for index in range(2):
            image = pydicom.dcmread(str(get_testdata_file(f"{source}.dcm")))
            image.SOPClassUID, image.Modality = CTImageStorage, "CT"
            image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
            image.RescaleSlope, image.RescaleIntercept = 1, 0
            image.ImagePositionPatient = [0, 0, index]
            image.SOPInstanceUID = uid(index)
            folders[-1].mkdir(exist_ok=True)
            image.save_as(folders[-1] / f"{index}.dcm")
    plain, encoded = (volume_of(folder) for folder in folders)
    assert plain.hounsfield.max() > 200
    np.testing.assert_array_equal(plain.hounsfield, encoded.hounsfield)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, DeflatedExplicitVRLittleEndian])
def test_compressed_series(tmp_path, syntax):
    def edit(_, image):
        if syntax == DeflatedExplicitVRLittleEndian:
            image.file_meta.TransferSyntaxUID = syntax
        else:
            image.compress(syntax, generate_instance_uid=False)

    written = write_series(tmp_path, height=70, width=64, edit=edit)
    np.testing.assert_array_equal(volume_of(tmp_path).hounsfield, written.stored.astype(int) - 1024)


@pytest.mark.parametrize("syntax", [JPEGLossless, JPEGLosslessSV1])
def test_jpeg_lossless_series(tmp_path, syntax):
    """What many archives send. No encoder is at hand, so here is the smallest one."""

    def edit(index, image):
        image.file_meta.TransferSyntaxUID = syntax
        image.PixelData = encapsulate([jpeg_lossless(stored[index])])
        image["PixelData"].is_undefined_length = True

    stored = np.random.default_rng(0).integers(0, 65535, (3, 9, 14)).astype(np.uint16) // 20
    write_series(tmp_path, stored=stored, edit=edit)
    np.testing.assert_array_equal(volume_of(tmp_path).hounsfield, stored.astype(int) - 1024)


@pytest.mark.parametrize("name", ["JPGExtended"])
def test_jpeg_extended_series(tmp_path, name):
    """Lossy, 12 bits. The values are pydicom's own: this asserts that a decoder is there, and ours uses it."""
    source = pydicom.dcmread(str(get_testdata_file(f"{name}.dcm")))

    def edit(_, image):
        image.file_meta.TransferSyntaxUID = source.file_meta.TransferSyntaxUID
        image.PixelData = source.PixelData
        image["PixelData"].is_undefined_length = True
        image.BitsStored, image.HighBit, image.RescaleIntercept = 12, 11, 0

    write_series(tmp_path, depth=2, height=source.Rows, width=source.Columns, edit=edit)
    np.testing.assert_array_equal(volume_of(tmp_path).hounsfield[0], source.pixel_array)
    assert source.pixel_array.max() > 100


def test_a_mask_outside_the_body_is_mostly_air():
    hounsfield = np.full((2, 8, 8), -1000, np.int16)
    hounsfield[:, :, 4:] = 40
    mask = np.zeros(hounsfield.shape, bool)
    mask[0, 2:4, 3:7] = True
    assert air_fraction(hounsfield, mask) == 0.25
    assert air_fraction(hounsfield, np.roll(mask, -3, axis=2)) == 1


# --- geometry that is not as it should be: repaired or kept, with a note ---


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


# --- refused ---


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
    "palette": (only_second(PhotometricInterpretation="PALETTE COLOR"), "is a color image"),
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
    "two frames": (dict(NumberOfFrames=2), "not a single-frame gray image"),
    "giant": (dict(Rows=65535, Columns=65535), "claims 65535 x 65535 pixels"),
    "other matrix": (only_second(Rows=10, PixelData=bytes(200)), "matrix differs"),
}


@pytest.mark.parametrize(("how", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refusals_are_one_line_that_names_the_place(tmp_path, how, message):
    write_series(tmp_path, **how)
    with pytest.raises(InputError, match=message) as error:
        volume_of(tmp_path)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value) and "Canary" not in str(error.value)


# --- two reconstructions under one UID ---


def second_reconstruction(folder: Path, depth: int, offset: float, **elements) -> None:
    def edit(index, image):
        image.SOPInstanceUID = uid(9, index)

    stored = np.full((depth, 12, 10), 7, np.uint16)
    write_series(folder, stored=stored, origin=(-20, 30, 5 + offset), prefix="b", edit=edit, **elements)


@pytest.mark.parametrize("second", [dict(ConvolutionKernel="B70f"), dict(SliceThickness="5.0")], ids=str)
@pytest.mark.parametrize("offset", [0.0, 1.5, 1.0])  # at the same places, evenly and unevenly in between
def test_interleaved_reconstructions_are_told_apart(tmp_path, second, offset):
    first = dict(ConvolutionKernel="B30f", SliceThickness="3")
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


# --- values and planes that cannot be a chest CT ---


def chest(depth: int = 4, size: int = 20) -> np.ndarray:
    """Air around a body of soft tissue with lungs and a bone, HU."""
    hounsfield = np.full((depth, size, size), -1000, np.int16)
    hounsfield[:, 3:17, 2:18] = 40
    hounsfield[:, 6:12, 4:8] = hounsfield[:, 6:12, 12:16] = -800
    hounsfield[:, 14:16, 9:11] = 700
    return hounsfield


IMPOSSIBLE = {
    "signed flagged unsigned": (chest().view(np.uint16), dict(RescaleIntercept=0), "most voxels .* from 40 to 64736"),
    "signed, padding declared": (
        chest().view(np.uint16),
        dict(RescaleIntercept=0, PixelPaddingValue=-1000 + 65536),
        "no air or lung",
    ),
    "intercept twice": (chest(), dict(RescaleIntercept=-2048), "most voxels are outside -1100..3100.*from -3048 to"),
    "no intercept": ((chest() + 1024).astype(np.uint16), dict(RescaleIntercept=0), "no air or lung.*from 24 to 1724"),
    "MR": (
        np.random.default_rng(0).integers(0, 1500, (4, 20, 20)).astype(np.uint16),
        dict(RescaleIntercept=0),
        "no air",
    ),
    "slope": (chest(), dict(RescaleIntercept=0, RescaleSlope=20), "from -20000 to 14000 HU"),
}


@pytest.mark.parametrize(("stored", "elements", "message"), IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_values_that_are_no_hounsfield_units_are_refused_with_their_range(tmp_path, stored, elements, message):
    write_series(tmp_path, stored=stored, **elements)
    (series,) = discover(tmp_path).series
    with pytest.raises(InputError, match=message) as error:
        read_chest_ct(series)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def padded_corners() -> np.ndarray:
    """A round field of view with -2000 around it."""
    hounsfield = chest()
    row, column = np.mgrid[:20, :20] - 9.5
    hounsfield[:, np.hypot(row, column) > 8] = -2000
    return hounsfield


@pytest.mark.parametrize(
    ("stored", "elements"),
    [
        (chest(), {}),
        (chest()[:, 4:14, 3:16], {}),  # a crop without any air outside the body
        (padded_corners(), {}),
        (padded_corners(), dict(PixelPaddingValue=-2000)),
    ],
)
def test_chests_are_accepted(tmp_path, stored, elements):
    write_series(tmp_path, stored=stored, RescaleIntercept=0, **elements)
    (series,) = discover(tmp_path).series
    np.testing.assert_array_equal(read_chest_ct(series).hounsfield, np.maximum(stored, AIR))


@pytest.mark.parametrize("limit", [2000, 1500])  # above or below the value (PS3.3 C.7.5.1.1.2)
def test_a_range_of_padding_becomes_air(tmp_path, limit):
    value = 3500 - limit
    stored = chest()
    stored[:, 0], stored[:, 1], stored[:, 2] = value, limit, 1750
    write_series(tmp_path, stored=stored, RescaleIntercept=0, PixelPaddingValue=value, PixelPaddingRangeLimit=limit)
    (series,) = discover(tmp_path).series
    volume = read_chest_ct(series)
    assert (volume.hounsfield[:, :3] == AIR).all()
    np.testing.assert_array_equal(volume.hounsfield[:, 3:], chest()[:, 3:])
    assert volume.notes == ("declared padding was set to air in 4 of 4 slices",)


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


def test_every_file_that_pydicom_ships():
    """Truncated, mislabelled, without preamble, in every encoding: read or refused, each patient by itself."""
    found = discover(Path(pydicom.__file__).parent / "data")
    shapes = []
    for patient in found.series:
        try:
            shapes.append(read_volume(patient).hounsfield.shape)
        except InputError as error:
            assert "\n" not in str(error)
    assert shapes == [(5, 16, 16)]
    assert len(found.series) > 4 and sum(found.ignored.values()) > 100


def test_real_patients(real_patients):
    ibsi, lung1 = (read_volume(patient) for patient in discover(real_patients).series)
    assert lung1.hounsfield.shape == (134, 512, 512) and ibsi.hounsfield.shape == (60, 201, 204)
    assert not lung1.notes and not ibsi.notes
    np.testing.assert_allclose(lung1.geometry.spacing_mm, (3, 0.9765625, 0.9765625))
    # File 1 has the highest z, so it is the last slice.
    first_file = pydicom.dcmread(next(real_patients.glob("lung1_001/**/*001.dcm")))
    assert first_file.ImagePositionPatient[2] == lung1.geometry.positions_mm[-1, 2]
    np.testing.assert_array_equal(first_file.pixel_array.astype(int) - 1024, lung1.hounsfield[-1])
