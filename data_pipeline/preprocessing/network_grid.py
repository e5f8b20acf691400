"""The network's in-plane grid: every slice on a square canvas, reduced to `size` x `size`.

A slice is centered on a square canvas of at least 512 pixels and never stretched, so a cropped CT shows a tumour
at the same scale as a whole one:

    201 x 204 --pad--> 512 x 512 --mean of 2 x 2--> 256 x 256
    512 x 512 ------------------ --mean of 2 x 2--> 256 x 256
    768 x 700 --pad--> 768 x 768 --local mean-----> 256 x 256

Halving by the local mean is exactly the bilinear resizing of the paper's Keras code (its samples fall midway
between pixels); for other ratios the local mean does not alias, where bilinear would.
"""

import numpy as np
from jaxtyping import Bool, Float32, Shaped
from skimage.measure import block_reduce
from skimage.transform import resize_local_mean

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


def _reduce(canvas: Shaped[np.ndarray, "side side"], size: int) -> Float32[np.ndarray, "size size"]:
    """Local mean on the coarser grid."""
    factor, remainder = divmod(len(canvas), size)
    if remainder:
        return resize_local_mean(canvas.astype(np.float32), (size, size))
    return block_reduce(canvas, factor, np.mean).astype(np.float32)  # the same, ten times faster


def to_network_grid(
    volume: Shaped[np.ndarray, "depth height width"], size: int, background: int
) -> Shaped[np.ndarray, "depth size size"]:
    """Gray volume (any integer dtype, kept) to the network's grid; `background` fills the canvas."""
    rows, columns = _margins(*volume.shape[1:])
    output = np.empty((len(volume), size, size), volume.dtype)
    for index, plane in enumerate(volume):  # slice by slice: float copies of a whole scan would cost gigabytes
        canvas = np.pad(plane, (rows, columns), constant_values=background)
        output[index] = np.rint(_reduce(canvas, size))
    return output


def mask_to_network_grid(
    mask: Bool[np.ndarray, "depth height width"], size: int
) -> Bool[np.ndarray, "depth size size"]:
    """Mask to the network's grid: tumour where at least half of a pixel's area is tumour.

    A tumour too thin to fill half of any pixel keeps the pixels it fills most, so a tumour slice stays one.
    """
    rows, columns = _margins(*mask.shape[1:])
    output = np.zeros((len(mask), size, size), bool)
    for index in np.flatnonzero(mask.any(axis=(1, 2))):
        share = _reduce(np.pad(mask[index], (rows, columns)), size)
        # 1e-4: a share of exactly one half may come out of float32 sums a few units in the last place off.
        output[index] = share >= min(0.5, share.max()) - 1e-4
    return output
