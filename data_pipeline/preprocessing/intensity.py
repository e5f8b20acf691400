"""Gray conversion in two steps: `to_gray` once when the dataset is built, `normalise` on every patch the network sees.

| name           | stored                                   | what the network sees             | source               |
|----------------|------------------------------------------|-----------------------------------|----------------------|
| `slice_minmax` | uint8, each slice min-max scaled         | patch / maximum of the patch      | paper's Keras code   |
| `hu_window`    | int16 Hounsfield units                   | lung window -1000..400 HU to 0..1 | keeps absolute HU    |
"""

from typing import Any, TypeVar

import numpy as np
from jaxtyping import Int16, Shaped

from data_pipeline.settings import Intensity

NETWORK_WINDOW_HU = (-1000.0, 400.0)
AIR_HU = -1024

Array = TypeVar("Array", bound=Any)


def stored_dtype(intensity: Intensity) -> type[np.uint8] | type[np.int16]:
    """The dtype in which a dataset holds its gray values."""
    return np.uint8 if intensity == "slice_minmax" else np.int16


def background(intensity: Intensity) -> int:
    """The stored gray value of air, with which slices are padded."""
    return 0 if intensity == "slice_minmax" else AIR_HU


def to_gray(
    hounsfield: Int16[np.ndarray, "depth height width"], intensity: Intensity
) -> Shaped[np.ndarray, "depth height width"]:
    """Hounsfield units to stored gray values (see the table above); a constant slice becomes 0 in `slice_minmax`."""
    if intensity == "hu_window":
        return hounsfield
    low = hounsfield.min(axis=(1, 2), keepdims=True).astype(np.float32)
    span = hounsfield.max(axis=(1, 2), keepdims=True).astype(np.float32) - low
    return np.rint((hounsfield - low) * (255 / np.maximum(span, 1))).astype(np.uint8)


def normalise(patches: Array, intensity: Intensity) -> Array:
    """Stored gray values to the float32 in 0..1 that the network sees.

    Args:
        patches: (..., depth, height, width), NumPy or JAX, also traced; the last three axes are one patch.
    """
    gray = patches.astype(np.float32)
    if intensity == "slice_minmax":
        brightest = gray.max(axis=(-3, -2, -1), keepdims=True)
        return gray / brightest.clip(1)  # a patch of zeros stays zeros
    low, high = NETWORK_WINDOW_HU
    return ((gray - low) / (high - low)).clip(0, 1)
