"""One contestant of `bench.py`, in a process of its own: builds its program, then runs it once for every line it gets.

    python -m experiments.benchmarks.contestants NAME CASE     # CASE: JSON of `Case`

NAME is one of `CONTESTANTS`; what follows it after a space only tells cases apart.

For each line on standard input it answers one line of JSON: seconds and peak memory until now. What the program
computed lies in `NAME.npy` of the case's folder afterwards, to be compared. Imports of a framework stand in the
functions, for each process has only its own.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np

Program = Callable[[], np.ndarray]
"""Computes once, waits for the result, and returns it."""

MATMUL = 2048
"""Rows and columns of the matrices whose product shows what the machine can do."""


@dataclass(frozen=True)
class Case:
    """What is computed; the sizes are the full network's."""

    task: Literal["predict", "train", "patient"]
    folder: str
    """Holds `weights.npz`, for `patient` also `volume.npy`; gets the results."""
    size: int = 256
    batch: int = 1
    depth: int = 8
    widths: Sequence[int] = (32, 64, 128)
    recurrent_width: int = 256
    recurrent_layers: int = 3
    threads: int = 2
    augmentation: Sequence[str] = ()
    patients: int = 1
    """How often the volume is predicted in one run."""

    def network(self) -> dict[str, Any]:
        return {
            "widths": tuple(self.widths),
            "recurrent_width": self.recurrent_width,
            "recurrent_layers": self.recurrent_layers,
        }

    def weights(self) -> list[np.ndarray]:
        """In the order of the Keras network."""
        with np.load(Path(self.folder) / "weights.npz") as file:
            return [file[f"arr_{index}"] for index in range(len(file.files))]

    def volume(self) -> np.ndarray:
        return np.load(Path(self.folder) / "volume.npy")

    def patches(self) -> tuple[np.ndarray, np.ndarray]:
        """Images and masks, (batch, depth, height, width, 1), the same for every contestant."""
        rng = np.random.default_rng(1)
        images = rng.random((self.batch, self.depth, self.size, self.size, 1), np.float32)
        return images, (images > 0.7).astype(np.uint8)

    def forward_flops(self) -> float:
        """Multiplications and additions in the convolutions of one forward pass, each done directly."""

        def convolution(area: int, channels: int, features: int, taps: int) -> float:
            return 2.0 * self.batch * self.depth * area * taps * channels * features

        def block(area: int, channels: int, features: int) -> float:
            return convolution(area, channels, features, 27) + convolution(area, channels + features, features, 27)

        total, area, channels, skips = 0.0, self.size**2, 1, []
        for features in self.widths:
            total += block(area, channels, features)
            channels, area = channels + features, area // 4
            skips.append(features)
        skips[-1] = channels  # the coarsest level hands on its whole output
        for _ in range(self.recurrent_layers):
            width = self.recurrent_width
            total += convolution(area, channels + width, 4 * width, 9)
            channels = width
        for features, skip in zip(reversed(self.widths), reversed(skips), strict=True):
            area *= 4
            total += convolution(area, channels, features, 1)  # of a 2x2 kernel at stride 2, one tap meets a pixel
            channels = features + skip
            total += block(area, channels, features)
            channels += features
        return total + convolution(area, channels, 1, 1)


def ours(case: Case) -> Program:
    """rdunet_jax: the jitted predictor, the trainer's own step, the evaluator."""
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
    model, variables = create_model(config), jax.device_put(_flax_variables(case.weights(), config))
    images, masks = case.patches()
    if case.task == "predict":
        predict = jax.jit(jax.vmap(network_predictor(model, as_it_is), in_axes=(None, 0)))
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
        state, metrics = jax.block_until_ready(train_step(state, batch, recipe, as_it_is))
        return np.asarray(metrics["loss"])

    return step


def augmentation(case: Case) -> Program:
    """The augmentation of a training step by itself."""
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
    """With oneDNN's convolutions: TensorFlow by itself takes them on CPUs with AVX-512 only, and is slower without."""
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"
    import tensorflow as tf  # pyright: ignore[reportMissingImports]

    tf.config.threading.set_intra_op_parallelism_threads(case.threads)
    tf.config.threading.set_inter_op_parallelism_threads(case.threads)
    return _keras("tensorflow", case)


def keras_jax(case: Case) -> Program:
    return _keras("jax", case)


def _keras(backend: str, case: Case) -> Program:
    """The baseline; for a patient, the loop over windows of the Keras original, in batches as given."""
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
    """Ten float32 matrix products: the arithmetic that the machine is capable of."""
    import jax

    matrix = jax.random.normal(jax.random.key(0), (MATMUL, MATMUL))
    product = jax.jit(lambda a: a @ a)
    return lambda: np.asarray([jax.block_until_ready(product(matrix))[0, 0] for _ in range(10)])


CONTESTANTS: dict[str, Callable[[Case], Program]] = {
    "ours": ours,
    "keras-tensorflow": keras_tensorflow,
    "keras-jax": keras_jax,
    "torch": torch,
    "matmul": matmul,
    "augmentation": augmentation,
}


def write_weights(case: Case) -> None:
    """Random weights of a trained network's size, as the Keras network lists them: nothing vanishes or saturates."""
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
                # Keras' loss takes the logarithm of 1 - p, whose digits are few where p is near 1.
                value *= 0.3 if weight.shape[-1] == 1 else 1
            weights.append(value.astype(np.float32))
    np.savez(Path(case.folder) / "weights.npz", *weights)


def _flax_variables(weights: list[np.ndarray], config: Any) -> Any:
    from rdunet_jax.networks.keras_files import KerasLayer
    from rdunet_jax.networks.keras_weights import from_keras, network_layers

    tensors = iter(weights)
    counts = {"conv3d": 2, "conv_lstm2d": 3, "conv2d_transpose": 2, "batch_normalization": 4}
    layers = [
        KerasLayer("_".join(path), kind, tuple(next(tensors) for _ in range(counts[kind])))
        for kind, path in network_layers(config)
    ]
    return from_keras(layers, config)


def as_it_is(image: Any) -> Any:
    return image


def _versions() -> dict[str, str]:
    found = {}
    for package in ("jax", "flax", "keras", "tensorflow", "torch", "numpy"):
        if package == "numpy" or package in sys.modules:
            try:
                found[package] = version(package)
            except PackageNotFoundError:
                continue
    return found


def _peak_memory() -> int:
    """Largest memory until now, in bytes: the GPU's where the program runs on one, else the process's."""
    if "tensorflow" in sys.modules and sys.modules["tensorflow"].config.list_physical_devices("GPU"):
        return sys.modules["tensorflow"].config.experimental.get_memory_info("GPU:0")["peak"]
    if "jax" in sys.modules and (found := sys.modules["jax"].devices()[0].memory_stats()):
        return found["peak_bytes_in_use"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(name: str, case: Case) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    if hasattr(os, "sched_setaffinity"):  # every framework makes as many threads as it sees cores
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
        print(
            json.dumps({"seconds": seconds, "peak": _peak_memory(), "versions": _versions()}), file=answers, flush=True
        )


if __name__ == "__main__":
    main(sys.argv[1], Case(**json.loads(sys.argv[2])))
