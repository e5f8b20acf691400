"""`rdunet models --diff`: the settings and the layers in which two networks differ."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from rdunet_jax.networks.models import create_model
from rdunet_jax.registry import MODELS
from rdunet_jax.runs.initial_weights import layers_of
from rdunet_jax.runs.model_file import load_run_or_model
from rdunet_jax.workflows.display import plural, print_table
from rdunet_jax.workflows.list_models import settings_of


def show_differences(one: str, other: str, console: Console) -> None:
    """Shows the settings that differ, then the layers: those of one network alone, and those with other shapes or, of
    two trained networks, other values.

    Args:
        one, other: names of networks, folders of runs, or model files.

    Raises:
        RunError: there is no network of a name.
    """
    settings = [asdict(settings_of(name)) for name in (one, other)]
    rows = [(key, str(value), str(settings[1][key])) for key, value in settings[0].items() if value != settings[1][key]]
    if rows:
        print_table(console, "Settings that differ", ("setting", one, other), rows)
    else:
        console.print("no setting differs")
    layers = [layers_of(_variables(name)) for name in (one, other)]
    differing = list(_differences(*layers))
    count = plural(len(layers[0].keys() | layers[1].keys()), "layer")
    if differing:
        header = ("layer", f"shapes in {one}", f"shapes in {other}", "change")
        print_table(console, f"Layers that differ: {len(differing)} of {count}", header, differing)
    else:
        console.print(f"no layer differs: {count}")


def _variables(name: str) -> Mapping[str, Any]:
    """Of a trained network; of a named one their shapes."""
    if name not in MODELS:
        return load_run_or_model(Path(name)).variables
    config = settings_of(name)
    patch = jax.ShapeDtypeStruct((1, 1, config.size_multiple, config.size_multiple, 1), jnp.float32)
    return jax.eval_shape(create_model(config).init, jax.eval_shape(lambda: jax.random.key(0)), patch)


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """(layer, shapes here, shapes there, change); the change is the norm of the difference by that of the first."""
    for layer in dict.fromkeys((*one, *other)):
        here, there = (_shapes(layers.get(layer, {})) for layers in (one, other))
        if here != there:
            yield layer, here, there, "shapes"
        elif (change := _change(one[layer], other[layer])) is not None:
            yield layer, here, there, change


def _shapes(layer: Mapping[tuple[str, ...], Any]) -> str:
    return ", ".join("x".join(map(str, leaf.shape)) for _, leaf in sorted(layer.items())) or "-"


def _change(one: Mapping[tuple[str, ...], Any], other: Mapping[tuple[str, ...], Any]) -> str | None:
    """None where the values are equal, or not known of both."""
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in (*one.values(), *other.values())):
        return None
    here, there = (np.concatenate([np.ravel(layer[path]) for path in sorted(one)]) for layer in (one, other))
    if np.array_equal(here, there):
        return None
    return f"{np.linalg.norm(there - here) / max(np.linalg.norm(here), np.finfo(np.float32).tiny):.2%}"
