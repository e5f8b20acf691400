"""Masks as RT Structure Set and DICOM Segmentation, read back by highdicom and by the pipeline itself."""

from pathlib import Path

import numpy as np
import pydicom
import pytest

from data_pipeline.contours.mask import mask_from_contours
from data_pipeline.contours.rtstruct import read_contours
from data_pipeline.dicom.discovery import discover
from data_pipeline.dicom.files import quiet_pydicom
from data_pipeline.errors import InputError
from data_pipeline.export.dicom import ROI_NAME, write_rtstruct, write_seg
from tests.data_pipeline.export.samples import IDENTITY, KINDS, Sample, real_sample

hd = pytest.importorskip("highdicom", reason="not installed on Python 3.14")


@pytest.mark.parametrize("count", [4, pytest.param(25, marks=pytest.mark.slow)])  # slow: 200 in all
@pytest.mark.parametrize("name", KINDS)
def test_rtstruct_and_seg_give_the_mask_back(samples: dict[str, Sample], name: str, count: int, tmp_path: Path) -> None:
    sample = samples[name]
    geometry = sample.volume.geometry
    for mask in sample.masks(count):
        write_rtstruct(mask, geometry, sample.files, tmp_path / "rtstruct.dcm")
        back, account = mask_from_contours(read_contours(tmp_path / "rtstruct.dcm", ROI_NAME), geometry)
        np.testing.assert_array_equal(back, mask)
        assert account.used == account.total and not account.repaired
        assert account.polygon_volume_mm3 == pytest.approx(mask.sum() * geometry.voxel_volume_mm3, rel=1e-6)

        write_seg(mask, geometry, sample.files, tmp_path / "seg.dcm")
        seg = hd.seg.segread(tmp_path / "seg.dcm")
        planes = seg.get_pixels_by_source_instance(
            list(geometry.sop_instance_uids), combine_segments=True, assert_missing_frames_are_empty=True
        )
        np.testing.assert_array_equal(planes, mask)


def test_seg_frames_lie_on_their_slices(samples: dict[str, Sample], tmp_path: Path) -> None:
    for name in ("oblique", "uneven", "tilted"):
        sample = samples[name]
        geometry = sample.volume.geometry
        mask = np.zeros(geometry.shape, bool)
        mask[[1, 4], 3:9, 2:8] = True
        write_seg(mask, geometry, sample.files, tmp_path / "seg.dcm")
        frames = pydicom.dcmread(tmp_path / "seg.dcm").PerFrameFunctionalGroupsSequence
        assert len(frames) == 2
        for frame in frames:
            uid = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
            index = geometry.sop_instance_uids.index(uid)
            assert index in (1, 4)
            position = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
            np.testing.assert_allclose(position, geometry.positions_mm[index], atol=1e-6)


def test_real_contours_survive_the_way_out_and_back(real_patients: Path, tmp_path: Path) -> None:
    sample, mask = real_sample(real_patients / "ibsi1_lung_ct")
    geometry = sample.volume.geometry
    write_rtstruct(mask, geometry, sample.files, tmp_path / "rtstruct.dcm")
    back, _ = mask_from_contours(read_contours(tmp_path / "rtstruct.dcm", ROI_NAME), geometry)
    np.testing.assert_array_equal(back, mask)


def test_rtstruct_refers_to_its_series_and_says_what_it_is(samples: dict[str, Sample], tmp_path: Path) -> None:
    sample = samples["axial"]
    geometry = sample.volume.geometry
    mask = np.zeros(geometry.shape, bool)
    mask[2, 3:9, 2:8] = True
    write_rtstruct(mask, geometry, sample.files, tmp_path / "rtstruct.dcm")
    structures, ct = pydicom.dcmread(tmp_path / "rtstruct.dcm"), pydicom.dcmread(sample.files[0])
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert structures[keyword].value == ct[keyword].value
    assert structures.SeriesInstanceUID != ct.SeriesInstanceUID
    (frame,) = structures.ReferencedFrameOfReferenceSequence
    series = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == ct.SeriesInstanceUID
    assert [str(one.ReferencedSOPInstanceUID) for one in series.ContourImageSequence] == [*geometry.sop_instance_uids]
    (roi,) = structures.StructureSetROISequence
    assert (roi.ROIName, roi.ROIGenerationAlgorithm) == ("RDUNET-GTV", "AUTOMATIC")
    assert structures.ApprovalStatus == "UNAPPROVED"
    (contour,) = structures.ROIContourSequence[0].ContourSequence
    assert contour.ContourGeometricType == "CLOSED_PLANAR" and contour.NumberOfContourPoints == 4
    assert contour.ContourImageSequence[0].ReferencedSOPInstanceUID == geometry.sop_instance_uids[2]
    assert max(len(str(value)) for value in contour.ContourData) <= 16
    (patient,) = discover(sample.files[0].parent).series  # and our own way in pairs the two
    assert not patient.rtstructs
    (sample.files[0].parent / "rtstruct.dcm").write_bytes((tmp_path / "rtstruct.dcm").read_bytes())
    (patient,) = discover(sample.files[0].parent).series
    assert [path.name for path in patient.rtstructs] == ["rtstruct.dcm"]
    (sample.files[0].parent / "rtstruct.dcm").unlink()


def test_an_empty_mask_is_exported_as_such(samples: dict[str, Sample], tmp_path: Path) -> None:
    sample = samples["axial"]
    mask = np.zeros(sample.volume.geometry.shape, bool)
    write_rtstruct(mask, sample.volume.geometry, sample.files, tmp_path / "rtstruct.dcm")
    with pytest.raises(InputError, match="has no contours"):
        read_contours(tmp_path / "rtstruct.dcm", ROI_NAME)
    write_seg(mask, sample.volume.geometry, sample.files, tmp_path / "seg.dcm")
    assert not hd.seg.segread(tmp_path / "seg.dcm").pixel_array.any()


