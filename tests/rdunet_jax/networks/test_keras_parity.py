"""The `keras` network against the Keras baseline with the same weights, all of them random."""

from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytest

from experiments.keras_baseline.network import recurrent_dense_unet, zero_initial_weights
from rdunet_jax.config import Gate, TrainConfig
from rdunet_jax.networks import convolution
from rdunet_jax.networks.keras_files import KerasLayer
from rdunet_jax.networks.keras_weights import from_keras, to_keras
from rdunet_jax.networks.models import create_model, model_config
from rdunet_jax.networks.winograd import convolve_winograd
from rdunet_jax.training.losses import binary_cross_entropy
from rdunet_jax.training.step import create_state, train_step

SMALL = {"widths": (2, 3), "recurrent_width": 4, "recurrent_layers": 2}


@contextmanager
def keras_rules():
    """JAX's lenient promotion, which Keras counts on."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def random_weights(model: keras.Model, logit_scale: float) -> list[np.ndarray]:
    """Weights of a trained network's size: activations neither vanish nor saturate, and no statistic is a default."""
    rng = np.random.default_rng(0)
    weights = []
    for variable in model.weights:
        shape, name = variable.shape, variable.path.rsplit("/", 1)[-1]
        if name in ("gamma", "moving_variance"):
            value = rng.uniform(0.5, 1.5, shape)
        elif name in ("kernel", "recurrent_kernel"):
            value = rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape)
            if shape[-1] == 1:
                value *= logit_scale
        else:
            value = rng.normal(0, 0.3, shape)
        weights.append(value.astype(np.float32))
    return weights


def flax_variables(weights: list[np.ndarray], config):
    """The list as Flax variables: each layer of the network takes as many as it has."""
    empty = to_keras(jax.tree.map(np.zeros_like, _shapes(config)), config)
    iterator = iter(weights)
    layers = [KerasLayer(layer.name, layer.kind, tuple(next(iterator) for _ in layer.weights)) for layer in empty]
    assert next(iterator, None) is None
    return from_keras(layers, config)


def _shapes(config):
    x = jnp.zeros((1, 8, 16, 16, 1))
    shapes = jax.eval_shape(create_model(config).init, jax.random.key(0), x)
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


def to_keras_axes(x):
    return np.asarray(x).transpose(0, 2, 3, 1, 4)


def pair(size: int, gate: Gate, depth: int, logit_scale: float = 1.0, **sizes):
    config = model_config("keras", gate=gate, dropout=0.0, **sizes)
    with keras_rules(), zero_initial_weights():
        theirs: Any = recurrent_dense_unet(size, size, depth, gate=gate, dropout=0.0, **sizes)
        weights = random_weights(theirs, logit_scale)
        theirs.set_weights(weights)
    return create_model(config), flax_variables(weights, config), theirs, config


def inference_error(size: int, gate: Gate, depth: int = 8, **sizes) -> float:
    ours, variables, theirs, _ = pair(size, gate, depth, **sizes)
    x = np.random.default_rng(1).uniform(size=(1, depth, size, size, 1)).astype(np.float32)
    probabilities = jax.nn.sigmoid(jax.jit(ours.apply)(variables, x))
    with keras_rules():
        expected = theirs.predict(to_keras_axes(x), verbose=0)
    assert 0.05 < expected.std() < 0.45  # neither constant nor saturated, where any two networks agree
    return float(np.abs(to_keras_axes(probabilities) - expected).max())


def test_same_number_of_parameters_as_published():
    with keras_rules(), zero_initial_weights():
        assert recurrent_dense_unet().count_params() == 19_100_161


@pytest.mark.parametrize("gate", ["hard_sigmoid", "sigmoid"])
def test_probabilities_agree(gate):
    assert inference_error(16, gate, depth=4, **SMALL) < 1e-6  # a few units in the last place of numbers below 1


@pytest.mark.slow
@pytest.mark.full_size
@pytest.mark.parametrize("gate", ["hard_sigmoid", "sigmoid"])
def test_probabilities_agree_at_full_size(gate):
    # Sums of up to 13000 products through 27 layers, in another order than Keras'.
    assert inference_error(256, gate) < 1e-5


