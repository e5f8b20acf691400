"""Adam against Keras' own, from rest and for gradients so small that epsilon counts."""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytest

from rdunet_jax.config import TrainConfig
from rdunet_jax.training.optimizer import make_optimizer

GRADIENTS = np.logspace(-9, 0, 10, dtype=np.float32) * np.array([1, -1] * 5, np.float32)
STEPS = 20


def walk(adam: optax.GradientTransformation) -> np.ndarray:
    weights = jnp.zeros(len(GRADIENTS), jnp.float32)
    state = adam.init(weights)
    for step in range(STEPS):
        updates, state = adam.update(jnp.asarray(GRADIENTS * np.float32(1 + step % 3)), state, weights)
        weights = optax.apply_updates(weights, updates)
    return np.asarray(weights)


@pytest.mark.usefixtures("optax_promotion")
def test_adam_is_keras() -> None:
    with jax.numpy_rank_promotion("allow"):  # Keras counts on it
        variable = keras.Variable(np.zeros(len(GRADIENTS), np.float32))
        theirs = keras.optimizers.Adam(1e-4, beta_1=0.9, beta_2=0.999, epsilon=1e-8)
        theirs.build([variable])
        for step in range(STEPS):
            theirs.apply([jnp.asarray(GRADIENTS * np.float32(1 + step % 3))])
    expected = np.asarray(variable.value)
    # float32: 1 - 0.999^t has four digits less than its terms, and ten steps later the sums have lost one more
    np.testing.assert_allclose(walk(make_optimizer(TrainConfig())), expected, rtol=1e-4)
    # Epsilon did count: Optax's rule walks the smallest gradients several times as far.
    assert abs(walk(optax.adam(1e-4, eps=1e-8))[0]) > 2 * abs(expected[0])
