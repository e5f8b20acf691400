"""The cost of batch normalisation: in a prediction, and of its stable variance in training.

    python -m experiments.benchmarks.normalisation

Times the forward pass of the `keras` network with its normalisation and without any, which is the most that folding it
into the kernels could save. Then the gradient of a training step, and of one normalisation alone, with the variance as
mean (x - mean)^2, and with Flax's default, mean x^2 - mean(x)^2, which loses its digits where the mean is large. The
programs of a pair take turns. Costs two minutes on 2 cores.
"""

if not __package__:
    raise SystemExit("error: run this in the checkout as: python -m experiments.benchmarks.normalisation")

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp

from experiments.benchmarks.case import unchanged
from experiments.benchmarks.timing import in_words, machine_in_words, take_turns, versions_in_words
from experiments.common import script
from rdunet_jax.inference.sliding_window import network_predictor
from rdunet_jax.networks import layers
from rdunet_jax.networks.layers import BatchNorm
from rdunet_jax.networks.models import create_model, model_config
from rdunet_jax.training.losses import binary_cross_entropy

Programs = dict[str, Callable[[], object]]
VARIANCES = {"variance about the mean": False, "difference of means": True}


@dataclass(frozen=True)
class Settings:
    rounds: int = 8
    """Timed runs of each."""
    size: int = 256
    """Rows and columns of the patch that is predicted."""
    training_size: int = 64
    """Rows and columns of the patch that is trained on."""


def prediction(size: int) -> Programs:
    """The forward pass with the normalisation and without."""
    model, shape = create_model("keras"), (1, 8, size, size)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((*shape, 1)))
    image = jax.random.uniform(jax.random.key(1), shape)

    def compiled():
        run = jax.jit(jax.vmap(network_predictor(model, unchanged), in_axes=(None, 0)))
        return partial(run.lower(variables, image).compile(), variables, image)

    programs = {"with normalisation": compiled()}
    with mock.patch("rdunet_jax.networks.models.make_norm", lambda config, train: lambda name: lambda y: y):
        programs["without"] = compiled()
    return programs


def training(size: int) -> Programs:
    """Loss and gradient with either variance."""
    model = create_model(model_config("keras", dropout=0.0))
    image = jax.random.uniform(jax.random.key(1), (1, 8, size, size, 1))
    variables = jax.jit(model.init)(jax.random.key(0), image)

    def loss(params, statistics):
        logits, _ = model.apply(
            {"params": params, "batch_stats": statistics}, image, train=True, mutable=["batch_stats"]
        )
        return binary_cross_entropy(logits, image > 0.5)

    arguments = variables["params"], variables["batch_stats"]
    return {name: _compiled(loss, *arguments, fast=fast) for name, fast in VARIANCES.items()}


def layer(size: int) -> Programs:
    """One normalisation of 96 channels and its gradient, with either variance."""
    x = jax.random.normal(jax.random.key(1), (1, 8, size, size, 96))
    variables = BatchNorm(use_running_average=False).init(jax.random.key(0), x)

    def loss(x):
        norm = layers.BatchNorm(use_running_average=False)
        return (norm.apply(variables, x, mutable=["batch_stats"])[0] ** 3).sum()

    return {name: _compiled(loss, x, fast=fast) for name, fast in VARIANCES.items()}


def _compiled(loss: Callable[..., jax.Array], *arguments: Any, fast: bool) -> Callable[[], object]:
    with mock.patch("rdunet_jax.networks.layers.BatchNorm", partial(BatchNorm, use_fast_variance=fast)):
        return partial(jax.jit(jax.value_and_grad(loss)).lower(*arguments).compile(), *arguments)


def main(settings: Settings) -> None:
    console = script.make_console()
    trained = f"{settings.training_size} x {settings.training_size} x 8"
    cases = {
        f"one normalisation, {trained} x 96": partial(layer, settings.training_size),
        f"training, {trained}": partial(training, settings.training_size),
        f"prediction, {settings.size} x {settings.size} x 8": partial(prediction, settings.size),
    }
    for case, make in cases.items():
        seconds = take_turns(make(), settings.rounds, jax.block_until_ready)
        for name, each in seconds.items():
            console.print(f"{case}: {name}: {in_words(each)}")
        first, second = map(statistics.median, seconds.values())
        console.print(f"ratio of medians {second / first:.3f}")
    console.print(f"{machine_in_words()}, {versions_in_words('jax', 'flax')}")


if __name__ == "__main__":
    script.run(main, __doc__)
