"""Leaving phantoms out in turn."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from data_pipeline.loading import Dataset
from experiments.common import steps as shared_steps
from experiments.studies import real_patients
from experiments.studies.real_patients import COLUMNS, RECIPE, read_scores, run_fold, write_table

DUMMY = Path(__file__).resolve().parents[3] / "data_pipeline" / "nsclc_radiomics" / "dummy_data"
PATIENTS = ("PHANTOM-001", "PHANTOM-002", "PHANTOM-003")
QUIET = Console(quiet=True)


def fold(output: Path, left_out: str) -> None:
    run_fold(DUMMY, output / left_out, left_out, PATIENTS, replace(RECIPE, steps_per_epoch=2, epochs=1), QUIET)


@pytest.mark.slow
@pytest.mark.usefixtures("optax_promotion")
def test_a_fold_leaves_its_patient_out_and_is_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real_patients, "DATASET", replace(real_patients.DATASET, image_size=16))
    fold(tmp_path, "PHANTOM-002")
    folder = tmp_path / "PHANTOM-002"
    data = Dataset(folder / "data")
    assert data.account.splits == {
        "train": ["PHANTOM-001", "PHANTOM-003"],
        "validation": [],
        "test": ["PHANTOM-002"],
    }
    (patient,) = data.patients("test")
    scores = read_scores(folder)
    assert scores is not None
    named = dict(zip(COLUMNS, scores, strict=True))
    assert named["slices"] == len(patient.ct_mask)
    assert named["with tumour"] == patient.ct_mask.any((1, 2)).sum()
    for part in ("test", "test-authors_code"):
        assert (folder / "run" / "evaluation" / part / "page.html").exists()

    # Stopped between the two protocols: nothing is trained or prepared again.
    (folder / "run" / "evaluation" / "test-authors_code" / "summary.json").unlink()
    steps = (folder / "run" / "steps.csv").read_text()
    monkeypatch.setattr(real_patients, "prepare_source", None)
    assert read_scores(folder) is None
    fold(tmp_path, "PHANTOM-002")
    assert read_scores(folder) == scores
    assert (folder / "run" / "steps.csv").read_text() == steps
    monkeypatch.setattr(shared_steps, "train_network", None)
    fold(tmp_path, "PHANTOM-002")  # scored: it is not run again

    write_table(tmp_path, PATIENTS)
    with (tmp_path / "real_patients.csv").open(newline="") as file:
        header, first, second, third, mean = csv.reader(file)
    assert header == ["patient", *COLUMNS]
    assert first == ["PHANTOM-001", *[""] * len(COLUMNS)] and third == ["PHANTOM-003", *[""] * len(COLUMNS)]
    expected = ["" if score is None else score for score in scores]
    assert [float(cell) if cell else "" for cell in second[1:]] == expected
    assert mean[0] == "mean of 1" and [float(cell) if cell else "" for cell in mean[1:]] == expected
    assert (tmp_path / "real_patients.md").read_text().count("\n|") == 5
