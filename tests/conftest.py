"""Strict JAX settings for every test, and where the real patients lie."""

import os
import tempfile
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Commands of one test compile the same networks again and again.
_compiled = tempfile.TemporaryDirectory(prefix="rdunet-jax-compiled-")
jax.config.update("jax_compilation_cache_dir", _compiled.name)

REAL_PATIENTS = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def real_patients() -> Path:
    """Folder of the two real NSCLC patients (CC BY-NC, never copied into the repository)."""
    if not (REAL_PATIENTS / "lung1_001").is_dir():
        pytest.skip(f"the real patients are not at {REAL_PATIENTS}: see the README, 'Real patients'")
    return REAL_PATIENTS


@pytest.fixture(autouse=True)
def quick_compilation(request: pytest.FixtureRequest):
    """At the sizes of most tests compiling is all the time; `full_size` ones get the optimised programs."""
    jax.config.update("jax_disable_most_optimizations", "full_size" not in request.keywords)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def optax_promotion():
    """Optax itself mixes integer and float scalars, so what runs its optimizers cannot be strict about dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield
