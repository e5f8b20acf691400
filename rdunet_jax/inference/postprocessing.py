"""From mean probabilities to a mask: resizing to the CT's grid, threshold, dilation by a disk (paper, section 3.4) or a
square (Keras code)."""

from functools import lru_cache, partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32
from skimage.filters import threshold_otsu
from skimage.morphology import disk

Kernel = Literal["disk", "square"]
Threshold = float | Literal["histogram"]
"""A probability, or one picked for each patient by `histogram_threshold`."""

BATCH = 16
"""Slices in one call of the compiled program."""
_HISTOGRAM_FLOOR = 0.1
_HISTOGRAM_BOUNDS = (0.3, 0.9)
_PAPER_THRESHOLD = 0.7


@lru_cache
def disk_kernel(diameter: int) -> np.ndarray:
    """Footprint of the pixels within (diameter - 1) / 2 of the middle one, (diameter, diameter) float32.

    Raises:
        ValueError: the diameter is not an odd number of at least 1.
    """
    if diameter < 1 or diameter % 2 == 0:
        raise ValueError(f"dilation_diameter is {diameter}, but must be odd and at least 1")
    return np.asarray(disk(diameter // 2), np.float32)


@partial(jax.jit, static_argnames=("diameter", "kernel"))
def dilate(
    mask: Bool[Array, "depth height width"], diameter: int, kernel: Kernel = "disk"
) -> Bool[Array, "depth height width"]:
    """Each slice dilated by a disk or a full square of `diameter` pixels; beyond the border lies nothing."""
    footprint = disk_kernel(diameter)
    if kernel == "square":
        footprint = np.ones_like(footprint)
    hits = jax.lax.conv_general_dilated(
        mask[..., jnp.newaxis].astype(jnp.float32),
        jnp.asarray(footprint)[:, :, jnp.newaxis, jnp.newaxis],
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return hits[..., 0] > 0.5  # a count of pixels: 0 or at least 1


def histogram_threshold(probabilities: Float[np.ndarray, "depth height width"]) -> float:
    """A threshold picked for one patient from the histogram of its probabilities.

    The VIP Cup report says only that the threshold is picked so. Our reading: Otsu's threshold of the probabilities
    above 0.1 (below lies all that is clearly no tumour, which would drown the rest), bounded to 0.3..0.9. The paper's
    0.7 where fewer than two different probabilities lie above 0.1.
    """
    values = probabilities[probabilities > _HISTOGRAM_FLOOR]
    if len(values) == 0 or values.min() == values.max():
        return _PAPER_THRESHOLD
    return float(np.clip(threshold_otsu(values), *_HISTOGRAM_BOUNDS))


class Canvas(NamedTuple):
    """Where a CT's slice lies on the square canvas, in pixels of the CT, that the network's grid covers."""

    side: int
    top: int
    left: int
    height: int
    width: int


def postprocess(
    probabilities: Float[np.ndarray, "depth height width"],
    threshold: float,
    dilation_diameter: int,
    kernel: Kernel = "disk",
) -> Bool[np.ndarray, "depth height width"]:
    """Tumour where the probability exceeds `threshold`, then dilated."""
    return np.asarray(dilate(jnp.asarray(probabilities > threshold), dilation_diameter, kernel))


def postprocess_on_canvas(
    probabilities: Float32[np.ndarray, "depth size size"],
    canvas: Canvas,
    threshold: Threshold,
    dilation_diameter: int,
    kernel: Kernel = "disk",
) -> tuple[Bool[np.ndarray, "depth height width"], Float32[np.ndarray, "depth height width"]]:
    """The mask on the CT's own grid, and the probabilities there.

    Resized bilinearly first, then thresholded and dilated, as the Keras code does: the kernel is measured in the CT's
    pixels. `BATCH` slices at a time go through one program, which is compiled once for a size of slice, whatever the
    number of slices and the threshold. The histogram is that of the network's grid.

    Args:
        threshold: tumour is where the probability exceeds it.
    """
    if threshold == "histogram":
        threshold = histogram_threshold(probabilities)
    mask = np.empty((len(probabilities), canvas.height, canvas.width), bool)
    resized = np.empty(mask.shape, np.float32)
    for start in range(0, len(probabilities), BATCH):
        block = probabilities[start : start + BATCH]
        filled = np.pad(block, ((0, BATCH - len(block)), (0, 0), (0, 0)))
        done = _postprocess_block(filled, np.float32(threshold), canvas, dilation_diameter, kernel)
        for whole, part in zip((mask, resized), done, strict=True):
            whole[start : start + BATCH] = np.asarray(part)[: len(block)]
    return mask, resized


@partial(jax.jit, static_argnames=("canvas", "diameter", "kernel"))
def _postprocess_block(
    probabilities: Float32[Array, "batch size size"], threshold: Array, canvas: Canvas, diameter: int, kernel: Kernel
) -> tuple[Any, Any]:
    resized = jax.image.scale_and_translate(
        probabilities,
        (len(probabilities), canvas.height, canvas.width),
        (1, 2),
        jnp.full(2, canvas.side / probabilities.shape[-1], jnp.float32),
        -jnp.array([canvas.top, canvas.left], jnp.float32),
        "linear",
        antialias=False,
        precision=jax.lax.Precision.HIGHEST,  # TPU and GPU would round the factors to fewer bits
    )
    return dilate(resized > threshold, diameter, kernel), resized
