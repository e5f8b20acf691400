"""Runs and data sets that know each other, choices that are stored, patients that fail: through the commands."""

import csv
import json
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console

from data_pipeline.errors import InputError
from data_pipeline.loading import Dataset, PatientExample
from data_pipeline.settings import DatasetSettings, PrepareOptions
from rdunet_jax.cli import main as cli
from rdunet_jax.config import InferenceConfig, PostprocessingConfig, TrainConfig
from rdunet_jax.inference.sliding_window import SlidingWindow
from rdunet_jax.networks.models import create_model, model_config
from rdunet_jax.runs.chosen_postprocessing import ChosenPostprocessing
from rdunet_jax.runs.training_data import TrainingData
from rdunet_jax.runs.workdir import RunConfig
from rdunet_jax.training.checkpointing import Checkpoints
from rdunet_jax.training.step import create_state
from rdunet_jax.workflows import stored_probabilities
from rdunet_jax.workflows.prepare import prepare_source
from rdunet_jax.workflows.segment import _sides

DUMMY = Path(__file__).resolve().parents[3] / "data_pipeline" / "nsclc_radiomics" / "dummy_data"

pytestmark = pytest.mark.usefixtures("optax_promotion")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One patient a split, with names kept: test PHANTOM-001 or another, as the seed draws."""
    folder = tmp_path_factory.mktemp("data")
    settings = DatasetSettings(intensity="hu_window", image_size=16, test_share=0.33, validation_share=0.5)
    prepare_source(DUMMY, folder, settings, Console(quiet=True), PrepareOptions(workers=1, keep_ids=True))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A run on that data set whose network is as it was initialized."""
    workdir = tmp_path_factory.mktemp("run") / "run"
    network = model_config("tiny", widths=(4, 4, 4), recurrent_width=4)
    run = RunConfig(network, TrainConfig(), InferenceConfig(threshold=0.4), "hu_window", 16)
    run.save(workdir)
    checkpoints = Checkpoints(workdir / "checkpoints")
    with jax.numpy_dtype_promotion("standard"):  # Optax mixes integer and float scalars
        checkpoints.save(1, create_state(create_model(network), run.train, (8, 16, 16)))
    checkpoints.close()
    TrainingData.of(Dataset(data).account.to_json(), "hu_window_16").save(workdir)
    return workdir


@pytest.fixture
def workdir(tmp_path: Path, run: Path) -> Path:
    """A copy of that run."""
    return shutil.copytree(run, tmp_path / "run")