@pytest.mark.slow
def test_training_agrees(optax_promotion):
    # Small logits: Keras' loss takes the logarithm of 1 - p, whose digits are few where p is near 1.
    ours, variables, theirs, config = pair(
        16, "hard_sigmoid", depth=4, logit_scale=0.3, **(SMALL | {"recurrent_layers": 1})
    )
    rng = np.random.default_rng(2)
    x = rng.uniform(size=(2, 4, 16, 16, 1)).astype(np.float32)
    y = (rng.uniform(size=x.shape) < 0.3).astype(np.float32)

    def loss_of(params):
        variables_now = {**variables, "params": params}
        logits, updates = ours.apply(variables_now, jnp.asarray(x), train=True, mutable=["batch_stats"])
        return binary_cross_entropy(logits, jnp.asarray(y)), updates["batch_stats"]

    (loss, batch_stats), gradients = jax.jit(jax.value_and_grad(loss_of, has_aux=True))(variables["params"])

    with keras_rules():
        trainable = [v.value for v in theirs.trainable_variables]
        statistics = [v.value for v in theirs.non_trainable_variables]

        def keras_loss(trainable):
            p, statistics_after = theirs.stateless_call(trainable, statistics, to_keras_axes(x), training=True)
            return keras.losses.BinaryCrossentropy()(to_keras_axes(y), p), statistics_after

        (expected, statistics_after), expected_gradients = jax.jit(jax.value_and_grad(keras_loss, has_aux=True))(
            trainable
        )

        # Optimisers on their way: at rest, a gradient that is zero but for rounding would decide its step's sign.
        first = [rng.normal(0, 1e-2, v.shape).astype(np.float32) for v in theirs.trainable_variables]
        second = [rng.uniform(1e-4, 1e-3, v.shape).astype(np.float32) for v in theirs.trainable_variables]
        optimizer = keras.optimizers.Adam(1e-4, beta_1=0.9, beta_2=0.999, epsilon=1e-8)
        optimizer.build(theirs.trainable_variables)
        for variable in optimizer.variables:
            if variable.path.endswith("iteration"):
                variable.assign(9)
        for ours_first, ours_second, m, v in zip(
            first, second, optimizer._momentums, optimizer._velocities, strict=True
        ):
            m.assign(ours_first)
            v.assign(ours_second)
        stepped, _ = optimizer.stateless_apply([v.value for v in optimizer.variables], expected_gradients, trainable)

    def as_flax(trainable_values, statistics_values=statistics):
        """Keras' trainable values (and statistics) in model.weights' order, then as Flax variables."""
        values = {v.path: a for v, a in zip(theirs.trainable_variables, trainable_values, strict=True)}
        values |= {v.path: a for v, a in zip(theirs.non_trainable_variables, statistics_values, strict=True)}
        return flax_variables([np.asarray(values[v.path]) for v in theirs.weights], config)

    assert abs(float(loss) - float(expected)) < 1e-6

    for (path, ours_g), theirs_g in zip(
        jax.tree.leaves_with_path(gradients), jax.tree.leaves(as_flax(expected_gradients)["params"]), strict=True
    ):
        # The gradient of a bias ahead of batch normalisation is zero but for rounding: 1e-7 of the largest gradient.
        scale = max(float(np.abs(theirs_g).max()), 1e-4)
        assert np.abs(ours_g - theirs_g).max() < 1e-3 * scale, jax.tree_util.keystr(path)

    expected_stats = as_flax(trainable, statistics_after)["batch_stats"]
    for ours_s, theirs_s in zip(jax.tree.leaves(batch_stats), jax.tree.leaves(expected_stats), strict=True):
        np.testing.assert_allclose(ours_s, theirs_s, atol=1e-5)

    adam = optax.adam(1e-4, b1=0.9, b2=0.999, eps=1e-8)
    moments = optax.ScaleByAdamState(
        count=jnp.array(9, jnp.int32), mu=as_flax(first)["params"], nu=as_flax(second)["params"]
    )
    updates, _ = adam.update(gradients, (moments, optax.EmptyState()), variables["params"])
    after = optax.apply_updates(variables["params"], updates)
    for ours_p, theirs_p in zip(jax.tree.leaves(after), jax.tree.leaves(as_flax(stepped)["params"]), strict=True):
        np.testing.assert_allclose(ours_p, theirs_p, atol=1e-6)


