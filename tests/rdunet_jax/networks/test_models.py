"""The named networks and their variants: published sizes, Table 1's shapes, and training at small sizes."""

import json
from dataclasses import asdict

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from data_pipeline.preprocessing.intensity import normalise
from rdunet_jax.config import ModelConfig
from rdunet_jax.errors import RunError
from rdunet_jax.inference.sliding_window import network_predictor
from rdunet_jax.networks.convolution import Conv3D
from rdunet_jax.networks.keras_weights import network_layers
from rdunet_jax.networks.layers import ModuleDef
from rdunet_jax.networks.models import MODELS, create_model, model_config, split_windows
from rdunet_jax.networks.summary import summarise

SMALL_UNET = {"widths": (4, 4), "recurrent_width": 4, "recurrent_layers": 1}
SMALL_LUNGNET = {"widths": (4, 4), "dilations": (1, 3)}


def small(name: str, **overrides) -> ModelConfig:
    """The named network with two levels of few features."""
    config = MODELS[name]
    if config.architecture == "lungnet":
        fusion = (4, 4) if config.fusion_widths else ()
        return model_config(name, **SMALL_LUNGNET, fusion_widths=fusion, **overrides)
    return model_config(name, **(SMALL_UNET | overrides))


def test_keras_network_has_the_published_number_of_parameters():
    assert summarise(MODELS["keras"]).parameters == 19_100_161


def test_paper_network_has_the_shapes_of_table_1():
    summary = summarise(MODELS["paper"])
    assert list(summary.stages.items()) == [
        ("encoder_1", (8, 256, 256, 32)),
        ("pool_1", (8, 128, 128, 32)),
        ("encoder_2", (8, 128, 128, 64)),
        ("pool_2", (8, 64, 64, 64)),
        ("encoder_3", (8, 64, 64, 128)),
        ("pool_3", (8, 32, 32, 128)),
        ("bottleneck", (8, 32, 32, 256)),
        ("decoder_3", (8, 32, 32, 128)),
        ("upsample_3", (8, 64, 64, 128)),
        ("decoder_2", (8, 64, 64, 64)),
        ("upsample_2", (8, 128, 128, 64)),
        ("decoder_1", (8, 128, 128, 32)),
        ("upsample_1", (8, 256, 256, 32)),
        ("logits", (8, 256, 256, 1)),
    ]


def test_windows_are_channels_of_the_network():
    hounsfield = np.array([-1024, -1000, -160, -60, 40, 240, 400, 3000], np.int16).reshape(1, 1, 1, -1)
    x = jnp.asarray(normalise(hounsfield, "hu_window"))[..., jnp.newaxis]
    found = np.asarray(split_windows(x, ("soft_tissue", "lung")))
    soft = [0, 0, 0, 0.25, 0.5, 1, 1, 1]
    lung = [0, 0, 0.6, 940 / 1400, 1040 / 1400, 1240 / 1400, 1, 1]
    # float32 sums of numbers up to 1000, divided by 400
    np.testing.assert_allclose(found[0, 0, 0], np.stack([soft, lung], -1), atol=1e-6)
    assert split_windows(x, ()) is x
    config = small("keras", hu_windows=("lung", "soft_tissue"))
    kernel = create_model(config).init(jax.random.key(0), jnp.zeros((1, 1, 16, 16, 1)))["params"]["encoder_1"]
    assert {leaf.shape[3] for leaf in jax.tree.leaves(kernel) if leaf.ndim == 5} == {2, 6}
    with pytest.raises(RunError, match="hu_windows=lung soft_tissue"):
        network_layers(config)
    with pytest.raises(RunError, match="one input channel"):
        small("2d-lungnet", hu_windows=("lung",))


