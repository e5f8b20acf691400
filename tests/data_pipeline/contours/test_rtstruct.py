"""RTSTRUCT files to contours: names of ROIs, damaged files, limits, and the real patients."""

from pathlib import Path

import numpy as np
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import ImplicitVRLittleEndian

from data_pipeline.contours.mask import mask_from_contours
from data_pipeline.contours.rtstruct import read_contours
from data_pipeline.dicom.discovery import discover
from data_pipeline.dicom.files import quiet_pydicom
from data_pipeline.dicom.hounsfield import air_fraction
from data_pipeline.dicom.volume import read_volume
from data_pipeline.errors import InputError
from tests.data_pipeline.contours.drawings import GEOMETRY, SQUARE, assert_equal_off_the_edges, assert_equals_the_oracle
from tests.data_pipeline.dicom_files import contour, uid, write_rtstruct, write_series
from tests.data_pipeline.shapes import inside, rotation


@pytest.mark.parametrize(
    ("name", "matches"),
    [(name, True) for name in ("GTV-1", "gtv1", "GTV_1 ", "GTV 1", " Gtv-1")]
    + [(name, False) for name in ("GTV-10", "gtv_nr_7", "GTV-2", "xGTV-1", "GTV", "GTV-1b", "gtv-supral")],
)
def test_the_default_roi(tmp_path, name, matches):
    series = write_series(tmp_path / "ct")
    path = write_rtstruct(tmp_path / "rs", {"Lung": [], name: [contour(series.points(1, SQUARE))]}, series)
    if matches:
        (one,) = read_contours(path)
        assert one.roi_name == name.strip() or one.roi_name == name.rstrip()
    else:
        with pytest.raises(InputError, match=f"no ROI matches .* it has: Lung, {name}$"):
            read_contours(path)


def test_contours_are_read_as_written(tmp_path):
    series = write_series(tmp_path / "ct")
    written = [
        contour(series.points(1, SQUARE), series.uids[1]),
        contour(series.points(2, SQUARE)),
        contour(series.points(2, SQUARE), kind=None),
    ]
    path = write_rtstruct(tmp_path / "rs", {"GTV-1": written, "GTV-2": written[:1], "Heart": written[:1]}, series)
    contours = read_contours(path)
    assert [(one.number, one.roi_name, one.roi_number) for one in contours] == [
        (index, "GTV-1", 1) for index in range(3)
    ]
    assert [one.sop_instance_uid for one in contours] == [series.uids[1], None, None]
    assert [one.geometric_type for one in contours] == ["CLOSED_PLANAR", "CLOSED_PLANAR", ""]
    np.testing.assert_allclose(contours[0].points_mm, series.points(1, SQUARE), atol=1e-6)
    assert contours[0].frame_of_reference_uid == series.frame_uid
    assert [(one.roi_name, one.number) for one in read_contours(path, r"gtv-\d")][2:] == [("GTV-1", 2), ("GTV-2", 0)]


@pytest.mark.parametrize("data", ["1\\2", "1\\x\\3 ", "1\\\\3 "])
def test_coordinates_that_are_no_coordinates_are_rejected_one_by_one(tmp_path, data):
    series = write_series(tmp_path / "ct")
    broken = Dataset()
    broken.ContourGeometricType = "CLOSED_PLANAR"
    tag = Tag("ContourData")
    broken[tag] = RawDataElement(tag, "DS", len(data), data.encode(), 0, False, True)
    path = write_rtstruct(tmp_path / "rs", {"GTV-1": [contour(series.points(1, SQUARE)), broken]}, series)
    (patient,) = discover(tmp_path).series
    _, account = mask_from_contours(read_contours(path), read_volume(patient).geometry)
    assert account.rejected == ((1, "its coordinates are not a list of x, y, z"),) and account.used == 1


