"""What a run knows of the data it was made from."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from rdunet_jax.errors import RunError
from rdunet_jax.runs.training_data import FILE, TrainingData

ACCOUNT = {
    "dataset_sha256": "a" * 64,
    "split_sha256": "b" * 64,
    "splits": {"train": ["P-1", "P-2"], "validation": ["P-3"], "test": ["P-4"]},
}
OTHER = ACCOUNT | {"dataset_sha256": "c" * 64, "splits": {"train": ["P-2", "P-3"], "validation": [], "test": ["P-1"]}}


def unknown(*names: str) -> dict[str, str]:
    """Patients without fingerprints."""
    return dict.fromkeys(names, "")


def test_a_shared_hash_is_the_same_person() -> None:
    a, b, c, d = ("0" * 15 + digit for digit in "abcd")
    patients = {"P-1": {"fingerprint": f"{a} {b}"}, "P-3": {"fingerprint": c}, "P-4": {"fingerprint": d}}
    data = TrainingData.of(ACCOUNT | {"patients": patients}, "one")
    assert data.fingerprints == {"P-1": f"{a} {b}", "P-3": c}  # not of a patient that the run does not use
    assert data.seen({"Q-1": b, "Q-2": c, "Q-3": f"{c} {a}", "Q-4": d, "P-3": ""}) == {
        "Q-1": "trained",
        "Q-2": "selected",
        "Q-3": "trained",
        "P-3": "selected",
    }
    again = data.joined_by(TrainingData.of(OTHER | {"patients": {"P-3": {"fingerprint": d}}}, "two"))
    assert again.fingerprints["P-3"] == f"{c} {d}" and again.seen({"Q": c}) == {"Q": "trained"}


def test_patients_and_data_sets_come_back(tmp_path: Path) -> None:
    assert TrainingData.load(tmp_path) is None
    data = TrainingData.of(ACCOUNT, "hu_window_64")
    data.save(tmp_path)
    assert TrainingData.load(tmp_path) == data
    assert data.seen(unknown("P-4", "P-3", "P-1")) == {"P-3": "selected", "P-1": "trained"}
    assert not data.is_other_dataset(ACCOUNT) and data.is_other_dataset(OTHER)
    assert TrainingData.of(ACCOUNT, "hu_window_64", validates=False).seen(unknown("P-3")) == {}


def test_a_second_data_set_joins_the_first() -> None:
    both = TrainingData.of(ACCOUNT, "one").joined_by(TrainingData.of(OTHER, "two"))
    assert [one.name for one in both.data_sets] == ["one", "two"]
    # P-3 chose the checkpoint first and was trained on later: what counts is the stronger of the two
    assert both.seen(unknown("P-1", "P-2", "P-3", "P-4")) == {"P-1": "trained", "P-2": "trained", "P-3": "trained"}
    assert both.joined_by(TrainingData.of(OTHER, "two")) == both
    # the one that is trained on now is the last
    assert [one.name for one in both.joined_by(TrainingData.of(ACCOUNT, "one")).data_sets] == ["two", "one"]


@pytest.mark.parametrize("old, new", [("P-1", "P-9"), ('"trained_on"', '"trained_in"'), ("}", "")])
def test_damage_is_one_line(old: str, new: str, tmp_path: Path) -> None:
    TrainingData.of(ACCOUNT, "one").save(tmp_path)
    path = tmp_path / FILE
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(RunError, match="restore the file"):
        TrainingData.load(tmp_path)


def test_a_file_without_its_digest_was_written_by_hand(tmp_path: Path) -> None:
    data = TrainingData.of(ACCOUNT, "one")
    (tmp_path / FILE).write_text(json.dumps(asdict(data)))
    assert TrainingData.load(tmp_path) == data
