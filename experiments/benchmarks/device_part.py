"""One part of `bench all`, in its own process. `bench` starts it: it is not a command for users.

Each finding is a line of JSON on standard output, printed as soon as it is measured, so that nothing measured is lost
when the process is stopped. A program that does not fit the device's memory is a finding too.
"""

import argparse
import contextlib
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args
from unittest import mock

import jax
import numpy as np

from experiments.benchmarks.case import Case, unchanged
from experiments.benchmarks.contestants import flax_variables
from experiments.benchmarks.timing import versions
from rdunet_jax.config import TrainConfig
from rdunet_jax.inference.sliding_window import SlidingWindow, network_predictor
from rdunet_jax.networks.models import create_model, model_config
from rdunet_jax.training.step import create_state, train_step

Precision = Literal["float32", "tf32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
MATMUL_PRECISION = {"float32": "float32", "tf32": "tensorfloat32", "bfloat16": "bfloat16"}
"""Of products and convolutions (`jax_default_matmul_precision`); tensors are bfloat16 in the last alone."""
LEARN_STEPS = 200
Finding = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """What a process measures.

    Attributes:
        task: what is run.
        case: sizes, and the folder with weights, patients and results.
        batches: of `predict` and `train`, in rising order, because the peak memory of a process never falls.
        precision: of the network.
        remat: recompute activations in the backward pass.
        rounds: timed runs, after one that is not counted.
        matmul: rows and columns of the matrices whose product measures the device.
        native: use a GPU's lowering of the convolutions on any device.
    """

    task: Literal["parity", "predict", "train", "patient", "learn"]
    case: Case
    batches: tuple[int, ...] = (1,)
    precision: Precision = "float32"
    remat: bool = False
    rounds: int = 10
    matmul: int = 8192
    native: bool = False


@contextlib.contextmanager
def native_lowering(native: bool) -> Iterator[None]:
    """The network chooses its convolutions by the name of the backend."""
    with mock.patch("jax.default_backend", return_value="gpu") if native else contextlib.nullcontext():
        yield


def network(part: Part) -> tuple[Any, Any]:
    """The network of the part's precision, and the case's weights."""
    dtype = "bfloat16" if part.precision == "bfloat16" else "float32"
    config = model_config("keras", dropout=0.0, dtype=dtype, remat=part.remat, **part.case.network())
    return create_model(config), jax.device_put(flax_variables(part.case.weights(), config))


def step_of(part: Part, batch: int) -> tuple[Any, Any, Any]:
    """The lowered training step at a batch size, its state and its batch."""
    case = replace(part.case, batch=batch)
    model, variables = network(part)
    recipe = TrainConfig(batch_size=batch)
    state: Any = create_state(model, recipe, (case.depth, case.size, case.size))
    state = state.replace(params=variables["params"], batch_stats=variables["batch_stats"])
    images, masks = case.patches()
    inputs = {"image": images, "mask": masks}
    return train_step.lower(state, inputs, recipe, unchanged), state, inputs


def parity(part: Part) -> Iterator[Finding]:
    """Largest difference of probabilities, by precision, from the CPU's in float32; and of the loss."""
    reference = _on_cpu(part)
    for precision in PRECISIONS:
        with jax.default_matmul_precision(MATMUL_PRECISION[precision]):
            model, variables = network(replace(part, precision=precision))
            found, loss = _probabilities_and_loss(part.case, model, variables)
        yield {
            "precision": precision,
            "largest_difference": float(np.abs(found - reference[0]).max()),
            "relative_difference_of_loss": abs(loss / reference[1] - 1),
        }


def _on_cpu(part: Part) -> tuple[np.ndarray, float]:
    with jax.default_device(jax.devices("cpu")[0]), jax.default_matmul_precision("float32"):
        return _probabilities_and_loss(part.case, *network(replace(part, precision="float32")))


def _probabilities_and_loss(case: Case, model: Any, variables: Any) -> tuple[np.ndarray, float]:
    from rdunet_jax.training.losses import make_loss

    images, masks = case.patches()
    logits = jax.jit(model.apply)(variables, images)
    loss = make_loss("bce", 0.5)(logits.astype(np.float32), jax.numpy.asarray(masks, np.float32))
    return np.asarray(jax.nn.sigmoid(logits), np.float32), float(loss)


def predict(part: Part) -> Iterator[Finding]:
    """Seconds of one forward pass by batch size."""
    model, variables = network(part)
    run = jax.jit(jax.vmap(network_predictor(model, unchanged), in_axes=(None, 0)))
    rate = matmul_rate(part)
    for batch in part.batches:
        case = replace(part.case, batch=batch)
        windows = jax.device_put(case.patches()[0][..., 0])
        timed = _timed(part, run.lower(variables, windows), (variables, windows))
        yield {"batch": batch, "flops": case.forward_flops(), "matmul_flops": rate} | timed


def train(part: Part) -> Iterator[Finding]:
    """Seconds, memory and plan of a training step by batch size."""
    rate = matmul_rate(part)
    for batch in part.batches:
        lowered, state, inputs = step_of(part, batch)
        timed = _timed(part, lowered, (state, jax.device_put(inputs)), carries=True)
        del lowered, state, inputs  # the next batch needs the memory
        # By convention the backward pass has twice the arithmetic of the forward pass: for inputs and for weights.
        flops = 3 * replace(part.case, batch=batch).forward_flops()
        yield {"batch": batch, "flops": flops, "matmul_flops": rate} | timed


def _timed(part: Part, lowered: Any, arguments: Any, carries: bool = False) -> Finding:
    """Compiles a program and runs it; with `carries` its first result is the first argument of the next run."""
    try:
        started = time.perf_counter()
        program = lowered.compile()
        compiled, seconds = time.perf_counter() - started, []
        for number in range(part.rounds + 1):
            started = time.perf_counter()
            result = jax.block_until_ready(program(*arguments))
            if number:
                seconds.append(time.perf_counter() - started)
            if carries:
                arguments = (result[0], *arguments[1:])
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return {"out_of_memory": True}
    plan = program.memory_analysis()
    size = plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes + plan.temp_size_in_bytes
    return {"seconds": seconds, "compile_seconds": compiled, "planned_bytes": size} | peak_memory()


def patient(part: Part) -> Iterator[Finding]:
    """Seconds of a whole patient at stride 1 and 4, read, predicted and averaged."""
    from data_pipeline.preprocessing.intensity import normalise

    model, variables = network(part)
    predictor, volume = network_predictor(model, partial(normalise, intensity="slice_minmax")), part.case.volume()
    for stride in (1, 4):
        for batch in part.batches:
            window = SlidingWindow(predictor, depth=part.case.depth, batch=batch, stride=stride)
            window(variables, volume[: part.case.depth])  # compiles
            seconds = []
            for _ in range(part.rounds):
                started = time.perf_counter()
                window(variables, volume)
                seconds.append(time.perf_counter() - started)
            yield {"stride": stride, "batch": batch, "slices": len(volume), "seconds": seconds}


def learn(part: Part) -> Iterator[Finding]:
    """The loss of a training from random weights on phantoms: its mean over the first and last 20 steps."""
    with np.load(f"{part.case.folder}/phantoms.npz") as file:
        images, masks = file["images"], file["masks"]
    model, _ = network(part)
    recipe = TrainConfig(batch_size=2, learning_rate=1e-3)
    state: Any = create_state(model, recipe, (part.case.depth, part.case.size, part.case.size))
    rng, losses, started = np.random.default_rng(0), [], time.perf_counter()
    for _ in range(LEARN_STEPS):
        chosen = rng.integers(len(images), size=recipe.batch_size)
        state, metrics = train_step(state, {"image": images[chosen], "mask": masks[chosen]}, recipe, unchanged)
        losses.append(metrics["loss"])
    values = [float(loss) for loss in losses]
    yield {
        "steps": LEARN_STEPS,
        "seconds_in_all": time.perf_counter() - started,
        "first_loss": statistics.mean(values[:20]),
        "last_loss": statistics.mean(values[-20:]),
    }


def matmul_rate(part: Part) -> float:
    """FLOP per second of a matrix product in the part's precision."""
    dtype = "bfloat16" if part.precision == "bfloat16" else "float32"
    matrix = jax.random.normal(jax.random.key(0), (part.matmul, part.matmul)).astype(dtype)
    product = jax.jit(lambda a: a @ a)
    jax.block_until_ready(product(matrix))
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        jax.block_until_ready(product(matrix))
        seconds.append(time.perf_counter() - started)
    return 2 * part.matmul**3 / statistics.median(seconds)


def peak_memory() -> Finding:
    """Peak until now, compilation included: of the device, or of the process where the device does not say."""
    if found := jax.devices()[0].memory_stats():
        return {"peak_bytes": found["peak_bytes_in_use"], "peak_of": "device"}
    return {"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "peak_of": "process"}


TASKS: dict[str, Callable[[Part], Iterator[Finding]]] = {
    "parity": parity,
    "predict": predict,
    "train": train,
    "patient": patient,
    "learn": learn,
}


def part_of(fields: dict[str, Any]) -> Part:
    """A part from its fields as JSON."""
    return Part(**fields | {"case": Case(**fields["case"]), "batches": tuple(fields["batches"])})


def main(part: Part) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not be read as a finding
    device = {"device": jax.devices()[0].device_kind, "versions": versions("jax", "flax", "jax-cuda13-plugin")}
    print(json.dumps(device), file=answers, flush=True)
    with native_lowering(part.native), jax.default_matmul_precision(MATMUL_PRECISION[part.precision]):
        for finding in TASKS[part.task](part):
            print(json.dumps(finding), file=answers, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", type=json.loads, help="the fields of `Part` as JSON")
    sys.exit(main(part_of(parser.parse_args().part)))
