"""The examples in the docstrings give what they say."""

import doctest
import importlib

import pytest

from rdunet_jax.runs.plugins import TABLES

MODULES = ("data_pipeline.registry", "data_pipeline.own_data", "rdunet_jax.registry", "rdunet_jax.workflows.model")


@pytest.mark.usefixtures("optax_promotion")
@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for table in TABLES:  # what an example registers is gone after it
        monkeypatch.setattr(table, "_parts", dict(table._parts))
        monkeypatch.setattr(table, "_origins", {})
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.attempted and not result.failed