@pytest.mark.parametrize(("side", "w", "r"), [(16, 2, 3), (32, 16, 17)])  # a CPU runs the second by Winograd
def test_arithmetic_is_counted_as_by_hand(side: int, w: int, r: int):
    config = model_config("paper", widths=(w,), recurrent_width=r, recurrent_layers=1)
    voxels = 8 * side * side
    encoder = 27 * voxels * (1 * w + (1 + w) * w)
    bottleneck = 9 * voxels / 4 * (w + r) * 4 * r  # both convolutions of the ConvLSTM, into four gates
    decoder = 27 * voxels / 4 * (r * w + (r + w) * w)
    logits = voxels * (w + w)
    expected = 2 * (encoder + bottleneck + decoder + logits) / 1e9
    np.testing.assert_allclose(summarise(config, side, side).gflops, expected)
    np.testing.assert_allclose(summarise(config, side, side, batch=2).gflops, 2 * expected)


@pytest.mark.slow
def test_rematerialisation_keeps_less():
    assert (
        summarise(model_config("keras", remat=True), 64, 64).activation_mb
        < 0.5 * summarise(MODELS["keras"], 64, 64).activation_mb
    )


@pytest.mark.parametrize("name", list(MODELS))
def test_config_survives_json(name):
    assert ModelConfig(**json.loads(json.dumps(asdict(MODELS[name])))) == MODELS[name]


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=() if one in ("keras", "paper", "tiny") else pytest.mark.slow) for one in MODELS]
)
def test_network_trains_a_step(name, optax_promotion):
    """Batches of 3, five slices (an odd number to pool), not square."""
    model = create_model(small(name))
    x = jax.random.uniform(jax.random.key(0), (3, 5, 96, 128, 1))
    targets = (x > 0.9).astype(jnp.float32)
    variables = initial(model, x)

    def step(variables, x, key):
        def loss_of(params):
            logits, updates = model.apply(
                variables | {"params": params}, x, train=True, rngs={"dropout": key}, mutable=["batch_stats"]
            )
            assert logits.shape == x.shape and logits.dtype == jnp.float32
            return optax.sigmoid_binary_cross_entropy(logits, targets).mean(), updates

        (loss, updates), gradients = jax.value_and_grad(loss_of, has_aux=True)(variables["params"])
        return loss, updates, gradients

    loss, updates, gradients = jax.jit(step)(variables, x, jax.random.key(1))
    assert np.isfinite(loss)
    for path, g in jax.tree.leaves_with_path(gradients):
        assert np.all(np.isfinite(g)) and np.any(g != 0), jax.tree_util.keystr(path)
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), variables["batch_stats"], updates["batch_stats"])
    assert all(jax.tree.leaves(moved))


@pytest.mark.parametrize("name", list(MODELS))
def test_network_predicts_in_bfloat16(name):
    """A batch of 1, eight slices."""
    x = jax.random.uniform(jax.random.key(0), (1, 8, 96, 128, 1))
    variables = initial(create_model(small(name)), x)
    logits = jax.jit(create_model(small(name, dtype="bfloat16")).apply)(variables, x)
    assert logits.dtype == jnp.float32 and np.all(np.isfinite(logits))
    if name in ("keras", "3d-unet", "3d-lungnet"):  # one of each kind
        exact = jax.jit(create_model(small(name)).apply)(variables, x)
        # bfloat16 keeps 8 bits; over some ten layers errors of 2^-8 grow to a few per cent of the logits' spread.
        assert 0 < np.sqrt(np.mean((exact - logits) ** 2)) < 0.05 * exact.std()


@pytest.mark.parametrize("name", list(MODELS))
def test_network_serves_the_evaluator(name):
    """Which maps it over a batch of windows; shapes alone."""
    model = create_model(small(name))
    windows = jax.ShapeDtypeStruct((3, 8, 96, 128), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 96, 128, 1)))
    predict = jax.vmap(network_predictor(model, lambda window: window), in_axes=(None, 0))
    assert jax.eval_shape(predict, variables, windows).shape == windows.shape


