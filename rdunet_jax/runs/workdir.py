"""A run's folder: its settings in `config.json`, its checkpoints beside them."""

import hashlib
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any

import flax.linen as nn
import jax
import numpy as np

from data_pipeline.ranges import Range, check_fields, from_json
from data_pipeline.settings import Intensity, Sampling, VoxelSize, image_size_of, plane_shape
from rdunet_jax.checked_json import DamagedError, read_checked, write_checked
from rdunet_jax.config import ImageSize, InferenceConfig, ModelConfig, PostprocessingConfig, TrainConfig
from rdunet_jax.errors import RunError
from rdunet_jax.networks.models import create_model
from rdunet_jax.runs.plugins import Plugin, PluginError, plugins_of, require_plugins, save_plugins
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
    """Grey conversion of its data set."""
    image_size: ImageSize
    """Rows and columns of its patches; one number for a square."""
    fold: Annotated[int, Range(0, 1000)] | None = None
    """Fold of its data set that it holds out, from 0; None for the data set's own split."""
    spacing: VoxelSize | None = None
    """Size of the voxels to which its CTs are resampled; None where they are not."""
    plugins: tuple[Plugin, ...] = ()
    """The plugins that its settings use; they follow from these, whatever is given."""

    def __post_init__(self) -> None:
        check_fields(self)
        object.__setattr__(self, "image_size", image_size_of(plane_shape(self.image_size)))
        self.model.check_image_size(self.image_size)
        if self.model.hu_windows and self.intensity != "hu_window":
            raise RunError(
                f"network {self.model.name}: --hu-windows needs Hounsfield units, and its images are {self.intensity}; "
                "leave it out, or train on a data set of `rdunet prepare --intensity hu_window`"
            )
        object.__setattr__(self, "plugins", plugins_of(self.model, self.train, self.intensity))

    @property
    def sampling(self) -> Sampling:
        """Which patches of a data set it is trained on."""
        return Sampling(self.train.selection, self.model.patch_depth, self.train.tumour_free_share)

    @property
    def window_shape(self) -> tuple[int, int, int]:
        """Slices, rows and columns of a patch, and of a window of prediction."""
        return (self.model.patch_depth, *plane_shape(self.image_size))

    @classmethod
    def load(cls, workdir: Path) -> "RunConfig":
        """The settings of the run in `workdir`.

        Raises:
            RunError: there is no run, or its settings are damaged or of an older version.
        """
        path = workdir / FILE
        try:
            fields = read_checked(path)
            _refuse_old_names(path, fields)
            return cls.from_json(fields, workdir)
        except FileNotFoundError:
            raise RunError(
                f"{workdir}: no trained network here; train one with `rdunet train --workdir {workdir}`"
            ) from None
        except (OldNameError, PluginError):
            raise
        except (DamagedError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise RunError(
                f"{path}: cannot be read as a run's settings ({error}); restore it from a copy (manifest.json holds "
                "the settings as `config`), or use another --workdir"
            ) from error

    @classmethod
    def from_json(cls, fields: dict[str, Any], source: Path) -> "RunConfig":
        """The settings that `asdict` made JSON of; the plugins that they name are loaded first.

        Args:
            source: the run's folder or the file that holds the settings, for messages.

        Raises:
            PluginError: a plugin is missing, changed, or was never named: see `runs.plugins`.
            InputError: a setting is out of its range.
        """
        require_plugins(fields.get("plugins", ()), source)
        return from_json(cls, fields)

    def save(self, workdir: Path) -> None:
        """Writes `config.json` and the run's copies of its plugins; the folder is made if need be."""
        save_plugins(self.plugins, workdir)
        write_checked(workdir / FILE, asdict(self))


def _refuse_old_names(path: Path, fields: dict[str, Any]) -> None:
    """Raises OldNameError where a name is one of an older version."""
    train = fields.get("train")
    named = fields | (train if isinstance(train, dict) else {})
    for name, renamed in _RENAMED.items():
        value = named.get(name)
        used = (value,) if isinstance(value, str) else value if isinstance(value, list | dict) else ()
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

    run: str = ""
    """Name of the run's folder or of the model file, without its path."""
    chosen: PostprocessingConfig | None = None
    """The post-processing that was chosen for it, where a model file holds one; a run has it in a file of its own."""

    @property
    def members(self) -> "tuple[TrainedNetwork, ...]":
        """The network alone; see `Ensemble`."""
        return (self,)

    @cached_property
    def weights_sha256(self) -> str:
        """SHA-256 of names, dtypes, shapes and bytes of the variables."""
        digest = hashlib.sha256()
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.variables):
            array = np.ascontiguousarray(leaf)
            digest.update(f"{jax.tree_util.keystr(path)} {array.dtype.str} {array.shape} ".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Ensemble:
    """Trained networks whose probabilities are averaged. They agree in `config` as far as prediction needs it."""

    members: tuple[TrainedNetwork, ...]

    @property
    def config(self) -> RunConfig:
        """That of the first."""
        return self.members[0].config

    @property
    def variables(self) -> tuple[dict[str, Any], ...]:
        """Those of each, as `inference.sliding_window.mean_predictor` takes them."""
        return tuple(one.variables for one in self.members)


def load_trained(workdir: Path) -> TrainedNetwork:
    """The best checkpoint of a run, or the latest if it had no validation. Changes nothing in the folder.

    A damaged checkpoint is warned of, and the next best is used.

    Raises:
        RunError: there is no run, or it has no checkpoint, or none that can be used.
    """
    config = RunConfig.load(workdir)
    model = create_model(config.model)
    abstract = jax.eval_shape(partial(create_state, model, config.train, config.window_shape))
    restored = restore_best(workdir / "checkpoints", like=abstract)
    if restored is None:
        raise RunError(f"{workdir}: the run has no checkpoint yet; train on with `rdunet train --workdir {workdir}`")
    state, checkpoint, is_best = restored
    return TrainedNetwork(config, model, state.variables, checkpoint.step, is_best, workdir.resolve().name)
