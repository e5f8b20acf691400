"""Variations of the Keras network: imported to within 1e-5 of what Keras computes, or refused by name.

`python -m pytest -n 0 -s tests/rdunet_jax/networks/test_keras_variations.py` prints the table.
"""

import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import jax
import keras
import numpy as np
import pytest

from experiments.keras_baseline.network import recurrent_dense_unet, zero_initial_weights
from rdunet_jax.errors import RunError
from rdunet_jax.networks.keras_weights import load_keras_weights
from rdunet_jax.networks.models import create_model, model_config
from tests.rdunet_jax.networks.test_keras_parity import keras_rules, random_weights, to_keras_axes

pytestmark = pytest.mark.filterwarnings("ignore")  # Keras' own
SIZES = {"widths": (2, 3), "recurrent_width": 4, "recurrent_layers": 2}
CONFIG = model_config("keras", **SIZES)
TOLERANCE = 1e-5
"""Of a probability: the project's bound on parity."""
Json = dict[str, Any]


def each(kind: str, **settings: Any) -> Callable[[Json], None]:
    """Sets settings in every layer of a kind."""

    def change(model: Json) -> None:
        for layer in model["config"]["layers"]:
            inner = layer["config"].get("layer")
            for one in filter(None, (layer, inner)):
                if one["class_name"] == kind:
                    one["config"].update(settings)

    return change


def connect(layer: Json, before: str, now: str) -> None:
    layer["inbound_nodes"] = json.loads(json.dumps(layer["inbound_nodes"]).replace(f'"{before}"', f'"{now}"'))


def swap(model: Json) -> None:
    """Rectifies before it normalises, in the first convolution."""
    layers = model["config"]["layers"]
    norm, activation, concatenation = layers[2:5]
    connect(concatenation, activation["name"], norm["name"])
    connect(activation, norm["name"], "conv3d")
    connect(norm, "conv3d", activation["name"])
    layers[2:4] = activation, norm


def replace_activation(model: Json) -> None:
    layer = next(layer for layer in model["config"]["layers"] if layer["class_name"] == "Activation")
    layer["class_name"], layer["config"] = "LeakyReLU", {"name": layer["name"], "negative_slope": 0.3}


def rename_layers(model: Json) -> None:
    for layer in model["config"]["layers"]:
        layer["name"] = layer["config"]["name"] = f"my_{layer['name']}"
        nodes = json.dumps(layer["inbound_nodes"])
        layer["inbound_nodes"] = json.loads(nodes.replace('"keras_history": ["', '"keras_history": ["my_'))
    for end in ("input_layers", "output_layers"):
        model["config"][end][0] = f"my_{model['config'][end][0]}"


def freeze(model: Json) -> None:
    for layer in model["config"]["layers"]:
        if "trainable" in layer["config"]:
            layer["config"]["trainable"] = False


