"""Layouts of volume files are recognised from the files, and what is odd in them is named."""

import json
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.errors import InputError
from data_pipeline.formats.labels import read_declared, read_label_mask
from data_pipeline.formats.layouts import FileScan, find_files
from data_pipeline.formats.scans import find_scans, opened_source, read_scan
from data_pipeline.formats.volume_file import read_image
from data_pipeline.settings import DEFAULT_ROI
from tests.data_pipeline.formats.volumes import box, chest, save, write_dicom

CANCER = (("cancer", (1,)),)


def write_case(root: Path, name: str, behind: str = "", suffix: str = ".nii.gz", seed: int = 0) -> None:
    save(root / "imagesTr" / f"{name}{behind}{suffix}", chest(seed=seed))
    save(root / "labelsTr" / f"{name}{suffix}", box((9, 20, 22)))


def test_the_decathlon(tmp_path: Path) -> None:
    root = tmp_path / "Task06_Lung"
    for number in (1, 3):
        write_case(root, f"lung_{number:03d}", seed=number)
    (root / "imagesTr" / "._lung_001.nii.gz").write_bytes(b"of macOS")
    save(root / "imagesTs" / "lung_002.nii.gz", chest())
    save(root / "labelsTr" / "lung_099.nii.gz", box((9, 20, 22)))
    save(root / "imagesTr" / "lung_004.nii.gz", chest())
    (root / "dataset.json").write_text(json.dumps({"labels": {"0": "background", "1": "cancer"}}))
    for source in (root, tmp_path):
        found = find_scans(source)
        assert [(one.patient_id, bool(one.mask_files)) for one in found.series] == [
            ("lung_001", True),
            ("lung_003", True),
            ("lung_004", False),
        ]
        assert all(isinstance(one, FileScan) and one.labels == CANCER for one in found.series)
        assert [one.reason for one in found.rejected] == ["labels without their image in imagesTr"]
        assert found.ignored == {"image in imagesTs": 1}


def test_nnunet(tmp_path: Path) -> None:
    for name in ("case_1", "case_0002"):
        write_case(tmp_path, name, "_0000", ".nrrd")
    save(tmp_path / "imagesTr" / "case_1_0001.nrrd", chest())
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "whole": [1, 2], "core": 2}}))
    found = find_files(tmp_path)
    assert found is not None
    assert [one.patient_id for one in found.series] == ["case_0002", "case_1"]
    assert all(one.mask is not None and one.labels == (("whole", (1, 2)), ("core", (2,))) for one in found.series)
    assert [one.reason for one in found.rejected] == ["a further channel of a CT; the networks take one"]


