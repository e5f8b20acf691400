"""`rdunet prepare` on DICOM folders that are unusual: what it writes, what it prints, what it refuses."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset

from tests.data_pipeline.dicom_files import Written, contour, write_rtstruct, write_series
from tests.rdunet_jax.command import Command

SQUARE = [(3, 3), (3, 8), (8, 8), (8, 3)]
TISSUE = np.full((9, 12, 10), 1100, np.uint16)
PET_STORAGE = "1.2.840.10008.5.1.4.1.1.128"
TISSUE[:, :2] = 24  # air around the body


@pytest.fixture
def prepare(tmp_path: Path, rdunet: Command):
    """Runs `rdunet prepare` on a folder; returns (status, report.json or {}, everything printed)."""

    def run(source: Path, *arguments: object, data: str = "data") -> tuple[int, dict[str, Any], str]:
        fixed = ("prepare", source, "--data-dir", tmp_path / data, "--image-size", 16, "--workers", 1, "--keep-ids")
        result = rdunet(*fixed, *arguments)
        reports = list((tmp_path / data).glob("nsclc_radiomics/*/*/report.json"))
        report = json.loads(reports[0].read_text()) if reports else {}
        return result.status, report, result.out + result.error

    return run


def write_patient(folder: Path, slices=(4,), **options: Any) -> Written:
    """A CT of tissue with a square on some slices."""
    series = write_series(folder / "ct", **{"stored": TISSUE, **options})
    squares = [contour(series.points(index, SQUARE), series.uids[index]) for index in slices]
    write_rtstruct(folder / "rs", {"GTV-1": squares}, series, patient=options.get("patient", 1))
    return series


def test_the_fill_rule_is_a_flag(prepare, tmp_path: Path) -> None:
    write_patient(tmp_path / "in")
    voxels = {}
    for rule in ("pixel_centre", "rt_utils"):
        status, report, _ = prepare(tmp_path / "in", "--fill-rule", rule, data=rule)
        assert status == 0 and report["settings"]["fill_rule"] == rule
        voxels[rule] = report["patients"]["PATIENT-1"]["contours"]["mask_voxels"]
    assert voxels == {"pixel_centre": 5 * 5, "rt_utils": 6 * 6}
    assert (tmp_path / "rt_utils/nsclc_radiomics/slice_minmax_16_rt_utils").is_dir()


def write_several(folder: Path, count: int) -> None:
    """Patients that differ in voxels and contours."""
    for patient in range(1, count + 1):
        stored = np.random.default_rng(patient).integers(0, 2000, (9, 12, 10)).astype(np.uint16)
        stored[4, 3:8, 3:8] = 1100 + patient
        series = write_series(folder / f"{patient}/ct", patient=patient, stored=stored)
        square = np.array(SQUARE) + patient / 50
        item = contour(series.points(4, square), series.uids[4])
        write_rtstruct(folder / f"{patient}/rs", {"GTV-1": [item]}, series, patient=patient)


@pytest.mark.parametrize("same", ["slices", "contours"])
@pytest.mark.parametrize("seed", [0, 1])
def test_one_person_under_two_ids_stays_in_one_part_of_the_split(prepare, tmp_path: Path, same, seed) -> None:
    source = tmp_path / "in"
    write_several(source, 4)
    stored = np.random.default_rng(2 if same == "slices" else 9).integers(0, 2000, (9, 12, 10)).astype(np.uint16)
    stored[4, 3:8, 3:8] = 1102
    twin = write_series(source / "twin/ct", patient=7, stored=stored)
    square = np.array(SQUARE) + (2 if same == "contours" else 7) / 50
    item = contour(twin.points(4, square), twin.uids[4])
    write_rtstruct(source / "twin/rs", {"GTV-1": [item]}, twin, patient=7)
    flags = ("--test-share", 0.4, "--validation-share", 0.4, "--seed", seed)
    status, report, printed = prepare(source, *flags)
    assert status == 0 and "PATIENT-2, PATIENT-7" in printed
    assert report["copies"] == [["PATIENT-2", "PATIENT-7"]]
    parts = {name: part for part, names in report["splits"].items() for name in names}
    assert len(parts) == 5 and parts["PATIENT-2"] == parts["PATIENT-7"]
    note = report["patients"]["PATIENT-7"]["notes"][-1]
    count = "9 slices and 0 contours" if same == "slices" else "0 slices and 1 contours"
    assert note == f"{count} are equal to those of PATIENT-2: one person"


def test_a_frozen_split_that_separates_one_person_is_refused(prepare, tmp_path: Path) -> None:
    source = tmp_path / "in"
    write_several(source, 4)
    frozen = tmp_path / "split.json"
    assert prepare(source, "--split-file", frozen)[0] == 0
    split = json.loads(frozen.read_text())
    (test,), train = split["test"], split["train"][0]
    copy = np.random.default_rng(int(train[-1])).integers(0, 2000, (9, 12, 10)).astype(np.uint16)
    write_series(source / f"{test[-1]}/ct", patient=int(test[-1]), stored=copy)
    status, _, printed = prepare(source, "--split-file", frozen, data="again")
    assert status == 2 and "are one person, but in train and test" in printed and str(frozen) in printed


def test_contours_on_every_second_slice_are_noted_and_filled_on_demand(prepare, tmp_path: Path) -> None:
    write_patient(tmp_path / "in", slices=(2, 4, 6))
    status, report, _ = prepare(tmp_path / "in")
    record = report["patients"]["PATIENT-1"]
    assert status == 0 and record["tumour_slices"] == 3 and record["contours"]["gap_slices"] == 2
    assert any("2 slices without contour" in note for note in record["notes"])
    status, report, _ = prepare(tmp_path / "in", "--interpolate-gaps", data="filled")
    record = report["patients"]["PATIENT-1"]
    assert status == 0 and record["tumour_slices"] == 5 and record["contours"]["interpolated_slices"] == 2


REFUSED = {
    "two ROIs of one number": ("ROI number 1", "renumber"),
    "drawn on a PET": ("drawn on a PT series", "pet"),
    "coronal": ("the slices are coronal", dict(orientation=(1, 0, 0, 0, 0, -1))),
    "no air": ("from 40 to 40 HU", dict(stored=np.full((9, 12, 10), 40, np.uint16), RescaleIntercept=0)),
    "stray slice": ("300 mm away", dict(positions=np.array([[0, 0, z] for z in (-300, *range(0, 24, 3))], float))),
    "palette": ("is a colour image", dict(PhotometricInterpretation="PALETTE COLOR")),
}


@pytest.mark.parametrize(("message", "how"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_right_is_refused_in_one_line(prepare, tmp_path: Path, message, how) -> None:
    if isinstance(how, dict):
        write_patient(tmp_path / "in", **how)
    else:
        series = write_series(tmp_path / "in/ct", stored=TISSUE)
        drawn_on = series
        if how == "pet":
            drawn_on = write_series(tmp_path / "in/pet", series=2, Modality="PT", SOPClassUID=PET_STORAGE)
        square = [contour(drawn_on.points(3, SQUARE), drawn_on.uids[3])]

        def renumber(dataset):
            if how == "renumber":
                dataset.StructureSetROISequence[1].ROINumber = 1

        write_rtstruct(tmp_path / "in/rs", {"GTV-1": square, "Lung": square}, drawn_on, edit=renumber)
    status, _, printed = prepare(tmp_path / "in")
    assert status == 2 and message in printed and printed.count("error: ") == 1
    assert not (tmp_path / "data").exists()


def test_a_zip_as_source_gives_the_same_data_set(prepare, tmp_path: Path) -> None:
    write_patient(tmp_path / "in")
    shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "in")
    status, report, _ = prepare(tmp_path / "packed.zip")
    assert status == 0
    assert report["dataset_sha256"] == prepare(tmp_path / "in", data="plain")[1]["dataset_sha256"]
    assert not list(Path(tempfile.gettempdir()).glob("rdunet-zip-*"))


def test_an_archive_inside_the_folder_is_reported(prepare, tmp_path: Path) -> None:
    write_patient(tmp_path / "in")
    (tmp_path / "in/more.tar.gz").write_bytes(b"\x1f\x8b")
    status, report, _ = prepare(tmp_path / "in")
    (rejected,) = report["rejected"]
    assert status == 0 and rejected["file"] == "more.tar.gz" and "unpack it" in rejected["reason"]


@pytest.mark.parametrize("name", ["GTV (1", "tumour*+", "GTV 1)", "*", "[GTV", "x{99999999999}"])
def test_a_name_that_is_no_regular_expression_is_a_name(prepare, tmp_path: Path, name: str) -> None:
    series = write_series(tmp_path / "in/ct", stored=TISSUE)
    rois = {name: [contour(series.points(4, SQUARE), series.uids[4])], "lung": [contour(series.points(2, SQUARE))]}
    write_rtstruct(tmp_path / "in/rs", rois, series)
    status, report, printed = prepare(tmp_path / "in", "--roi", name)
    assert status == 0, printed
    assert report["patients"]["PATIENT-1"]["tumour_slices"] == 1
    status, _, printed = prepare(tmp_path / "in", "--roi", "GTV (2", data="other")
    assert status == 2 and printed.strip().count("\n") == 0
    assert (
        "no ROI matches 'GTV (2', which is no regular expression either; use --roi with a name that it has" in printed
    )
    assert "lung" in printed  # with --keep-ids the names are shown


def larger(index: int, image: Dataset) -> None:
    """One image of 40 x 40 pixels among the others."""
    if index == 4:
        image.Rows = image.Columns = 40
        image.PixelData = bytes(2 * 40 * 40)


@pytest.mark.parametrize(
    ("limit", "most", "options", "says"),
    [
        ("MOST_IMAGES", 8, {}, "holds 9 images, and a CT at most 8; export one CT volume alone"),
        ("MOST_VOXELS", TISSUE.size - 1, {}, "the images of its series have more than 1079 voxels in all"),
        ("MOST_VOXELS", TISSUE.size, {"edit": larger}, "the images of its series have more than 1080 voxels in all"),
    ],
)
def test_a_series_that_is_too_large_is_refused(
    prepare, tmp_path: Path, monkeypatch, limit, most, options, says
) -> None:
    write_patient(tmp_path / "in", **options)
    monkeypatch.setattr(f"data_pipeline.dicom.slices.{limit}", most)
    status, _, printed = prepare(tmp_path / "in")
    assert status == 2 and says in printed and not (tmp_path / "data").exists()
