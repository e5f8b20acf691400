"""The sliding window against a naive loop over windows."""

import gc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdunet_jax.config import WindowWeights
from rdunet_jax.inference import postprocessing
from rdunet_jax.inference.postprocessing import to_ct_grid
from rdunet_jax.inference.sliding_window import (
    SlidingWindow,
    flipped_predictor,
    mean_predictor,
    network_predictor,
    slice_weights,
)
from rdunet_jax.networks.models import create_model


def naive_mean(
    predict: Callable[[np.ndarray], np.ndarray], volume: np.ndarray, stride: int = 1, weights: np.ndarray | None = None
) -> np.ndarray:
    """Each window predicted alone; a slice's mean over the windows that hold it, in float64."""
    held: list[list[tuple[float, np.ndarray]]] = [[] for _ in volume]
    last = len(volume) - 8
    for start in sorted({*range(0, last + 1, stride), last}):
        for offset, plane in enumerate(predict(volume[start : start + 8])):
            held[start + offset].append((1.0 if weights is None else float(weights[offset]), plane))
    return np.stack(
        [np.average([plane for _, plane in planes], axis=0, weights=[w for w, _ in planes]) for planes in held]
    )


@pytest.fixture(scope="module")
def network():
    model = create_model("tiny")
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 16, 16, 1)))
    return model, variables


@pytest.mark.parametrize("depth", [8, 9, 13, 40])
def test_the_mean_equals_a_naive_loop(depth: int, network) -> None:
    model, variables = network
    volume = np.random.default_rng(depth).random((depth, 16, 16), np.float32)
    window = SlidingWindow(network_predictor(model, lambda x: x), batch=3)

    @jax.jit
    def one(patch: np.ndarray) -> jax.Array:
        return jax.nn.sigmoid(model.apply(variables, patch[None, ..., None])[0, ..., 0])

    expected = naive_mean(lambda patch: np.asarray(one(patch)), volume)
    # 1e-6: a batch of windows sums in another order than one window does, each voxel a few units in the last place off.
    np.testing.assert_allclose(window(variables, volume), expected, atol=1e-6, rtol=0)


def doubled(variables, window):
    """A predictor whose value depends on the place in the window, so that every weight shows."""
    return variables * window + jnp.arange(8.0)[:, None, None]


@pytest.mark.parametrize("weights", ["uniform", "gaussian"])
@pytest.mark.parametrize("stride", [1, 2, 3, 4, 7, 8])
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_strides_and_weights_equal_a_naive_loop(batch: int, stride: int, weights, request) -> None:
    window = SlidingWindow(doubled, batch=batch, stride=stride, weights=weights)
    rng = np.random.default_rng(stride)
    for depth in (8, 9, 11, 12, 16, 17, 23, 40):
        volume = rng.random((depth, 2, 3), np.float32)
        own = slice_weights(weights, 8)
        expected = naive_mean(lambda patch: 2 * patch + np.arange(8.0)[:, None, None], volume, stride, own)
        counted = []
        result = window(jnp.float32(2), volume, lambda done, total, counted=counted: counted.append((done, total)))
        # 1e-5 of values up to 9: float32 sums of eight
        np.testing.assert_allclose(result, expected, atol=1e-5)
        assert counted[-1] == (window.count(depth),) * 2
    assert compiled(window._add_windows) == 1


def likely(variables, window):
    """Probabilities that depend on the place in the window and are no mirror image of themselves."""
    ramp = jnp.linspace(-2, 3, 8 * 5).reshape(8, 1, 5)
    return jax.nn.sigmoid(variables * window + ramp)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("weights", ["uniform", "gaussian"])
