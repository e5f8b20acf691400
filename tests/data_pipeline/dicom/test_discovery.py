"""Discovery by UID: layouts, pairing, and everything that lies in between."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from rich.progress import Progress

from data_pipeline.dicom import headers as dicom_index
from data_pipeline.dicom.discovery import discover
from data_pipeline.dicom.files import quiet_pydicom
from data_pipeline.dicom.volume import read_volume
from data_pipeline.errors import InputError
from tests.data_pipeline.dicom_files import Written, contour, uid, write_rtstruct, write_series

TRIANGLE = [(2.0, 2.0), (8.0, 2.0), (2.0, 7.0)]


def rtstruct(path: Path, series: Written, **options) -> Path:
    return write_rtstruct(path, {"GTV-1": [contour(series.points(1, TRIANGLE), series.uids[1])]}, series, **options)


@pytest.mark.parametrize("layout", ["{p}/CT{s}", "{p}/09-18-2008-StudyID-NA-1/{s}.000000-NA-82046", "."])
def test_any_layout_gives_the_same_patients(tmp_path, layout):
    for patient in (1, 2):
        for number in (1, 2):
            folder = tmp_path / layout.format(p=patient, s=number)
            series = write_series(folder, patient=patient, series=number, prefix=f"{patient}{number}")
            rtstruct(tmp_path / layout.format(p=patient, s=7) / f"plan{patient}{number}", series, patient=patient)
    found = discover(tmp_path)
    assert [one.patient_id for one in found.series] == ["PATIENT-1", "PATIENT-1", "PATIENT-2", "PATIENT-2"]
    assert {one.series_uid: [path.name for path in one.rtstructs] for one in found.series} == {
        uid(patient, number, 2): [f"plan{patient}{number}"] for patient in (1, 2) for number in (1, 2)
    }
    assert all(len(one.files) == 4 and one.study_uid == uid(int(one.patient_id[-1]), 1) for one in found.series)
    assert not found.rejected and not found.ignored


def test_what_is_not_ours_is_counted_or_named(tmp_path):
    series = write_series(tmp_path / "ct")
    write_series(tmp_path / "pet", series=2, Modality="PT", SOPClassUID="1.2.840.10008.5.1.4.1.1.128")
    write_series(tmp_path / "screenshot", series=3, depth=1, SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    write_series(tmp_path / "scout", series=4, depth=1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_series(tmp_path / "nameless", series=5, depth=1, SeriesInstanceUID=None, PixelSpacing=None)
    (tmp_path / "more.zip").write_bytes(b"PK")
    (tmp_path / "mask.nii.gz").write_bytes(b"\x1f\x8b")
    shutil.copy(series.files[0], tmp_path / "zz copy of a slice")
    shutil.copy(str(get_testdata_file("DICOMDIR")), tmp_path / "DICOMDIR")
    (tmp_path / "notes.txt").write_text("\b\0 begins like DICOM without preamble")
    (tmp_path / "empty").touch()
    (tmp_path / "cut").write_bytes(series.files[0].read_bytes()[:300])
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "fifo")
    found = discover(tmp_path)
    assert [one.series_uid for one in found.series] == [series.series_uid]
    assert found.ignored == {"DICOMDIR": 1, "PT": 4, "not DICOM": 3, "other DICOM": 1}
    assert {one.what.parent.name + "/" + one.what.name: one.reason for one in found.rejected} == {
        f"{tmp_path.name}/zz copy of a slice": "a copy of another file",
        "scout/001": "a localizer, not a slice of the volume",
        "nameless/001": "has no SeriesInstanceUID, and no orientation or pixel spacing to group it by",
        f"{tmp_path.name}/cut": "has no SeriesInstanceUID, and no orientation or pixel spacing to group it by",
        f"{tmp_path.name}/more.zip": "an archive inside the folder, which is not searched; unpack it",
    }


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    write_series(tmp_path / "ct")
    write_series(tmp_path / "locked", patient=2)
    scandir = os.scandir

    def guarded(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    found = discover(tmp_path)
    assert len(found.series) == 1
    assert [(one.what.name, one.reason) for one in found.rejected] == [("locked", "a folder that cannot be read")]


def test_rtstruct_without_preamble_is_recognised(tmp_path):
    write_series(tmp_path)
    shutil.copy(str(get_testdata_file("rtstruct.dcm")), tmp_path / "rtstruct.dcm")
    (rejection,) = discover(tmp_path).rejected
    assert rejection.reason == "RTSTRUCT references no CT series in the folder"


def drop_series_reference(dataset):
    del dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence


def drop_all_references(dataset):
    drop_series_reference(dataset)
    for roi in dataset.ROIContourSequence:
        for item in roi.ContourSequence:
            del item.ContourImageSequence


def drop_everything(dataset):
    drop_all_references(dataset)
    del dataset.ReferencedFrameOfReferenceSequence


@pytest.mark.parametrize("edit", [None, drop_series_reference, drop_all_references])
def test_pairing_falls_back_from_series_to_images_to_frame(tmp_path, edit):
    series = write_series(tmp_path / "a")
    write_series(tmp_path / "b", series=2, FrameOfReferenceUID=uid(77))
    path = rtstruct(tmp_path / "rs", series, edit=edit)
    first, second = discover(tmp_path).series
    assert first.rtstructs == (path,) and not second.rtstructs


def test_an_ambiguous_or_foreign_rtstruct_is_rejected(tmp_path):
    series = write_series(tmp_path / "a")
    write_series(tmp_path / "b", series=2)  # in the same frame of reference
    rtstruct(tmp_path / "rs", series, edit=drop_all_references)
    rtstruct(tmp_path / "rs0", series, edit=drop_everything)
    reasons = [one.reason for one in discover(tmp_path).rejected]
    assert reasons == [
        "RTSTRUCT fits several CT series; keep only the series that it was drawn on",
        "RTSTRUCT references no CT series in the folder",
    ]


def test_uids_repeated_between_patients_are_told_apart(tmp_path):
    paths = []
    for patient in (1, 2):
        series = write_series(tmp_path / str(patient), PatientID=f"P{patient}")
        name = lambda dataset, patient=patient: setattr(dataset, "PatientID", f"P{patient}")  # noqa: E731
        paths.append(rtstruct(tmp_path / f"rs{patient}", series, edit=name))
    assert [one.rtstructs for one in discover(tmp_path).series] == [(path,) for path in paths]


def test_absent_or_empty_folders_are_one_clear_line(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        discover(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds no DICOM CT series"):
        discover(tmp_path)
    (tmp_path / "cut").write_bytes(bytes(128) + b"DICM")
    with pytest.raises(InputError, match=r"1 rejected \(damaged DICOM.*cut$") as error:
        discover(tmp_path)
    assert "\n" not in str(error.value)


PET: dict[str, Any] = dict(series=2, Modality="PT", SOPClassUID="1.2.840.10008.5.1.4.1.1.128")
MR: dict[str, Any] = dict(series=2, Modality="MR", SOPClassUID="1.2.840.10008.5.1.4.1.1.4")
ENHANCED: dict[str, Any] = dict(series=2, depth=1, SOPClassUID="1.2.840.10008.5.1.4.1.1.2.1")


@pytest.mark.parametrize(("other", "kind"), [(PET, "PT"), (MR, "MR"), (ENHANCED, "rejected CT")])
@pytest.mark.parametrize("edit", [None, drop_series_reference])
def test_an_rtstruct_drawn_on_another_modality_is_rejected_by_name(tmp_path, other, kind, edit):
    """All series share one frame of reference, as those of a PET/CT do."""
    write_series(tmp_path / "ct")
    drawn_on = write_series(tmp_path / "other", **other)
    path = write_rtstruct(
        tmp_path / "rs", {"GTV-1": [contour(drawn_on.points(0, TRIANGLE), drawn_on.uids[0])]}, drawn_on, edit=edit
    )
    found = discover(tmp_path)
    assert [one.rtstructs for one in found.series] == [()]
    (rejection,) = (one for one in found.rejected if one.what == path)
    assert rejection.reason == f"RTSTRUCT was drawn on a {kind} series, not on a CT that can be used"


def test_an_rtstruct_of_a_pet_that_is_not_in_the_folder_is_not_given_to_the_ct_of_its_frame(tmp_path):
    series = write_series(tmp_path / "ct")
    absent = write_series(tmp_path / "elsewhere", **PET)
    shutil.rmtree(tmp_path / "elsewhere")
    item = contour(absent.points(0, TRIANGLE), absent.uids[0])
    path = write_rtstruct(tmp_path / "rs", {"GTV-1": [item]}, absent)
    assert [one.rtstructs for one in discover(tmp_path).series] == [(path,)]  # of images of CT, as the item says
    item.ContourImageSequence[0].ReferencedSOPClassUID = PET["SOPClassUID"]
    write_rtstruct(tmp_path / "rs", {"GTV-1": [item]}, absent)
    found = discover(tmp_path)
    assert [one.rtstructs for one in found.series] == [()] and len(series.files) == len(found.series[0].files)
    assert [one.reason for one in found.rejected] == ["RTSTRUCT was drawn on a PT series that is not in the folder"]


def test_contours_that_contradict_the_series_reference_are_rejected(tmp_path):
    """The file names the CT, but its contours reference images of the PET, or of a second CT."""
    series = write_series(tmp_path / "a/ct", height=20)
    pet = write_series(tmp_path / "a/pet", **PET)  # pyright: ignore[reportArgumentType]
    write_rtstruct(tmp_path / "a/rs", {"GTV-1": [contour(series.points(1, TRIANGLE), pet.uids[1])]}, series)
    series = write_series(tmp_path / "b/ct", patient=2)
    second = write_series(tmp_path / "b/ct2", patient=2, series=2)
    drawn_on = [contour(series.points(1, TRIANGLE), second.uids[1])]
    write_rtstruct(tmp_path / "b/rs", {"GTV-1": drawn_on}, series, patient=2)
    found = discover(tmp_path)
    assert not any(one.rtstructs for one in found.series)
    assert [one.reason for one in found.rejected] == [
        "RTSTRUCT was drawn on a PT series, not on a CT that can be used",
        "RTSTRUCT fits several CT series; keep only the series that it was drawn on",
    ]


def test_contours_decide_between_the_series_that_a_file_lists(tmp_path):
    """Planning systems list the PET of a study beside the CT that was contoured."""
    series = write_series(tmp_path / "ct")
    pet = write_series(tmp_path / "pet", **PET)  # pyright: ignore[reportArgumentType]

    def list_both(dataset):
        (study,) = dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence
        other = Dataset()
        other.SeriesInstanceUID = pet.series_uid
        study.RTReferencedSeriesSequence.append(other)

    path = rtstruct(tmp_path / "rs", series, edit=list_both)
    found = discover(tmp_path)
    assert [one.rtstructs for one in found.series] == [(path,)] and not found.rejected


def test_a_ct_without_series_uid_is_grouped_with_a_note(tmp_path):
    """By study, frame, orientation and spacing: the coronal images are a series of their own."""
    axial = write_series(tmp_path / "a", SeriesInstanceUID=None)
    coronal = write_series(
        tmp_path / "b", series=2, SeriesInstanceUID=None, orientation=(1, 0, 0, 0, 0, -1), prefix="c"
    )
    found = discover(tmp_path)
    assert [one.files for one in found.series] == [tuple(sorted(one.files)) for one in (axial, coronal)]
    note = "has no SeriesInstanceUID; its images were grouped by study, frame of reference, orientation and spacing"
    assert all(read_volume(one).notes == (note,) for one in found.series) and not found.rejected


def test_linked_folders_are_followed_and_loops_end(tmp_path):
    series = write_series(tmp_path / "store/ct")
    rtstruct(tmp_path / "store/rs", series)
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "patient").symlink_to(tmp_path / "store")
    (source / "again").symlink_to(tmp_path / "store/ct")
    (source / "deep/loop").symlink_to(source)
    (source / "nowhere").symlink_to(tmp_path / "gone")
    found = discover(source)
    assert [(len(one.files), len(one.rtstructs)) for one in found.series] == [(4, 1)]
    assert not found.rejected and not found.ignored


def test_one_file_as_source(tmp_path):
    series = write_series(tmp_path)
    assert [one.files for one in discover(series.files[2]).series] == [(series.files[2],)]


def test_pydicoms_logger_is_quiet_too(tmp_path, caplog):
    """It warns of invalid values by quoting them, beside the warnings module."""
    with quiet_pydicom():
        write_series(tmp_path, SeriesInstanceUID="CANARY-1.02")
    with caplog.at_level(0):
        (series,) = discover(tmp_path).series
        read_volume(series)
    assert "CANARY" not in caplog.text


def test_a_modality_that_is_no_standard_term_is_not_repeated(tmp_path):
    write_series(tmp_path / "ct")
    write_series(tmp_path / "odd", series=2, Modality="CANARY", SOPClassUID="1.2.840.10008.5.1.4.1.1.128")
    assert discover(tmp_path).ignored == {"other DICOM": 4}


def test_index_is_reused_until_a_file_changes(tmp_path, monkeypatch):
    series = write_series(tmp_path / "in/ct")
    rtstruct(tmp_path / "in/rs", series)
    index = tmp_path / "index.json"
    fresh = discover(tmp_path / "in", index=index)

    read = []
    original = dicom_index._read_header
    monkeypatch.setattr(dicom_index, "_read_header", lambda path, key: (read.append(path), original(path, key))[1])
    assert discover(tmp_path / "in", index=index) == fresh and not read
    os.utime(series.files[2])
    (tmp_path / "in/new.txt").write_text("new")
    assert discover(tmp_path / "in", index=index).series == fresh.series
    assert set(read) == {series.files[2], tmp_path / "in/new.txt"}
    whole = index.read_text()
    for damaged in (whole[:-20], whole.replace('"kind":"CT"', '"kind":"PT"', 1), ""):
        index.write_text(damaged)
        read.clear()
        assert discover(tmp_path / "in", index=index).series == fresh.series and len(read) == 6


def test_index_holds_no_identities(tmp_path):
    series = write_series(tmp_path / "CANARY-ID/ct")
    rtstruct(tmp_path / "CANARY-ID/rs", series)
    discover(tmp_path / "CANARY-ID", index=tmp_path / "index.json")
    text = (tmp_path / "index.json").read_text()
    assert len(json.loads(text.splitlines()[0])["files"]) == 5
    assert not [word for word in ("CANARY", "Canary", "PATIENT", series.series_uid, uid(1)) if word in text]


def test_parallel_reading_gives_the_same_and_moves_the_bar(tmp_path, monkeypatch):
    monkeypatch.setattr(dicom_index, "CHUNK", 3)
    series = write_series(tmp_path, depth=7)
    rtstruct(tmp_path / "rs", series)
    with Progress(disable=True) as progress:
        assert discover(tmp_path, workers=2, progress=progress) == discover(tmp_path)
    assert progress.tasks[0].completed == progress.tasks[0].total == 8


def test_interrupted_reading_keeps_what_it_has(tmp_path, monkeypatch):
    monkeypatch.setattr(dicom_index, "CHUNK", 2)
    write_series(tmp_path / "in", depth=6)
    original, read = dicom_index._read_header, []

    def interrupted(path, key):
        if len(read) == 4:
            raise KeyboardInterrupt
        read.append(path)
        return original(path, key)

    monkeypatch.setattr(dicom_index, "_read_header", interrupted)
    with pytest.raises(KeyboardInterrupt):
        discover(tmp_path / "in", index=tmp_path / "index.json")
    assert len(json.loads((tmp_path / "index.json").read_text().splitlines()[0])["files"]) == 4


def test_real_patients(real_patients):
    found = discover(real_patients)
    assert [(len(one.files), len(one.rtstructs)) for one in found.series] == [(60, 1), (134, 1)]
    assert not found.rejected
