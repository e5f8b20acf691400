"""The sliding-window evaluator (paper, section 3.4).

A patch network sees 8 consecutive slices. Windows slide over the patient by one slice, and a slice's probability is
the mean over all windows that hold it:

    slice      0  1  2  3  4  5  6  7  8  9
    window 0  [0  1  2  3  4  5  6  7]
    window 1     [1  2  3  4  5  6  7  8]
    window 2        [2  3  4  5  6  7  8  9]
    windows    1  2  3  3  3  3  3  3  2  1   that hold the slice

The slices stream. A batch of B windows needs B + 7 slices and the sums of the 7 that earlier windows had begun; then B
slices are closed, for no later window holds them, and 7 sums stay open. Memory on the device does not depend on the
length of the scan. Every batch goes through one compiled program; the last is filled up with windows that count
nothing, so that nothing is compiled twice. The windows of a batch are shared among as many of the process's devices as
divide it.

With a stride above 1 fewer windows hold a slice, and the last window ends at the last slice:

    slice      0  1  2  3  4  5  6  7  8  9 10 11 12 13       stride 4
    window 0  [0  1  2  3  4  5  6  7]
    window 1              [4  5  6  7  8  9 10 11]
    window 2                    [6  7  8  9 10 11 12 13]
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Float32, Shaped

from rdunet_jax.config import WindowWeights
from rdunet_jax.parallel import BATCH_AXIS, make_local_mesh

Window = Shaped[Array, "window height width"]
Predictor = Callable[[Any, Window], Float[Array, "window height width"]]
"""(variables, one window of stored grey values) to tumour probabilities."""


def network_predictor(model: nn.Module, normalise: Callable[[Array], Array]) -> Predictor:
    """The predictor of a network: normalise a window, run the network, sigmoid of its logits.

    Args:
        normalise: stored grey values to what the network was trained on, window by window.
    """

    def predict(variables: Any, window: Window) -> Float[Array, "window height width"]:
        logits = model.apply(variables, normalise(window)[np.newaxis, ..., np.newaxis])
        return jax.nn.sigmoid(logits[0, ..., 0])  # type: ignore[index]

    return predict


def flipped_predictor(predictor: Predictor) -> Predictor:
    """Mean of the predictions of a window and of its mirror image, left and right exchanged (test-time augmentation).

    The networks are trained with horizontal flips, so the mirror image is as likely an input as the window.
    """

    def predict(variables: Any, window: Window) -> Float[Array, "window height width"]:
        mirrored = predictor(variables, window[..., ::-1])[..., ::-1]
        return (predictor(variables, window) + mirrored) / 2

    return predict


def mean_predictor(predictors: Sequence[Predictor]) -> Predictor:
    """Mean of the predictions of several networks; `variables` is then a sequence with those of each."""

    def predict(variables: Any, window: Window) -> Float[Array, "window height width"]:
        pairs = zip(predictors, variables, strict=True)
        return jnp.mean(jnp.stack([predictor(own, window) for predictor, own in pairs]), axis=0)

    return predict


def slice_weights(kind: WindowWeights, depth: int) -> Float32[np.ndarray, " depth"]:
    """Weight of each slice of a window in the mean over windows.

    `uniform` is the paper's mean (section 3.4). `gaussian` gives the middle of a window more weight than its ends,
    where the network sees neighbours on one side only: a standard deviation of a quarter of the depth.
    """
    if kind == "uniform":
        return np.ones(depth, np.float32)
    place = np.arange(depth) - (depth - 1) / 2
    return np.exp(-0.5 * (place / (depth / 4)) ** 2).astype(np.float32)


class SlidingWindow:
    """Predicts whole patients with a predictor of windows.

    Args:
        predictor: any function of (variables, one window) that returns the window's probabilities.
        depth: slices of a window.
        batch: windows in one call of the compiled program.
        stride: slices from one window to the next, 1 to `depth`. The last window ends at the last slice, whatever the
            stride.
        weights: of the slices of a window in the mean; see `slice_weights`.

    Raises:
        ValueError: the stride would leave slices out, or is not positive.
    """

    def __init__(
        self,
        predictor: Predictor,
        *,
        depth: int = 8,
        batch: int = 2,
        stride: int = 1,
        weights: WindowWeights = "uniform",
    ):
        if not 1 <= stride <= depth:
            raise ValueError(f"stride is {stride}, but must be from 1 to {depth}, the slices of a window")
        self.depth, self.batch, self.stride = depth, batch, stride
        self._weights = slice_weights(weights, depth)
        self._span = (batch - 1) * stride + depth  # slices that the windows of a batch cover
        mesh = make_local_mesh(batch)
        predict = jax.vmap(predictor, in_axes=(None, 0))
        if mesh.size == 1:
            self._everywhere = None
            self._add_windows = jax.jit(partial(_add_windows, predict, self._weights, batch, stride), donate_argnums=1)
        else:
            whole, part = PartitionSpec(), PartitionSpec(BATCH_AXIS)
            predict = jax.shard_map(predict, mesh=mesh, in_specs=(whole, part), out_specs=part, check_vma=False)
            self._everywhere = NamedSharding(mesh, whole)
            self._add_windows = jax.jit(
                partial(_add_windows, predict, self._weights, batch, stride),
                donate_argnums=1,
                in_shardings=self._everywhere,
                out_shardings=self._everywhere,
            )

    def count(self, slices: int) -> int:
        """Number of windows over a scan of so many slices."""
        return 1 + -(-max(slices - self.depth, 0) // self.stride)

    def __call__(
        self,
        variables: Any,
        volume: Shaped[np.ndarray, "depth height width"],
        on_windows: Callable[[int, int], None] = lambda done, total: None,
    ) -> Float32[np.ndarray, "depth height width"]:
        """Mean tumour probability of every voxel of a volume; see `stream`.

        The volume and its probabilities are in the host's memory as a whole; only the device's memory is independent
        of the length of the scan.

        Args:
            on_windows: called with (windows done, windows in all) after every batch.
        """
        windows = self.count(len(volume))
        result = np.empty(volume.shape, np.float32)
        for index, plane in enumerate(self.stream(variables, volume, lambda done: on_windows(done, windows))):
            result[index] = plane
        return result

    def stream(
        self,
        variables: Any,
        slices: Iterable[Shaped[np.ndarray, "height width"]],
        on_windows: Callable[[int], None] = lambda done: None,
    ) -> Iterator[Float32[np.ndarray, "height width"]]:
        """Mean tumour probability of every slice, in order.

        Args:
            slices: stored grey values of a patient, one slice after the other. If there are fewer than a window holds,
                the last is repeated, and the repetitions are dropped from the result.
            on_windows: called with the number of windows done after every batch.
        """
        source = iter(slices)
        held = list(islice(source, self.depth))
        if not held:
            return
        real = len(held)
        held += held[-1:] * (self.depth - real)
        if self._everywhere is not None:
            variables = jax.device_put(variables, self._everywhere)
        sums, weights = self._nothing(held[0].shape)
        step = self.batch * self.stride  # slices that a full batch closes
        before: Iterator[Float32[np.ndarray, "height width"]] = iter(())
        done = 0
        while True:
            held += islice(source, self._span + self.stride - len(held))
            more = len(held) == self._span + self.stride  # a whole window is left after this batch
            windows = min(self.batch, (len(held) - self.depth) // self.stride + 1)
            closed, sums = self._add_windows(variables, sums, self._block(held), np.int32(windows))
            weights = self._add_weights(weights, windows)
            yield from before  # fetched while the device is at work on the batch that was just sent
            if done:
                on_windows(done)
            done += windows
            if not more:
                break
            before = _means(closed, weights[:step])
            weights, held = weights[step:], held[step:]
        last = np.zeros((len(held), *held[0].shape), np.float32)
        covered = (windows - 1) * self.stride + self.depth
        last[:covered] = np.concatenate([closed, sums])[:covered]
        weights = np.pad(weights[:covered], (0, len(held) - covered))
        if covered < len(held):  # one window more, which ends at the last slice
            ending = held[-self.depth :]
            closed, sums = self._add_windows(
                variables, self._nothing(held[0].shape)[0], self._block(ending), np.int32(1)
            )
            last[-self.depth :] += np.concatenate([closed, sums])[: self.depth]
            weights[-self.depth :] += self._weights
            done += 1
        kept = slice(real if real < self.depth else None)
        yield from _means(last[kept], weights[kept])
        on_windows(done)

    def _nothing(self, shape: tuple[int, ...]) -> tuple[Any, Float32[np.ndarray, " open"]]:
        """Sums of the slices that earlier windows have begun, and of their weights, before the first window.

        The sums are on the devices from the first batch on, or the second would be compiled anew.
        """
        opened = self.depth - self.stride
        sums: Any = jnp.zeros((opened, *shape), jnp.float32)
        if self._everywhere is not None:
            sums = jax.device_put(sums, self._everywhere)
        return sums, np.zeros(opened, np.float32)

    def _block(self, held: list[np.ndarray]) -> Shaped[np.ndarray, "block height width"]:
        """The slices of a batch, filled up with the last where there are fewer."""
        block = held[: self._span]
        return np.stack(block + block[-1:] * (self._span - len(block)))

    def _add_weights(self, opened: Float32[np.ndarray, " open"], windows: int) -> Float32[np.ndarray, " block"]:
        """What `_add_windows` does with the sums, for the weights: those of every slice of the block."""
        weights = np.concatenate([opened, np.zeros(self.batch * self.stride, np.float32)])
        for start in range(0, windows * self.stride, self.stride):
            weights[start : start + self.depth] += self._weights
        return weights


def _means(
    sums: Float[Any, "slices height width"], weights: Float32[np.ndarray, " slices"]
) -> Iterator[Float32[np.ndarray, "height width"]]:
    """Weighted sums of the slices, by the sum of the weights of each."""
    for total, weight in zip(np.asarray(sums), weights, strict=False):
        yield total / weight


def _add_windows(
    predict: Callable[[Any, Shaped[Array, "batch window height width"]], Array],
    weights: Float32[np.ndarray, " window"],
    batch: int,
    stride: int,
    variables: Any,
    opened: Float32[Array, "open height width"],
    slices: Shaped[Array, "block height width"],
    windows: Array,
) -> tuple[Float32[Array, "closed height width"], Float32[Array, "open height width"]]:
    """Adds the first `windows` windows of a block of slices to the sums that are open; the closed ones, the open."""
    starts, depth = range(0, batch * stride, stride), len(weights)
    block = jnp.stack([slices[start : start + depth] for start in starts])
    probabilities = predict(variables, block)
    sums = jnp.concatenate([opened, jnp.zeros((batch * stride, *opened.shape[1:]), jnp.float32)])
    for number, start in enumerate(starts):
        counted = jnp.where(number < windows, probabilities[number], 0).astype(jnp.float32)
        sums = sums.at[start : start + depth].add(counted * weights[:, np.newaxis, np.newaxis])
    return sums[: batch * stride], sums[batch * stride :]
