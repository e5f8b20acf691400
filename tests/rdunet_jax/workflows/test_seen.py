"""Runs and data sets that know each other, choices that are stored, patients that fail: through the commands."""

import csv
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pydicom
import pytest
from rich.console import Console

from data_pipeline.errors import InputError
from data_pipeline.loading import Dataset, PatientExample
from data_pipeline.settings import DatasetSettings, PrepareOptions
from rdunet_jax.config import InferenceConfig, PostprocessingConfig, TrainConfig
from rdunet_jax.inference.sliding_window import SlidingWindow
from rdunet_jax.networks.models import create_model, model_config
from rdunet_jax.runs.chosen_postprocessing import ChosenPostprocessing
from rdunet_jax.runs.training_data import TrainingData
from rdunet_jax.runs.workdir import RunConfig, load_trained
from rdunet_jax.training.checkpointing import Checkpoints
from rdunet_jax.training.step import create_state
from rdunet_jax.workflows import stored_probabilities
from rdunet_jax.workflows.prepare import prepare_source
from tests.rdunet_jax.command import Command, Result, one_line

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
    """A run on that data set whose network is as it was initialised."""
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
def rdunet(data: Path, workdir: Path, rdunet: Command) -> Command:
    """Runs a command on that run and that data set."""

    def run(command: str, *arguments: object) -> Result:
        of_data = () if command == "segment" or "--data-dir" in arguments else ("--data-dir", data)
        return rdunet(command, *of_data, "--workdir", workdir, *arguments)

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
        one_line(rdunet("evaluate", "--split", split, *more), "--allow-seen")
        assert not (workdir / "evaluation").exists()
    status, out, _ = rdunet("evaluate", "--split", split, "--allow-seen", "--html")
    assert status == 0 and f"NOT NEW PATIENTS: the network was {use} on" in out
    assert summary_of(workdir, split)[f"patients_{use}_on"] == 1
    folder = workdir / "evaluation" / split
    assert "NOT NEW PATIENTS" in (folder / "page.html").read_text()
    with (folder / "patients.csv").open(newline="") as file:
        assert [row["seen"] for row in csv.DictReader(file)] == [use]


