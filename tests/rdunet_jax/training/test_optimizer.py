"""Adam against Keras' own, from rest and for gradients so small that epsilon counts."""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytest

from rdunet_jax.config import TrainConfig
from rdunet_jax.training.optimizer import learning_rate, make_optimizer

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


@pytest.mark.usefixtures("optax_promotion")
def test_the_cosine_schedule_falls_to_0_at_the_last_update() -> None:
    config = TrainConfig(schedule="cosine", learning_rate=1e-3, epochs=5, steps_per_epoch=8, accumulate=2)
    rates = [float(learning_rate(config, update)) for update in range(22)]
    expected = [1e-3 * (1 + np.cos(np.pi * min(update / 20, 1))) / 2 for update in range(22)]
    np.testing.assert_allclose(rates, expected, atol=1e-10)  # float32 of numbers up to 1e-3
    shorter = TrainConfig(schedule="cosine", learning_rate=1e-3, epochs=5, steps_per_epoch=8, steps=10)
    assert float(learning_rate(shorter, 5)) == pytest.approx(5e-4, rel=1e-6)

    # Adam moves a weight with a constant gradient by the rate, but for epsilon.
    shorter = TrainConfig(schedule="cosine", learning_rate=1e-3, epochs=1, steps_per_epoch=4)
    adam, weight = make_optimizer(shorter), jnp.ones(1)
    state, moved = adam.init(weight), []
    for _ in range(5):
        updates, state = adam.update(jnp.ones(1), state, weight)
        moved.append(-float(np.asarray(updates)[0]))
    np.testing.assert_allclose(moved, [1e-3, 0.85355339e-3, 0.5e-3, 0.14644661e-3, 0], rtol=1e-4, atol=1e-9)


def test_a_cosine_needs_the_length_of_an_epoch() -> None:
    with pytest.raises(ValueError, match="steps per epoch"):
        learning_rate(TrainConfig(schedule="cosine"), 3)