EQUAL: dict[str, tuple[Callable[[Json], None] | None, dict[str, Any]]] = {
    "as it is": (None, {}),
    "epsilon 0.1": (each("BatchNormalization", epsilon=0.1), {"norm_epsilon": 0.1}),
    "momentum 0.5": (each("BatchNormalization", momentum=0.5), {"norm_momentum": 0.5}),
    "sigmoid gates": (each("ConvLSTM2D", recurrent_activation="sigmoid"), {"gate": "sigmoid"}),
    "no dropout": (each("SpatialDropout3D", rate=0.0), {"dropout": 0.0}),
    "other names": (rename_layers, {}),
    "frozen layers": (freeze, {}),
}
REFUSED: dict[str, tuple[Callable[[Json], None], str]] = {
    "Keras 3 hard sigmoid": (each("ConvLSTM2D", recurrent_activation="hard_sigmoid"), "relu6(x + 3) / 6"),
    "gates of tanh": (each("ConvLSTM2D", recurrent_activation="tanh"), "recurrent_activation is tanh"),
    "ConvLSTM with relu": (each("ConvLSTM2D", activation="relu"), "conv_lstm2d (ConvLSTM2D): activation is relu"),
    "ConvLSTM backwards": (each("ConvLSTM2D", go_backwards=True), "go_backwards is True"),
    "ConvLSTM without bias": (each("ConvLSTM2D", use_bias=False), "use_bias is False"),
    "ConvLSTM, valid": (each("ConvLSTM2D", padding="valid"), "padding is valid"),
    "ConvLSTM, stride 2": (each("ConvLSTM2D", strides=[2, 2]), "strides is [2, 2]"),
    "ConvLSTM, dilation 2": (each("ConvLSTM2D", dilation_rate=[2, 2]), "dilation_rate is [2, 2]"),
    "ConvLSTM, last slice": (each("ConvLSTM2D", return_sequences=False), "return_sequences is False"),
    "channels first": (each("Conv3D", data_format="channels_first"), "data_format is channels_first"),
    "no BN centre": (each("BatchNormalization", center=False), "center is False"),
    "no BN scale": (each("BatchNormalization", scale=False), "scale is False"),
    "BN axis 1": (each("BatchNormalization", axis=1), "axis is 1"),
    "BN renorm": (each("BatchNormalization", renorm=True), "renorm is True"),
    "LeakyReLU": (replace_activation, "layer activation is a LeakyReLU"),
    "elu": (each("Activation", activation="elu"), "activation is elu"),
    "convolution with relu": (each("Conv3D", activation="relu"), "conv3d (Conv3D): is connected in another way"),
    "no sigmoid": (each("Conv3D", activation="linear"), "or has no sigmoid"),
    "convolution, stride 2": (each("Conv3D", strides=[2, 2, 2]), "strides is [2, 2, 2]"),
    "grouped convolution": (each("Conv3D", groups=2), "groups is 2"),
    "other pooling": (each("MaxPooling3D", pool_size=[2, 2, 2]), "pool_size is [2, 2, 2]"),
    "upsampling by 3": (each("Conv2DTranspose", strides=[3, 3]), "strides is [3, 3]"),
    "half precision": (each("Conv3D", dtype="mixed_float16"), "dtype is mixed_float16"),
    "norm after activation": (swap, "activation (Activation): is connected in another way"),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Json]:
    """The network with random weights, as Keras saves it, and its JSON."""
    path = tmp_path_factory.mktemp("keras") / "base.keras"
    with keras_rules(), zero_initial_weights():
        keras.utils.clear_session(free_memory=False)  # the messages name `conv3d`, not `conv3d_40`
        model = recurrent_dense_unet(16, 16, 8, **SIZES)
        model.set_weights(random_weights(model, 1.0))
        model.save(path)
    return path, json.loads(zipfile.ZipFile(path).read("config.json"))


def with_json(base: Path, path: Path, model: Json) -> Path:
    """The same file with another JSON."""
    with zipfile.ZipFile(base) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, json.dumps(model) if name == "config.json" else old.read(name))
    return path


def changed(model: Json, change: Callable[[Json], None] | None) -> Json:
    model = json.loads(json.dumps(model))
    if change is not None:
        change(model)
    return model


def error_of(theirs: keras.Model, path: Path, config=CONFIG) -> tuple[Any, float]:
    """The config of a file, and the largest difference in probability between the imported network and Keras'."""
    config, variables = load_keras_weights(path, config)
    x = np.random.default_rng(1).uniform(size=(1, 8, 16, 16, 1)).astype(np.float32)
    ours = jax.nn.sigmoid(jax.jit(create_model(config).apply)(variables, x))
    with keras_rules():
        expected = theirs.predict(to_keras_axes(x), verbose=0)
    assert expected.std() > 0.05  # not constant, where any two networks agree
    return config, float(np.abs(to_keras_axes(ours) - expected).max())


@pytest.mark.parametrize("name", EQUAL)
def test_imported(name: str, base: tuple[Path, Json], tmp_path: Path) -> None:
    change, settings = EQUAL[name]
    path = with_json(base[0], tmp_path / "network.keras", changed(base[1], change))
    with keras_rules(), zero_initial_weights():
        theirs = keras.saving.load_model(path)
        theirs.save(tmp_path / "again.keras")  # and Keras takes the file for one of its own
    config, error = error_of(theirs, tmp_path / "again.keras")
    print(f"| {name} | imported, {error:.0e} |")
    assert config == replace(CONFIG, **settings)
    assert error <= TOLERANCE


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, base: tuple[Path, Json], tmp_path: Path) -> None:
    change, says = REFUSED[name]
    path = with_json(base[0], tmp_path / "network.keras", changed(base[1], change))
    with pytest.raises(RunError) as error:
        load_keras_weights(path, CONFIG)
    message = str(error.value).removeprefix(f"{path}: ")
    print(f"| {name} | refused: {message} |")
    assert says in message and "\n" not in message


