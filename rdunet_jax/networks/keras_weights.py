"""Weights between Keras layers and Flax variables, exactly, both ways (the files themselves: `keras_files`).

Keras keeps an image as (height, width, depth) and a transposed convolution's kernel as (..., features, channels); here
depth comes first and channels before features. Nothing else differs: every tensor is a transposed copy.

The networks' weighted layers are one chain, so the n-th convolution of a file is the n-th convolution of the
network, whatever the file calls it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rdunet_jax.config import Gate, ModelConfig
from rdunet_jax.errors import RunError
from rdunet_jax.networks.keras_config import check_connections, settings_of_file
from rdunet_jax.networks.keras_files import OTHER, KerasFile, KerasLayer, read_keras_file
from rdunet_jax.networks.models import create_model

Variables = dict[str, Any]


@dataclass(frozen=True)
class _Tensor:
    """One weight of a Keras layer: its place in the Flax variables, and the axes that turn Keras' into Flax's."""

    path: tuple[str, ...]
    axes: tuple[int, ...] | None = None

    def to_flax(self, weight: np.ndarray) -> np.ndarray:
        return weight if self.axes is None else weight.transpose(self.axes)

    def to_keras(self, weight: np.ndarray) -> np.ndarray:
        return weight if self.axes is None else weight.transpose(np.argsort(self.axes))


# The weights of each kind of layer, in Keras' order.
_KINDS: dict[str, tuple[_Tensor, ...]] = {
    "conv3d": (_Tensor(("params", "kernel"), (2, 0, 1, 3, 4)), _Tensor(("params", "bias"))),
    "conv_lstm2d": (
        _Tensor(("params", "kernel")),
        _Tensor(("params", "cell", "recurrent_kernel")),
        _Tensor(("params", "bias")),
    ),
    "conv2d_transpose": (_Tensor(("params", "kernel"), (0, 1, 3, 2)), _Tensor(("params", "bias"))),
    "batch_normalization": (
        _Tensor(("params", "scale")),
        _Tensor(("params", "bias")),
        _Tensor(("batch_stats", "mean")),
        _Tensor(("batch_stats", "var")),
    ),
}


def network_layers(config: ModelConfig) -> list[tuple[str, tuple[str, ...]]]:
    """(kind, path of the Flax module) of every layer with weights, in the order of the Keras network.

    Raises:
        RunError: the network has parts that the Keras network has no layer for.
    """
    own = config.architecture != "unet" or config.block != "pseudo-dense" or config.hu_windows
    if own or config.bottleneck != "convlstm" or config.norm != "batch" or config.pooling != "spatial":
        raise RunError(
            f"network {config.name}: Keras files hold ConvLSTM networks with batch normalisation and spatial pooling, "
            f"and this one has architecture={config.architecture}, block={config.block}, "
            f"bottleneck={config.bottleneck}, norm={config.norm}, pooling={config.pooling}, "
            f"hu_windows={' '.join(config.hu_windows) or 'none'}; "
            "use `keras` or `paper`"
        )
    levels = range(1, len(config.widths) + 1)
    layers: list[tuple[str, tuple[str, ...]]] = []

    def block(name: str) -> None:
        for index in (1, 2):
            layers.append(("conv3d", (name, f"conv_{index}")))
            layers.append(("batch_normalization", (name, f"norm_{index}")))

    def upsample(level: int) -> None:
        if config.upsampling == "transposed":
            layers.append(("conv2d_transpose", (f"upsample_{level}",)))

    for level in levels:
        block(f"encoder_{level}")
    for layer in range(1, config.recurrent_layers + 1):
        layers.append(("conv_lstm2d", ("bottleneck", f"recurrent_{layer}")))
        if config.recurrent_norm:
            layers.append(("batch_normalization", ("bottleneck", f"norm_{layer}")))
    for level in reversed(levels):
        if config.decoder == "upsample-first":
            upsample(level)
        block(f"decoder_{level}")
        if config.decoder == "block-first":
            upsample(level)
    layers.append(("conv3d", ("logits",)))
    return layers


def to_keras(variables: Variables, config: ModelConfig) -> list[KerasLayer]:
    """The Flax variables as Keras layers, named by their modules.

    `keras_model.set_weights([w for layer in to_keras(variables, config) for w in layer.weights])` copies them over.
    """
    layers = []
    for kind, path in network_layers(config):
        weights = [t.to_keras(np.asarray(_leaf(variables, path, t))) for t in _KINDS[kind]]
        layers.append(KerasLayer("_".join(path), kind, tuple(weights)))
    return layers


def from_keras(layers: Sequence[KerasLayer], config: ModelConfig) -> Variables:
    """Keras layers, in the network's order within each kind, as Flax variables of the config's network.

    Raises:
        RunError: a layer is missing or left over, or a weight has another shape than the network wants.
    """
    expected = jax.eval_shape(create_model(config).init, jax.random.key(0), jnp.zeros((1, 1, *_smallest(config), 1)))
    slots = network_layers(config)
    for layer in layers:
        if layer.kind == OTHER:
            shapes = ", ".join(str(weight.shape) for weight in layer.weights[:6])
            raise RunError(f"layer {layer.name}: no layer of network {config.name} has weights of shapes {shapes}")
    for kind in _KINDS:
        there, wanted = (sum(k == kind for k in kinds) for kinds in ([la.kind for la in layers], [k for k, _ in slots]))
        if there != wanted:
            raise RunError(
                f"the file has {there} {kind} layers, and network {config.name} has {wanted}; {_advice(layers)}"
            )
    remaining = {kind: iter([layer for layer in layers if layer.kind == kind]) for kind in _KINDS}
    variables: Variables = {}
    for kind, path in slots:
        layer = next(remaining[kind])
        for tensor, weight in zip(_KINDS[kind], layer.weights, strict=True):
            value, wanted = tensor.to_flax(weight), _leaf(expected, path, tensor)
            if value.shape != wanted.shape:
                shape = tensor.to_keras(np.empty(wanted.shape)).shape
                raise RunError(
                    f"layer {layer.name}: its {tensor.path[-1]} has shape {weight.shape} in the file, and network "
                    f"{config.name} wants {shape} ({'/'.join(path)}); {_advice(layers)}"
                )
            *parents, last = (tensor.path[0], *path, *tensor.path[1:])
            node = variables
            for parent in parents:
                node = node.setdefault(parent, {})
            node[last] = np.ascontiguousarray(value, dtype=np.float32)
    return variables


def load_keras_weights(path: Path, config: ModelConfig, gate: Gate | None = None) -> tuple[ModelConfig, Variables]:
    """The Flax variables in a Keras file, and the config with the settings that the file names.

    A whole model says how its layers are set and connected, which is compared with the network (see `keras_config`).
    Weights alone do not: then the config's settings are used.

    Args:
        gate: the activation of the recurrent gates, needed where the file does not name it (weights alone).

    Raises:
        RunError: the file cannot be read, or is of another network than the config's.
    """
    network_layers(config)  # refuses networks that Keras files cannot hold
    file = read_keras_file(path)
    with _naming(path):
        if file.model is not None:
            config = settings_of_file(file.model, file.version, config)
            if gate not in (None, config.gate):
                raise RunError(f"its recurrent gates are {config.gate}, not {gate}; leave --gate out")
        elif gate is None:
            raise RunError(
                "holds weights alone and does not name the activation of the recurrent gates; give --gate "
                "hard_sigmoid (the default of Keras 2) or --gate sigmoid (the default of Keras 3)"
            )
        else:
            config = replace(config, gate=gate)
        return config, _variables(file, config)


def load_keras_network(path: Path, like: ModelConfig) -> tuple[ModelConfig, Variables]:
    """The network in a Keras file, of whatever widths, and its Flax variables.

    Args:
        like: a network of its kind. The file's sizes and settings replace its own; where the file holds weights alone,
            it does not name all settings.

    Raises:
        RunError: the file cannot be read, or is of another kind of network.
    """
    network_layers(like)
    file = read_keras_file(path)
    with _naming(path):
        widths, recurrent = _sizes(file.layers)
        if not widths or not recurrent:
            raise RunError(f"has no encoder and bottleneck as network {like.name} has them; give the weights of one")
        config = replace(
            like,
            widths=widths,
            whole_skips=min(like.whole_skips, len(widths)),
            recurrent_layers=len(recurrent),
            recurrent_width=recurrent[0],
        )
        if file.model is not None:
            config = settings_of_file(file.model, file.version, config)
        return config, _variables(file, config)


def _variables(file: KerasFile, config: ModelConfig) -> Variables:
    variables = from_keras(file.layers, config)
    if file.model is not None:
        check_connections(file.model, config)
    return variables


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors name the file; those of what odd JSON makes of a model become one line."""
    try:
        yield
    except RunError as error:
        raise RunError(f"{path}: {error}") from None
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, RecursionError) as error:
        raise RunError(f"{path}: the JSON of its model is damaged ({type(error).__name__}: {error})") from error


def _advice(layers: Sequence[KerasLayer]) -> str:
    """What the file seems to hold."""
    widths, recurrent = _sizes(layers)
    return f"it looks like widths {widths}, recurrent layers of {recurrent}; import it with a network of those sizes"


def _sizes(layers: Sequence[KerasLayer]) -> tuple[tuple[int, ...], list[int]]:
    """Features of each level and of each recurrent layer: of 4n + 1 convolutions the first 2n are the encoder's, two a
    level."""
    convolutions = [layer.weights[1].size for layer in layers if layer.kind == "conv3d"]
    recurrent = [layer.weights[2].size // 4 for layer in layers if layer.kind == "conv_lstm2d"]
    return tuple(convolutions[: len(convolutions) // 2 : 2]), recurrent


def _smallest(config: ModelConfig) -> tuple[int, int]:
    return (2 ** len(config.widths),) * 2


def _leaf(variables: Variables, path: tuple[str, ...], tensor: _Tensor) -> Any:
    node: Any = variables
    for key in (tensor.path[0], *path, *tensor.path[1:]):
        node = node[key]
    return node
