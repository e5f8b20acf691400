"""Grey conversion in two steps: `to_grey` once when the dataset is built, `normalise` on every patch the network sees.

| name           | stored                                   | what the network sees             | source               |
|----------------|------------------------------------------|-----------------------------------|----------------------|
| `slice_minmax` | uint8, each slice min-max scaled         | patch / maximum of the patch      | paper's Keras code   |
| `hu_window`    | int16 Hounsfield units                   | lung window -1000..400 HU to 0..1 | keeps absolute HU    |
| a plugin's     | int16 Hounsfield units                   | what the plugin makes of a patch  | `INTENSITIES`        |
"""

from typing import Any, TypeVar

import numpy as np
from jaxtyping import Int16, Shaped

from data_pipeline.settings import INTENSITIES, NETWORK_WINDOW_HU, Intensity

AIR_HU = -1024

Array = TypeVar("Array", bound=Any)


def stored_dtype(intensity: Intensity) -> type[np.uint8] | type[np.int16]:
    """The dtype in which a dataset holds its grey values."""
    return np.int16 if holds_hounsfield(intensity) else np.uint8


def background(intensity: Intensity) -> int:
    """The stored grey value of air, with which slices are padded."""
    return AIR_HU if holds_hounsfield(intensity) else 0


def to_grey(
    hounsfield: Int16[np.ndarray, "depth height width"], intensity: Intensity
) -> Shaped[np.ndarray, "depth height width"]:
    """Hounsfield units to stored grey values (see the table above); a constant slice becomes 0 in `slice_minmax`."""
    if holds_hounsfield(intensity):
        return hounsfield
    low = hounsfield.min(axis=(1, 2), keepdims=True).astype(np.float32)
    span = hounsfield.max(axis=(1, 2), keepdims=True).astype(np.float32) - low
    return np.rint((hounsfield - low) * (255 / np.maximum(span, 1))).astype(np.uint8)


def holds_hounsfield(intensity: Intensity) -> bool:
    """Whether the stored grey values are Hounsfield units."""
    return intensity != "slice_minmax"


def normalise(patches: Array, intensity: Intensity) -> Array:
    """Stored grey values to the float32 that the network sees.

    Args:
        patches: (..., depth, height, width), NumPy or JAX, also traced; the last three axes are one patch.
    """
    return INTENSITIES[intensity](patches)


@INTENSITIES.register("slice_minmax")
def divided_by_maximum(patches: Array) -> Array:
    """0..1: divided by the maximum of the patch; a patch of zeros stays zeros."""
    grey = patches.astype(np.float32)
    brightest = grey.max(axis=(-3, -2, -1), keepdims=True)
    return grey / brightest.clip(1)


@INTENSITIES.register("hu_window")
def lung_window(patches: Array) -> Array:
    """0..1: Hounsfield units, cut off at the limits of the window."""
    low, high = NETWORK_WINDOW_HU
    return ((patches.astype(np.float32) - low) / (high - low)).clip(0, 1)
