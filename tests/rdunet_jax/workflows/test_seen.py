"""Runs and data sets that know each other, choices that are stored, and comparisons: through the commands."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from data_pipeline.loading import Dataset
from data_pipeline.settings import DatasetSettings
from rdunet_jax.cli import main as cli
from rdunet_jax.config import InferenceConfig, TrainConfig
from rdunet_jax.inference.sliding_window import SlidingWindow
from rdunet_jax.networks.models import create_model, model_config
from rdunet_jax.runs.training_data import TrainingData
from rdunet_jax.runs.workdir import RunConfig
from rdunet_jax.training.checkpointing import Checkpoints
from rdunet_jax.training.step import create_state
from rdunet_jax.workflows import stored_probabilities
from rdunet_jax.workflows.prepare import prepare_source

DUMMY = Path(__file__).resolve().parents[3] / "data_pipeline" / "nsclc_radiomics" / "dummy_data"

pytestmark = pytest.mark.usefixtures("optax_promotion")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One patient a split, with names kept: test PHANTOM-001 or another, as the seed draws."""
    folder = tmp_path_factory.mktemp("data")
    settings = DatasetSettings(intensity="hu_window", image_size=16, test_share=0.33, validation_share=0.5)
    prepare_source(DUMMY, folder, settings, Console(quiet=True), workers=1, keep_ids=True)
    return folder


@pytest.fixture
def workdir(tmp_path: Path, data: Path) -> Path:
    """A run on that data set whose network is as it was initialized."""
    workdir = tmp_path / "run"
    network = model_config("tiny", widths=(4, 4, 4), recurrent_width=4)
    run = RunConfig(network, TrainConfig(), InferenceConfig(threshold=0.4), "hu_window", 16)
    run.save(workdir)
    checkpoints = Checkpoints(workdir / "checkpoints")
    checkpoints.save(1, create_state(create_model(network), run.train, (8, 16, 16)))
    checkpoints.close()
    TrainingData.of(Dataset(data).account.to_json(), "hu_window_16").save(workdir)
    return workdir


