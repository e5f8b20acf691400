"""Leaving patients out in turn: the tables from scores as `evaluate` writes them, and the whole study on phantoms."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.errors import InputError
from data_pipeline.loading import Dataset
from experiments.studies import real_patients
from experiments.studies.real_patients import SETUPS, Settings, Study, gather, main
from experiments.studies.real_patients_table import COLUMNS, DICE, read_recorded, read_scores, worst_piece, write_tables
from rdunet_jax.workflows import train_and_score
from rdunet_jax.workflows.evaluate import evaluation_folder

PATIENTS = ("A", "B", "C")


def _store(output: Path, patient: str, setup: str, dice: float, hd95: float | None) -> None:
    """Summaries of one patient, by both protocols."""
    values = {score: 1 for _, score in COLUMNS.values()}
    values |= {"mean_volumetric_dice": dice, "mean_volumetric_hd95_mm": hd95, "lesions_false_positive": 2}
    for protocol in ("paper", "authors_code"):
        folder = evaluation_folder(output / patient / setup, "test", protocol)
        folder.mkdir(parents=True)
        (folder / "summary.json").write_text(json.dumps(values))


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    for patient, paper, more in zip(PATIENTS, (0.1, 0.2, 0.6), (0.3, 0.5, 0.7), strict=True):
        _store(tmp_path, patient, "paper", paper, 10.0)
        _store(tmp_path, patient, "rdunet", more, None if patient == "A" else 4.0)
    _store(tmp_path, "A", "pretrained", 0.2, 8.0)
    return tmp_path


def test_the_table_pairs_the_patients(scored: Path) -> None:
    scores = write_tables(scored, tuple(SETUPS), PATIENTS)
    header, rows = scores.table
    paper, more, pretrained = (dict(zip(header, row, strict=True)) for row in rows)
    assert (paper["patients"], paper[DICE], paper["less paper"]) == ("3", "0.300", "")
    assert (more[DICE], more["less paper"], more["better / worse"]) == ("0.500", "+0.200", "3 / 0")
    assert more["3-D HD95, mm"] == "4.000 (2)"
    assert more["false lesions"] == "6" and more["FP slices"] == "3"
    low, high = map(float, more["95%"].split(" to "))
    assert low < 0.2 < high
    # one patient, compared with the same one
    assert (pretrained["patients"], pretrained["less paper"]) == ("1", "+0.100")
    text = (scored / "real_patients.md").read_text()
    assert "| A | 0.100 | 0.300 | 0.200 |" in text and "| B | 0.200 | 0.500 |  |" in text


def test_the_pieces_are_a_table_too(scored: Path) -> None:
    write_tables(scored, tuple(SETUPS), PATIENTS)
    with (scored / "real_patients.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["set-up"], row["patient"]) for row in rows[:4]] == [
        *(("paper", patient) for patient in PATIENTS),
        ("rdunet", "A"),
    ]
    assert len(rows) == 7 and rows[3]["3-D HD95, mm"] == "" and float(rows[3][DICE]) == 0.3


def test_recorded_pieces_count_and_are_not_run_again(scored: Path, tmp_path: Path, monkeypatch) -> None:
    expected = write_tables(scored, tuple(SETUPS), PATIENTS)
    recorded = read_recorded(scored / "real_patients.csv")
    assert write_tables(tmp_path / "new", tuple(SETUPS), PATIENTS, recorded).pieces == expected.pieces
    text = (tmp_path / "new" / "real_patients.csv").read_text()
    assert text.count("\n") == 8 and read_recorded(tmp_path / "new" / "real_patients.csv") == recorded
    monkeypatch.setattr(real_patients, "gather", lambda *_: {})
    monkeypatch.setattr(real_patients, "run_piece", None)
    for number, patient in enumerate(PATIENTS, start=1):
        text = text.replace(f",{patient},", f",PHANTOM-{number:03d},")
    (tmp_path / "phantoms.csv").write_text(text)
    main(Settings(tmp_path / "out", setups=("paper", "rdunet"), smoke=True, recorded=tmp_path / "phantoms.csv"))
    assert "| PHANTOM-001 | 0.100 | 0.300 | 0.200 |" in (tmp_path / "out" / "real_patients.md").read_text()


@pytest.mark.parametrize("text", ["", "set-up,patient\npaper,A\n", None])
def test_a_record_that_is_none_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "recorded.csv").write_text(text)
    with pytest.raises(InputError, match=r"recorded\.csv: --recorded: "):
        main(Settings(tmp_path, smoke=True, recorded=tmp_path / "recorded.csv"))


def test_a_piece_without_the_second_protocol_is_not_scored(scored: Path) -> None:
    (evaluation_folder(scored / "B" / "rdunet", "test", "authors_code") / "summary.json").unlink()
    assert read_scores(scored / "B" / "rdunet") is None
    assert list(write_tables(scored, tuple(SETUPS), PATIENTS).pieces["rdunet"]) == ["A", "C"]


def test_the_worst_patient_is_of_the_best_set_up(scored: Path, tmp_path: Path) -> None:
    assert worst_piece(write_tables(scored, tuple(SETUPS), PATIENTS)) == ("rdunet", "A")
    assert worst_piece(write_tables(tmp_path / "none", tuple(SETUPS), PATIENTS)) is None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"patients": ("9",)}, "--patients 9: the patients are LUNG1-001"),
        ({"setups": ("x",)}, "--setups x: the setups are paper"),
        ({"steps": 70}, "--steps 70: give a multiple of 50"),
        ({"pretraining_steps": 0}, "--pretraining-steps 0"),
    ],
)
def test_unknown_pieces_are_refused(settings: dict, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        main(Settings(tmp_path, **settings))


def test_six_persons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`pat_1` is LUNG1-002: it is not copied beside it."""
    given = [tmp_path / name for name in ("001", "002", "003")]
    sample = [tmp_path / "sample" / f"pat_{number}" for number in (1, 2, 3, 4)]
    for folder in (*given, *sample):
        folder.mkdir(parents=True)
        (folder / "name").write_text(folder.name)
    monkeypatch.setattr(real_patients, "fetch_sample_data", lambda output: sample)
    settings = Settings(tmp_path / "out", lung1=(given[0], given[1], given[2]))
    study = Study.of(settings, real_patients.script.make_console())
    folders = gather(settings, study)
    names = {name: (folder / "name").read_text() for name, folder in folders.items()}
    assert names == {
        "LUNG1-001": "001",
        "LUNG1-002": "002",
        "LUNG1-003": "003",
        "2": "pat_2",
        "3": "pat_3",
        "4": "pat_4",
    }