def test_a_table(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        save(tmp_path / "in" / f"{name}.mha", chest())
    rows = (
        "\ufeffPatient,Image,Mask\nMARY,in/a.mha,in/m.nii.gz\nMARY,in/b.mha,\n,in/c.mha,\n,,\nX,in/a.mha,\nY,z.txt,\n"
    )
    (tmp_path / "t.csv").write_text(rows, encoding="utf-8")
    with opened_source(tmp_path / "t.csv") as source:
        found = find_scans(source)
    assert [(one.patient_id, one.files[0].name) for one in found.series] == [
        ("MARY", "a.mha"),
        ("MARY", "b.mha"),
        ("c", "c.mha"),
    ]
    assert sorted(one.reason for one in found.rejected) == [
        "a row without an image",
        "an image that the table lists twice",
        "no volume file by its name (.nii, .nii.gz, .nrrd, .mha)",
    ]
    for text, message in (
        ("a,b\n1,2\n", "has no column image"),
        ("", "no column"),
        ("image\nx.png\n", "no volume file"),
    ):
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(InputError, match=message):
            find_files(tmp_path / "bad.csv")
    (tmp_path / "bad.csv").write_bytes(b"image\n\xff\xfe")
    with pytest.raises(InputError, match="not a readable table"):
        find_files(tmp_path / "bad.csv")


def test_plain_files_and_dicom_first(tmp_path: Path) -> None:
    save(tmp_path / "x_0000.nii.gz", chest())
    (tmp_path / "y.mhd").write_text("NDims = 3")
    (tmp_path / "notes.txt").write_text("x")
    found = find_scans(tmp_path)
    assert [one.patient_id for one in found.series] == ["x"] and found.ignored == {"other file": 1}
    assert [one.reason for one in found.rejected] == ["a header with its voxels in another file; save it as one file"]
    assert read_scan(found.series[0]).patient_id == "x"
    with opened_source(tmp_path / "x_0000.nii.gz") as source:
        assert len(find_scans(source).series) == 1
    write_dicom(tmp_path / "dicom", chest())
    found = find_scans(tmp_path)
    assert [one.patient_id for one in found.series] == ["PATIENT-1"] and found.ignored == {"not DICOM": 3}


def test_files_of_one_name_are_different_patients(tmp_path: Path) -> None:
    for folder in ("1", "2"):
        save(tmp_path / folder / "ct.nii.gz", chest())
    save(tmp_path / "other.nii.gz", chest())
    names = [one.patient_id for one in find_scans(tmp_path).series]
    assert len(set(names)) == 3 and "other" in names


def test_two_data_sets_and_empty_ones_are_named(tmp_path: Path) -> None:
    for name in ("A", "B"):
        write_case(tmp_path / name, "x")
    with pytest.raises(InputError, match="holds 2 data sets with imagesTr; name the folder of one of them"):
        find_scans(tmp_path)
    (tmp_path / "C" / "imagesTr").mkdir(parents=True)
    with pytest.raises(InputError, match="holds no volume file in imagesTr"):
        find_scans(tmp_path / "C")
    for text in ("{", "[]", '{"labels": 3}', '{"labels": {"a": "b"}}', '{"labels": {"a": 1.5}}', "[" * 9999):
        (tmp_path / "A" / "dataset.json").write_text(text)
        with pytest.raises(InputError, match="not a description of labels"):
            find_scans(tmp_path / "A")
    assert read_declared(tmp_path / "none.json") == ()


def test_which_label_is_the_tumour(tmp_path: Path) -> None:
    _, grid, _ = read_image(save(tmp_path / "image.nii.gz", chest()))
    one = box((9, 20, 22))
    three = one.copy()
    three[3, 5:7, 6:9], three[5] = 2, three[5] * 7
    two = (("primary", (1,)), ("node", (2,)))
    for values, declared, roi, expected in (
        (one, (), DEFAULT_ROI, {1}),
        (one * 255, (), DEFAULT_ROI, {255}),
        (one.astype(np.float64), (), DEFAULT_ROI, {1}),
        (one * 2, (), "2", {2}),
        (three, CANCER, DEFAULT_ROI, {1}),
        (three, two, "node", {2}),
        (three, two, "2", {2}),
        (three, two, "PRIM.*|node", {1, 2}),
        (three, (("GTV-1", (7,)), ("node", (2,))), DEFAULT_ROI, {7}),
        (three, (("all", (1, 2, 7)), ("node", (2,))), "all", {1, 2, 7}),
        (three, (), "[17]", {1, 7}),
    ):
        path = save(tmp_path / "m.nii.gz", values)
        expected_mask = np.isin(values, list(expected))
        np.testing.assert_array_equal(read_label_mask(path, declared, roi, grid), expected_mask)
    for values, declared, roi, message in (
        (one * 0, (), DEFAULT_ROI, "the mask is empty; check that it belongs"),
        (one * 2, CANCER, DEFAULT_ROI, "no voxel of label 1; use another --roi"),
        (one * 2, (), DEFAULT_ROI, "no label matches .*: 2$"),
        (three, (), DEFAULT_ROI, "no label matches .*: 1, 2, 7$"),
        (three, two, DEFAULT_ROI, "no label matches .*: primary = 1, node = 2$"),
        (three, two, "lung(", "no label matches"),
    ):
        with pytest.raises(InputError, match=message):
            read_label_mask(save(tmp_path / "m.nii.gz", values), declared, roi, grid)
