"""The lowerings of `rdunet_jax.networks.convolution` at the shapes of the full network: seconds, in one process.

    python -m experiments.benchmarks.lowerings

Shapes are those of the `keras` network at 256x256x8, batch 1. A row: median seconds of the convolution, and of both its
gradients. `direct` and the gradients of `fold` take longest; how long the whole takes was not measured.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np
import tyro
from rich.console import Console

from experiments.benchmarks.race import take_turns
from rdunet_jax.networks.convolution import Lowering, convolve
from rdunet_jax.workflows.display import print_table

SHAPES = ((256, 33, 32), (256, 64, 64), (128, 64, 64), (128, 128, 128), (64, 128, 128), (64, 353, 256))
"""Side of the plane, channels, features."""


@dataclass(frozen=True)
class Settings:
    rounds: int = 3
    """Of every lowering, in turn."""
    direct: bool = False
    """XLA's own 3-D convolution too."""


def main(settings: Settings) -> None:
    lowerings: tuple[Lowering, ...] = ("winograd", "fold", *(("direct",) if settings.direct else ()))
    rows = []
    for side, channels, features in SHAPES:
        keys = jax.random.split(jax.random.key(0), 3)
        x = jax.random.normal(keys[0], (1, 8, side, side, channels))
        kernel = jax.random.normal(keys[1], (3, 3, 3, channels, features))
        weight = jax.random.normal(keys[2], (1, 8, side, side, features))
        programs: dict[str, Callable[[], object]] = {}
        for lowering in lowerings:
            run = partial(convolve, lowering=lowering)
            programs[f"{lowering} value"] = partial(jax.jit(run), x, kernel)
            transpose = jax.jit(lambda x, kernel, weight, run=run: jax.vjp(run, x, kernel)[1](weight))
            programs[f"{lowering} gradients"] = partial(transpose, x, kernel, weight)
        seconds = take_turns(programs, settings.rounds)
        rows.append((f"{side}, {channels} to {features}", *(f"{np.median(s):.2f}" for s in seconds.values())))
    header = ("shape", *(f"{lowering} {what}" for lowering in lowerings for what in ("value", "gradients")))
    print_table(Console(width=120), "Seconds, 8 slices", header, rows)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
