"""A run as a Keras model: the same probabilities, or one line that says what Keras has not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline.errors import InputError
from experiments.keras_baseline.convert import keras_model
from rdunet_jax.networks.models import create_model, model_config

SMALL = {"widths": (2, 3), "recurrent_width": 4, "recurrent_layers": 1, "patch_depth": 4}


def initial(config):
    with jax.numpy_dtype_promotion("standard"):
        return create_model(config).init(jax.random.key(0), jnp.zeros((1, config.patch_depth, 16, 16, 1)))


@pytest.mark.slow
def test_constants_of_the_normalisation_are_the_runs() -> None:
    config = model_config("keras", norm_epsilon=0.5, norm_momentum=0.9, dropout=0.2, **SMALL)
    variables = initial(config)
    x = np.random.default_rng(0).uniform(size=(1, 4, 16, 16, 1)).astype(np.float32)
    expected = jax.nn.sigmoid(create_model(config).apply(variables, jnp.asarray(x)))
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        model = keras_model(config, 16, variables)
        found = model.predict(x.transpose(0, 2, 3, 1, 4), verbose=0)
    # as in the parity tests: a few units in the last place of numbers below 1
    np.testing.assert_allclose(found.transpose(0, 3, 1, 2, 4), expected, atol=1e-6)
    norms = [layer for layer in model.layers if type(layer).__name__ == "BatchNormalization"]
    assert norms and {layer.momentum for layer in norms} == {0.9}


@pytest.mark.parametrize(
    "changes", [{"dense": False}, {"whole_skips": 2}, {"dropout_after": "convolution"}, {"bottleneck": "convgru"}]
)
def test_what_no_keras_model_has_is_one_line(changes: dict) -> None:
    config = model_config("keras", **SMALL, **changes)
    with pytest.raises(InputError, match=f"differs from `keras` in {next(iter(changes))}, which no Keras model has"):
        keras_model(config, 16, {})
