"""Keras files to Flax variables and back, without and with Keras reading them."""

import subprocess
import sys
from pathlib import Path
from unittest.mock import ANY

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdunet_jax.config import InferenceConfig, TrainConfig
from rdunet_jax.errors import RunError
from rdunet_jax.networks.keras_files import read_keras_file, write_keras_file
from rdunet_jax.networks.keras_weights import from_keras, load_keras_weights, to_keras
from rdunet_jax.networks.models import create_model, model_config
from rdunet_jax.runs.workdir import RunConfig, load_trained
from rdunet_jax.workflows.import_weights import import_weights

SIZES = {"widths": (2, 3), "recurrent_width": 4, "recurrent_layers": 2}
CONFIG = model_config("keras", **SIZES)


def random_variables(config=CONFIG, seed: int = 0):
    shapes = jax.eval_shape(create_model(config).init, jax.random.key(0), jnp.zeros((1, 8, 16, 16, 1)))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.uniform(0.1, 1, leaf.shape).astype(np.float32), shapes)


def assert_bit_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize(
    "config",
    [CONFIG, model_config("paper", **SIZES), model_config("keras", **(SIZES | {"recurrent_norm": False}))],
    ids=["keras", "paper", "no recurrent norm"],
)
def test_there_and_back_is_bit_equal(config):
    variables = random_variables(config)
    layers = to_keras(variables, config)
    assert sum(weight.size for layer in layers for weight in layer.weights) == sum(
        leaf.size for leaf in jax.tree.leaves(variables)
    )
    assert_bit_equal(from_keras(layers, config), variables)


@pytest.mark.parametrize("name", ["network.weights.h5", "network.h5"])
def test_written_files_are_read_again(name, tmp_path):
    variables = random_variables()
    write_keras_file(tmp_path / name, to_keras(variables, CONFIG))
    config, loaded = load_keras_weights(tmp_path / name, CONFIG, "hard_sigmoid")
    assert config == CONFIG
    assert_bit_equal(loaded, variables)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras under NumPy 2
def test_keras_and_we_read_each_others_files(tmp_path):
    from experiments.keras_baseline.network import recurrent_dense_unet, zero_initial_weights

    variables = random_variables()
    weights = [weight for layer in to_keras(variables, CONFIG) for weight in layer.weights]
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"), zero_initial_weights():
        theirs = recurrent_dense_unet(16, 16, 8, **SIZES)
        for name in ("ours.weights.h5", "ours.h5"):
            write_keras_file(tmp_path / name, to_keras(variables, CONFIG))
        theirs.load_weights(tmp_path / "ours.weights.h5")
        for ours, read in zip(weights, theirs.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, read)
        theirs.set_weights([np.zeros_like(weight) for weight in weights])
        theirs.load_weights(tmp_path / "ours.h5")
        for ours, read in zip(weights, theirs.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, read)
        theirs.save(tmp_path / "theirs.keras")
        theirs.save_weights(tmp_path / "theirs.weights.h5")
    for name in ("theirs.keras", "theirs.weights.h5"):
        assert_bit_equal(load_keras_weights(tmp_path / name, CONFIG, "hard_sigmoid")[1], variables)
    assert load_keras_weights(tmp_path / "theirs.keras", CONFIG) == (CONFIG, ANY)


def keras_2_file(path: Path) -> list[np.ndarray]:
    """Weights as `keras==2.1.4` lays them out, from its documentation: layers by name in the attribute `layer_names`,
    each a group with its tensors' paths in `weight_names`.
    """
    rng = np.random.default_rng(1)
    tensors: list[tuple[str, list[tuple[str, tuple[int, ...]]]]] = [("input_1", [])]

    def add(kind, *weights):
        number = 1 + sum(name.startswith(kind) for name, _ in tensors)
        tensors.append((f"{kind}_{number}", [(f"{kind}_{number}/{weight}:0", shape) for weight, shape in weights]))

    def norm(n):
        names = ("gamma", "beta", "moving_mean", "moving_variance")
        add("batch_normalization", *((name, (n,)) for name in names))

    def convolution(channels, n):
        add("conv3d", ("kernel", (3, 3, 3, channels, n)), ("bias", (n,)))
        norm(n)
        add("activation")

    # Channels by hand: level 1 hands on 1 + 2, level 2 3 + 3; skips of 6 (whole) and 2 (last only).
    for channels, n in [(1, 2), (3, 2), (3, 3), (6, 3)]:
        convolution(channels, n)
    for channels in (6, 4):
        add("conv_lst_m2d", ("kernel", (3, 3, channels, 16)), ("recurrent_kernel", (3, 3, 4, 16)), ("bias", (16,)))
        norm(4)
    add("time_distributed", ("kernel", (2, 2, 3, 4)), ("bias", (3,)))
    for channels, n in [(9, 3), (12, 3)]:
        convolution(channels, n)
    add("time_distributed", ("kernel", (2, 2, 2, 12)), ("bias", (2,)))
    for channels, n in [(4, 2), (6, 2)]:
        convolution(channels, n)
    add("conv3d", ("kernel", (1, 1, 1, 6, 1)), ("bias", (1,)))

    values = []
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.array([name.encode() for name, _ in tensors])
        file.attrs["keras_version"] = b"2.1.4"
        for name, weights in tensors:
            group = file.create_group(name)
            group.attrs["weight_names"] = np.array([path.encode() for path, _ in weights])
            for path_, shape in weights:
                values.append(rng.normal(size=shape).astype(np.float32))
                group[path_] = values[-1]
    return values


