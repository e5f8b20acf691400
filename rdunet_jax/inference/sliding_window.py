"""The sliding-window evaluator (paper, section 3.4).

A patch network sees 8 consecutive slices. Windows slide over the patient by one slice, and a slice's probability is
the mean over all windows that hold it:

    slice      0  1  2  3  4  5  6  7  8  9
    window 0  [0  1  2  3  4  5  6  7]
    window 1     [1  2  3  4  5  6  7  8]
    window 2        [2  3  4  5  6  7  8  9]
    windows    1  2  3  3  3  3  3  3  2  1   that hold the slice

The slices stream. A batch of B windows needs B + 7 slices and the sums of the 7 that earlier windows had begun; then B
slices are closed, for no later window holds them, and 7 sums stay open. Memory does not depend on the length of the
scan. Every batch goes through one compiled program; the last is filled up with windows that count nothing, so that
nothing is compiled twice. The windows of a batch are shared among as many of the process's devices as divide it.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Float32, Shaped

from rdunet_jax.parallel import BATCH_AXIS, make_local_mesh

Window = Shaped[Array, "window height width"]
Predictor = Callable[[Any, Window], Float[Array, "window height width"]]
"""(variables, one window of stored gray values) to tumour probabilities."""


def network_predictor(model: nn.Module, normalise: Callable[[Array], Array]) -> Predictor:
    """The predictor of a network: normalise a window, run the network, sigmoid of its logits.

    Args:
        normalise: stored gray values to what the network was trained on, window by window.
    """

    def predict(variables: Any, window: Window) -> Float[Array, "window height width"]:
        logits = model.apply(variables, normalise(window)[np.newaxis, ..., np.newaxis])
        return jax.nn.sigmoid(logits[0, ..., 0])  # type: ignore[index]

    return predict


class SlidingWindow:
    """Predicts whole patients with a predictor of windows.

    Args:
        predictor: any function of (variables, one window) that returns the window's probabilities.
        depth: slices of a window.
        batch: windows in one call of the compiled program.
    """

    def __init__(self, predictor: Predictor, *, depth: int = 8, batch: int = 2):
        self.depth, self.batch = depth, batch
        mesh = make_local_mesh(batch)
        predict = jax.vmap(predictor, in_axes=(None, 0))
        if mesh.size == 1:
            self._everywhere = None
            self._add_windows = jax.jit(partial(_add_windows, predict, depth, batch), donate_argnums=1)
        else:
            whole, part = PartitionSpec(), PartitionSpec(BATCH_AXIS)
            predict = jax.shard_map(predict, mesh=mesh, in_specs=(whole, part), out_specs=part, check_vma=False)
            self._everywhere = NamedSharding(mesh, whole)
            self._add_windows = jax.jit(
                partial(_add_windows, predict, depth, batch),
                donate_argnums=1,
                in_shardings=self._everywhere,
                out_shardings=self._everywhere,
            )

    def __call__(
        self,
        variables: Any,
        volume: Shaped[np.ndarray, "depth height width"],
        on_windows: Callable[[int, int], None] = lambda done, total: None,
    ) -> Float32[np.ndarray, "depth height width"]:
        """Mean tumour probability of every voxel of a volume that is in memory as a whole; see `stream`.

        Args:
            on_windows: called with (windows done, windows in all) after every batch.
        """
        windows = max(1, len(volume) - self.depth + 1)
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
            slices: stored gray values of a patient, one slice after the other. Of fewer than a window holds, the last
                is repeated, and the repetitions are dropped from the result.
            on_windows: called with the number of windows done after every batch.
        """
        source = iter(slices)
        held = list(islice(source, self.depth))
        if not held:
            return
        real = len(held)
        held += held[-1:] * (self.depth - real)
        # On the devices from the first batch on, or the second would be compiled anew.
        sums: Any = jnp.zeros((self.depth - 1, *held[0].shape), jnp.float32)
        if self._everywhere is not None:
            variables, sums = jax.device_put((variables, sums), self._everywhere)
        before: Iterator[Float32[np.ndarray, "height width"]] = iter(())
        start = 0
        while True:
            held += islice(source, self.batch + self.depth - len(held))
            more = len(held) == self.batch + self.depth  # one slice more than the program takes
            windows = min(self.batch, len(held) - self.depth + 1)
            block = held[: self.batch + self.depth - 1]
            block += block[-1:] * (self.batch - windows)
            closed, sums = self._add_windows(variables, sums, np.stack(block), np.int32(windows))
            yield from before  # fetched while the device is at work on the batch that was just sent
            if start:
                on_windows(start)
            if not more:
                break
            before = self._means(closed, start)
            start, held = start + windows, held[windows:]
        last = np.concatenate([closed, sums])[: windows + real - 1]
        yield from self._means(last, start, start + windows - 1)
        on_windows(start + windows)

    def _means(
        self, sums: Float[Any, "slices height width"], first: int, last_window: int = sys.maxsize
    ) -> Iterator[Float32[np.ndarray, "height width"]]:
        """Sums of the slices from `first` on, by the number of windows that hold each, none after `last_window`."""
        for index, total in enumerate(np.asarray(sums), first):
            yield total / np.float32(min(index, last_window) - max(0, index - self.depth + 1) + 1)


def _add_windows(
    predict: Callable[[Any, Shaped[Array, "batch window height width"]], Array],
    depth: int,
    batch: int,
    variables: Any,
    opened: Float32[Array, "open height width"],
    slices: Shaped[Array, "block height width"],
    windows: Array,
) -> tuple[Float32[Array, "batch height width"], Float32[Array, "open height width"]]:
    """Adds the first `windows` windows of a block of slices to the sums that are open; the closed ones, the open."""
    block = jnp.stack([slices[start : start + depth] for start in range(batch)])
    probabilities = predict(variables, block)
    sums = jnp.concatenate([opened, jnp.zeros((batch, *opened.shape[1:]), jnp.float32)])
    for start in range(batch):
        counted = jnp.where(start < windows, probabilities[start], 0).astype(jnp.float32)
        sums = sums.at[start : start + depth].add(counted)
    return sums[:batch], sums[batch:]
