"""A run's folder: settings kept, compared and refused."""

from dataclasses import replace
from pathlib import Path

import pytest

from rdunet_jax.config import InferenceConfig, TrainConfig
from rdunet_jax.errors import RunError
from rdunet_jax.networks.models import model_config
from rdunet_jax.runs.workdir import RunConfig, load_trained

RUN = RunConfig(model_config("tiny"), TrainConfig(), InferenceConfig(), "slice_minmax", 64)


def test_settings_come_back_as_they_were(tmp_path: Path) -> None:
    RUN.start(tmp_path / "deep" / "run")
    assert RunConfig.load(tmp_path / "deep" / "run") == RUN
    assert [path.name for path in (tmp_path / "deep" / "run").iterdir()] == ["config.json"]


def test_the_same_run_may_be_made_longer_but_not_changed(tmp_path: Path) -> None:
    RUN.start(tmp_path)
    RUN.start(tmp_path)
    longer = replace(RUN, train=replace(RUN.train, epochs=50, steps=1000))
    longer.start(tmp_path)
    assert RunConfig.load(tmp_path) == longer
    with pytest.raises(RunError, match=r"train.batch_size 2 \(now 4\)"):
        replace(RUN, train=replace(RUN.train, batch_size=4)).start(tmp_path)
    with pytest.raises(RunError, match=r"model\.widths"):
        replace(RUN, model=model_config("tiny", widths=(4, 8, 8))).start(tmp_path)


def test_no_run_and_broken_settings_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="rdunet train"):
        load_trained(tmp_path)
    (tmp_path / "config.json").write_text('{"model": {}, "unknown": 1}')
    with pytest.raises(RunError, match="cannot be read as a run's settings"):
        load_trained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(RunError, match="cannot be read as a run's settings"):
        load_trained(tmp_path)


def test_a_run_without_checkpoint_says_so(tmp_path: Path) -> None:
    RUN.start(tmp_path)
    with pytest.raises(RunError, match="no checkpoint yet"):
        load_trained(tmp_path)
