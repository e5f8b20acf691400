"""What the networks cost and which shapes they pass through: the numbers of `rdunet models`."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from rdunet_jax.config import ModelConfig
from rdunet_jax.networks.convolution import lowered_for
from rdunet_jax.networks.models import create_model


@dataclass(frozen=True)
class ModelSummary:
    """One network on one patch. Nothing is computed: all of it follows from shapes."""

    name: str
    parameters: int
    """As Keras counts: trainable ones and the running statistics of batch normalisation."""
    gflops: float
    """Billions of multiplications and additions in the convolutions and matrix products of one forward pass."""
    activation_mb: float
    """Megabytes (10^6) that a training step on this patch keeps from the forward pass for the backward pass, weights
    excluded, before the compiler removes what it can."""
    stages: dict[str, tuple[int, ...]]
    """(depth, height, width, channels) after each stage, in the order they run."""


def summarise(config: ModelConfig, height: int = 256, width: int = 256, batch: int = 1) -> ModelSummary:
    """Parameters, arithmetic, memory and shapes of a network on `batch` patches of the config's depth."""
    model = create_model(config)
    x = jax.ShapeDtypeStruct((batch, config.patch_depth, height, width, 1), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    variables: Any = jax.eval_shape(model.init, key, x)
    stages: dict[str, tuple[int, ...]] = {}

    def forward(variables: Any, x: Array) -> Any:
        state: Any
        logits, state = model.apply(variables, x, capture_intermediates=True, mutable="intermediates")
        outputs = {name: stage for name, stage in state["intermediates"].items() if name != "__call__"}
        stages.update({name: stage["__call__"][0].shape[1:] for name, stage in outputs.items()})
        return logits

    def kept(variables: Any, x: Array, key: Array) -> Any:
        def train(params: Any) -> Any:
            return model.apply(
                variables | {"params": params}, x, train=True, rngs={"dropout": key}, mutable=["batch_stats"]
            )

        return jax.vjp(train, variables["params"], has_aux=True)[1]  # what it closes over is what it keeps

    weights = _bytes(variables["params"])
    with lowered_for("cuda"):  # convolutions as they are defined, whatever algorithm this machine would run
        gflops = flops(jax.make_jaxpr(forward)(variables, x).jaxpr) / 1e9
        activations = _bytes(jax.eval_shape(kept, variables, x, key)) - weights
    return ModelSummary(
        name=config.name,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(variables)),
        gflops=gflops,
        activation_mb=activations / 1e6,
        stages=stages,
    )


def count_parameters(config: ModelConfig) -> int:
    """The `parameters` of a network's summary."""
    side = 2 * config.size_multiple
    x = jax.ShapeDtypeStruct((1, config.patch_depth, side, side, 1), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(create_model(config).init, key, x)))


def flops(jaxpr: Any) -> float:
    """Multiplications and additions in the convolutions and matrix products of a jaxpr, the steps of scans counted."""
    total = 0.0
    for equation in jaxpr.eqns:
        parameters = equation.params
        if equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            # Each output sums over every axis of the kernel but its features.
            features = kernel[parameters["dimension_numbers"].rhs_spec[0]]
            total += 2 * equation.outvars[0].aval.size * math.prod(kernel) / features
        elif equation.primitive.name == "dot_general":
            contracted = parameters["dimension_numbers"][0][0]
            summed = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            total += 2 * equation.outvars[0].aval.size * summed
        for name in ("jaxpr", "call_jaxpr"):  # calls, scans and rematerialised blocks
            if name in parameters:
                total += parameters.get("length", 1) * flops(getattr(parameters[name], "jaxpr", parameters[name]))
    return total


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