@pytest.mark.parametrize("stride", [1, 3, 4, 8])
def test_probabilities_equal_a_naive_loop_to_1e_6(stride: int, weights: WindowWeights, flip: bool) -> None:
    """With strides, weights and flips; two networks in one mean."""
    predictor = mean_predictor([flipped_predictor(likely) if flip else likely, likely])
    window = SlidingWindow(predictor, batch=3, stride=stride, weights=weights)

    def alone(scale: float, patch: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-(scale * patch.astype(np.float64) + np.linspace(-2, 3, 8 * 5).reshape(8, 1, 5))))

    def naive(patch: np.ndarray) -> np.ndarray:
        one = (alone(2, patch) + alone(2, patch[..., ::-1])[..., ::-1]) / 2 if flip else alone(2, patch)
        return (one + alone(-1, patch)) / 2

    rng = np.random.default_rng(stride)
    for depth in (8, 13, 22):
        volume = rng.random((depth, 2, 5), np.float32)
        expected = naive_mean(naive, volume, stride, slice_weights(weights, 8))
        result = window((jnp.float32(2), jnp.float32(-1)), volume)
        np.testing.assert_allclose(result, expected, atol=1e-6, rtol=0)
    assert compiled(window._add_windows) == 1


def compiled(function: Any) -> int:
    """Number of programs that a jitted function was compiled to."""
    return function._cache_size()


