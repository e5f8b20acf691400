"""One contestant of `bench`, in its own process. `bench` starts it: it is not a command for users.

It builds its program, then runs it once for every line on standard input, and answers each with one line of JSON: the
seconds, and the peak memory until then. The result of the program is written to `NAME.npy` in the folder of the case,
for comparison. Frameworks are imported inside the functions, because each process has only its own.
"""

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks.case import MATMUL, Case, Program, unchanged
from experiments.benchmarks.timing import versions


def ours(case: Case) -> Program:
    """rdunet_jax: the compiled predictor, the training step, the sliding-window evaluation."""
    from functools import partial

    import jax

    from data_pipeline.preprocessing.intensity import normalise
    from rdunet_jax.config import TrainConfig
    from rdunet_jax.inference.sliding_window import SlidingWindow, network_predictor
    from rdunet_jax.networks.models import create_model, model_config
    from rdunet_jax.training.step import create_state, train_step
    from rdunet_jax.workflows.start_up import order_for_memory

    order_for_memory()
    config = model_config("keras", dropout=0.0, **case.network())
    model, variables = create_model(config), jax.device_put(flax_variables(case.weights(), config))
    images, masks = case.patches()
    if case.task == "predict":
        predict = jax.jit(jax.vmap(network_predictor(model, unchanged), in_axes=(None, 0)))
        return lambda: np.asarray(predict(variables, images[..., 0]))[..., np.newaxis]
    if case.task == "patient":
        predictor = network_predictor(model, partial(normalise, intensity="slice_minmax"))
        window, volume = SlidingWindow(predictor, depth=case.depth, batch=case.batch), case.volume()
        window(variables, volume[: case.depth])  # compiles
        return lambda: [window(variables, volume) for _ in range(case.patients)][-1]
    recipe = TrainConfig(batch_size=case.batch, augmentation=tuple(case.augmentation))  # type: ignore[arg-type]
    state = create_state(model, recipe, (case.depth, case.size, case.size))
    state = state.replace(params=variables["params"], batch_stats=variables["batch_stats"])
    batch = {"image": images, "mask": masks}

    def step() -> np.ndarray:
        nonlocal state
        state, metrics = jax.block_until_ready(train_step(state, batch, recipe, unchanged))
        return np.asarray(metrics["loss"])

    return step


def augmentation(case: Case) -> Program:
    """The augmentation of a training step alone."""
    from functools import partial

    import jax

    from rdunet_jax.training.augmentation import augment

    images, masks = case.patches()
    keys = iter(jax.random.split(jax.random.key(0), 1000))
    names: Any = tuple(case.augmentation)
    change = jax.jit(partial(augment, names=names))
    return lambda: np.asarray(
        change(jax.random.split(next(keys), case.batch), images, masks.astype(np.float32))[0].mean()
    )


def keras_tensorflow(case: Case) -> Program:
    """With oneDNN's convolutions, which TensorFlow uses by default on CPUs with AVX-512 only; it is slower without."""
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"
    import tensorflow as tf  # pyright: ignore[reportMissingImports]

    tf.config.threading.set_intra_op_parallelism_threads(case.threads)
    tf.config.threading.set_inter_op_parallelism_threads(case.threads)
    return _keras("tensorflow", case)


def keras_jax(case: Case) -> Program:
    return _keras("jax", case)


def _keras(backend: str, case: Case) -> Program:
    """The baseline; for a patient, the loop over windows as in the authors' code, in batches of the case."""
    os.environ["KERAS_BACKEND"] = backend
    import keras

    from experiments.keras_baseline.network import recurrent_dense_unet, zero_initial_weights

    with zero_initial_weights():
        model = recurrent_dense_unet(case.size, case.size, case.depth, dropout=0.0, **case.network())
    model.set_weights(case.weights())
    images, masks = (array.transpose(0, 2, 3, 1, 4).astype(np.float32) for array in case.patches())
    if case.task == "predict":
        return lambda: np.asarray(model.predict_on_batch(images)).transpose(0, 3, 1, 2, 4)
    if case.task == "train":
        model.compile(keras.optimizers.Adam(1e-4, epsilon=1e-8), keras.losses.BinaryCrossentropy())
        return lambda: np.asarray(model.train_on_batch(images, masks), np.float32)
    volume, depth = case.volume().astype(np.float32), case.depth

    def patient() -> np.ndarray:
        sums, counts = np.zeros(volume.shape, np.float32), np.zeros((len(volume), 1, 1), np.float32)
        starts = range(len(volume) - depth + 1)
        for first in starts[:: case.batch]:
            chosen = starts[first : first + case.batch]
            windows = np.stack([volume[start : start + depth] for start in chosen])
            windows /= np.maximum(windows.max((1, 2, 3), keepdims=True), 1)
            found = model.predict(windows.transpose(0, 2, 3, 1)[..., np.newaxis], verbose=0)  # pyright: ignore[reportArgumentType]
            for start, probabilities in zip(chosen, found[..., 0], strict=True):
                sums[start : start + depth] += probabilities.transpose(2, 0, 1)
                counts[start : start + depth] += 1
        return sums / counts

    for windows in {case.batch, (len(volume) - depth + 1) % case.batch} - {0}:  # compiles
        model.predict(np.zeros((windows, case.size, case.size, depth, 1), np.float32), verbose=0)  # pyright: ignore[reportArgumentType]
    return patient


