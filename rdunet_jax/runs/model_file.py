"""A model as one file (`rdunet export-model`): all that prediction needs of a run, and what a reader must know of it.

The file holds no optimizer state and names no patient: of the training data the hash and the counts. `tensor_file` has
its form on disk.
"""

import importlib.metadata
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from data_pipeline.ranges import Digest, Length, Pattern, Range, check_fields, from_json
from data_pipeline.settings import SplitName
from rdunet_jax.config import InferenceConfig, PostprocessingConfig, Protocol
from rdunet_jax.errors import InputError, RunError
from rdunet_jax.networks.models import create_model
from rdunet_jax.runs.manifest import PACKAGES
from rdunet_jax.runs.plugins import PluginError
from rdunet_jax.runs.tensor_file import read_tensors, write_tensors
from rdunet_jax.runs.training_data import UNKNOWN, DataIdentity, TrainingData
from rdunet_jax.runs.workdir import RunConfig, TrainedNetwork, load_trained

FORMAT, VERSION = "rdunet model", 1
INTENDED_USE = (
    "Research on the segmentation of lung tumours in chest CT. Not a medical device: not for diagnosis or treatment."
)
MOST_VOXELS = 1 << 26
"""Of the windows in one call of the network: 64 times those of the paper's patch of 8 x 256 x 256 and a batch of 2."""
Text = Annotated[str, Pattern(r"(?s).{1,10000}", "of 1 to 10000 characters")]
_Count = Annotated[int, Range(0, 1_000_000_000)]


@dataclass(frozen=True)
class TrainedOn:
    """The data of a run without its patients' names."""

    data_sets: Annotated[tuple[DataIdentity, ...], Length(1, 1000)]
    patients_trained_on: _Count
    patients_selected_on: _Count

    @classmethod
    def of(cls, data: TrainingData) -> "TrainedOn":
        return cls(data.data_sets, len(data.trained_on), len(data.selected_on))

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Evaluation:
    """The scores of one evaluation of the network."""

    split: SplitName
    protocol: Protocol
    dataset_sha256: Digest
    patients_seen: _Count
    """Patients among them that the network was trained or selected on."""
    patients_failed: _Count
    prediction: InferenceConfig
    """Windows and post-processing that were scored."""
    scores: dict[str, float | None]
    """By the names of `summary.json`, with the bounds of the 95% interval."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Description:
    """What a model file says beside its weights."""

    config: RunConfig
    """Network, recipe, grey conversion and size of its images, windows and post-processing."""
    chosen_postprocessing: PostprocessingConfig | None
    """The post-processing that `rdunet choose-postprocessing` found best, if it was run."""
    step: _Count
    is_best: bool
    """Whether the weights are those of the best validation."""
    weights_sha256: Digest
    """As `TrainedNetwork.weights_sha256`."""
    trained_on: TrainedOn | None
    """None where the run does not record it."""
    evaluations: Annotated[tuple[Evaluation, ...], Length(0, 100)]
    versions: dict[str, str]
    """Of the packages that wrote the file."""
    licence: Text
    intended_use: Text

    def __post_init__(self) -> None:
        check_fields(self)
        config = self.config
        voxels = config.inference.window_batch * math.prod(config.window_shape)
        if voxels > MOST_VOXELS:
            raise RunError(f"its windows have {voxels} voxels in one call, and at most {MOST_VOXELS} are taken")


@dataclass(frozen=True)
class ModelFile:
    """A model file in memory."""

    network: TrainedNetwork
    description: Description

    @property
    def training_data(self) -> TrainingData:
        """The data sets; never complete, because the file names no patient."""
        trained_on = self.description.trained_on
        known = trained_on.data_sets if trained_on else ()
        return TrainingData((*(one for one in known if one != UNKNOWN), UNKNOWN), (), ())


def save_model(path: Path, network: TrainedNetwork, description: Description) -> str:
    """Writes a model file, whole or not at all; returns its SHA-256.

    Raises:
        InputError: the network is too large for a file, or the file cannot be written.
    """
    fields = {"format": FORMAT, "version": VERSION, **asdict(description)}
    arrays = {name: np.asarray(leaf) for name, leaf in flatten_dict(network.variables, sep="/").items()}
    return write_tensors(path, fields, arrays)


def load_model(path: Path) -> ModelFile:
    """Reads a model file. Nothing in it is run, and memory is at most some twice the largest file's 512 MiB.

    Raises:
        RunError: there is no such file, it is not a model file of this version, or it is damaged; or it needs a plugin
            that was not named (`PluginError`).
    """
    fields, arrays = read_tensors(path, FORMAT, VERSION)
    try:
        if isinstance(config := fields.get("config"), dict):
            fields["config"] = RunConfig.from_json(config, path)
        description = from_json(Description, fields)
        variables = _variables(arrays, description.config)
    except PluginError:
        raise
    except (InputError, ValueError, TypeError) as error:
        reason = error.reason if isinstance(error, InputError) else "its settings are no settings of a network"
        raise RunError(f"a model file that cannot be used ({reason})", path=path) from error
    network = TrainedNetwork(
        config=description.config,
        model=create_model(description.config.model),
        variables=variables,
        step=description.step,
        is_best=description.is_best,
        run=path.stem,
        chosen=description.chosen_postprocessing,
    )
    if network.weights_sha256 != description.weights_sha256:
        raise RunError("a model file that cannot be used (its weights are not those that it describes)", path=path)
    return ModelFile(network, description)


def load_run_or_model(path: Path) -> TrainedNetwork:
    """The network of a run's folder (`load_trained`) or of a model file (`load_model`).

    Raises:
        RunError: see there.
    """
    return load_model(path).network if path.is_file() else load_trained(path)


def describe(
    network: TrainedNetwork,
    data: TrainingData | None,
    evaluations: tuple[Evaluation, ...],
    licence: str = "unknown",
    intended_use: str = INTENDED_USE,
) -> Description:
    """The description of a run's network.

    Args:
        network: with the post-processing that was chosen for it, if any.
        data: what the run was trained on; None where that is unknown.

    Raises:
        InputError: a text is empty or too long, or the windows are too large for a model file.
    """
    return Description(
        config=network.config,
        chosen_postprocessing=network.chosen,
        step=network.step,
        is_best=network.is_best,
        weights_sha256=network.weights_sha256,
        trained_on=TrainedOn.of(data) if data else None,
        evaluations=evaluations,
        versions={name: importlib.metadata.version(name) for name in (*PACKAGES, "safetensors")},
        licence=licence,
        intended_use=intended_use,
    )


def _variables(arrays: dict[str, np.ndarray], config: RunConfig) -> dict[str, Any]:
    """The arrays as Flax variables.

    Raises:
        RunError: an array is missing, left over, of another shape, or not finite.
    """
    size = config.model.size_multiple
    patch = jax.ShapeDtypeStruct((1, 1, size, size, 1), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    wanted: dict[str, Any] = flatten_dict(jax.eval_shape(create_model(config.model).init, key, patch), sep="/")
    missing, surplus = len(wanted.keys() - arrays.keys()), len(arrays.keys() - wanted.keys())
    if missing or surplus:
        raise RunError(f"{missing} of its network's {len(wanted)} arrays are missing, and {surplus} are of no layer")
    for name, array in arrays.items():
        if array.shape != wanted[name].shape:
            raise RunError(f"{name} has another shape than its network wants")
        if not np.isfinite(array).all():
            raise RunError(f"{name} holds values that are not finite")
    variables = unflatten_dict({name: jnp.asarray(array) for name, array in arrays.items()}, sep="/")
    return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}