@pytest.mark.parametrize("stride", [1, 4])
def test_what_the_device_holds_does_not_grow_with_the_scan(stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The most bytes that are alive at once, in prediction and in resizing to the CT's grid, over 20 and 200 slices."""
    window = SlidingWindow(doubled, batch=2, stride=stride)
    resize, most = postprocessing._resize_block, 0

    def look(*_: object) -> None:
        nonlocal most
        most = max(most, sum(array.nbytes for array in jax.live_arrays()))

    def resized(*arguments: Any) -> jax.Array:
        block = resize(*arguments)
        look()
        return block

    monkeypatch.setattr(postprocessing, "_resize_block", resized)
    variables = jnp.float32(2)
    found, programs = {}, (compiled(window._add_windows), compiled(resize))
    for depth in (20, 200):
        gc.collect()
        before, most = sum(array.nbytes for array in jax.live_arrays()), 0
        probabilities = window(variables, np.ones((depth, 16, 16), np.float32), look)
        to_ct_grid(probabilities, 40, 40 + stride)  # a size that no other test compiles for
        found[depth] = most - before
    assert 0 < found[200] <= found[20]
    assert (compiled(window._add_windows), compiled(resize)) == (programs[0] + 1, programs[1] + 1)


def test_gaussian_weights_are_symmetric_and_fall_to_the_ends() -> None:
    weights = slice_weights("gaussian", 8)
    np.testing.assert_array_equal(weights, weights[::-1])
    # exp(-d^2 / (2 * 2^2)) at distances of 3.5 and 0.5 slices from the middle
    np.testing.assert_allclose(weights[[0, 3]], [np.exp(-(3.5**2) / 8), np.exp(-(0.5**2) / 8)], rtol=1e-6)


def test_flips_and_ensembles_are_means_of_predictions() -> None:
    ramp = jnp.arange(4.0)[None, None, :]

    def predict(variables, window):
        return variables * window * ramp

    window = np.random.default_rng(0).random((8, 3, 4), np.float32)
    flipped = flipped_predictor(predict)(2.0, jnp.asarray(window))
    # the mirror image of (mirrored window x ramp) is the window x the mirrored ramp: their mean is 1.5 everywhere
    np.testing.assert_allclose(flipped, 2 * window * 1.5, rtol=1e-6)
    both = mean_predictor([predict, predict])((1.0, 3.0), jnp.asarray(window))
    np.testing.assert_allclose(both, 2 * window * np.arange(4.0), rtol=1e-6)


@pytest.mark.parametrize("stride", [0, -1, 9])
def test_a_stride_that_leaves_slices_out_is_refused(stride: int) -> None:
    with pytest.raises(ValueError, match="from 1 to 8"):
        SlidingWindow(doubled, stride=stride)


DEVICES = """
import jax, jax.numpy as jnp, numpy as np, sys
from rdunet_jax.inference.sliding_window import SlidingWindow, network_predictor
from rdunet_jax.networks.models import create_model
model = create_model("tiny")
variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 16, 16, 1)))
volume = np.random.default_rng(0).random((21, 16, 16), np.float32)
window = SlidingWindow(network_predictor(model, lambda x: x), batch=4)
result = window(variables, volume)
window(variables, volume[:13])
print(len(jax.devices()), window._everywhere and window._everywhere.mesh.size, window._add_windows._cache_size())
np.save(sys.argv[1], result)
"""


@pytest.mark.slow
def test_devices_share_the_windows_of_a_batch(tmp_path: Path) -> None:
    told = {}
    for devices in (1, 2, 3):  # of three, two divide a batch of four
        flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
        environment = os.environ | flags | {"PYTHONPATH": str(Path(__file__).parents[3])}
        command = [sys.executable, "-c", DEVICES, str(tmp_path / f"{devices}.npy")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        told[devices] = done.stdout.split()
    assert told == {1: ["1", "None", "1"], 2: ["2", "2", "1"], 3: ["3", "2", "1"]}
    for devices in (2, 3):
        # 1e-6: a smaller batch of windows on each device sums in another order
        np.testing.assert_allclose(np.load(tmp_path / f"{devices}.npy"), np.load(tmp_path / "1.npy"), atol=1e-6, rtol=0)


@pytest.mark.parametrize("depth", [1, 5, 7])
def test_short_scans_are_padded_with_their_last_slice(depth: int) -> None:
    volume = np.arange(depth, dtype=np.float32)[:, None, None] * np.ones((1, 2, 2), np.float32)
    seen = []

    def predict(variables, window):
        seen.append(window.shape)
        return window + window.max()

    result = SlidingWindow(predict)(None, volume)
    assert seen == [(8, 2, 2)]
    np.testing.assert_array_equal(result, volume + depth - 1)


def test_any_function_of_a_window_is_a_predictor_and_compiles_once_for_all_scans() -> None:
    traces = []

    def predict(variables, window):
        traces.append(window.shape)
        return variables * window + jnp.arange(8.0)[:, None, None]

    window = SlidingWindow(predict, batch=4)
    rng = np.random.default_rng(0)
    for depth in (8, 10, 11, 12, 29):
        volume = rng.random((depth, 3, 5), np.float32)
        expected = naive_mean(lambda patch: 2 * patch + np.arange(8.0)[:, None, None], volume)
        # 1e-5 of values up to 9: float32 sums of eight
        np.testing.assert_allclose(window(jnp.float32(2), volume), expected, atol=1e-5)
    assert len(traces) == 1


def test_progress_counts_every_window() -> None:
    told = []
    SlidingWindow(lambda variables, window: window, batch=4)(
        None, np.zeros((15, 2, 2), np.float32), lambda done, total: told.append((done, total))
    )
    assert told == [(4, 8), (8, 8)]


def test_each_window_is_normalised_by_itself(network) -> None:
    model, variables = network
    volume = np.random.default_rng(1).random((9, 16, 16)).astype(np.float32)

    def by_maximum(patch):
        return patch / patch.max(axis=(-3, -2, -1), keepdims=True)

    @jax.jit
    def one(patch: np.ndarray) -> jax.Array:
        return jax.nn.sigmoid(model.apply(variables, (patch / patch.max())[None, ..., None])[0, ..., 0])

    result = SlidingWindow(network_predictor(model, by_maximum))(variables, volume)
    np.testing.assert_allclose(
        result, naive_mean(lambda patch: np.asarray(one(patch)), volume), atol=1e-6, rtol=0
    )  # as above


def test_slices_stream_and_few_are_read_ahead() -> None:
    read = []

    def slices(count: int):
        for index in range(count):
            read.append(index)
            yield np.full((2, 2), index, np.float32)

    window = SlidingWindow(lambda variables, window: window, batch=3)
    for index, plane in enumerate(window.stream(None, slices(30))):
        np.testing.assert_allclose(plane, index, rtol=1e-6)  # the mean of up to 8 equal numbers, a rounding off
        assert len(read) <= index + 3 * 2 + 8 + 1  # this batch and the next, and the slice that tells of the end


@pytest.mark.slow
def test_memory_does_not_grow_with_the_scan() -> None:
    script = Path(__file__).with_name("stream_memory.py")

    def peak(slices: int) -> int:
        command = [sys.executable, str(script), str(slices)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    short, long = peak(100), peak(1000)
    # A probability for each of 900 more slices would be 236 MB, beside some 300 MB of Python and JAX.
    assert long <= 1.05 * short, f"{long} KiB after 1,000 slices, {short} after 100"
