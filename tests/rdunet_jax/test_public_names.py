"""`import rdunet_jax` is quick, and gives the names a user needs."""

import subprocess
import sys

import rdunet_jax


def test_every_public_name_is_there() -> None:
    assert {"create_model", "model_config", "MODELS", "fit", "train_step", "SlidingWindow"} <= set(rdunet_jax.__all__)
    for name in rdunet_jax.__all__:
        assert getattr(rdunet_jax, name) is not None
    assert rdunet_jax.create_model is __import__("rdunet_jax.networks.models", fromlist=["_"]).create_model


def test_importing_the_package_imports_no_jax() -> None:
    code = "import sys, rdunet_jax, rdunet_jax.config; print('jax' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"
