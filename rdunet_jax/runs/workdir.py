"""A run's folder: its settings in `config.json`, its checkpoints beside them."""

import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax

from data_pipeline.settings import Intensity
from rdunet_jax.config import InferenceConfig, ModelConfig, TrainConfig
from rdunet_jax.errors import RunError
from rdunet_jax.files import write_whole
from rdunet_jax.networks.models import create_model
from rdunet_jax.training.checkpointing import Checkpoints
from rdunet_jax.training.step import create_state


@dataclass(frozen=True)
class RunConfig:
    """Everything that a trained network needs to be used again."""

    model: ModelConfig
    train: TrainConfig
    inference: InferenceConfig
    intensity: Intensity
    """Gray conversion of its data set."""
    image_size: int
    """Rows and columns of its patches."""

    @classmethod
    def load(cls, workdir: Path) -> "RunConfig":
        """Raises RunError where there is no run."""
        path = workdir / "config.json"
        try:
            fields = json.loads(path.read_text(), object_hook=_tuples)
            parts = {"model": ModelConfig, "train": TrainConfig, "inference": InferenceConfig}
            return cls(**(fields | {name: part(**fields[name]) for name, part in parts.items()}))
        except FileNotFoundError:
            raise RunError(
                f"{workdir}: no trained network here; train one with `rdunet train --workdir {workdir}`"
            ) from None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise RunError(f"{path}: cannot be read as a run's settings ({error}); use another --workdir") from error

    def save(self, workdir: Path) -> None:
        """Writes `config.json`; the folder is made if need be."""
        write_whole(workdir / "config.json", json.dumps(asdict(self), indent=1) + "\n")

    def start(self, workdir: Path) -> None:
        """Writes the settings of a new run, or checks those of the run that is there.

        Raises:
            RunError: the run that is there has other settings. It may be made longer, so its end is not compared.
        """
        if (workdir / "config.json").exists():
            before, now = (_flat(asdict(run)) for run in (RunConfig.load(workdir), self))
            changed = [
                f"{name} {before.get(name)} (now {now[name]})"
                for name in now
                if name not in ("train.epochs", "train.steps") and before.get(name) != now[name]
            ]
            if changed:
                raise RunError(
                    f"{workdir}: holds a run with other settings: {', '.join(changed)}; use another --workdir"
                )
        self.save(workdir)


@dataclass(frozen=True)
class TrainedNetwork:
    """A network with the variables of a checkpoint."""

    config: RunConfig
    model: nn.Module
    variables: dict[str, Any]
    step: int
    is_best: bool
    """Whether these are the variables of the best validation Dice; else, in a run without validation, the latest."""


def load_trained(workdir: Path) -> TrainedNetwork:
    """The best checkpoint of a run, or the latest if it had no validation.

    Raises:
        RunError: there is no run, or it has no checkpoint yet.
    """
    config = RunConfig.load(workdir)
    model = create_model(config.model)
    shape = (config.model.patch_depth, config.image_size, config.image_size)
    abstract = jax.eval_shape(partial(create_state, model, config.train, shape))
    checkpoints = Checkpoints(workdir / "checkpoints")
    try:
        best = checkpoints.best_step
        step = checkpoints.latest_step if best is None else best
        if step is None:
            raise RunError(
                f"{workdir}: the run has no checkpoint yet; train on with `rdunet train --workdir {workdir}`"
            )
        state = checkpoints.restore(step, like=abstract)
    finally:
        checkpoints.close()
    return TrainedNetwork(config, model, state.variables, step, best is not None)


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no tuples; the settings know no lists."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


def _flat(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in fields.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