def initial(model, x):
    """Variables of a small network, drawn by NumPy: compiling JAX's draws takes longer than all the rest."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        name = path[-1].key
        if name in ("scale", "var"):
            return np.ones(leaf.shape, np.float32)
        scale = np.sqrt(1 / np.prod(leaf.shape[:-1])) if "kernel" in name else 0.1
        return rng.normal(0, scale, leaf.shape).astype(np.float32)

    return jax.tree.map_with_path(draw, jax.eval_shape(model.init, jax.random.key(0), x))


@pytest.mark.parametrize(
    "fields",
    [
        {"bottleneck": "bidirectional", "recurrent_layers": 2},
        {"bottleneck": "convgru"},
        {"bottleneck": "block"},
        {"bottleneck": "none"},
        {"pooling": "spatio-temporal"},
        {"pooling": "spatio-temporal", "upsampling": "nearest", "decoder": "block-first"},
        {"norm": "group", "norm_groups": 2},
        {"dense": False, "block_output": "last"},
        {"dropout_after": "convolution"},
        {"remat": True, "dtype": "bfloat16"},
        {"widths": (4, 4, 4), "whole_skips": 2, "gate": "sigmoid"},
        {"kernel_depth": 1, "recurrent_norm": False},
    ],
    ids=str,
)
def test_variants_differentiate(fields):
    """Shapes alone: tracing runs all of the Python there is."""
    model = create_model(small("keras", **fields))
    x = jax.ShapeDtypeStruct((2, 5, 32, 48, 1), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}

    def loss(variables, x):
        logits, _ = model.apply(variables, x, train=True, rngs={"dropout": jax.random.key(1)}, mutable=["batch_stats"])
        return logits.mean()

    gradients = jax.eval_shape(jax.grad(loss), variables, x)
    assert jax.tree.map(jnp.shape, gradients) == jax.tree.map(jnp.shape, variables)


def test_rematerialisation_changes_no_gradient():
    x = jax.random.uniform(jax.random.key(0), (1, 2, 8, 8, 1))

    def gradients(remat):
        model = create_model(small("keras", widths=(4,), bottleneck="none", dropout=0.0, remat=remat))
        variables = initial(model, x)

        def loss(params):
            return (model.apply(variables | {"params": params}, x, train=True, mutable="batch_stats")[0] ** 2).sum()

        return jax.jit(jax.grad(loss))(variables["params"])

    # The same sums, in another order.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), gradients(True), gradients(False))


class Bottleneck(nn.Module):
    features: int
    norm: object
    dtype: object

    @nn.compact
    def __call__(self, x):
        return Conv3D(self.features + 1, name="mine")(x)


class Block(nn.Module):
    features: int
    norm: ModuleDef
    dropout: object
    dtype: object

    @nn.compact
    def __call__(self, x):
        return self.norm(name="norm")(Conv3D(self.features, name="mine")(x))


def test_own_block_and_bottleneck():
    model = create_model(small("keras"), block=Block, bottleneck=Bottleneck)
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 5, 32, 32, 1)))["params"]
    assert params["bottleneck"]["mine"]["bias"].shape == (5,)
    assert set(params["encoder_1"]) == set(params["decoder_2"]) == {"mine", "norm"}
    with pytest.raises(ValueError, match="no block"):
        create_model("2d-lungnet", block=Block)


def test_two_dimensional_networks_keep_slices_apart():
    for name in ("2d-unet", "2d-lungnet"):
        model = create_model(small(name))
        x = jax.random.uniform(jax.random.key(0), (1, 3, 16, 16, 1))
        variables = initial(model, x)
        changed = x.at[:, 2].add(1.0)
        y, y_changed = (jax.jit(model.apply)(variables, x) for x in (x, changed))
        np.testing.assert_array_equal(y[:, :2], y_changed[:, :2])
        assert not np.array_equal(y[:, 2], y_changed[:, 2])


def test_unknown_names_and_sizes_are_refused():
    with pytest.raises(ValueError, match="keras, paper"):
        create_model("unet")
    with pytest.raises(ValueError, match="multiple of 8"):
        create_model("tiny").init(jax.random.key(0), jnp.zeros((1, 8, 20, 32, 1)))
