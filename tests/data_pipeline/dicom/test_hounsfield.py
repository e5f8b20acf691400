"""Stored pixels to Hounsfield units: rescale, bits, padding, transfer syntaxes, and values that are impossible."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
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

from data_pipeline.dicom.discovery import discover
from data_pipeline.dicom.hounsfield import AIR
from data_pipeline.dicom.volume import read_chest_ct, read_volume
from data_pipeline.errors import InputError
from tests.data_pipeline.dicom.volumes import chest, volume_of
from tests.data_pipeline.dicom_files import jpeg_lossless, uid, write_series


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
