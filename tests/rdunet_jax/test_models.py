"""The named networks: sizes as published, shapes as in Table 1, and a gradient through every parameter."""

import json
from dataclasses import asdict

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdunet_jax.config import ModelConfig
from rdunet_jax.models import MODELS, create_model, model_config


def shapes(name: str, size: int = 256):
    model = create_model(name)
    return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, size, size, 1))))


def test_keras_network_has_the_published_number_of_parameters():
    variables = shapes("keras")  # Keras counts the running statistics of batch normalisation too
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == 19_100_161


def test_paper_network_has_the_shapes_of_table_1():
    model = create_model("paper")
    x = jnp.zeros((1, 8, 256, 256, 1))
    variables = shapes("paper")
    _, state = jax.eval_shape(
        lambda variables: model.apply(variables, x, capture_intermediates=True, mutable="intermediates"), variables
    )
    stages = {name: stage["__call__"][0] for name, stage in state["intermediates"].items() if name != "__call__"}
    stages = {name: output.shape[1:] for name, output in stages.items()}
    assert stages == {
        "encoder_1": (8, 256, 256, 32),
        "pool_1": (8, 128, 128, 32),
        "encoder_2": (8, 128, 128, 64),
        "pool_2": (8, 64, 64, 64),
        "encoder_3": (8, 64, 64, 128),
        "pool_3": (8, 32, 32, 128),
        "bottleneck": (8, 32, 32, 256),
        "decoder_3": (8, 32, 32, 128),
        "upsample_3": (8, 64, 64, 128),
        "decoder_2": (8, 64, 64, 64),
        "upsample_2": (8, 128, 128, 64),
        "decoder_1": (8, 128, 128, 32),
        "upsample_1": (8, 256, 256, 32),
        "logits": (8, 256, 256, 1),
    }


@pytest.mark.parametrize("name", list(MODELS))
def test_config_survives_json(name):
    assert ModelConfig(**json.loads(json.dumps(asdict(MODELS[name])))) == MODELS[name]


def test_train_step_reaches_every_parameter():
    model = create_model(model_config("tiny", widths=(4, 8, 8), recurrent_width=8))
    x = jax.random.uniform(jax.random.key(0), (2, 8, 32, 48, 1))
    variables = jax.jit(model.init)(jax.random.key(1), x)

    @jax.jit
    @jax.grad
    def gradient(params):
        logits, _ = model.apply(
            {**variables, "params": params}, x, train=True, rngs={"dropout": jax.random.key(2)}, mutable=["batch_stats"]
        )
        return jnp.mean(logits**2)

    for path, g in jax.tree.leaves_with_path(gradient(variables["params"])):
        assert np.all(np.isfinite(g)) and np.any(g != 0), jax.tree_util.keystr(path)


def test_unknown_names_and_sizes_are_refused():
    with pytest.raises(ValueError, match="keras, paper"):
        create_model("unet")
    with pytest.raises(ValueError, match="divisible by 8"):
        create_model("tiny").init(jax.random.key(0), jnp.zeros((1, 8, 20, 32, 1)))
