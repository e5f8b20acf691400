"""What the JSON of a Keras model says about its function: compared with a network of ours, or refused by name.

A whole Keras model (`.keras`, or `.h5` of a whole model) holds the settings of every layer and how the layers are
connected. Settings that a `ModelConfig` also has are taken over (gates, epsilon and momentum of batch normalisation,
dropout). All others must be those of our layers, and the layers must be connected as ours are.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from rdunet_jax.config import ModelConfig
from rdunet_jax.errors import RunError

Json = dict[str, Any]

# The settings that change a layer's function, with the values that our layers have. Axes of Keras are
# (height, width, depth, channels); the layers that run slice by slice have depth first.
_CONVOLUTION = {"padding": ("same",), "dilation_rate": (1, None), "groups": (1,), "use_bias": (True,)}
_ALLOWED: dict[str, dict[str, tuple[Any, ...]]] = {
    "InputLayer": {},
    "Conv3D": _CONVOLUTION | {"strides": (1,)},
    "ConvLSTM2D": _CONVOLUTION
    | {
        "strides": (1,),
        "activation": ("tanh",),
        "go_backwards": (False,),
        "return_sequences": (True,),
        "return_state": (False,),
        "stateful": (False,),
        "dropout": (0,),
        "recurrent_dropout": (0,),
    },
    "BatchNormalization": {
        "axis": (-1, 4),
        "center": (True,),
        "scale": (True,),
        "renorm": (False,),
        "virtual_batch_size": (None,),
    },
    "Conv2DTranspose": {
        "strides": (2,),
        "kernel_size": (2,),
        "dilation_rate": (1,),
        "output_padding": (None,),
        "use_bias": (True,),
        "activation": ("linear", None),
    },
    "MaxPooling3D": {"pool_size": ([2, 2, 1],), "strides": ([2, 2, 1], None)},
    "MaxPooling2D": {"pool_size": (2,), "strides": (2, None)},
    "UpSampling3D": {"size": ([2, 2, 1],)},
    "UpSampling2D": {"size": (2,), "interpolation": ("nearest",)},
    "SpatialDropout3D": {},
    "Activation": {},
    "ReLU": {"max_value": (None,), "negative_slope": (0, None), "threshold": (0, None)},
    "Concatenate": {"axis": (-1, 4)},
    "Permute": {},
    "TimeDistributed": {},
}
_EVERY_LAYER = {"data_format": ("channels_last", None)}
MOST_LAYERS = 1000
"""The authors' network has 82."""
_SPATIAL, _SLICEWISE = ("height", "width", "depth"), ("depth", "height", "width")


@dataclass
class _Graph:
    """Layers and their inputs as numbers: equal numbers are the same function of the network's input.

    A layer with weights is counted within its kind, because its weights are found by that count.
    """

    numbers: dict[tuple[Any, ...], int] = field(default_factory=dict)

    def node(self, *key: Any) -> int:
        return self.numbers.setdefault(key, len(self.numbers))

    def concatenate(self, parts: tuple[int, ...]) -> int:
        return parts[0] if len(parts) == 1 else self.node("concatenate", *parts)


def settings_of_file(model: Any, version: int, config: ModelConfig) -> ModelConfig:
    """The config with the settings of a Keras model's JSON.

    Args:
        model: the JSON of a whole model.
        version: of Keras, 2 or 3; both have a `hard_sigmoid`, and they differ.
        config: the network that the file is imported as.

    Raises:
        RunError: a layer computes another function than ours, with its name and its setting.
    """
    settings: dict[str, dict[Any, str]] = {}
    for layer in _layers(model):
        for setting, value in _checked(layer, version):
            settings.setdefault(setting, {}).setdefault(value, str(layer["config"].get("name")))
    for setting, values in settings.items():
        if len(values) > 1:
            (one, first), (other, second), *_ = values.items()
            raise RunError(f"{setting} is {one} in layer {first} and {other} in layer {second}; ours has one for all")
    taken = {setting: next(iter(values)) for setting, values in settings.items()}
    return replace(config, **({"dropout": 0.0} | taken))


def check_connections(model: Any, config: ModelConfig) -> None:
    """Compares how the layers of a Keras model are connected with the network of a config.

    Raises:
        RunError: they are connected in another way, with the first layer that differs.
    """
    graph = _Graph()
    expected = _expected(graph, config)
    known = set(graph.numbers.values())
    if _found(graph, model, config.name, lambda number: number in known) != expected:
        raise RunError(f"its last layer is not the last of network {config.name}, or has no sigmoid")


def _layers(model: Any) -> list[Json]:
    try:
        layers = model["config"]["layers"]
        if len(layers) > MOST_LAYERS:
            raise RunError(f"its model has {len(layers)} layers, and at most {MOST_LAYERS} are read")
        for layer in layers:
            if layer["class_name"] in ("Functional", "Model", "Sequential"):
                name = layer["config"].get("name")
                raise RunError(f"layer {name} is a model inside the model: save that model alone, and import its file")
        if not model["config"]["output_layers"]:
            raise RunError("its model has no output")
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise RunError(f"its model is not a graph of layers ({type(error).__name__}: {error})") from error
    return layers


