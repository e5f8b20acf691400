"""Strict JAX settings for every test, checked array shapes, and the folder of the real patients."""

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
# At the sizes of most tests compiling is all the time.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"

import jax
import jaxtyping
import pytest
from beartype import BeartypeConf, beartype


def check_arrays(function: Callable) -> Callable:
    """Beartype for the annotations of arrays alone: shapes and dtypes are what pyright cannot see.

    Jaxtyping calls it with a function of its own that has the signature to be checked, so nobody else's annotations
    change here. Constructors are left out: a state of training may hold shapes in place of arrays.
    """
    if function.__qualname__.endswith(".__init__"):
        return function
    hints = function.__annotations__
    function.__annotations__ = {name: hint for name, hint in hints.items() if "jaxtyping" in repr(hint)}
    return beartype(function, conf=BeartypeConf(is_pep484_tower=True))


# Before the packages are first imported. Jaxtyping wants the checker's name and looks it up as a module's attribute.
sys.modules["array_hints"] = sys.modules[__name__]
jaxtyping.install_import_hook(["rdunet_jax", "data_pipeline"], "array_hints.check_arrays")

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# The tests compile the same networks again and again: all their processes share what is compiled. The first one makes
# the folder and removes it; JAX locks the files of a cache whose size is bounded.
if (_compiled := os.environ.get("TESTS_COMPILATION_CACHE")) is None:
    _folder = tempfile.TemporaryDirectory(prefix="rdunet-jax-compiled-", ignore_cleanup_errors=True)
    _compiled = os.environ["TESTS_COMPILATION_CACHE"] = _folder.name
jax.config.update("jax_compilation_cache_dir", _compiled)
jax.config.update("jax_compilation_cache_max_size", 4 * 2**30)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

REAL_PATIENTS = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def real_patients() -> Path:
    """Folder of the two real NSCLC patients (CC BY-NC, never copied into the repository)."""
    if not (REAL_PATIENTS / "lung1_001").is_dir():
        pytest.skip(f"the real patients are not at {REAL_PATIENTS}: see the README, 'Real patients'")
    return REAL_PATIENTS


@pytest.fixture(autouse=True)
def optimised_programs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    """Tests that run longer than they compile (`full_size`) get them, and so do the processes that they start."""
    optimised = "full_size" in request.keywords
    if optimised:
        monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "0")
        jax.config.update("jax_disable_most_optimizations", False)
    yield
    if optimised:
        jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def unchecked_shapes():
    """For the tests of errors that a function itself raises on arrays of a wrong shape."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def optax_promotion():
    """Optax itself mixes integer and float scalars, so what runs its optimizers cannot be strict about dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield
