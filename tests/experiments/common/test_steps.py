"""Tables, and steps that are done once."""

import csv
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from data_pipeline.loading import Dataset
from data_pipeline.settings import DatasetSettings
from experiments.common import steps
from experiments.common.tables import write_csv
from rdunet_jax.config import InferenceConfig, TrainConfig
from rdunet_jax.errors import RunError
from rdunet_jax.networks.models import model_config
from rdunet_jax.runs.workdir import RunConfig
from rdunet_jax.workflows.display import markdown

QUIET = Console(quiet=True)


def test_csv_and_markdown(tmp_path: Path) -> None:
    write_csv(tmp_path / "a" / "t.csv", ("name", "Dice"), [("one, two", 0.5), ("three", None)])
    with (tmp_path / "a" / "t.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["name", "Dice"], ["one, two", "0.5"], ["three", ""]]
    assert markdown(("name", "Dice"), [("one", "0.5")]) == "| name | Dice |\n| --- | --: |\n| one | 0.5 |\n"


def test_phantoms_are_prepared_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = DatasetSettings("hu_window", 16, test_share=0.25, validation_share=0.25)
    first = steps.phantom_dataset(tmp_path, settings, 4, (8, 9), QUIET)
    assert sorted(path.name for path in (tmp_path / "dicom").iterdir()) == [f"PHANTOM-00{n}" for n in (1, 2, 3, 4)]
    monkeypatch.setattr(steps, "prepare_source", None)
    monkeypatch.setattr(steps, "show_phantoms_written", None)
    second = steps.phantom_dataset(tmp_path, settings, 4, (8, 9), QUIET)
    assert isinstance(second, Dataset) and second.folder == first.folder


def test_a_run_with_other_settings_is_not_used(tmp_path: Path) -> None:
    run = RunConfig(model_config("tiny"), TrainConfig(epochs=1), InferenceConfig(), "hu_window", 16)
    run.save(tmp_path)
    (tmp_path / "manifest.json").write_text('{"dataset": {"dataset_sha256": "a"}}')
    data = SimpleNamespace(dataset_sha256="a")
    steps.require_same(data, tmp_path, run)  # type: ignore[arg-type]
    for changed, name in (
        (replace(run, train=TrainConfig(epochs=2)), "train.epochs"),
        (replace(run, model=model_config("tiny", dropout=0.3)), "model.dropout"),
    ):
        with pytest.raises(RunError, match=name):
            steps.require_same(data, tmp_path, changed)  # type: ignore[arg-type]
    data.dataset_sha256 = "b"
    with pytest.raises(RunError, match="another data set"):
        steps.require_same(data, tmp_path, run)  # type: ignore[arg-type]