def _checked(layer: Json, version: int) -> Iterator[tuple[str, Any]]:
    """The settings of a layer that a `ModelConfig` has.

    Raises:
        RunError: a setting changes the function, and no network here has it.
    """
    kind, settings = layer["class_name"], layer["config"]
    name = settings.get("name")
    if kind not in _ALLOWED:
        raise RunError(f"layer {name} is a {kind}, which cannot be imported")
    for setting, allowed in (_EVERY_LAYER | _ALLOWED[kind]).items():
        if setting not in settings or (setting == "padding" and _is_one(settings["kernel_size"])):
            continue
        value = settings[setting]
        # a list such as [1, 1, 1] means its number
        number = value[0] if isinstance(value, list) and len(set(value)) == 1 else value
        if value not in allowed and number not in allowed:
            wanted = " or ".join(str(one) for one in allowed)
            raise RunError(f"layer {name} ({kind}): {setting} is {_name_of(value)}, and ours has {wanted}")
    dtype = settings.get("dtype") or "float32"
    dtype = dtype if isinstance(dtype, str) else dtype.get("config", {}).get("name")
    if kind != "InputLayer" and dtype != "float32":
        raise RunError(f"layer {name} ({kind}): dtype is {dtype}, and only float32 is imported")
    if kind == "TimeDistributed":
        inner = settings["layer"]["class_name"]
        if inner not in ("Conv2DTranspose", "MaxPooling2D", "UpSampling2D"):
            raise RunError(f"layer {name} is a TimeDistributed {inner}, which cannot be imported")
        yield from _checked(settings["layer"], version)
    if kind == "BatchNormalization":
        yield "norm_epsilon", float(settings["epsilon"])
        yield "norm_momentum", float(settings["momentum"])
    if kind == "SpatialDropout3D":
        yield "dropout", float(settings["rate"])
    if kind == "ConvLSTM2D":
        yield "gate", _gate(str(name), settings["recurrent_activation"], version)


def _gate(layer: str, activation: Any, version: int) -> str:
    name = _name_of(activation)
    # Keras 3 gave the name to another function, so there Keras 2's is one of the user's own, in any package.
    if name == "sigmoid" or (name == "hard_sigmoid" and version < 3):
        return name
    if name.endswith("keras2_hard_sigmoid"):
        return "hard_sigmoid"
    also = " as Keras 3 has it, relu6(x + 3) / 6," if name == "hard_sigmoid" else ""
    raise RunError(
        f"layer {layer} (ConvLSTM2D): recurrent_activation is {name}{also} and ours has sigmoid or Keras 2's "
        "hard_sigmoid, clip(0.2x + 0.5, 0, 1)"
    )


def _expected(graph: _Graph, c: ModelConfig) -> int:
    """The network of a config, as `RecurrentDenseUNet3D` connects it."""
    counters = {kind: count() for kind in ("convolution", "norm", "recurrent", "upsample")}

    def weighted(kind: str, x: int) -> int:
        return graph.node(kind, next(counters[kind]), x)

    def dropout(x: int) -> int:
        return graph.node("dropout", x) if c.dropout else x

    def convolution(x: int, drop: bool) -> int:
        x = graph.node("relu", weighted("norm", weighted("convolution", x)))
        return dropout(x) if drop else x

    def block(x: int, drop: bool = False) -> int:
        first = convolution(x, drop)
        return convolution(graph.concatenate(_flat(graph, x, first)) if c.dense else first, drop)

    def output(x: int, last: int) -> int:
        return graph.concatenate(_flat(graph, x, last)) if c.block_output == "concatenate" else last

    x, skips = graph.node("input"), []
    for level in range(1, len(c.widths) + 1):
        last = block(x, c.dropout_after == "convolution")
        handed_on = output(x, last)
        skips.append(handed_on if level > len(c.widths) - c.whole_skips else last)
        x = graph.node("pool", handed_on)
        x = dropout(x) if c.dropout_after == "pooling" else x
    for _ in range(c.recurrent_layers):
        x = weighted("recurrent", x)
        x = weighted("norm", x) if c.recurrent_norm else x
    for skip in reversed(skips):
        if c.decoder == "block-first":
            x = output(x, block(x))
        x = weighted("upsample", x) if c.upsampling == "transposed" else graph.node("repeat", x)
        x = graph.concatenate(_flat(graph, x, skip))
        if c.decoder == "upsample-first":
            x = output(x, block(x))
    return graph.node("sigmoid", weighted("convolution", x))