def torch(case: Case) -> Program:
    from experiments.benchmarks.torch_network import program

    return program(case)


def matmul(case: Case) -> Program:
    """Ten float32 matrix products: a measure of what the machine can compute."""
    import jax

    matrix = jax.random.normal(jax.random.key(0), (MATMUL, MATMUL))
    product = jax.jit(lambda a: a @ a)
    return lambda: np.asarray([jax.block_until_ready(product(matrix))[0, 0] for _ in range(10)])


FRAMEWORKS = ("jax", "flax", "keras", "tensorflow", "torch", "numpy")
CONTESTANTS: dict[str, Callable[[Case], Program]] = {
    "ours": ours,
    "keras-tensorflow": keras_tensorflow,
    "keras-jax": keras_jax,
    "torch": torch,
    "matmul": matmul,
    "augmentation": augmentation,
}


def write_weights(case: Case) -> None:
    """Writes random weights in the order of the Keras network, scaled so that nothing vanishes or saturates."""
    import jax

    from rdunet_jax.networks.keras_weights import to_keras
    from rdunet_jax.networks.models import create_model, model_config

    config = model_config("keras", **case.network())
    x = jax.ShapeDtypeStruct((1, 1, case.size, case.size, 1), np.float32)
    shapes: Any = jax.eval_shape(create_model(config).init, jax.random.key(0), x)
    rng, weights = np.random.default_rng(0), []
    for layer in to_keras(jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes), config):
        for index, weight in enumerate(layer.weights):
            if layer.kind == "batch_normalization":
                value = rng.normal(0, 0.3, weight.shape) if index in (1, 2) else rng.uniform(0.5, 1.5, weight.shape)
            elif weight.ndim == 1:
                value = rng.normal(0, 0.3, weight.shape)
            else:
                value = rng.normal(0, np.sqrt(2 / np.prod(weight.shape[:-1])), weight.shape)
                # Keras' loss takes the logarithm of 1 - p, which has few digits where p is near 1.
                value *= 0.3 if weight.shape[-1] == 1 else 1
            weights.append(value.astype(np.float32))
    np.savez(Path(case.folder) / "weights.npz", *weights)


def flax_variables(weights: list[np.ndarray], config: Any) -> Any:
    from rdunet_jax.networks.keras_files import KerasLayer
    from rdunet_jax.networks.keras_weights import from_keras, network_layers

    tensors = iter(weights)
    counts = {"conv3d": 2, "conv_lstm2d": 3, "conv2d_transpose": 2, "batch_normalization": 4}
    layers = [
        KerasLayer("_".join(path), kind, tuple(next(tensors) for _ in range(counts[kind])))
        for kind, path in network_layers(config)
    ]
    return from_keras(layers, config)


def _peak_memory() -> int:
    """Peak memory until now in bytes: of the GPU if the program runs on one, else of the process."""
    if "tensorflow" in sys.modules and sys.modules["tensorflow"].config.list_physical_devices("GPU"):
        return sys.modules["tensorflow"].config.experimental.get_memory_info("GPU:0")["peak"]
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        return sys.modules["torch"].cuda.max_memory_allocated()
    if "jax" in sys.modules and (found := sys.modules["jax"].devices()[0].memory_stats()):
        return found["peak_bytes_in_use"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(name: str, case: Case) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not be read as an answer
    if hasattr(os, "sched_setaffinity"):  # frameworks start as many threads as they see cores
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[: case.threads]))
    if name == "weights":
        write_weights(case)
        return
    program = CONTESTANTS[name.split()[0]](case)
    for _ in sys.stdin:
        started = time.perf_counter()
        result = program()
        seconds = time.perf_counter() - started
        np.save(Path(case.folder) / f"{name}.npy", result)
        used = versions(*(package for package in FRAMEWORKS if package in sys.modules))
        print(json.dumps({"seconds": seconds, "peak": _peak_memory(), "versions": used}), file=answers, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="one of CONTESTANTS, or `weights`; words after a space distinguish cases")
    parser.add_argument("case", type=json.loads, help="the fields of `Case` as JSON")
    given = parser.parse_args()
    main(given.name, Case(**given.case))
