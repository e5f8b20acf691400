"""A run's folder: settings kept, compared and refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rdunet_jax.checked_json import write_checked
from rdunet_jax.config import InferenceConfig, TrainConfig
from rdunet_jax.errors import RunError
from rdunet_jax.networks.models import model_config
from rdunet_jax.runs.start import start_run
from rdunet_jax.runs.training_data import TrainingData
from rdunet_jax.runs.workdir import RunConfig, load_trained

RUN = RunConfig(model_config("tiny"), TrainConfig(), InferenceConfig(), "slice_minmax", 64)
ACCOUNT = {"dataset_sha256": "a" * 64, "split_sha256": "b" * 64, "splits": {"train": ["P-1"], "validation": ["P-2"]}}
DATA = TrainingData.of(ACCOUNT, "slice_minmax_64")
OTHER = TrainingData.of(
    ACCOUNT | {"dataset_sha256": "c" * 64, "splits": {"train": ["P-2"], "validation": ["P-3"]}}, "other_64"
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder with a run: the name of its checkpoint is what makes it one."""
    start_run(tmp_path, RUN, DATA)
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    return tmp_path


def session_ended(workdir: Path, outcome: str) -> None:
    write_checked(workdir / "manifest.json", {"sessions": [{"outcome": outcome}]})


def test_settings_come_back_as_they_were(tmp_path: Path) -> None:
    start_run(tmp_path / "deep" / "run", RUN, DATA)
    assert RunConfig.load(tmp_path / "deep" / "run") == RUN
    names = sorted(path.name for path in (tmp_path / "deep" / "run").iterdir())
    assert names == ["config.json", "training_data.json"]


def test_the_same_run_may_be_made_longer_but_not_changed(run: Path) -> None:
    assert start_run(run, RUN, DATA) == {}
    longer = replace(RUN, train=replace(RUN.train, epochs=50, steps=1000))
    assert start_run(run, longer, DATA) == {"train.epochs": [30, 50], "train.steps": [None, 1000]}
    assert RunConfig.load(run) == longer
    with pytest.raises(RunError, match=r"train.batch_size 2 \(now 4\)"):
        start_run(run, replace(RUN, train=replace(RUN.train, batch_size=4)), DATA)
    with pytest.raises(RunError, match=r"model\.widths"):
        start_run(run, replace(RUN, model=model_config("tiny", widths=(4, 8, 8))), DATA)
    assert RunConfig.load(run) == longer


def test_the_length_of_a_cosine_schedule_stays(tmp_path: Path) -> None:
    """Its learning rate at each step depends on the length of the run."""
    cosine = replace(RUN, train=replace(RUN.train, schedule="cosine"))
    start_run(tmp_path, cosine, DATA)
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    assert start_run(tmp_path, cosine, DATA) == {}
    with pytest.raises(RunError, match=r"train.epochs 30 \(now 50\)"):
        start_run(tmp_path, replace(cosine, train=replace(cosine.train, epochs=50)), DATA)


def test_a_folder_without_a_checkpoint_takes_other_settings_and_data(tmp_path: Path) -> None:
    start_run(tmp_path, RUN, DATA)
    mended = replace(RUN, train=replace(RUN.train, loss="dice", learning_rate=1.0))
    start_run(tmp_path, mended, OTHER)
    assert RunConfig.load(tmp_path) == mended
    assert TrainingData.load(tmp_path) == OTHER


@pytest.mark.parametrize("outcome, rate, accepted", [
    ("NotFiniteError", 1e-5, True),
    ("NotFiniteError", 1e-3, False),
    ("finished", 1e-5, False),
])  # fmt: skip
def test_the_rate_may_be_lowered_after_a_value_that_was_not_finite(
    outcome: str, rate: float, accepted: bool, run: Path
) -> None:
    session_ended(run, outcome)
    lower = replace(RUN, train=replace(RUN.train, learning_rate=rate))
    if accepted:
        assert start_run(run, lower, DATA) == {"train.learning_rate": [1e-4, rate]}
        assert start_run(run, lower, DATA) == {}
        return
    with pytest.raises(RunError, match=r"train\.learning_rate"):
        start_run(run, lower, DATA)


def test_other_data_are_refused_unless_on_purpose(run: Path) -> None:
    with pytest.raises(RunError, match=r"another data set or split .*slice_minmax_64.*other_64.*--other-dataset"):
        start_run(run, RUN, OTHER)
    assert TrainingData.load(run) == DATA
    start_run(run, RUN, OTHER, other_dataset=True)
    both = TrainingData.load(run)
    assert both is not None
    assert both.seen(dict.fromkeys(["P-1", "P-2", "P-3"], "")) == {
        "P-1": "trained",
        "P-2": "trained",
        "P-3": "selected",
    }
    start_run(run, RUN, OTHER)  # from now on these are its data
    with pytest.raises(RunError, match="another data set or split"):
        start_run(run, RUN, DATA)


def test_a_run_that_does_not_record_its_data_says_so(run: Path) -> None:
    (run / "training_data.json").unlink()
    start_run(run, RUN, DATA)
    data = TrainingData.load(run)
    assert data is not None and [one.name for one in data.data_sets] == ["unknown", "slice_minmax_64"]


def test_no_run_and_broken_settings_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="rdunet train"):
        load_trained(tmp_path)
    RUN.save(tmp_path)
    text = (tmp_path / "config.json").read_text()
    for damaged in ('{"model": {}, "unknown": 1}', "{", "[]", text.replace("0.7", "0.6"), text.replace('"bce"', "3")):
        assert damaged != text
        (tmp_path / "config.json").write_text(damaged)
        with pytest.raises(RunError, match=r"config\.json: cannot be read as a run's settings"):
            load_trained(tmp_path)
    (tmp_path / "config.json").write_bytes(b"\xff" + text.encode())
    with pytest.raises(RunError, match="cannot be read as a run's settings"):
        load_trained(tmp_path)


@pytest.mark.parametrize("old, new, name", [
    ("slice_minmax", "keras", "slice_minmax"),
    ("augmentation_probability", "chance", "augmentation_probability"),
    ('"augmentation": []', '"augmentation": ["keras"]', "authors_code"),
])  # fmt: skip
def test_a_run_of_an_older_version_says_what_to_run(old: str, new: str, name: str, tmp_path: Path) -> None:
    RUN.save(tmp_path)
    text = (tmp_path / "config.json").read_text()
    assert old in text
    fields = json.loads(text.replace(old, new))
    del fields["sha256"]  # older versions had none
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(RunError, match=f"older version .* {name}.*rdunet train") as error:
        RunConfig.load(tmp_path)
    assert "\n" not in str(error.value)


def test_a_run_without_checkpoint_says_so(tmp_path: Path) -> None:
    RUN.save(tmp_path)
    with pytest.raises(RunError, match="no checkpoint yet"):
        load_trained(tmp_path)