def _found(graph: _Graph, model: Json, network: str, is_known: Callable[[int], bool]) -> int:
    """The network of a Keras model's JSON; the first layer that is not one of ours is refused."""
    counters = {kind: count() for kind in ("convolution", "norm", "recurrent", "upsample")}
    outputs: dict[str, tuple[int, tuple[str, ...]]] = {}
    for layer in _layers(model):
        name, kind, settings = layer["config"]["name"], layer["class_name"], layer["config"]
        inputs = [outputs.get(one) for one in _inputs(layer)]
        if kind != "InputLayer" and (not inputs or None in inputs or len(layer["inbound_nodes"]) != 1):
            raise RunError(f"layer {name} ({kind}): is not used exactly once, on layers before it")
        known = [one for one in inputs if one is not None]
        axes = known[0][1] if known else _SPATIAL
        parts = tuple(number for number, _ in known)
        if any(other != axes for _, other in known):
            raise RunError(f"layer {name} ({kind}): its inputs have their axes in different orders")
        if kind == "TimeDistributed":
            kind = settings["layer"]["class_name"]
        needed = _AXES.get(kind)
        if needed not in (None, axes):
            raise RunError(f"layer {name} ({kind}): its input has the axes {', '.join(axes)}, not {', '.join(needed)}")
        if kind == "Permute":
            axes = tuple(axes[dimension - 1] for dimension in settings["dims"][:3])
        number = _apply(graph, kind, settings, parts, counters)
        if not is_known(number):
            raise RunError(f"layer {name} ({kind}): is connected in another way than in network {network}")
        outputs[name] = (number, axes)
    ends = model["config"]["output_layers"]
    end = ends if isinstance(ends[0], str) else ends[0]
    if not isinstance(ends[0], str) and len(ends) > 1:
        raise RunError("the model has several outputs, and ours has one")
    return outputs[end[0]][0]


_AXES = {
    "Conv3D": _SPATIAL,
    "MaxPooling3D": _SPATIAL,
    "UpSampling3D": _SPATIAL,
    "ConvLSTM2D": _SLICEWISE,
    "Conv2DTranspose": _SLICEWISE,
    "MaxPooling2D": _SLICEWISE,
    "UpSampling2D": _SLICEWISE,
}
_WEIGHTED = {
    "Conv3D": "convolution",
    "BatchNormalization": "norm",
    "ConvLSTM2D": "recurrent",
    "Conv2DTranspose": "upsample",
}
_PLAIN = {
    "InputLayer": "input",
    "MaxPooling3D": "pool",
    "MaxPooling2D": "pool",
    "UpSampling3D": "repeat",
    "UpSampling2D": "repeat",
    "ReLU": "relu",
}


def _apply(graph: _Graph, kind: str, settings: Json, parts: tuple[int, ...], counters: dict[str, Any]) -> int:
    if kind == "Concatenate":
        return graph.concatenate(_flat(graph, *parts))
    if kind == "Permute":
        return parts[0]
    if kind == "SpatialDropout3D":
        return graph.node("dropout", parts[0]) if settings["rate"] else parts[0]
    if kind in _PLAIN:
        return graph.node(_PLAIN[kind], *parts)
    x = parts[0]
    if kind in _WEIGHTED:
        x = graph.node(_WEIGHTED[kind], next(counters[_WEIGHTED[kind]]), x)
    if kind in ("Conv3D", "Activation"):
        activation = _name_of(settings.get("activation") or "linear")
        if activation not in ("linear", "relu", "sigmoid"):
            raise RunError(f"layer {settings.get('name')} ({kind}): activation is {activation}, and ours has relu")
        x = x if activation == "linear" else graph.node(activation, x)
    return x


def _flat(graph: _Graph, *parts: int) -> tuple[int, ...]:
    """The parts of concatenations of concatenations."""
    keys = {number: key for key, number in graph.numbers.items()}
    flat: list[int] = []
    for part in parts:
        flat.extend(keys[part][1:] if keys[part][0] == "concatenate" else [part])
    return tuple(flat)


def _inputs(layer: Json) -> list[str]:
    """Names of the layers whose outputs a layer reads, in their order."""

    def keras_3(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            if node.get("class_name") == "__keras_tensor__":
                yield node["config"]["keras_history"][0]
                return
            node = list(node.values())
        if isinstance(node, list):
            for one in node:
                yield from keras_3(one)

    names: list[str] = []
    for node in layer.get("inbound_nodes", []):
        if isinstance(node, dict):
            names.extend(keras_3(node.get("args")))
        else:  # Keras 2: [[name, node, tensor, arguments], ...]
            names.extend(one[0] for one in node)
    return names


def _name_of(value: Any) -> str:
    """An activation's name, or any other value as text."""
    if isinstance(value, dict):
        inner = value.get("config")
        return inner if isinstance(inner, str) else str(value.get("class_name"))
    return str(value)


def _is_one(size: Any) -> bool:
    return size == 1 or (isinstance(size, list) and set(size) == {1})