@pytest.fixture(scope="module")
def renamed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same patients under other ids, one without its first two slices; and their data set, all for testing."""
    folder = tmp_path_factory.mktemp("renamed")
    shutil.copytree(DUMMY, folder / "source")
    for path in (folder / "source").rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        dataset.PatientID = dataset.PatientID.replace("PHANTOM", "OTHER")
        dataset.save_as(path)
    images = [path for path in (folder / "source/PHANTOM-002").rglob("*.dcm") if pydicom.dcmread(path).Modality == "CT"]
    for path in sorted(images, key=lambda path: float(pydicom.dcmread(path).ImagePositionPatient[2]))[:2]:
        path.unlink()
    settings = DatasetSettings(intensity="hu_window", image_size=16, test_share=0.99)
    options = PrepareOptions(workers=1, keep_ids=True)
    prepare_source(folder / "source", folder / "data", settings, Console(quiet=True), options)
    return folder


def test_a_patient_under_another_name_is_recognised_by_its_slices(rdunet, workdir, data, renamed, tmp_path) -> None:
    own = Dataset(data).account.splits
    other_name = {part: names[0].replace("PHANTOM", "OTHER") for part, names in own.items()}
    assert len(Dataset(renamed / "data").patient_names("test")) >= 2
    status, _, error = rdunet("evaluate", "--data-dir", renamed / "data")
    assert status == 2 and "--allow-seen" in error and "under another name" in error
    status, out, _ = rdunet("evaluate", "--data-dir", renamed / "data", "--allow-seen")
    assert status == 0 and "NOT NEW PATIENTS" in out and "under another name" in out
    with (workdir / "evaluation/test/patients.csv").open(newline="") as file:
        seen = {row["patient"]: row["seen"] for row in csv.DictReader(file)}
    expected = {other_name["train"]: "trained", other_name["validation"]: "selected", other_name["test"]: ""}
    assert seen and seen.items() <= expected.items()
    for part, use in (("train", "trained"), ("validation", "selected"), ("test", "not_found")):
        output = tmp_path / part
        status, out, _ = rdunet("segment", renamed / "source" / own[part][0], "--output", output)
        assert status == 0 and json.loads((output / "report.json").read_text())["seen_by_network"] == use
        assert ("on this patient" in out) == (part != "test")


def test_another_data_set_and_unknown_training_data_are_marked(rdunet, workdir: Path, data: Path) -> None:
    account = {**Dataset(data).account.to_json(), "dataset_sha256": "0" * 64}
    TrainingData.of(account | {"splits": {"train": ["another"], "validation": []}}, "other").save(workdir)
    status, out, _ = rdunet("evaluate", "--split", "train")
    assert status == 0 and "Another data set" in out and summary_of(workdir, "train")["other_dataset"]
    (workdir / "training_data.json").unlink()
    status, out, _ = rdunet("evaluate")
    assert status == 0 and "It is not recorded" in out and summary_of(workdir)["training_data_known"] is False


@pytest.mark.slow
def test_a_choice_is_printed_as_flags_and_used_when_asked_for(rdunet, workdir: Path) -> None:
    one_line(rdunet("evaluate", "--chosen-postprocessing"), "choose-postprocessing")
    status, out, _ = rdunet("choose-postprocessing")
    assert status == 0
    flags = next(line for line in out.splitlines() if line.startswith("chosen: ")).removeprefix("chosen: ").split()
    assert flags[:6:2] == ["--threshold", "--kernel", "--dilation-diameter"]

    assert rdunet("evaluate", *flags)[0] == 0
    by_flags = summary_of(workdir)
    assert rdunet("evaluate", "--chosen-postprocessing")[0] == 0
    chosen = summary_of(workdir)
    assert chosen.pop("chosen_postprocessing") and not by_flags.pop("chosen_postprocessing")
    assert chosen.pop("sha256") != by_flags.pop("sha256")  # of the rest of the file
    assert chosen == by_flags
    assert str(chosen["threshold"]) == flags[1] and chosen["kernel"] == flags[3]
    # never without being asked
    assert rdunet("evaluate")[0] == 0 and summary_of(workdir)["threshold"] == 0.4
    # what it was chosen on is no longer new, even of a run that did not validate
    (workdir / "training_data.json").unlink()
    one_line(rdunet("evaluate", "--split", "validation", "--chosen-postprocessing"), "--allow-seen")

    ChosenPostprocessing(PostprocessingConfig(0.3), 1, "0" * 64, "a" * 64, ()).save(workdir)  # of a network retrained
    says = f"{workdir / 'postprocessing.json'}: was chosen with other weights, those of step 1; run `rdunet choose"
    one_line(rdunet("evaluate", "--chosen-postprocessing"), says)


def test_segment_uses_a_choice_when_asked_for(rdunet, workdir: Path, tmp_path: Path) -> None:
    segment = ("segment", DUMMY / "PHANTOM-001", "--output")
    one_line(rdunet(*segment, tmp_path / "none", "--chosen-postprocessing"), "choose-postprocessing")
    choice = PostprocessingConfig(0.3, 9, "square")
    ChosenPostprocessing(choice, 1, load_trained(workdir).weights_sha256, "a" * 64, ("P-1",)).save(workdir)
    status, out, _ = rdunet(*segment, tmp_path / "chosen", "--chosen-postprocessing")
    assert status == 0 and "threshold 0.3, dilated by a square of 9 pixels" in out
    status, out, _ = rdunet(*segment, tmp_path / "flags", "--chosen-postprocessing", "--threshold", "histogram")
    assert status == 0 and "threshold histogram, dilated by a square of 9 pixels" in out
    status, out, _ = rdunet(*segment, tmp_path / "own")
    assert status == 0 and "threshold 0.4, dilated by a disk of 7 pixels" in out


@pytest.mark.parametrize("damage", ['"threshold": 0.3', '"threshold"', "}"])
def test_a_damaged_choice_is_one_line(damage: str, rdunet, workdir: Path) -> None:
    ChosenPostprocessing(PostprocessingConfig(0.3), 1, load_trained(workdir).weights_sha256, "a" * 64, ()).save(workdir)
    path = workdir / "postprocessing.json"
    assert damage in path.read_text()
    path.write_text(path.read_text().replace(damage, '"threshold": 0.9' if "0.3" in damage else ""))
    one_line(rdunet("evaluate", "--chosen-postprocessing"), str(path), "choose-postprocessing")


def test_a_choice_on_training_patients_is_refused(rdunet, workdir: Path, data: Path) -> None:
    account = Dataset(data).account.to_json()
    turned = account["splits"] | {"train": account["splits"]["validation"], "validation": []}
    TrainingData.of(account | {"splits": turned}, "one").save(workdir)
    one_line(rdunet("choose-postprocessing"), "--allow-seen")
    assert not (workdir / "postprocessing.json").exists()
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

    monkeypatch.setattr(stored_probabilities, "sliding_window", lambda network: ShortOfMemory(lambda _, x: x))
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
    result = rdunet("evaluate", "--html", "--allow-seen")
    one_line(result, f"{name} ({why})")
    summary = summary_of(workdir)
    assert summary["patients"] == 2 and summary["failed_patients"] == [name]
    assert "NOT IN THE SCORES: 1 patient" in result.out and result.out.count(f"{name}: left out, {why}") == 1
    assert "NOT IN THE SCORES" in (workdir / "evaluation" / "test" / "page.html").read_text()


def change(path: Path, keys: tuple[str | int, ...], value: object) -> None:
    """Sets one field of a JSON file, and deletes its digest, as a person would."""
    fields = json.loads(path.read_text())
    fields.pop("sha256", None)
    inner = fields
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(fields))


@pytest.mark.parametrize("file, keys, value, says", [
    ("config.json", ("image_size",), -16, "image_size is -16, but must be a whole number, from 1 to 4096"),
    ("config.json", ("image_size",), "16", "image_size is 16, but must be a whole number"),
    ("config.json", ("image_size",), 20, "multiple of 8"),
    ("config.json", ("intensity",), "grey", "intensity is grey, but must be text, one of slice_minmax, hu_window"),
    ("config.json", ("fold",), -1, "fold is -1"),
    ("config.json", ("model", "widths"), [], "widths is empty"),
    ("config.json", ("model", "colour"), 1, "unknown setting 'colour'"),
    ("config.json", ("train",), 3, "train is 3"),
    ("config.json", ("inference", "stride"), 0, "stride is 0"),
    ("config.json", ("inference", "threshold"), 2, "threshold is 2"),
    ("training_data.json", ("data_sets",), [], "data_sets is empty"),
    ("training_data.json", ("data_sets", 0, "dataset_sha256"), "x", "dataset_sha256 is x"),
    ("training_data.json", ("trained_on",), "PHANTOM-001", "trained_on is PHANTOM-001"),
    ("training_data.json", ("selected_on",), [1], "selected_on is 1"),
    ("training_data.json", ("fingerprints",), [], "fingerprints is empty"),
    ("postprocessing.json", ("step",), -1, "step is -1"),
    ("postprocessing.json", ("postprocessing", "dilation_diameter"), 4, "dilation_diameter is 4"),
    ("postprocessing.json", ("patients",), None, "patients is None"),
])  # fmt: skip
def test_every_field_of_a_runs_files_has_a_range(file, keys, value, says, rdunet, workdir: Path) -> None:
    ChosenPostprocessing(PostprocessingConfig(0.3), 1, load_trained(workdir).weights_sha256, "a" * 64, ()).save(workdir)
    change(workdir / file, keys, value)
    one_line(rdunet("evaluate", "--chosen-postprocessing"), f"{workdir / file}: ", says)


@pytest.mark.parametrize("keys, value, says", [
    (("settings", "image_size"), 7, "image_size is 7"),
    (("dataset_sha256",), "x", "dataset_sha256 is x"),
    (("splits",), {"train": ["PHANTOM-001"]}, "the split has not the parts train, validation, test"),
    (("patients", "PHANTOM-001", "slices"), 0, "slices is 0"),
    (("patients", "PHANTOM-001", "spacing_mm"), [3, 0, 1], "spacing_mm is 3"),
    (("patients", "PHANTOM-001", "fingerprint"), "x y", "fingerprint is x y"),
    (("patients",), [], "damaged, or from another version"),
])  # fmt: skip
def test_every_field_of_a_data_sets_metadata_has_a_range(keys, value, says, rdunet, data: Path, tmp_path: Path) -> None:
    spoilt = shutil.copytree(data, tmp_path / "spoilt")
    (path,) = spoilt.glob("nsclc_radiomics/*/*/metadata.json")
    change(path, keys, value)
    (path.parent / "checksums.json").unlink()
    one_line(rdunet("evaluate", "--data-dir", spoilt), f"{path}: damaged", says)


def test_an_unknown_intensity_is_looked_for_in_plugins(rdunet, data: Path, tmp_path: Path) -> None:
    spoilt = shutil.copytree(data, tmp_path / "spoilt")
    (path,) = spoilt.glob("nsclc_radiomics/*/*/metadata.json")
    change(path, ("settings", "intensity"), "grey")
    (path.parent / "checksums.json").unlink()
    unknown = "its intensity 'grey' is none of slice_minmax, hu_window; give --plugin the file that registers it"
    one_line(rdunet("evaluate", "--data-dir", spoilt), f"{path.parent}: {unknown}")


def test_a_run_without_checkpoint_is_one_line(rdunet, workdir: Path) -> None:
    shutil.rmtree(workdir / "checkpoints")
    for command in ("evaluate", "choose-postprocessing"):
        for _ in range(3):
            one_line(rdunet(command), str(workdir), "checkpoint")