@pytest.mark.parametrize("write", [write_rtstruct, write_seg])
def test_dicom_exports_refuse_the_wrong_ct_in_one_line(samples: dict[str, Sample], tmp_path: Path, write) -> None:
    sample = samples["axial"]
    geometry = sample.volume.geometry
    mask = np.ones(geometry.shape, bool)
    nameless = pydicom.dcmread(sample.files[0])
    del nameless.FrameOfReferenceUID
    nameless.save_as(tmp_path / "nameless.dcm")
    (tmp_path / "text.dcm").write_text("text")
    for files, message in (
        (sample.files[1:], r"1 of 6 slices are missing"),
        ((), r"6 of 6 slices are missing"),
        ((tmp_path / "nameless.dcm", *sample.files[1:]), r"nameless\.dcm: DICOM exports need its UIDs"),
        ((tmp_path / "text.dcm", *sample.files), r"text\.dcm: no readable CT slice"),
        ((tmp_path / "none.dcm", *sample.files), r"none\.dcm: no readable CT slice"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            write(mask, geometry, files, tmp_path / "out.dcm")
        assert "\n" not in str(caught.value) and "anary" not in str(caught.value)
    with pytest.raises(InputError, match="the CT's own grid"):
        write(mask[1:], geometry, sample.files, tmp_path / "out.dcm")
    assert not (tmp_path / "out.dcm").exists()


def test_seg_of_an_unusual_header_is_refused_without_quoting_it(samples: dict[str, Sample], tmp_path: Path) -> None:
    sample = samples["axial"]
    odd = []
    for file in sample.files:
        ct = pydicom.dcmread(file)
        del ct.PixelSpacing
        ct.save_as(tmp_path / file.name)
        odd.append(tmp_path / file.name)
    with pytest.raises(InputError, match="a DICOM SEG cannot refer to this CT") as caught:
        write_seg(np.ones(sample.volume.geometry.shape, bool), sample.volume.geometry, odd, tmp_path / "out.dcm")
    assert "\n" not in str(caught.value) and "anary" not in str(caught.value)


PATIENT_AND_STUDY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
    "PositionReferenceIndicator",
)


ODD = {  # what anonymisers and other software write, none of it allowed (PS3.3 C.7.1.1, PS3.5 6.2)
    "PatientSex": "Female",
    "PatientBirthDate": "1950-13",
    "StudyDate": "REMOVED",
    "StudyTime": "99:99",
    "AccessionNumber": "one\\two",
    "SliceThickness": "0",
    "SpecificCharacterSet": "UTF8",
}


@pytest.mark.parametrize("change", [*PATIENT_AND_STUDY, "SliceThickness", "all removed", "odd values", "SOPClassUID"])
@pytest.mark.parametrize("write", [write_rtstruct, write_seg])
def test_an_anonymised_ct_is_exported(samples: dict[str, Sample], tmp_path: Path, write, change: str, capfd) -> None:
    sample = samples["uneven"]
    geometry = sample.volume.geometry
    removed = {"all removed": (*PATIENT_AND_STUDY, "SliceThickness"), "odd values": ()}.get(change, (change,))
    anonymised = []
    for file in sample.files:
        with quiet_pydicom():
            ct = pydicom.dcmread(file)
            for keyword in removed:
                delattr(ct, keyword)
            for keyword, value in ODD.items() if change == "odd values" else ():
                setattr(ct, keyword, value)
            ct.save_as(tmp_path / file.name)
        anonymised.append(tmp_path / file.name)
    mask = np.zeros(geometry.shape, bool)
    mask[2:4, 3:9, 2:8] = True
    write(mask, geometry, anonymised, tmp_path / "out.dcm")
    assert capfd.readouterr() == ("", "")  # no warning, which would quote values of the file
    out = pydicom.dcmread(tmp_path / "out.dcm")
    for keyword in PATIENT_AND_STUDY:
        if keyword in removed or (change == "odd values" and keyword in ODD):
            assert not out.get(keyword), keyword
        elif keyword in IDENTITY:
            assert out[keyword].value == IDENTITY[keyword]
    if write is write_seg:
        seg = hd.seg.segread(tmp_path / "out.dcm")
        planes = seg.get_pixels_by_source_instance(
            list(geometry.sop_instance_uids), combine_segments=True, assert_missing_frames_are_empty=True
        )
        np.testing.assert_array_equal(planes, mask)
        measures = out.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        no_thickness = "SliceThickness" in removed or change == "odd values"
        expected = geometry.spacing_mm[0] if no_thickness else pydicom.dcmread(sample.files[0]).SliceThickness
        assert float(measures.SliceThickness) == pytest.approx(float(expected))


@pytest.mark.parametrize("name", ["Müller^Jürgen", "Яковлев^Иван"])
@pytest.mark.parametrize("write", [write_rtstruct, write_seg])
def test_names_in_other_alphabets_are_kept(samples: dict[str, Sample], tmp_path: Path, write, name: str) -> None:
    sample = samples["axial"]
    files = []
    for file in sample.files:
        ct = pydicom.dcmread(file)
        ct.SpecificCharacterSet = "ISO_IR 192" if name < "Я" else "ISO_IR 144"
        ct.PatientName = name
        ct.save_as(tmp_path / file.name)
        files.append(tmp_path / file.name)
    write(np.ones(sample.volume.geometry.shape, bool), sample.volume.geometry, files, tmp_path / "out.dcm")
    assert str(pydicom.dcmread(tmp_path / "out.dcm").PatientName) == name
