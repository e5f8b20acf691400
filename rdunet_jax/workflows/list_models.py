"""`rdunet models`."""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from data_pipeline.preprocessing.intensity import normalise
from data_pipeline.ranges import check
from data_pipeline.settings import plane_shape
from rdunet_jax.config import ImageSize, ModelConfig, TrainConfig
from rdunet_jax.networks.models import create_model
from rdunet_jax.networks.named import model_config
from rdunet_jax.networks.receptive_field import receptive_field
from rdunet_jax.networks.summary import ModelSummary, summarise
from rdunet_jax.registry import MODELS
from rdunet_jax.runs.model_file import load_model
from rdunet_jax.runs.workdir import RunConfig
from rdunet_jax.training.step import create_state, train_step
from rdunet_jax.workflows.display import print_table

ROUNDS = 3
"""Timed calls, after one that compiles; the median is shown."""
_HEADER = ("name", "parameters", "GFLOP forward", "activations, MB", "receptive field")


def show_models(names: Sequence[str], image_size: ImageSize, console: Console, measure: bool = False) -> None:
    """Shows a line per network, or one network with its stages.

    Args:
        names: of networks, folders of runs, or model files; none for all named networks.
        image_size: rows and columns of the patch; one number for a square.
        measure: also time a forward pass and a training step of one patch.

    Raises:
        RunError: there is no network of a name, or a network cannot take images of that size.
    """
    check("image_size", image_size, ImageSize)
    chosen = {name: settings_of(name) for name in names or MODELS}
    for config in chosen.values():
        config.check_image_size(image_size)
    (height, width), header, rows, summaries = plane_shape(image_size), list(_HEADER), [], []
    if measure:
        header += ["forward, ms", "step, ms"]
    for name, config in chosen.items():
        summaries.append(summarise(config, height, width))
        times = [f"{milliseconds:,.1f}" for milliseconds in measured(config, (height, width))] if measure else []
        rows.append((name, *_row(summaries[-1], config), *times))
    print_table(console, f"Networks on one patch of {height} x {width} pixels", header, rows)
    if len(names) == 1:
        stages = [(stage, " x ".join(map(str, shape))) for stage, shape in summaries[0].stages.items()]
        print_table(console, "Stages", ("stage", "depth x height x width x channels"), stages)


def settings_of(name: str) -> ModelConfig:
    """The settings of a named network, of a run's or of a model file's.

    Raises:
        RunError: there is none of that name.
    """
    path = Path(name)
    if name in MODELS or not path.exists():
        return model_config(name)
    return load_model(path).network.config.model if path.is_file() else RunConfig.load(path).model


def _row(summary: ModelSummary, config: ModelConfig) -> tuple[str, ...]:
    field = receptive_field(config)
    unbounded = "the whole patch" if config.norm == "group" else "unknown"
    sees = unbounded if field is None else " x ".join(map(str, field))
    return f"{summary.parameters:,}", f"{summary.gflops:.1f}", f"{summary.activation_mb:,.0f}", sees


def measured(config: ModelConfig, plane: tuple[int, int]) -> tuple[float, float]:
    """Milliseconds of a forward pass and of a training step of one patch, in this process.

    Args:
        plane: rows and columns of the patch.
    """
    model, recipe = create_model(config), TrainConfig()
    shape = (config.patch_depth, *plane)
    batch = {
        "image": np.random.default_rng(0).integers(-1000, 400, (1, *shape, 1)).astype(np.int16),
        "mask": np.zeros((1, *shape, 1), np.uint8),
    }
    state = create_state(model, recipe, shape)
    patch = jnp.asarray(batch["image"], jnp.float32)
    forward = jax.jit(model.apply)
    seconds = _median_seconds(lambda: forward(state.variables, patch))
    grey = partial(normalise, intensity="hu_window")

    def step() -> Any:
        nonlocal state
        state, scores = train_step(state, batch, recipe, grey)
        return scores

    return 1000 * seconds, 1000 * _median_seconds(step)


def _median_seconds(program: Callable[[], Any]) -> float:
    seconds = []
    for _ in range(ROUNDS + 1):
        started = time.perf_counter()
        jax.block_until_ready(program())
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])