def test_keras_2_file(tmp_path):
    values = keras_2_file(tmp_path / "weights.h5")
    with pytest.raises(RunError, match="give --gate hard_sigmoid"):
        load_keras_weights(tmp_path / "weights.h5", CONFIG)
    config, variables = load_keras_weights(tmp_path / "weights.h5", CONFIG, "sigmoid")
    assert config.gate == "sigmoid"
    for written, layer in zip(values, [w for la in to_keras(variables, CONFIG) for w in la.weights], strict=True):
        np.testing.assert_array_equal(written, layer)
    # By hand: (height, width, depth) became (depth, height, width).
    first = variables["params"]["encoder_1"]["conv_1"]["kernel"]
    np.testing.assert_array_equal(first[2, 0, 1], values[0][0, 1, 2])


def test_attributes_beyond_hdf5s_limit_are_joined(tmp_path):
    keras_2_file(tmp_path / "weights.h5")
    with h5py.File(tmp_path / "weights.h5", "a") as file:
        names = file.attrs["layer_names"]
        del file.attrs["layer_names"]
        file.attrs["layer_names0"], file.attrs["layer_names1"] = names[:9], names[9:]
    load_keras_weights(tmp_path / "weights.h5", CONFIG, "sigmoid")


def test_wrong_sizes_are_refused_by_name(tmp_path):
    path = tmp_path / "weights.h5"
    keras_2_file(path)
    wide = model_config("keras", **(SIZES | {"widths": (2, 5)}))
    with pytest.raises(RunError) as error:
        load_keras_weights(path, wide, "sigmoid")
    message = str(error.value)
    for part in ("conv3d_3", "(3, 3, 3, 3, 3)", "(3, 3, 3, 3, 5)", "encoder_2/conv_1", "widths (2, 3)", str(path)):
        assert part in message
    with pytest.raises(RunError, match="has 2 conv_lstm2d layers, and network keras has 3"):
        load_keras_weights(path, model_config("keras", widths=(2, 3), recurrent_width=4), "sigmoid")
    with pytest.raises(RunError, match="bottleneck=convgru"):
        load_keras_weights(path, model_config("keras", bottleneck="convgru"), "sigmoid")


def test_unknown_files_are_refused(tmp_path):
    with pytest.raises(RunError, match="there is no such file"):
        read_keras_file(tmp_path / "nothing.h5")
    (tmp_path / "text.keras").write_text("no")
    with pytest.raises(RunError, match="not a Keras file"):
        read_keras_file(tmp_path / "text.keras")
    with pytest.raises(RunError, match=r"weights\.h5"):
        write_keras_file(tmp_path / "network.npz", to_keras(random_variables(), CONFIG))


@pytest.mark.filterwarnings("ignore")  # Orbax's own
def test_imported_weights_are_a_run_to_use(tmp_path):
    variables = random_variables()
    write_keras_file(tmp_path / "network.h5", to_keras(variables, CONFIG))
    run = RunConfig(CONFIG, TrainConfig(), InferenceConfig(), intensity="slice_minmax", image_size=16)
    import_weights(tmp_path / "network.h5", tmp_path / "run", run, "hard_sigmoid")
    trained = load_trained(tmp_path / "run")
    assert_bit_equal(jax.tree.map(np.asarray, trained.variables), variables)
    with pytest.raises(RunError, match="already holds"):
        import_weights(tmp_path / "network.h5", tmp_path / "run", run, "hard_sigmoid")


def test_reading_imports_no_keras():
    script = "import sys, rdunet_jax.networks.keras_weights; assert not {'keras', 'tensorflow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
