"""The three kinds of Keras weight files, read and written by h5py alone, without Keras.

Keras 3's `.keras` (a zip with a `.weights.h5` in it) and `.weights.h5`, and the `.h5` of Keras 1 and 2 (weights or a
whole model), as the authors' `keras==2.1.4` wrote it.
"""

import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from rdunet_jax.errors import RunError
from rdunet_jax.networks.keras_hdf5 import open_keras, read_weights

# The weights of each kind of layer, in Keras' order; the kinds are called as Keras 3 calls their groups in a file.
WEIGHT_NAMES = {
    "conv3d": ("kernel", "bias"),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "conv_lstm2d": ("kernel", "recurrent_kernel", "bias"),
    "conv2d_transpose": ("kernel", "bias"),
}
# How many axes those weights have, which tells the kind of a layer whatever it is called.
_KIND_OF_RANKS = {
    (5, 1): "conv3d",
    (1, 1, 1, 1): "batch_normalization",
    (4, 4, 1): "conv_lstm2d",
    (4, 1): "conv2d_transpose",
}
OTHER = "other"
"""A layer that no network here has."""


@dataclass(frozen=True)
class KerasLayer:
    """A layer with weights, by its name in the file; `weights` are in Keras' order and layout."""

    name: str
    kind: str
    weights: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class KerasFile:
    """What a Keras file holds."""

    layers: tuple[KerasLayer, ...]
    """Layers with weights; within a kind in the network's order."""
    model: Any
    """The JSON of the model; None where the file holds weights alone."""
    version: int
    """Of Keras: 2 or 3."""


def read_keras_file(path: Path) -> KerasFile:
    """Reads a `.keras`, `.weights.h5` or Keras 2 `.h5` file.

    Raises:
        RunError: there is no such file, it is none of the three kinds, it exceeds a limit (see `keras_hdf5`), or it
            holds layers of another kind of network.
    """
    try:
        return _read(path)
    except RunError as error:
        raise RunError(f"{path}: {error}") from None
    except Exception as error:  # h5py, zipfile, json and what odd objects in a file make of them
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RunError(
            f"{path}: not a Keras file ({reason}); give a .keras, .weights.h5 or Keras 2 .h5 file"
        ) from error


def _read(path: Path) -> KerasFile:
    with open_keras(path) as (file, config):
        if config is not None:
            return KerasFile(tuple(_keras3_layers(file)), json.loads(config), 3)
        root = file.get("model_weights", file)
        assert isinstance(root, h5py.Group)
        if not _names(root, "layer_names"):
            return KerasFile(tuple(_keras3_layers(file)), None, 3)
        config, version = file.attrs.get("model_config"), _text(file.attrs.get("keras_version", "2"))
        model = None if config is None else json.loads(_text(config))
        return KerasFile(tuple(_keras2_layers(root)), model, int(version.split(".")[0]))


def write_keras_file(path: Path, layers: Sequence[KerasLayer]) -> None:
    """Writes Keras 3 weights (`*.weights.h5`) or Keras 2 weights (`*.h5`), for `load_weights` of the same network.

    A whole `.keras` model also holds its architecture: make it with `experiments/keras_baseline/convert.py`.

    Raises:
        RunError: the path ends in neither.
    """
    if path.suffix != ".h5":
        raise RunError(f"{path}: Keras weights are written to a file called *.weights.h5 (Keras 3) or *.h5 (Keras 2)")
    write = _write_keras3 if path.name.endswith(".weights.h5") else _write_keras2
    content = io.BytesIO()  # on a full disk HDF5 ends the process
    with h5py.File(content, "w") as file:
        write(file, layers)
    path.write_bytes(content.getbuffer())


def _write_keras3(file: h5py.File, layers: Sequence[KerasLayer]) -> None:
    counts = dict.fromkeys(WEIGHT_NAMES, 0)
    for layer in layers:
        # Keras 3 counts a model's layers by class, and reaches a transposed convolution through its TimeDistributed.
        group, inner = {
            "conv2d_transpose": ("time_distributed", "layer/vars"),
            "conv_lstm2d": ("conv_lstm2d", "cell/vars"),
        }.get(layer.kind, (layer.kind, "vars"))
        suffix = f"_{counts[layer.kind]}" if counts[layer.kind] else ""
        counts[layer.kind] += 1
        for index, weight in enumerate(layer.weights):
            file[f"layers/{group}{suffix}/{inner}/{index}"] = weight
        file.require_group(f"layers/{group}{suffix}/vars").attrs["name"] = layer.name


def _write_keras2(file: h5py.File, layers: Sequence[KerasLayer]) -> None:
    file.attrs["keras_version"] = b"2.1.4"
    file.attrs["layer_names"] = np.array([layer.name.encode() for layer in layers])
    for layer in layers:
        names = [f"{layer.name}/{name}:0" for name in WEIGHT_NAMES[layer.kind]]
        group = file.create_group(layer.name)
        group.attrs["weight_names"] = np.array([name.encode() for name in names])
        for name, weight in zip(names, layer.weights, strict=True):
            group[name] = weight


def _keras3_layers(file: h5py.File) -> Iterator[KerasLayer]:
    groups: list[tuple[str, h5py.Group]] = []

    def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Group) and name.endswith("/vars") and len(item) and not name.startswith("optimizer"):
            groups.append((name, item))

    file.visititems(visit)
    for path, group in sorted(groups, key=lambda entry: _natural(entry[0])):  # conv3d, conv3d_1, ... conv3d_10
        layer = re.sub(r"(/(layer|cell))?/vars$", "", path)
        if layer.count("/") > 1:  # layers/NAME; the order of a nested model's layers is not that of their names
            outer = layer.split("/")[1]
            raise RunError(f"layer {outer} is a model inside the model: save that model alone, and import its file")
        name = _text(file[f"{layer}/vars"].attrs.get("name", layer))
        yield from _layer(name, read_weights([group[key] for key in sorted(group, key=int)]))


def _keras2_layers(root: h5py.Group) -> Iterator[KerasLayer]:
    for name in _names(root, "layer_names"):
        group = root[name]
        assert isinstance(group, h5py.Group)
        weights = read_weights([group[weight] for weight in _names(group, "weight_names")])
        yield from _layer(name, weights)


def _layer(name: str, weights: list[np.ndarray]) -> Iterator[KerasLayer]:
    """The layer, its kind by its weights; nothing for one without weights or with the state of a random generator."""
    if any(np.issubdtype(weight.dtype, np.floating) for weight in weights):
        yield KerasLayer(name, _KIND_OF_RANKS.get(tuple(weight.ndim for weight in weights), OTHER), tuple(weights))


def _names(group: h5py.Group, attribute: str) -> list[str]:
    """A list of names; Keras cuts one that does not fit into HDF5's 64 kB into `attribute0`, `attribute1`, ..."""
    if attribute in group.attrs:
        return [_text(name) for name in np.asarray(group.attrs[attribute])]
    parts = sorted((key for key in group.attrs if re.fullmatch(rf"{attribute}\d+", key)), key=_natural)
    return [_text(name) for key in parts for name in np.asarray(group.attrs[key])]


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts `conv3d`, `conv3d_2`, `conv3d_10` in this order."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
