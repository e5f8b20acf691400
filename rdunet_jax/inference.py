"""The sliding-window evaluator (paper, section 3.4).

A patch network sees 8 consecutive slices. Windows slide over the patient by one slice, and a slice's probability is
the mean over all windows that hold it:

    slice      0  1  2  3  4  5  6  7  8  9
    window 0  [0  1  2  3  4  5  6  7]
    window 1     [1  2  3  4  5  6  7  8]
    window 2        [2  3  4  5  6  7  8  9]
    windows    1  2  3  3  3  3  3  3  2  1   that hold the slice

The windows go through one compiled program, `jax.vmap` of a predictor over a batch of fixed size; the last batch is
filled up with repetitions of its last window, so that nothing is compiled twice.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array, Float, Float32, Shaped

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
        self._predict = jax.jit(jax.vmap(predictor, in_axes=(None, 0)))

    def __call__(
        self,
        variables: Any,
        volume: Shaped[np.ndarray, "depth height width"],
        on_windows: Callable[[int, int], None] = lambda done, total: None,
    ) -> Float32[np.ndarray, "depth height width"]:
        """Mean tumour probability of every voxel.

        Args:
            volume: stored gray values of a patient; with fewer slices than a window, its last slice is repeated and
                the repetitions are dropped from the result.
            on_windows: called with (windows done, windows in all) after every batch.
        """
        slices = len(volume)
        if slices < self.depth:
            volume = np.pad(volume, ((0, self.depth - slices), (0, 0), (0, 0)), mode="edge")
        windows = np.moveaxis(np.lib.stride_tricks.sliding_window_view(volume, self.depth, axis=0), -1, 1)
        total = np.zeros(volume.shape, np.float32)
        count = np.zeros((len(volume), 1, 1), np.float32)
        for start in range(0, len(windows), self.batch):
            real = min(self.batch, len(windows) - start)
            chosen = np.minimum(np.arange(start, start + self.batch), len(windows) - 1)
            probabilities = np.asarray(self._predict(variables, windows[chosen]))
            for offset in range(real):
                held = slice(start + offset, start + offset + self.depth)
                total[held] += probabilities[offset]
                count[held] += 1
            on_windows(start + real, len(windows))
        return (total / count)[:slices]
