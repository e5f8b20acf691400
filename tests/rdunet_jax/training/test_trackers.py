"""Trackers: what they get, and what their files do not hold."""

import getpass
import re
import socket
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from rdunet_jax.config import TrackerName
from rdunet_jax.errors import RunError
from rdunet_jax.training import trackers
from rdunet_jax.training.history import History, StepRow, Validation
from rdunet_jax.training.trackers import OpenTracker, named_tracker
from tests.rdunet_jax.cli.layers import layers

SETTINGS = {"model": {"name": "tiny", "widths": (4, 8)}, "intensity": "hu_window", "fold": None}
PICTURE = np.zeros((8, 8, 3), np.uint8)


class Notebook:
    """A tracker of one's own: three methods."""

    def __init__(self, resume_at: int, fails_at: int = 99):
        self.resume_at, self.fails_at, self.seen, self.closed = resume_at, fails_at, [], False

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        if step >= self.fails_at:
            raise ValueError("no more paper")
        self.seen.append((step, dict(values)))

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        self.seen.append((step, {name: float(image.size)}))

    def close(self) -> None:
        self.closed = True


def measure(workdir: Path, opened: OpenTracker, first: int = 1, last: int = 4) -> None:
    """A session of steps, with an epoch at every second."""
    with History(workdir, first - 1, trackers=[opened]) as history:
        for step in range(first, last + 1):
            history.end_step(StepRow(step, 1 / step, 0.1, 0.5))
            if step % 2 == 0:
                history.end_epoch(step, step // 2, Validation(step / 100, None, PICTURE), 1e-4)


def test_a_tracker_of_ones_own_gets_every_number(tmp_path: Path) -> None:
    opened: list[Notebook] = []

    def open_notebook(resume_at: int) -> Notebook:
        opened.append(Notebook(resume_at))
        return opened[-1]

    measure(tmp_path, open_notebook)
    (notebook,) = opened
    assert notebook.resume_at == 0 and notebook.closed
    assert [step for step, _ in notebook.seen] == [1, 2, 2, 2, 3, 4, 4, 4]
    assert notebook.seen[1] == (2, {"train/loss": 0.5, "train/dice": 0.1})
    assert (
        notebook.seen[2][1]["epoch/validation_dice"] == 0.02 and "epoch/validation_soft_dice" not in notebook.seen[2][1]
    )
    assert notebook.seen[3] == (2, {"epoch/prediction": 192.0})


def test_a_tracker_that_fails_does_not_stop_the_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    measure(tmp_path, partial(Notebook, fails_at=3))
    assert (tmp_path / "steps.csv").read_text().count("\n") == 5
    assert caplog.text.count("Notebook failed (no more paper) and gets nothing more") == 1


def test_one_that_is_not_installed_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    says = r"--tracker mlflow: not installed; install the extra: pip install '\.\[mlflow\]'"
    with pytest.raises(RunError, match=says):
        named_tracker("mlflow", tmp_path, "a run", {})


def installed(name: str) -> ModuleType:
    return pytest.importorskip(name, reason=f"not installed: pip install --constraint constraints.txt '.[{name}]'")


def assert_says_nothing_of_the_machine(folder: Path) -> None:
    """Neither its name, nor the user's, nor a path: in no file, nor in what is packed in one."""
    secrets = [b"canary-user", str(folder.parent).encode(), str(Path.cwd()).encode()]
    host = re.compile(rb"(?<!\w)" + re.escape(socket.gethostname().encode()) + rb"(?!\w)")  # it may be a short word
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    for path in files:
        for content in layers(path.read_bytes()):
            assert [secret for secret in secrets if secret in content] == [] and not host.search(content), path


@pytest.fixture
def canary_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("USER", "LOGNAME", "USERNAME", "LNAME"):
        monkeypatch.setenv(name, "canary-user")
    assert getpass.getuser() == "canary-user"


@pytest.mark.slow  # its extra is installed for the slow tests only
def test_mlflow_in_two_sessions(tmp_path: Path, canary_user: None, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = installed("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    opened = named_tracker("mlflow", tmp_path, "tiny, seed 0", SETTINGS)
    measure(tmp_path, opened)
    measure(tmp_path, opened, first=3, last=6)  # killed after step 4, it goes on from step 2

    client = mlflow.MlflowClient((tmp_path / "mlflow").as_uri())
    (run,) = client.search_runs([one.experiment_id for one in client.search_experiments()])
    assert run.info.run_name == "tiny, seed 0"
    assert run.data.params == {"model.name": "tiny", "model.widths": "(4, 8)", "intensity": "hu_window", "fold": "None"}
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(one.step, one.value) for one in history] == [(step, 1 / step) for step in range(1, 7)]
    assert [one.step for one in client.get_metric_history(run.info.run_id, "epoch/loss")] == [2, 4, 6]
    assert_says_nothing_of_the_machine(tmp_path / "mlflow")


@pytest.mark.slow  # its extra is installed for the slow tests only; starts a service
def test_weights_and_biases_in_two_sessions(tmp_path: Path, canary_user: None, monkeypatch: pytest.MonkeyPatch) -> None:
    installed("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    opened = named_tracker("wandb", tmp_path, "tiny, seed 0", SETTINGS)
    measure(tmp_path, opened)
    measure(tmp_path, opened, first=3, last=6)
    sessions = sorted((tmp_path / "wandb").glob("offline-run-*"))
    assert len({path.name.rpartition("-")[2] for path in sessions}) == 1  # one run for `wandb sync`
    assert any(b"train/loss" in path.read_bytes() for path in (tmp_path / "wandb").rglob("*.wandb"))
    assert_says_nothing_of_the_machine(tmp_path / "wandb")


def test_every_name_has_its_class() -> None:
    assert set(trackers.NAMED) == set(TrackerName.__args__)
