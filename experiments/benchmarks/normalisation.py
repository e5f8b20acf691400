"""The cost of batch normalization in a prediction, which is the most that folding it into the kernels could save.

    python -m experiments.benchmarks.normalisation

Times the forward pass of the `keras` network with its normalization and without any, in turn. Costs a minute on 2
cores.
"""

if not __package__:
    raise SystemExit("error: run this in the checkout as: python -m experiments.benchmarks.normalisation")

import statistics
from dataclasses import dataclass
from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp

from experiments.benchmarks.case import unchanged
from experiments.benchmarks.timing import in_words, machine_in_words, take_turns, versions_in_words
from experiments.common import script
from rdunet_jax.inference.sliding_window import network_predictor
from rdunet_jax.networks.models import create_model


@dataclass(frozen=True)
class Settings:
    rounds: int = 8
    """Timed runs of each."""
    size: int = 256
    """Rows and columns of the patch."""


def main(settings: Settings) -> None:
    model, shape = create_model("keras"), (1, 8, settings.size, settings.size)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((*shape, 1)))
    image = jax.random.uniform(jax.random.key(1), shape)

    def compiled():
        run = jax.jit(jax.vmap(network_predictor(model, unchanged), in_axes=(None, 0)))
        return run.lower(variables, image).compile()

    programs = {"with": partial(compiled(), variables, image)}
    with mock.patch("rdunet_jax.networks.models.make_norm", lambda config, train: lambda name: lambda y: y):
        programs["without"] = partial(compiled(), variables, image)
    seconds = take_turns(programs, settings.rounds, jax.block_until_ready)
    console = script.make_console()
    for name, each in seconds.items():
        console.print(f"{name} normalization: {in_words(each)}")
    ratio = statistics.median(seconds["without"]) / statistics.median(seconds["with"])
    console.print(f"ratio of medians {ratio:.3f}")
    console.print(f"{machine_in_words()}, {versions_in_words('jax', 'flax')}")


if __name__ == "__main__":
    script.run(main, __doc__)
