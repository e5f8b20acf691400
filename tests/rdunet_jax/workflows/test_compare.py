"""`rdunet compare` on evaluations written by hand."""

import csv
import json
from pathlib import Path

import pytest

from rdunet_jax.checked_json import write_checked
from rdunet_jax.files import sha256_of
from tests.rdunet_jax.command import one_line


def write_evaluation(folder: Path, rows: list[dict], **summary: object) -> Path:
    folder.mkdir(parents=True)
    known = {"protocol": "paper", "patients": len(rows), "training_data_known": True, "dataset_sha256": "a"}
    (folder / "summary.json").write_text(json.dumps(known | summary))
    with (folder / "patients.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, ["patient", "dice", "iou", "mean_surface_distance_mm", "hd95_mm", "truth_mm3"])
        table.writeheader()
        table.writerows(rows)
    return folder


def patient(name: str, dice: float, distance: float | None, truth_mm3: float = 100.0) -> dict:
    distances = {"mean_surface_distance_mm": distance, "hd95_mm": distance}
    return {"patient": name, "dice": dice, "iou": dice / (2 - dice), **distances, "truth_mm3": truth_mm3}


def test_a_network_that_misses_tumours_does_not_look_better(rdunet, tmp_path: Path) -> None:
    careless = [patient(f"P-{i}", 0.8, 1.0 + i) if i < 5 else patient(f"P-{i}", 0.0, None) for i in range(8)]
    careful = [patient(f"P-{i}", 0.7, 2.0 + i) for i in range(8)]
    one, other = write_evaluation(tmp_path / "a", careless), write_evaluation(tmp_path / "b", careful)
    status, out, _ = rdunet("compare", one, other)
    assert status == 0
    lines = {line[:30].strip(): line[30:].split() for line in out.splitlines()}
    rows = [next(cells for name, cells in lines.items() if name.startswith(start)) for start in ("undefined, f", "dif")]
    assert rows[0][-2:] == ["3", "3"] and rows[1][-2:] == ["-1.000", "-1.000"]
    assert "5, 3, 0" in out and "a miss is worse than any distance" in out


def test_one_patient_is_not_tested(rdunet, tmp_path: Path) -> None:
    one = write_evaluation(tmp_path / "a", [patient("P-1", 0.8, 1.0)])
    other = write_evaluation(tmp_path / "b", [patient("P-1", 0.7, 2.0)])
    status, out, _ = rdunet("compare", one, other)
    tests = [line for line in out.splitlines() if line.strip().startswith(("95%", "p "))]
    assert status == 0 and len(tests) == 3 and all(line.count("n = 1") == 4 for line in tests)


@pytest.mark.parametrize(
    "rows, summary, message",
    [
        ([patient("P-1", 0.5, 1), patient("P-2", 0.5, 1)], {"protocol": "authors_code"}, "different protocols"),
        ([patient("P-1", 0.5, 1), patient("P-3", 0.5, 1)], {}, "not the same patients"),
        ([patient("P-1", 0.5, 1), patient("P-2", 0.5, 1, 90.0)], {}, "tumour of 100 mm3 in one and 90 mm3"),
        ([patient("P-1", 0.5, 1), patient("P-2", 1.5, 1)], {}, "out of range"),
        ([patient("P-1", 0.5, 1), patient("P-1", 0.5, 1)], {}, "twice"),
        ([patient("P-1", 0.5, 1)], {"patients": 2}, "1 patients, but 2"),
    ],
)
def test_what_cannot_be_compared_is_one_line(rows, summary, message: str, rdunet, tmp_path: Path) -> None:
    one = write_evaluation(tmp_path / "a", [patient("P-1", 0.8, 1.0), patient("P-2", 0.8, 1.0)])
    other = write_evaluation(tmp_path / "b", rows, **summary)
    one_line(rdunet("compare", one, other), message)


@pytest.mark.parametrize("file", ["summary.json", "patients.csv"])
@pytest.mark.parametrize("damage", [b"", b"\xff\xfe\x00", b'{"protocol"', b"patient,dice\nP-1,much\n", None])
def test_damaged_scores_are_one_line(file: str, damage: bytes | None, rdunet, tmp_path: Path) -> None:
    one, other = (write_evaluation(tmp_path / name, [patient("P-1", 0.8, 1.0)]) for name in "ab")
    if damage is None:
        (other / file).unlink()
    else:
        (other / file).write_bytes(damage)
    one_line(rdunet("compare", one, other), str(other / file), "rdunet evaluate")


def test_scores_changed_after_they_were_written_are_refused(rdunet, tmp_path: Path) -> None:
    one, other = (write_evaluation(tmp_path / name, [patient("P-1", 0.8, 1.0)]) for name in "ab")
    table = other / "patients.csv"
    summary = json.loads((other / "summary.json").read_text())
    write_checked(other / "summary.json", {**summary, "files": {table.name: sha256_of(table)}})
    assert rdunet("compare", one, other)[0] == 0
    table.write_text(table.read_text().replace("0.8", "0.9"))
    status, _, error = rdunet("compare", one, other)
    assert status == 2 and str(table) in error and "rdunet evaluate" in error


def test_seen_patients_and_other_data_sets_are_marked_in_a_comparison(rdunet, tmp_path: Path) -> None:
    one = write_evaluation(tmp_path / "a", [patient("P-1", 0.8, 1.0)], patients_trained_on=1)
    other = write_evaluation(tmp_path / "b", [patient("P-1", 0.8, 1.0)], dataset_sha256="b", training_data_known=False)
    status, out, _ = rdunet("compare", one, other)
    assert status == 0 and "first: NOT NEW PATIENTS" in out and "second: it is not recorded" in out
    assert "different data sets" in out
