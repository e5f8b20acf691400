"""What a training step needs of a GPU's memory, as XLA plans it without one: `bench.py memory`."""

from typing import Any
from unittest import mock

from experiments.benchmarks.contestants import Case
from experiments.benchmarks.startup import program_of
from rdunet_jax.networks.models import model_config
from rdunet_jax.networks.summary import summarize


def planned_bytes(case: Case, **changes: Any) -> int:
    """State, batch and temporaries of a compiled training step, with the convolutions as a GPU gets them.

    XLA's plan for a CPU, whose program here has a GPU's operations in an order for little memory; a GPU's own plan
    differs, and cuDNN's workspaces come besides.

    Args:
        case: of the task `train`.
        changes: to the network's config.
    """
    with mock.patch("jax.default_backend", return_value="gpu"):  # what the network's lowerings go by
        program, arguments = program_of(case, **changes)
        plan = program.lower(*arguments).compile().memory_analysis()
    return plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes + plan.temp_size_in_bytes


def kept_bytes(case: Case, **changes: Any) -> float:
    """Bytes that the forward pass keeps for the backward pass, weights excluded.

    Rematerialisation shows here and not in the plan for a CPU, for which XLA merges again what is to be computed twice.
    """
    config = model_config("keras", **case.network(), **changes)
    return summarize(config, case.size, case.size, batch=case.batch).activation_mb * 1e6
