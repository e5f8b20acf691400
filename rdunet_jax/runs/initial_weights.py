"""Initial weights from another network (`rdunet train --init-from`): which layers fit, and what it was trained on.

A layer is taken if the new network has one of the same name whose weights and statistics all have the same shapes. The
others begin at random.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from rdunet_jax.config import ModelConfig
from rdunet_jax.errors import RunError
from rdunet_jax.files import sha256_of
from rdunet_jax.networks.keras_weights import load_keras_network
from rdunet_jax.runs.manifest import InitialWeights
from rdunet_jax.runs.model_file import load_model
from rdunet_jax.runs.tensor_file import is_model_file
from rdunet_jax.runs.training_data import UNKNOWN, TrainingData
from rdunet_jax.runs.workdir import RunConfig, load_trained
from rdunet_jax.training.step import TrainState

_NOT_COMPARED = ("name", "dtype", "remat")
"""Fields of a network's config that do not change what its weights mean."""


@dataclass(frozen=True)
class Source:
    """A network whose weights another run begins with."""

    name: str
    """Of its folder or file, without the path."""
    sha256: str
    """Of the file; of a run, of its weights."""
    step: int | None
    """Of the run's checkpoint; None for a file."""
    variables: Mapping[str, Any]
    """Flax collections `params` and `batch_stats`."""
    settings: Mapping[str, Any]
    """What is known of its network and its images, by name."""
    training_data: TrainingData
    """With `UNKNOWN` among its data sets where that is not recorded."""

    @classmethod
    def load(cls, path: Path, network: ModelConfig) -> "Source":
        """The network of a run's folder (its best checkpoint), of a model file or of a Keras file.

        Args:
            network: the network to initialise. A Keras file of weights alone is read as one of its kind, of the file's
                own sizes.

        Raises:
            RunError: there is no such folder or file, or it cannot be used.
        """
        if path.is_dir():
            trained = load_trained(path)
            data = TrainingData.load(path) or TrainingData((UNKNOWN,), (), ())
            name, settings = path.resolve().name, _settings(trained.config)
            return cls(name, trained.weights_sha256, trained.step, trained.variables, settings, data)
        if not path.exists():
            raise RunError(
                f"{path}: no such run or file; give --init-from a run's folder, a model file or a Keras file"
            )
        if is_model_file(path):
            model = load_model(path)
            settings, step = _settings(model.network.config), model.network.step
            return cls(path.name, sha256_of(path), step, model.network.variables, settings, model.training_data)
        config, variables = load_keras_network(path, network)
        return cls(path.name, sha256_of(path), None, variables, _settings(config), TrainingData((UNKNOWN,), (), ()))

    def compare_layers(self, like: TrainState) -> InitialWeights:
        """Which layers fit a network.

        Args:
            like: its state, or the shapes of it.

        Raises:
            RunError: no layer fits.
        """
        own, wanted = (layers_of(one) for one in (self.variables, _variables(like)))
        taken = tuple(name for name in own if _shapes(own[name]) == _shapes(wanted.get(name, {})))
        if not taken:
            raise RunError(
                f"--init-from {self.name}: no layer has the name and the shapes of a layer of the new network; give "
                "the --model and --widths of the source"
            )
        left_out = tuple(name for name in own if name not in taken)
        return InitialWeights(
            self.name, self.sha256, self.step, taken, left_out, tuple(name for name in wanted if name not in taken)
        )

    def initialise(self, state: TrainState, weights: InitialWeights) -> TrainState:
        """A fresh state with the layers that were taken; optimizer, step and random key are its own."""
        own, variables = layers_of(self.variables), layers_of(_variables(state))
        leaves = {path: leaf for layer in (variables | {name: own[name] for name in weights.taken}).values()
                  for path, leaf in layer.items()}  # fmt: skip
        taken = unflatten_dict({path: jnp.array(leaf, jnp.float32) for path, leaf in leaves.items()})
        params, batch_stats = taken["params"], taken.get("batch_stats", {})
        # A copy, because a training step donates the buffers of the state.
        average = jax.tree.map(jnp.array, {"params": params, "batch_stats": batch_stats}) if state.average else {}
        return state.replace(params=params, batch_stats=batch_stats, average=average)

    def other_settings(self, run: RunConfig) -> dict[str, tuple[Any, Any]]:
        """The settings that differ, by name: (the source's, the run's)."""
        own = _settings(run)
        return {name: (value, own[name]) for name, value in self.settings.items() if value != own[name]}


def _settings(config: RunConfig | ModelConfig) -> dict[str, Any]:
    network = config.model if isinstance(config, RunConfig) else config
    settings = {name: value for name, value in asdict(network).items() if name not in _NOT_COMPARED}
    if isinstance(config, RunConfig):
        settings |= {"intensity": config.intensity, "image_size": config.image_size, "spacing": config.spacing}
    return settings


def _variables(state: TrainState) -> dict[str, Any]:
    return {"params": state.params, "batch_stats": state.batch_stats}


def layers_of(variables: Mapping[str, Any]) -> dict[str, dict[tuple[str, ...], Any]]:
    """Leaves by their path (collection, modules, name), grouped by layer: the path of the module that holds them."""
    layers: dict[str, dict[tuple[str, ...], Any]] = defaultdict(dict)
    for path, leaf in flatten_dict(dict(variables)).items():
        layer = "/".join(path[1:-1]).removesuffix("/cell")  # a recurrent layer's cell is part of it
        layers[layer][path] = leaf
    return dict(layers)


def _shapes(layer: Mapping[tuple[str, ...], Any]) -> dict[tuple[str, ...], tuple[int, ...]]:
    return {path: tuple(leaf.shape) for path, leaf in layer.items()}
