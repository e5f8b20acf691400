"""Where the numbers of a training go beside its tables: TensorBoard, and trackers of experiments.

A tracker is anything with the three methods of `Tracker`. `fit` opens those it is given with the step from which the
run goes on. A tracker that fails gets nothing more, with a warning, and the training goes on; but not at a full disk.
"""

import os
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import UInt8
from tensorboardX import SummaryWriter

from rdunet_jax.config import TrackerName
from rdunet_jax.errors import RunError
from rdunet_jax.files import write_whole


class Tracker(Protocol):
    """Takes what a training measures."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Numbers by name, such as `train/loss` after each step and `epoch/validation_dice` after each epoch."""

    def picture(self, name: str, image: UInt8[np.ndarray, "height width 3"], step: int) -> None:
        """A picture to look at."""

    def close(self) -> None:
        """The session has ended, also by an error."""


OpenTracker = Callable[[int], Tracker]
"""(step from which the run goes on) to a tracker. What it has of later steps is measured again."""


class TensorBoard:
    """Event files in `tensorboard/` of the run's folder, without the machine's name, which tensorboardX puts there."""

    def __init__(self, folder: Path, resume_at: int):
        self._board = SummaryWriter(str(folder), purge_step=resume_at + 1)
        for path in folder.glob(f"events.out.tfevents.*.{socket.gethostname()}"):
            path.rename(folder / f"events.out.tfevents.{time.time_ns()}.run")

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def picture(self, name: str, image: UInt8[np.ndarray, "height width 3"], step: int) -> None:
        self._board.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        self._board.close()


class MLflow:
    """Numbers and settings for MLflow: files in `mlflow/` of the run's folder, or the server of MLFLOW_TRACKING_URI.

    A run that goes on does not send again what it has sent. Without pictures, which MLflow keeps by their path.
    """

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any], resume_at: int):
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow import MlflowClient  # pyright: ignore[reportMissingImports]
        from mlflow.entities import Metric, Param  # pyright: ignore[reportMissingImports]

        folder.mkdir(exist_ok=True)  # else MLflow makes it, with a first experiment that holds its path
        self._client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or folder.resolve().as_uri())
        self._metric = Metric
        key = folder / "run"
        if key.exists():
            self._run = key.read_text("utf-8")
        else:
            found = self._client.get_experiment_by_name("rdunet")
            # the location of artifacts is by default a path of this machine
            number = found.experiment_id if found else self._client.create_experiment("rdunet", "mlflow-artifacts:/")
            self._run = self._client.create_run(number, run_name=name).info.run_id
            parameters = [Param(key, str(value)) for key, value in settings.items()]
            self._client.log_batch(self._run, params=parameters)
            write_whole(key, self._run)
        self._sent: dict[str, int] = {}

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        now = int(1000 * time.time())
        new = [self._metric(name, value, now, step) for name, value in values.items() if step > self._sent_until(name)]
        if new:
            self._client.log_batch(self._run, metrics=new)

    def _sent_until(self, name: str) -> int:
        """The last step of which an earlier session has sent this number."""
        if name not in self._sent:
            history = self._client.get_metric_history(self._run, name)
            self._sent[name] = max((one.step for one in history), default=-1)
        return self._sent[name]

    def picture(self, name: str, image: UInt8[np.ndarray, "height width 3"], step: int) -> None:
        pass

    def close(self) -> None:
        self._client.set_terminated(self._run)


class WeightsAndBiases:
    """Numbers, settings and pictures for Weights & Biases: files in `wandb/` of the run's folder, for `wandb sync`.

    With WANDB_MODE=online they are sent at once. All sessions of a run have one id.
    """

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any], resume_at: int):
        import wandb  # pyright: ignore[reportMissingImports]

        self._folder, self._picture = folder, wandb.Image
        ids = [path.name.rpartition("-")[2] for path in folder.glob("*run-*-*")]
        # Nothing of the machine: no host, user, program, command line, packages, repository, hardware or console.
        quiet = wandb.Settings(
            console="off",
            disable_code=True,
            disable_git=True,
            host="",
            program="rdunet",
            save_code=False,
            silent=True,
            username="",
            x_disable_machine_info=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
        )
        self._run = wandb.init(
            dir=folder.parent,
            project="rdunet",
            id=ids[0] if ids else secrets.token_hex(8),
            name=name,
            config=dict(settings),
            mode="online" if os.environ.get("WANDB_MODE") == "online" else "offline",
            settings=quiet,
        )

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def picture(self, name: str, image: UInt8[np.ndarray, "height width 3"], step: int) -> None:
        self._run.log({name: self._picture(image)}, step=step)

    def close(self) -> None:
        self._run.finish()
        for logs in self._folder.glob("*run-*/logs"):  # of the client, with paths of this machine
            shutil.rmtree(logs, ignore_errors=True)
        for link in self._folder.glob("debug*.log"):
            link.unlink()


NAMED: dict[TrackerName, Any] = {"mlflow": MLflow, "wandb": WeightsAndBiases}


def named_tracker(name: TrackerName, workdir: Path, run_name: str, settings: Mapping[str, Any]) -> OpenTracker:
    """A tracker by name, in a folder of its name in the run's.

    Args:
        run_name: what the tracker shows.
        settings: of the run; nested ones get names such as `train.epochs`.

    Raises:
        RunError: its package is not installed.
    """
    if find_spec(name) is None:
        raise RunError(f"--tracker {name}: not installed; install the extra: pip install '.[{name}]'")
    return partial(NAMED[name], workdir / name, run_name, dict(_flat(settings)))


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