@pytest.fixture
def rdunet(data: Path, workdir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs a command in this process; returns (status, what it printed, its errors)."""

    def run(command: str, *arguments: object) -> tuple[int, str, str]:
        of_data = () if command == "segment" else ("--data-dir", data)
        arguments = (command, *of_data, "--workdir", workdir, *arguments)
        monkeypatch.setattr(sys, "argv", ["rdunet", *map(str, arguments)])
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


def test_segment_uses_a_choice_when_asked_for(rdunet, workdir: Path, tmp_path: Path) -> None:
    segment = ("segment", DUMMY / "PHANTOM-001", "--output")
    status, _, error = rdunet(*segment, tmp_path / "none", "--chosen-postprocessing")
    assert status == 2 and "choose-postprocessing" in error
    choice = PostprocessingConfig(0.3, 9, "square")
    ChosenPostprocessing(choice, 1, "a", ("P-1",)).save(workdir)
    status, out, _ = rdunet(*segment, tmp_path / "chosen", "--chosen-postprocessing")
    assert status == 0 and "threshold 0.3, dilated by a square of 9 pixels" in out
    status, out, _ = rdunet(*segment, tmp_path / "flags", "--chosen-postprocessing", "--threshold", "histogram")
    assert status == 0 and "threshold histogram, dilated by a square of 9 pixels" in out
    status, out, _ = rdunet(*segment, tmp_path / "own")
    assert status == 0 and "threshold 0.4, dilated by a disk of 7 pixels" in out


@pytest.mark.parametrize("damage", ['"threshold": 0.3', '"threshold"', "}"])
def test_a_damaged_choice_is_one_line(damage: str, rdunet, workdir: Path) -> None:
    ChosenPostprocessing(PostprocessingConfig(0.3), 1, "a", ()).save(workdir)
    path = workdir / "postprocessing.json"
    assert damage in path.read_text()
    path.write_text(path.read_text().replace(damage, '"threshold": 0.9' if "0.3" in damage else ""))
    status, _, error = rdunet("evaluate", "--chosen-postprocessing")
    assert status == 2 and str(path) in error and "choose-postprocessing" in error


@pytest.mark.parametrize(
    "row_cosine, sides", [((1, 0, 0), ("R", "L")), ((-0.9, 0.1, 0), ("L", "R")), ((0, 1, 0), ("A", "P"))]
)
def test_the_page_marks_the_sides_of_the_patient(row_cosine, sides) -> None:
    assert _sides(np.array(row_cosine, float)) == sides


def test_a_choice_on_training_patients_is_refused(rdunet, workdir: Path, data: Path) -> None:
    account = Dataset(data).account.to_json()
    turned = account["splits"] | {"train": account["splits"]["validation"], "validation": []}
    TrainingData.of(account | {"splits": turned}, "one").save(workdir)
    status, _, error = rdunet("choose-postprocessing")
    assert status == 2 and "--allow-seen" in error and not (workdir / "postprocessing.json").exists()
    status, out, _ = rdunet("choose-postprocessing", "--allow-seen")
    assert status == 0 and "NOT NEW PATIENTS" in out


@pytest.fixture
def three_to_score(data: Path, monkeypatch: pytest.MonkeyPatch) -> list[PatientExample]:
    """All patients as those of the split `test`."""
    examples = [example for split in ("train", "validation", "test") for example in Dataset(data).patients(split)]
    monkeypatch.setattr(Dataset, "patient", lambda self, split, index: examples[index])
    monkeypatch.setattr(Dataset, "patient_count", lambda self, split: len(examples))
    monkeypatch.setattr(Dataset, "patient_names", lambda self, split: tuple(one.name for one in examples))
    return examples


def fail_in_prediction(examples: list[PatientExample], monkeypatch: pytest.MonkeyPatch) -> str:
    class ShortOfMemory(SlidingWindow):
        def __call__(self, variables, volume, on_windows=lambda done, total: None):
            if volume is examples[1].image:
                raise RuntimeError("RESOURCE_EXHAUSTED: no memory\nand a stack of lines")
            return np.full(volume.shape, 0.5, np.float32)

    monkeypatch.setattr(stored_probabilities, "sliding_window", lambda network: ShortOfMemory(lambda *_: None))
    return "RESOURCE_EXHAUSTED: no memory"


def fail_in_reading(examples: list[PatientExample], monkeypatch: pytest.MonkeyPatch) -> str:
    def read(data: Dataset, split: str, index: int) -> PatientExample:
        if index == 1:
            raise InputError("record 1 is damaged")
        return examples[index]

    monkeypatch.setattr(Dataset, "patient", read)
    return "record 1 is damaged"


@pytest.mark.parametrize("fail", [fail_in_prediction, fail_in_reading])
def test_one_failing_patient_does_not_cost_the_others(fail, three_to_score, rdunet, workdir, monkeypatch) -> None:
    why, name = fail(three_to_score, monkeypatch), three_to_score[1].name
    status, out, error = rdunet("evaluate", "--html", "--allow-seen")
    assert status == 2 and f"{name} ({why})" in error
    summary = summary_of(workdir)
    assert summary["patients"] == 2 and summary["failed_patients"] == [name]
    assert "NOT IN THE SCORES: 1 patient" in out and out.count(f"{name}: left out, {why}") == 1
    assert "NOT IN THE SCORES" in (workdir / "evaluation" / "test" / "page.html").read_text()


def test_a_run_without_checkpoint_is_one_line(rdunet, workdir: Path) -> None:
    shutil.rmtree(workdir / "checkpoints")
    for command in ("evaluate", "choose-postprocessing"):
        for _ in range(3):
            status, _, error = rdunet(command)
            assert status == 2 and str(workdir) in error and "checkpoint" in error
