"""Start-up: seconds to trace and compile in a new process, and seconds of `rdunet --help`.

`bench compile` starts this in its own process: it is not a command for users.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments.benchmarks.case import Case, unchanged
from experiments.benchmarks.race import ROOT
from experiments.benchmarks.timing import take_turns


def compilation(case: Case, cache: Path) -> dict[str, float]:
    """Seconds that a new process takes to trace and to compile the program of a case, with a persistent cache.

    Args:
        cache: folder of the persistent cache.

    Returns:
        Seconds of `trace` and of `compile`.
    """
    variables = {"JAX_COMPILATION_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "experiments.benchmarks.startup", json.dumps(asdict(case))],
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def help_seconds(rounds: int) -> list[float]:
    """Seconds of `rdunet --help` in each of `rounds` new processes."""

    def answer() -> None:
        subprocess.run(
            [sys.executable, "-c", "from rdunet_jax.cli.main import main; main()", "--help"],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            check=True,
        )

    return take_turns({"help": answer}, rounds)["help"]


def program_of(case: Case, **changes: Any) -> tuple[Any, tuple[Any, ...]]:
    """The jitted function of a case, and abstract arguments for it.

    Args:
        changes: fields of `ModelConfig` to change.
    """
    import jax
    import jax.numpy as jnp

    from rdunet_jax.config import TrainConfig
    from rdunet_jax.inference.sliding_window import network_predictor
    from rdunet_jax.networks.models import create_model, model_config
    from rdunet_jax.training.step import create_state, train_step

    config = model_config("keras", **case.network(), **changes)
    model, shape = create_model(config), (case.depth, case.size, case.size)
    recipe = TrainConfig(batch_size=case.batch)
    state: Any = jax.eval_shape(lambda: create_state(model, recipe, shape))
    if case.task == "predict":
        window = jax.ShapeDtypeStruct((case.batch, *shape), jnp.float32)
        predict = jax.jit(jax.vmap(network_predictor(model, unchanged), in_axes=(None, 0)))
        return predict, (state.variables, window)
    image = jax.ShapeDtypeStruct((case.batch, *shape, 1), jnp.float32)
    mask = jax.ShapeDtypeStruct(image.shape, jnp.uint8)
    return train_step, (state, {"image": image, "mask": mask}, recipe, unchanged)


def measure(case: Case) -> dict[str, float]:
    """Seconds to trace and to compile the program of a case in this process."""
    from rdunet_jax.workflows.start_up import prepare_jax

    prepare_jax()
    program, arguments = program_of(case)
    started = time.perf_counter()
    lowered = program.lower(*arguments)
    traced = time.perf_counter()
    lowered.compile()
    return {"trace": traced - started, "compile": time.perf_counter() - traced}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", type=json.loads, help="the fields of `Case` as JSON")
    print(json.dumps(measure(Case(**parser.parse_args().case))))