@pytest.fixture
def rdunet(data: Path, workdir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs a command in this process; returns (status, what it printed, its errors)."""

    def run(command: str, *arguments: object) -> tuple[int, str, str]:
        if command in ("evaluate", "choose-postprocessing"):
            arguments = ("--data-dir", data, "--workdir", workdir, *arguments)
        monkeypatch.setattr(sys, "argv", ["rdunet", command, *map(str, arguments)])
        status = 0
        try:
            cli.main()
        except SystemExit as end:
            status = int(end.code or 0)
        captured = capsys.readouterr()
        assert captured.err.count("\n") == (status != 0), captured.err
        return status, captured.out, captured.err

    return run


def summary_of(workdir: Path, split: str = "test") -> dict:
    return json.loads((workdir / "evaluation" / split / "summary.json").read_text())


def test_new_patients_are_scored_without_a_remark(rdunet, workdir: Path) -> None:
    status, out, _ = rdunet("evaluate")
    assert status == 0 and "NOT NEW" not in out and "not recorded" not in out and "(n = 1)" in out
    summary = summary_of(workdir)
    assert summary["training_data_known"] and not summary["other_dataset"]
    assert summary["patients_trained_on"] == summary["patients_selected_on"] == 0


@pytest.mark.parametrize("split, use", [("train", "trained"), ("validation", "selected")])
def test_patients_that_the_network_has_seen_are_refused_or_marked(split: str, use: str, rdunet, workdir: Path) -> None:
    for more in ((), ("--shard", "1/2")):
        status, _, error = rdunet("evaluate", "--split", split, *more)
        assert status == 2 and "--allow-seen" in error
        assert not (workdir / "evaluation").exists()
    status, out, _ = rdunet("evaluate", "--split", split, "--allow-seen", "--html")
    assert status == 0 and f"NOT NEW PATIENTS: the network was {use} on" in out
    assert summary_of(workdir, split)[f"patients_{use}_on"] == 1
    folder = workdir / "evaluation" / split
    assert "NOT NEW PATIENTS" in (folder / "page.html").read_text()
    with (folder / "patients.csv").open(newline="") as file:
        assert [row["seen"] for row in csv.DictReader(file)] == [use]


def test_another_data_set_and_unknown_training_data_are_marked(rdunet, workdir: Path, data: Path) -> None:
    account = {**Dataset(data).account.to_json(), "dataset_sha256": "0" * 64}
    TrainingData.of(account | {"splits": {"train": ["another"], "validation": []}}, "other").save(workdir)
    status, out, _ = rdunet("evaluate", "--split", "train")
    assert status == 0 and "Another data set" in out and summary_of(workdir, "train")["other_dataset"]
    (workdir / "training_data.json").unlink()
    status, out, _ = rdunet("evaluate")
    assert status == 0 and "It is not recorded" in out and summary_of(workdir)["training_data_known"] is False


def test_a_choice_is_printed_as_flags_and_used_when_asked_for(rdunet, workdir: Path) -> None:
    status, _, error = rdunet("evaluate", "--chosen-postprocessing")
    assert status == 2 and "choose-postprocessing" in error
    status, out, _ = rdunet("choose-postprocessing")
    assert status == 0
    flags = next(line for line in out.splitlines() if line.startswith("chosen: ")).removeprefix("chosen: ").split()
    assert flags[::2] == ["--threshold", "--kernel", "--dilation-diameter"]

    assert rdunet("evaluate", *flags)[0] == 0
    by_flags = summary_of(workdir)
    assert rdunet("evaluate", "--chosen-postprocessing")[0] == 0
    chosen = summary_of(workdir)
    assert chosen.pop("chosen_postprocessing") and not by_flags.pop("chosen_postprocessing")
    assert chosen == by_flags
    assert str(chosen["threshold"]) == flags[1] and chosen["kernel"] == flags[3]
    # never without being asked
    assert rdunet("evaluate")[0] == 0 and summary_of(workdir)["threshold"] == 0.4
    # what it was chosen on is no longer new, even of a run that did not validate
    (workdir / "training_data.json").unlink()
    status, _, error = rdunet("evaluate", "--split", "validation", "--chosen-postprocessing")
    assert status == 2 and "--allow-seen" in error

    stored = workdir / "postprocessing.json"
    stored.write_text(stored.read_text().replace('"step": 1', '"step": 2'))
    status, _, error = rdunet("evaluate", "--chosen-postprocessing")
    assert status == 2 and str(stored) in error and "choose-postprocessing" in error


def test_a_choice_on_training_patients_is_refused(rdunet, workdir: Path, data: Path) -> None:
    account = Dataset(data).account.to_json()
    turned = account["splits"] | {"train": account["splits"]["validation"], "validation": []}
    TrainingData.of(account | {"splits": turned}, "one").save(workdir)
    status, _, error = rdunet("choose-postprocessing")
    assert status == 2 and "--allow-seen" in error and not (workdir / "postprocessing.json").exists()
    status, out, _ = rdunet("choose-postprocessing", "--allow-seen")
    assert status == 0 and "NOT NEW PATIENTS" in out


def test_one_failing_patient_does_not_cost_the_others(rdunet, data: Path, workdir: Path, monkeypatch) -> None:
    examples = [example for split in ("train", "validation", "test") for example in Dataset(data).patients(split)]
    monkeypatch.setattr(Dataset, "patients", lambda self, split: iter(examples))
    monkeypatch.setattr(Dataset, "patient_count", lambda self, split: len(examples))

    class ShortOfMemory(SlidingWindow):
        def __call__(self, variables, volume, on_windows=lambda done, total: None):
            if volume is examples[1].image:
                raise RuntimeError("RESOURCE_EXHAUSTED: no memory\nand a stack of lines")
            return np.full(volume.shape, 0.5, np.float32)

    monkeypatch.setattr(stored_probabilities, "sliding_window", lambda network: ShortOfMemory(lambda *_: None))
    status, out, error = rdunet("evaluate", "--html")
    assert status == 2 and f"{examples[1].name} (RESOURCE_EXHAUSTED: no memory)" in error
    summary = summary_of(workdir)
    assert summary["patients"] == 2 and summary["failed_patients"] == [examples[1].name]
    assert "NOT IN THE SCORES: 1 patient" in out
    assert "NOT IN THE SCORES" in (workdir / "evaluation" / "test" / "page.html").read_text()


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
    status, _, error = rdunet("compare", one, other)
    assert status == 2 and message in error


@pytest.mark.parametrize("file", ["summary.json", "patients.csv"])
@pytest.mark.parametrize("damage", [b"", b"\xff\xfe\x00", b'{"protocol"', b"patient,dice\nP-1,much\n", None])
def test_damaged_scores_are_one_line(file: str, damage: bytes | None, rdunet, tmp_path: Path) -> None:
    one, other = (write_evaluation(tmp_path / name, [patient("P-1", 0.8, 1.0)]) for name in "ab")
    if damage is None:
        (other / file).unlink()
    else:
        (other / file).write_bytes(damage)
    status, _, error = rdunet("compare", one, other)
    assert status == 2 and str(other / file) in error and "rdunet evaluate" in error


def test_seen_patients_and_other_data_sets_are_marked_in_a_comparison(rdunet, tmp_path: Path) -> None:
    one = write_evaluation(tmp_path / "a", [patient("P-1", 0.8, 1.0)], patients_trained_on=1)
    other = write_evaluation(tmp_path / "b", [patient("P-1", 0.8, 1.0)], dataset_sha256="b", training_data_known=False)
    status, out, _ = rdunet("compare", one, other)
    assert status == 0 and "first: NOT NEW PATIENTS" in out and "second: it is not recorded" in out
    assert "different data sets" in out