def test_files_without_usable_contours_are_one_clear_line(tmp_path):
    series = write_series(tmp_path / "ct")
    nothing = write_rtstruct(tmp_path / "nothing", {}, series)
    (tmp_path / "text").write_text("text")
    for message, path in (
        ("the ROI has no contours.*: GTV-1", write_rtstruct(tmp_path / "listed", {"GTV-1": None}, series)),
        ("the ROI has no contours.*: GTV-1", write_rtstruct(tmp_path / "empty", {"GTV-1": []}, series)),
        ("it has: none", nothing),
        ("not an RTSTRUCT", series.files[0]),
        ("not DICOM", tmp_path / "text"),
        ("FileNotFoundError", tmp_path / "gone"),
    ):
        with pytest.raises(InputError, match=message) as error:
            read_contours(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(InputError, match=r"no ROI matches 'gtv\(', which is no regular expression either"):
        read_contours(nothing, "gtv(")


@pytest.mark.parametrize(
    ("roi", "name"),
    [
        ("GTV-1 (CT)", "GTV-1 (CT)"),  # parentheses, taken literally
        ("gtv+", " GTV+"),
        ("GTV (1", "gtv (1"),  # no regular expressions
        ("tumour*++", "tumour*++"),
        ("[[GTV", "[[GTV"),
        ("Tumeur pulmonaire é", "Tumeur pulmonaire e\u0301"),  # composed and decomposed
        ("GTV-1", "\uff27\uff34\uff36-1"),  # full-width letters of Japanese systems
        ("gtv.*", "GTV 1"),
    ],
)
def test_rois_are_found_by_literal_name_and_in_any_unicode_form(tmp_path, roi, name):
    series = write_series(tmp_path / "ct")
    square = [contour(series.points(1, SQUARE))]
    path = write_rtstruct(
        tmp_path / "rs",
        {"Lung": square, name: square},
        series,
        edit=lambda dataset: setattr(dataset, "SpecificCharacterSet", "ISO_IR 192"),
    )
    assert {one.roi_number for one in read_contours(path, roi)} == {2}


def test_a_literal_name_goes_before_the_pattern(tmp_path):
    series = write_series(tmp_path / "ct")
    square = [contour(series.points(1, SQUARE))]
    path = write_rtstruct(tmp_path / "rs", {"GTV.": square, "GTV1": square}, series)
    assert [one.roi_name for one in read_contours(path, "gtv.")] == ["GTV."]


def renumber_roi(dataset):
    """Another organ gets the tumour's number, in the list of ROIs and in the contours."""
    dataset.StructureSetROISequence[1].ROINumber = 1
    dataset.ROIContourSequence[1].ReferencedROINumber = 1


def renumber_contours(dataset):
    dataset.ROIContourSequence[1].ReferencedROINumber = 1


@pytest.mark.parametrize("edit", [renumber_roi, renumber_contours])
def test_a_number_that_stands_for_two_rois_is_refused(tmp_path, edit):
    series = write_series(tmp_path / "ct")
    square, lung = ([contour(series.points(index, SQUARE))] for index in (1, 2))
    path = write_rtstruct(tmp_path / "rs", {"GTV-1": square, "Lung": lung, "Heart": lung}, series, edit=edit)
    with pytest.raises(InputError, match="ROI number 1, so that contours cannot be assigned"):
        read_contours(path)
    assert len(read_contours(path, "Heart")) == 1  # whose number is its own


def test_names_of_rois_cannot_break_a_message(tmp_path):
    series = write_series(tmp_path / "ct")
    with quiet_pydicom():
        path = write_rtstruct(tmp_path / "rs", {"a\nb": [], "\x1b[31mred": [], "x" * 500: []}, series)
    with pytest.raises(InputError) as error:
        read_contours(path)
    assert error.value.quoted == "a b, [31mred, " + 63 * "x" + "…" and "\n" not in str(error.value)


def test_contours_with_too_many_points_are_rejected(tmp_path):
    """Beyond any drawn contour, and in a syntax that can hold them (PS3.5 7.1.2: explicit VR ends at 64 kB)."""
    series = write_series(tmp_path / "ct")
    item = contour(series.points(1, SQUARE))
    tag = Tag("ContourData")
    text = b"0\\0\\0\\" * 100_000 + b"0\\0\\0"
    item[tag] = RawDataElement(tag, "DS", len(text), text, 0, True, True)

    def implicit(dataset):
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian

    path = write_rtstruct(tmp_path / "rs", {"GTV-1": [contour(series.points(1, SQUARE)), item]}, series, edit=implicit)
    good, bad = read_contours(path)
    assert not good.fault and bad.fault == "has more than 100000 points" and not len(bad.points_mm)


def test_points_without_preamble_as_pydicom_ships_them():
    path = Path(str(get_testdata_file("rtstruct.dcm")))
    contours = [one for one in read_contours(path, ".*") if one.geometric_type == "POINT"]
    assert contours
    with pytest.raises(InputError, match="which enclose nothing"):
        mask_from_contours(contours, GEOMETRY)


@pytest.mark.parametrize("seed", range(5))
def test_from_files_to_mask_in_any_orientation(tmp_path, seed):
    generator = np.random.default_rng(seed)
    axes = rotation(generator)
    series = write_series(
        tmp_path / "ct", height=30, width=19, spacing=(2.5, 0.6, 0.9), orientation=tuple(axes[:2].ravel())
    )
    outline = [(4 + generator.uniform(-2, 2), 3), (24, 5.3), (27.2, 14.9), (11.7, 16.2)]
    hole = [(9.3, 7.2), (18.1, 8.8), (15.4, 12.6)]
    drawn_on = [contour(series.points(2, points), series.uids[2]) for points in (outline, hole)]
    write_rtstruct(tmp_path / "rs", {"GTV-1": drawn_on}, series)
    (patient,) = discover(tmp_path).series
    geometry = read_volume(patient).geometry
    contours = read_contours(patient.rtstructs[0])
    mask, account = mask_from_contours(contours, geometry)
    assert_equal_off_the_edges(mask[2], *inside(contours, geometry, 2))
    assert account.used == 2 and not account.repaired and mask.sum() == mask[2].sum() > 100


def test_a_file_in_another_frame_is_told(tmp_path):
    series = write_series(tmp_path / "ct")
    path = write_rtstruct(tmp_path / "rs", {"GTV-1": [contour(series.points(1, SQUARE))]}, series, frame=uid(66))
    (patient,) = discover(tmp_path).series
    with pytest.raises(InputError, match="1 x is in another frame of reference"):
        mask_from_contours(read_contours(path), read_volume(patient).geometry)


@pytest.mark.parametrize(("number", "slices", "used", "volume_mm3"), [(0, 60, 26, 358_661), (1, 134, 21, 156_346)])
def test_real_patients(real_patients, number, slices, used, volume_mm3):
    patient = discover(real_patients).series[number]
    volume = read_volume(patient)
    geometry = volume.geometry
    contours = read_contours(patient.rtstructs[0])
    mask, account = mask_from_contours(contours, geometry)
    assert air_fraction(volume.hounsfield, mask) < 0.006
    assert mask.shape[0] == slices and mask.any(axis=(1, 2)).sum() == used
    assert account.used == account.total == used and not account.rejected and not account.repaired
    assert account.polygon_volume_mm3 == pytest.approx(volume_mm3, abs=1)
    assert account.mask_volume_mm3 == pytest.approx(volume_mm3, rel=0.005)
    apart = np.diff(geometry.to_index(np.array([account.mask_centroid_mm, account.polygon_centroid_mm])), axis=0)
    assert np.abs(apart).max() < 0.5
    assert_equals_the_oracle(mask, contours, geometry)
