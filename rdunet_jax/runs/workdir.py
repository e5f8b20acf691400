"""A run's folder: its settings in `config.json`, its checkpoints beside them."""

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax

from data_pipeline.settings import Intensity
from rdunet_jax.checked_json import DamagedError, read_checked, write_checked
from rdunet_jax.config import InferenceConfig, ModelConfig, TrainConfig
from rdunet_jax.errors import RunError
from rdunet_jax.networks.models import create_model
from rdunet_jax.training.step import create_state
from rdunet_jax.training.stored_steps import restore_best

FILE = "config.json"
_RENAMED = {
    "intensity": {"keras": "slice_minmax"},
    "augmentation": {"keras": "authors_code"},
    "augment": {"chance": "augmentation_probability"},
}
"""Settings whose values or fields had other names in older versions."""


class OldNameError(RunError):
    """A run's settings use a name that an older version had."""


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
        """The settings of the run in `workdir`.

        Raises:
            RunError: there is no run, or its settings are damaged or of an older version.
        """
        path = workdir / FILE
        try:
            fields = _tuples(read_checked(path))
            _refuse_old_names(path, fields)
            parts = {"model": ModelConfig, "train": TrainConfig, "inference": InferenceConfig}
            return cls(**(fields | {name: part(**_tuples(fields[name])) for name, part in parts.items()}))
        except FileNotFoundError:
            raise RunError(
                f"{workdir}: no trained network here; train one with `rdunet train --workdir {workdir}`"
            ) from None
        except OldNameError:
            raise
        except (DamagedError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise RunError(
                f"{path}: cannot be read as a run's settings ({error}); restore it from a copy (manifest.json holds "
                "the settings as `config`), or use another --workdir"
            ) from error

    def save(self, workdir: Path) -> None:
        """Writes `config.json`; the folder is made if need be."""
        write_checked(workdir / FILE, asdict(self))


def _refuse_old_names(path: Path, fields: dict[str, Any]) -> None:
    """Raises OldNameError where a name is one of an older version."""
    for name, renamed in _RENAMED.items():
        value = fields["train"].get(name, fields.get(name))
        used = (value,) if isinstance(value, str) else value or ()
        for old, new in renamed.items():
            if old in used:
                raise OldNameError(
                    f"{path}: a run of an older version ({name}: {old} is now {new}); train it anew with `rdunet train "
                    "--data-dir DATA --workdir ANOTHER`"
                )


@dataclass(frozen=True)
class TrainedNetwork:
    """A network with the variables of a checkpoint."""

    config: RunConfig
    model: nn.Module
    variables: dict[str, Any]
    step: int
    is_best: bool
    """Whether these are the variables of the best validation; else of the latest checkpoint, or of the next best where
    the best is damaged."""


def load_trained(workdir: Path) -> TrainedNetwork:
    """The best checkpoint of a run, or the latest if it had no validation. Changes nothing in the folder.

    A damaged checkpoint is warned of, and the next best is used.

    Raises:
        RunError: there is no run, or it has no checkpoint, or none that can be used.
    """
    config = RunConfig.load(workdir)
    model = create_model(config.model)
    shape = (config.model.patch_depth, config.image_size, config.image_size)
    abstract = jax.eval_shape(partial(create_state, model, config.train, shape))
    restored = restore_best(workdir / "checkpoints", like=abstract)
    if restored is None:
        raise RunError(f"{workdir}: the run has no checkpoint yet; train on with `rdunet train --workdir {workdir}`")
    state, checkpoint, is_best = restored
    return TrainedNetwork(config, model, state.variables, checkpoint.step, is_best)


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no tuples; the settings know no lists."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
