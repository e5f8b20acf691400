"""What batch normalisation costs a prediction: the most that folding it into the kernels could bring.

    python -m experiments.benchmarks.normalisation

Times the forward pass of the `keras` network with its normalisation and with none at all, in turn. Costs a minute on 2
cores.
"""

import time
from dataclasses import dataclass
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console

from rdunet_jax.inference import network_predictor
from rdunet_jax.models import create_model
from rdunet_jax.start_up import prepare_jax


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
        return jax.jit(jax.vmap(network_predictor(model, lambda window: window), in_axes=(None, 0)))

    programs = {"with": compiled(), "without": compiled()}
    jax.block_until_ready(programs["with"](variables, image))
    with mock.patch("rdunet_jax.models.make_norm", lambda config, train: lambda name: lambda y: y):
        jax.block_until_ready(programs["without"](variables, image))
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(settings.rounds):
        for name, program in programs.items():
            started = time.perf_counter()
            jax.block_until_ready(program(variables, image))
            seconds[name].append(time.perf_counter() - started)
    medians = {name: float(np.median(each)) for name, each in seconds.items()}
    console = Console()
    for name, each in seconds.items():
        console.print(f"{name} normalisation: {medians[name]:.2f} s ({min(each):.2f} to {max(each):.2f})")
    console.print(f"ratio of medians {medians['without'] / medians['with']:.3f}")


if __name__ == "__main__":
    prepare_jax()
    main(tyro.cli(Settings, description=__doc__))