@pytest.mark.slow
def test_training_agrees_where_the_fast_convolution_runs(optax_promotion, monkeypatch):
    """Gradients and five steps of the real training step and optimizer; Keras runs XLA's own convolution."""
    used = set()

    def record(x, kernel):
        used.add(kernel.shape)
        return convolve_winograd(x, kernel)

    monkeypatch.setattr(convolution, "convolve_winograd", record)  # called whenever a network is traced
    size, sizes = 32, {"widths": (16,), "recurrent_width": 16, "recurrent_layers": 1}
    ours, variables, theirs, network = pair(size, "hard_sigmoid", depth=4, logit_scale=0.3, **sizes)
    rng = np.random.default_rng(3)
    x = rng.uniform(size=(2, 4, size, size, 1)).astype(np.float32)
    y = (rng.uniform(size=x.shape) < 0.3).astype(np.float32)

    def loss_of(params):
        logits, _ = ours.apply({**variables, "params": params}, jnp.asarray(x), train=True, mutable=["batch_stats"])
        return binary_cross_entropy(logits, jnp.asarray(y))

    gradients = jax.jit(jax.grad(loss_of))(variables["params"])
    recipe = TrainConfig()
    state = create_state(ours, recipe, (4, size, size)).replace(**variables)
    losses = []
    for _ in range(5):
        state, metrics = train_step(
            state, {"image": jnp.asarray(x), "mask": jnp.asarray(y)}, recipe, lambda image: image
        )
        losses.append(float(metrics["loss"]))
    probabilities = jax.nn.sigmoid(jax.jit(ours.apply)(state.variables, jnp.asarray(x)))
    # conv_2 of a block, both of the decoder's that read its input, and the recurrent layer's of input and of state
    assert {(3, 3, 3, 16, 16), (3, 3, 3, 33, 32), (1, 3, 3, 17, 64), (1, 3, 3, 16, 64)} <= used

    with keras_rules():
        trainable = [v.value for v in theirs.trainable_variables]
        statistics = [v.value for v in theirs.non_trainable_variables]

        def keras_loss(trainable):
            p, _ = theirs.stateless_call(trainable, statistics, to_keras_axes(x), training=True)
            return keras.losses.BinaryCrossentropy()(to_keras_axes(y), p)

        values = {v.path: np.array(v.value) for v in theirs.non_trainable_variables}
        found = jax.jit(jax.grad(keras_loss))(trainable)
        values |= {v.path: np.asarray(g) for v, g in zip(theirs.trainable_variables, found, strict=True)}
        adam = keras.optimizers.Adam(recipe.learning_rate, beta_1=0.9, beta_2=0.999, epsilon=1e-8)
        theirs.compile(optimizer=adam, loss=keras.losses.BinaryCrossentropy())
        expected_losses = [theirs.train_on_batch(to_keras_axes(x), to_keras_axes(y)) for _ in range(5)]
        expected = theirs.predict(to_keras_axes(x), verbose=0)

    expected_gradients = flax_variables([values[v.path] for v in theirs.weights], network)["params"]
    difference = jax.tree.map(lambda a, b: np.asarray(a) - b, gradients, expected_gradients)
    # Winograd's error is some 1e-5 of the largest output.
    assert optax.tree.norm(difference) < 1e-4 * optax.tree.norm(expected_gradients)
    for (path, error), theirs_g in zip(
        jax.tree.leaves_with_path(difference), jax.tree.leaves(expected_gradients), strict=True
    ):
        # Such an error takes some voxels of a layer over the rectifier's kink. Each changes a sum of 2 x 4 x 32 x 32
        # terms of both signs, whose size is that of some hundred of them. The gradient of a bias ahead of a
        # normalisation is 0.
        scale = max(float(np.abs(theirs_g).max()), 1e-4)
        assert np.abs(error).max() < 1e-2 * scale, jax.tree_util.keystr(path)
    assert losses[0] - losses[4] > 1e-3  # five steps are far longer than the tolerances
    np.testing.assert_allclose(losses, expected_losses, atol=1e-6)
    # Adam divides a gradient by its own size: where it is no larger than its rounding error, a step of the whole
    # learning rate (1e-4) goes one way here and the other way there.
    np.testing.assert_allclose(to_keras_axes(probabilities), expected, atol=recipe.learning_rate)
