"""From mean probabilities to a mask: resizing to the CT's grid, threshold, dilation by a disk (paper, section 3.4) or a
square (the authors' code)."""

from dataclasses import replace
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Shaped
from skimage.filters import threshold_otsu
from skimage.morphology import disk

from data_pipeline.preprocessing.network_grid import place_on_canvas
from rdunet_jax.config import Kernel, PostprocessingConfig, Threshold

BATCH = 16
"""Slices in one call of the compiled programs."""
_HISTOGRAM_FLOOR = 0.1
_HISTOGRAM_BOUNDS = (0.3, 0.9)
_PAPER_THRESHOLD = PostprocessingConfig().threshold


@lru_cache
def disk_kernel(diameter: int) -> np.ndarray:
    """Footprint of the pixels within (diameter - 1) / 2 of the center, (diameter, diameter) float32.

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
    """Each slice dilated by a disk or a full square of `diameter` pixels; outside the slice is background."""
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

    The VIP Cup report states only that the threshold is picked from a histogram. Our reading: Otsu's threshold of the
    probabilities above 0.1 (the many voxels that are clearly no tumour would dominate the histogram), bounded to
    0.3..0.9. The paper's 0.7 where fewer than two different probabilities are above 0.1.
    """
    values = probabilities[probabilities > _HISTOGRAM_FLOOR]
    if len(values) == 0 or values.min() == values.max():
        return float(_PAPER_THRESHOLD)
    return float(np.clip(threshold_otsu(values), *_HISTOGRAM_BOUNDS))


def threshold_of(threshold: Threshold, probabilities: Float[np.ndarray, "depth height width"]) -> float:
    """The number to cut a patient's probabilities at: `threshold` itself, or its `histogram_threshold`."""
    return histogram_threshold(probabilities) if threshold == "histogram" else float(threshold)


class Canvas(NamedTuple):
    """Where a CT's slice is on the square canvas that the network's grid covers, in pixels of the CT."""

    side: int
    top: int
    left: int
    height: int
    width: int


def canvas_of(height: int, width: int) -> Canvas:
    """The canvas of a CT's slices, as `place_on_canvas` defines it."""
    return Canvas(*place_on_canvas(height, width), height, width)


def to_ct_grid(
    volume: Shaped[np.ndarray, "depth size size"], height: int, width: int
) -> Float32[np.ndarray, "depth height width"]:
    """Values on the network's grid resized bilinearly to the CT's own pixels, without the canvas around them.

    `BATCH` slices at a time go through one program, which is compiled once for a size of slice.
    """
    resized = np.empty((len(volume), height, width), np.float32)
    canvas = canvas_of(height, width)
    for start in range(0, len(volume), BATCH):
        block = _resize_block(_filled(volume[start : start + BATCH].astype(np.float32)), canvas)
        resized[start : start + BATCH] = np.asarray(block)[: len(volume) - start]
    return resized


def postprocess(
    probabilities: Float[np.ndarray, "depth height width"], postprocessing: PostprocessingConfig
) -> Bool[np.ndarray, "depth height width"]:
    """The mask of probabilities on the grid that they have: above the threshold, then dilated.

    The dilation of `BATCH` slices is compiled once for a size of slice and a kernel. The diameter is in pixels of the
    given grid, and the threshold `histogram` is that of the given probabilities.
    """
    mask = probabilities > threshold_of(postprocessing.threshold, probabilities)
    if postprocessing.dilation_diameter == 1:
        return mask
    for start in range(0, len(mask), BATCH):
        block = _filled(mask[start : start + BATCH])
        dilated = dilate(jnp.asarray(block), postprocessing.dilation_diameter, postprocessing.kernel)
        mask[start : start + BATCH] = np.asarray(dilated)[: len(mask) - start]
    return mask


def postprocess_on_ct(
    probabilities: Float32[np.ndarray, "depth size size"],
    height: int,
    width: int,
    postprocessing: PostprocessingConfig,
) -> tuple[Bool[np.ndarray, "depth height width"], Float32[np.ndarray, "depth height width"]]:
    """The mask on the CT's own grid, and the probabilities there.

    Resized bilinearly first, then thresholded and dilated, as the authors' code does: the kernel is measured in pixels
    of the CT. The threshold `histogram` is that of the network's grid.
    """
    on_ct = to_ct_grid(probabilities, height, width)
    number = threshold_of(postprocessing.threshold, probabilities)
    return postprocess(on_ct, replace(postprocessing, threshold=number)), on_ct


def _filled(block: np.ndarray) -> np.ndarray:
    """A block of at most `BATCH` slices, with empty slices at its end, so that all blocks have one shape."""
    return np.pad(block, ((0, BATCH - len(block)), (0, 0), (0, 0)))


@partial(jax.jit, static_argnames="canvas")
def _resize_block(block: Float32[Array, "batch size size"], canvas: Canvas) -> Float32[Array, "batch height width"]:
    return jax.image.scale_and_translate(
        block,
        (len(block), canvas.height, canvas.width),
        (1, 2),
        jnp.full(2, canvas.side / block.shape[-1], jnp.float32),
        -jnp.array([canvas.top, canvas.left], jnp.float32),
        "linear",
        antialias=False,
        precision=jax.lax.Precision.HIGHEST,  # TPU and GPU would round the factors to fewer bits
    )
