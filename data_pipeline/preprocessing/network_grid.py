"""The network's in-plane grid: every slice on a square canvas, reduced to the image size.

A slice is centred on a square canvas of at least 512 pixels and never stretched, so a cropped CT shows a tumour
at the same scale as a whole one:

    201 x 204 --pad--> 512 x 512 --mean of 2 x 2--> 256 x 256
    512 x 512 ------------------ --mean of 2 x 2--> 256 x 256
    768 x 700 --pad--> 768 x 768 --local mean-----> 256 x 256
    512 x 512 ------------------ --mean of 4 x 2--> 128 x 256

The grid always covers the whole canvas: a pixel of an image size with fewer rows than columns is higher than wide.

Halving by the local mean is exactly the bilinear resizing of the paper's Keras code (its samples fall midway
between pixels); for other ratios the local mean does not alias, where bilinear would.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Shaped
from skimage.measure import block_reduce
from skimage.transform import resize_local_mean

from data_pipeline.settings import GridShape, plane_shape

CANVAS = 512


def place_on_canvas(height: int, width: int) -> tuple[int, int, int]:
    """Side of a slice's canvas, and the row and column of the canvas where the slice begins."""
    (top, below), (left, _) = _margins(height, width)
    return top + height + below, top, left


def _margins(height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """The (before, after) padding of rows and of columns that makes the canvas."""
    side = max(CANVAS, height, width)
    top, left = (side - height) // 2, (side - width) // 2
    return (top, side - height - top), (left, side - width - left)


def _reduce(canvas: Shaped[np.ndarray, "side side"], shape: tuple[int, int]) -> Float32[np.ndarray, "rows columns"]:
    """Local mean on the coarser grid."""
    if any(len(canvas) % extent for extent in shape):
        return resize_local_mean(canvas.astype(np.float32), shape)
    factors: Any = tuple(len(canvas) // extent for extent in shape)  # typed as one number, and documented as a pair too
    return block_reduce(canvas, factors, np.mean).astype(np.float32)  # the same, ten times faster


def to_network_grid(
    volume: Shaped[np.ndarray, "depth height width"], image_size: GridShape, background: int
) -> Shaped[np.ndarray, "depth rows columns"]:
    """Grey volume (any integer dtype, kept) to the network's grid; `background` fills the canvas."""
    margins, shape = _margins(*volume.shape[1:]), plane_shape(image_size)
    output = np.empty((len(volume), *shape), volume.dtype)
    for index, plane in enumerate(volume):  # slice by slice: float copies of a whole scan would cost gigabytes
        canvas = np.pad(plane, margins, constant_values=background)
        output[index] = np.rint(_reduce(canvas, shape))
    return output


def mask_to_network_grid(
    mask: Bool[np.ndarray, "depth height width"], image_size: GridShape
) -> Bool[np.ndarray, "depth rows columns"]:
    """Mask to the network's grid: tumour where at least half of a pixel's area is tumour.

    A tumour too thin to fill half of any pixel keeps the pixels it fills most, so a tumour slice stays one.
    """
    margins, shape = _margins(*mask.shape[1:]), plane_shape(image_size)
    output = np.zeros((len(mask), *shape), bool)
    for index in np.flatnonzero(mask.any(axis=(1, 2))):
        share = _reduce(np.pad(mask[index], margins), shape)
        # 1e-4: a share of exactly one half may come out of float32 sums a few units in the last place off.
        output[index] = (share > 0) & (share >= min(0.5, share.max()) - 1e-4)
    return output