@pytest.mark.slow
@pytest.mark.usefixtures("optax_promotion")
def test_smoke_leaves_phantoms_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(tmp_path, smoke=True, patients=("PHANTOM-002",), setups=("rdunet", "restricted", "pretrained"))
    (tmp_path / "PHANTOM-002" / "data" / "nsclc_radiomics").mkdir(parents=True)  # stopped while it was prepared
    main(settings)
    folder = tmp_path / "PHANTOM-002"
    data = Dataset(folder / "data")
    assert data.account.splits == {
        "train": ["PHANTOM-001", "PHANTOM-003"],
        "validation": [],
        "test": ["PHANTOM-002"],
    }
    scores = read_scores(folder / "rdunet")
    (patient,) = data.patients("test")
    assert scores is not None
    assert scores["slices"] == len(patient.ct_mask)
    assert scores["tumour slices"] == patient.ct_mask.any((1, 2)).sum()
    for part in ("test", "test-authors_code"):
        assert (folder / "rdunet" / "evaluation" / part / "page.html").exists()
    summary = evaluation_folder(folder / "restricted", "test", "paper") / "summary.json"
    stored = json.loads(summary.read_text())
    assert stored["lungs_only"] and stored["largest_component"]
    assert (folder / "restricted" / "steps.csv").read_text() == (folder / "rdunet" / "steps.csv").read_text()
    assert (tmp_path / "worst" / "overview.png").exists() or list((tmp_path / "worst").glob("*/overview.png"))
    truth = json.loads((tmp_path / "pretraining" / "dicom" / "PHANTOM-001" / "truth.json").read_text())
    assert truth["level"] == "realistic"
    manifest = json.loads((folder / "pretrained" / "manifest.json").read_text())
    assert manifest["sessions"][0]["initial_weights"]["step"] == 2

    # Stopped between the two protocols: nothing is trained or prepared again.
    (folder / "rdunet" / "evaluation" / "test-authors_code" / "summary.json").unlink()
    steps = (folder / "rdunet" / "steps.csv").read_text()
    monkeypatch.setattr(real_patients, "prepare_source", None)
    main(settings)
    assert read_scores(folder / "rdunet") == scores
    assert (folder / "rdunet" / "steps.csv").read_text() == steps
    monkeypatch.setattr(train_and_score, "train_network", None)
    main(settings)  # scored: it is not run again
    assert np.isfinite(scores[DICE] or 0)