def test_settings_that_differ_between_layers_are_refused(base: tuple[Path, Json], tmp_path: Path) -> None:
    model = changed(base[1], None)
    model["config"]["layers"][2]["config"]["epsilon"] = 0.1
    with pytest.raises(RunError, match=r"norm_epsilon is 0\.1 in layer batch_normalization and 0\.001 in layer"):
        load_keras_weights(with_json(base[0], tmp_path / "network.keras", model), CONFIG)


def test_other_filters(tmp_path: Path) -> None:
    sizes = {"widths": (4, 2), "recurrent_width": 3, "recurrent_layers": 1}
    with keras_rules(), zero_initial_weights():
        theirs = recurrent_dense_unet(16, 16, 8, **sizes)
        theirs.set_weights(random_weights(theirs, 1.0))
        theirs.save(tmp_path / "network.keras")
    with pytest.raises(RunError, match=r"it looks like widths \(4, 2\), recurrent layers of \[3\]"):
        load_keras_weights(tmp_path / "network.keras", CONFIG)
    _, error = error_of(theirs, tmp_path / "network.keras", model_config("keras", **sizes))
    print(f"| other filters | imported with their sizes, {error:.0e} |")
    assert error <= TOLERANCE


def test_a_nested_model_is_refused_by_name(base: tuple[Path, Json], tmp_path: Path) -> None:
    with keras_rules(), zero_initial_weights():
        inner = keras.saving.load_model(base[0])
        outer = keras.Sequential([keras.Input((16, 16, 8, 1)), inner])
        outer.save(tmp_path / "nested.keras")
        outer.save_weights(tmp_path / "nested.weights.h5")
        outer.save(tmp_path / "nested.h5")
    for name, gate in (("nested.keras", None), ("nested.h5", None), ("nested.weights.h5", "hard_sigmoid")):
        with pytest.raises(RunError, match=r"layer functional\w* is a model inside the model: save that") as error:
            load_keras_weights(tmp_path / name, CONFIG, gate)
        print(f"| {name} | refused: {str(error.value).split(': ', 1)[1]} |")


def test_the_state_of_an_optimizer_is_left_out(base: tuple[Path, Json], tmp_path: Path) -> None:
    with keras_rules(), zero_initial_weights():
        theirs = keras.saving.load_model(base[0])
        theirs.compile(keras.optimizers.Adam(), "binary_crossentropy")
        theirs.optimizer.build(theirs.trainable_variables)
        theirs.save(tmp_path / "trained.keras")
        theirs.save(tmp_path / "trained.h5")
    for name in ("trained.keras", "trained.h5"):
        _, error = error_of(theirs, tmp_path / name)
        print(f"| optimizer state, {name.split('.')[1]} of Keras 3 | imported, {error:.0e} |")
        assert error <= TOLERANCE


@pytest.mark.parametrize("gate", ["hard_sigmoid", "sigmoid"])
def test_keras_2_file_of_a_whole_model(gate: str, base: tuple[Path, Json], tmp_path: Path) -> None:
    """Keras 2's own `hard_sigmoid` has the name alone, and its layers name their inputs in lists."""
    own = "hard_sigmoid" if gate == "hard_sigmoid" else "sigmoid"
    with keras_rules(), zero_initial_weights():
        model = changed(base[1], None if gate == "hard_sigmoid" else each("ConvLSTM2D", recurrent_activation="sigmoid"))
        theirs = keras.saving.load_model(with_json(base[0], tmp_path / "network.keras", model))
        theirs.save(tmp_path / "keras2.h5")
    each("ConvLSTM2D", recurrent_activation=own)(model)
    for layer in model["config"]["layers"]:
        histories = [part.split('"')[1] for part in json.dumps(layer["inbound_nodes"]).split('"keras_history": [')[1:]]
        layer["inbound_nodes"] = [[[name, 0, 0, {}] for name in histories]] if histories else []
        layer["config"]["dtype"] = "float32"
    model["config"]["output_layers"] = [model["config"]["output_layers"]]
    model["class_name"] = "Model"
    with h5py.File(tmp_path / "keras2.h5", "a") as file:
        file.attrs["keras_version"], file.attrs["model_config"] = b"2.1.4", json.dumps(model).encode()
        file["model_weights"].attrs["keras_version"] = b"2.1.4"
    config, error = error_of(theirs, tmp_path / "keras2.h5")
    print(f"| Keras 2 file, {gate} | imported, {error:.0e} |")
    assert config.gate == gate and error <= TOLERANCE
