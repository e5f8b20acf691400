"""Seconds of each lowering in `rdunet_jax.networks.convolution` at the shapes of the full network.

    python -m experiments.benchmarks.lowerings

Shapes are those of the `keras` network at 256x256x8, batch 1. A row gives the median seconds of the convolution and of
both its gradients. `direct` and the gradients of `fold` are the slowest. Costs were not measured.
"""

if not __package__:
    raise SystemExit("error: run this in the checkout as: python -m experiments.benchmarks.lowerings")

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax

from experiments.benchmarks.timing import machine_in_words, take_turns, versions_in_words
from experiments.common import script
from rdunet_jax.networks.convolution import Lowering, convolve
from rdunet_jax.workflows.display import print_table

SHAPES = ((256, 33, 32), (256, 64, 64), (128, 64, 64), (128, 128, 128), (64, 128, 128), (64, 353, 256))
"""Side of the plane, channels, features."""


@dataclass(frozen=True)
class Settings:
    rounds: int = 3
    """Timed runs of every lowering, in turn."""
    direct: bool = False
    """Also time XLA's own 3-D convolution."""


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
        seconds = take_turns(programs, settings.rounds, jax.block_until_ready)
        rows.append((f"{side}, {channels} to {features}", *(f"{statistics.median(s):.2f}" for s in seconds.values())))
    header = ("shape", *(f"{lowering} {what}" for lowering in lowerings for what in ("value", "gradients")))
    console = script.make_console()
    print_table(console, "Seconds, 8 slices", header, rows)
    console.print(f"{machine_in_words()}, {versions_in_words('jax')}")


if __name__ == "__main__":
    script.run(main, __doc__)
