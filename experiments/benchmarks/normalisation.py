"""What batch normalisation costs a prediction: the most that folding it into the kernels could bring.

    python -m experiments.benchmarks.normalisation

Times the forward pass of the `keras` network with its normalisation and with none at all, in turn. Costs a minute on 2
cores.
"""

from dataclasses import dataclass
from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console

from experiments.benchmarks.contestants import as_it_is
from experiments.benchmarks.race import take_turns
from rdunet_jax.inference.sliding_window import network_predictor
from rdunet_jax.networks.models import create_model
from rdunet_jax.workflows.start_up import prepare_jax


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
        run = jax.jit(jax.vmap(network_predictor(model, as_it_is), in_axes=(None, 0)))
        return run.lower(variables, image).compile()

    programs = {"with": partial(compiled(), variables, image)}
    with mock.patch("rdunet_jax.networks.models.make_norm", lambda config, train: lambda name: lambda y: y):
        programs["without"] = partial(compiled(), variables, image)
    seconds = take_turns(programs, settings.rounds)
    medians = {name: float(np.median(each)) for name, each in seconds.items()}
    console = Console()
    for name, each in seconds.items():
        console.print(f"{name} normalisation: {medians[name]:.2f} s ({min(each):.2f} to {max(each):.2f})")
    console.print(f"ratio of medians {medians['without'] / medians['with']:.3f}")


if __name__ == "__main__":
    prepare_jax()
    main(tyro.cli(Settings, description=__doc__))
