"""The GPU memory of a training step, as XLA plans it without a GPU: `bench memory`."""

from typing import Any
from unittest import mock

from experiments.benchmarks.case import Case
from experiments.benchmarks.startup import program_of
from rdunet_jax.networks.models import model_config
from rdunet_jax.networks.summary import summarise


def planned_bytes(case: Case, **changes: Any) -> int:
    """Bytes of state, batch and temporaries of a compiled training step, with the convolutions that a GPU would use.

    This is XLA's plan for a CPU, for a program with the operations of a GPU, ordered for low memory. The plan of a real
    GPU differs, and the workspaces of cuDNN are not included.

    Args:
        case: with the task `train`.
        changes: fields of `ModelConfig` to change.
    """
    with mock.patch("jax.default_backend", return_value="gpu"):  # the network chooses its lowerings by this
        program, arguments = program_of(case, **changes)
        plan = program.lower(*arguments).compile().memory_analysis()
    return plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes + plan.temp_size_in_bytes


def kept_bytes(case: Case, **changes: Any) -> float:
    """Bytes that the forward pass keeps for the backward pass, without the weights.

    Rematerialisation shows here but not in the plan for a CPU, where XLA merges the repeated computations again.
    """
    config = model_config("keras", **case.network(), **changes)
    return summarise(config, case.size, case.size, batch=case.batch).activation_mb * 1e6
