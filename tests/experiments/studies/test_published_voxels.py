"""Voxel counts beside the published ones: on made contours, and on the whole patients where they are at hand."""

import csv
from pathlib import Path

import pytest

from data_pipeline.errors import InputError
from experiments.studies.published_voxels import HEADER, Settings, main, read_published
from tests.data_pipeline.dicom_files import contour, write_rtstruct, write_series

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data_nsclc_2018"
TABLE = "published_lung1_voxels.csv"


def table_of(output: Path) -> list[dict[str, str]]:
    with (output / "published_voxels.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_counts_are_compared_patient_by_patient(tmp_path: Path) -> None:
    series = write_series(tmp_path / "in" / "ct", PatientID="LUNG1-002")
    square = contour(series.points(1, [(3.5, 3.5), (3.5, 7.5), (7.5, 7.5), (7.5, 3.5)]), series.uids[1])
    write_rtstruct(
        tmp_path / "in" / "rs", {"GTV-1": [square]}, series, edit=lambda d: setattr(d, "PatientID", "LUNG1-002")
    )
    rows = ["LUNG1-002_000000_GTV-1_mask,16", "LUNG1-002_20180526_CT_1_GTV-1_mask,16", "LUNG1-002_000000_GTV-2_mask,9"]
    (tmp_path / TABLE).write_text("mask,voxels\n" + "\n".join([*rows, "LUNG1-003_000000_GTV-1_mask,7"]) + "\n")
    main(Settings(tmp_path / "in", tmp_path / TABLE, tmp_path / "out"))
    first, second = table_of(tmp_path / "out")
    assert tuple(first.values()) == ("LUNG1-002", "GTV-1", "16", "16", "+0", "16") and tuple(first) == HEADER
    assert second["ROI"] == "GTV-2" and "no ROI matches" in second["here"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "not a table"),
        ("mask,voxels\nx,1\n", "is not named as"),
        ("mask,voxels\nLUNG1-001_0_GTV-1_mask,1\nLUNG1-001_1_GTV-1_mask,2\n", "two counts for one ROI"),
    ],
)
def test_another_table_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / TABLE).write_text(text)
    with pytest.raises(InputError, match=message):
        read_published(tmp_path / TABLE)


def test_two_whole_patients_have_the_published_counts(tmp_path: Path) -> None:
    if not (SHARED / TABLE).is_file():
        pytest.skip(f"LUNG1-002 and LUNG1-003 are not at {SHARED}")
    main(Settings(SHARED, SHARED / TABLE, tmp_path))
    rows = {(row["patient"], row["ROI"]): row for row in table_of(tmp_path)}
    counts = {"GTV-1": "12111", "GTV-2": "13490", "GTV-3": "3043"}
    expected = {("LUNG1-002", "GTV-1"): "125204"} | {("LUNG1-003", roi): count for roi, count in counts.items()}
    assert {key: row["here"] for key, row in rows.items()} == expected
    assert {row["difference"] for row in rows.values()} == {"+0"}
