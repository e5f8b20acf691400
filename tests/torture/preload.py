"""Imports all that the commands import, so that a fork finds it loaded. Computes nothing: a fork must not share JAX."""

import importlib
import pkgutil

import data_pipeline
import rdunet_jax

for package in (data_pipeline, rdunet_jax):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not module.name.endswith("_test"):
            importlib.import_module(module.name)
