"""3x3x3 convolution by Winograd's algorithm F(4x4, 3x3) in plane (Lavin and Gray 2016), for backends whose matrix
product is fast and whose convolution is not.

A tile of 4x4 outputs reads 6x6 inputs. With the matrices B, G and A of F(4, 3), for an input tile d and a kernel g,

    output tile = A^T [(G g G^T) * (B^T d B)] A          36 products for 16 outputs of 9 taps each: a quarter

and over channels each of the 36 products is a matrix product over all tiles. So are the transforms: B^T d B is a 36x36
matrix times the flattened tile. A convolution is then four large matrix products and two rearrangements:

    x            (batch, depth, height, width, channels)
    tiles        (36, tiles, channels)             overlapping 6x6 windows, 4 apart
    transformed  (36, tiles, channels)             = (B^T x B^T) tiles
    products     (36, tiles, taps * features)      = transformed @ kernels, all depth taps side by side
    outputs      (16, tiles, taps * features)      = (A^T x A^T) products
    y            (batch, depth, height, width, features): put together, each tap shifted along depth, summed

The numbers in B, G and A cost digits: the error in float32 is some 1e-5 of the largest output, against 1e-6 of the
direct sum.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

TILE = 4
WINDOW = 6
CHUNK = 4096
"""Tiles that are transformed at a time: the transforms are 36/16 of the input, and of the output times the taps."""

# F(4, 3) at the points 0, 1, -1, 2, -2 and infinity.
_B = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    np.float32,
)
_G = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
    np.float32,
)
_A = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]], np.float32)
_INPUT, _OUTPUT = np.kron(_B, _B), np.kron(_A, _A)


@jax.custom_vjp
def convolve_winograd(
    x: Float[Array, "batch depth height width channels"], kernel: Float[Array, "kd 3 3 channels features"]
) -> Float[Array, "batch depth height width features"]:
    """3-D convolution, stride 1, zero padding to the input's size; `kd` must be odd.

    Its gradient for x is the same algorithm with the mirrored kernel, and its gradient for the kernel the same products
    transposed: autodiff would turn the tiles' overlap into 36 scattered sums.
    """
    kernels = _transform_kernel(kernel)
    _, _, height, width, _ = x.shape

    def convolve_slices(slices: Array) -> Array:
        products = jnp.einsum("kpc,kcn->kpn", _transform_windows(slices), kernels)
        return _join_tiles(jnp.einsum("ik,kpn->ipn", jnp.asarray(_OUTPUT), products), (height, width))

    chunks = _cut_slices(x)
    taps = convolve_slices(chunks[0])[jnp.newaxis] if len(chunks) == 1 else lax.map(convolve_slices, chunks)
    taps = taps.reshape(*x.shape[:4], len(kernel), -1)
    return sum_over_taps([taps[..., tap, :] for tap in range(len(kernel))])


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return convolve_winograd(x, kernel), (x, kernel)


def _backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = saved
    (depth_taps, *_, channels, features) = kernel.shape
    # What each tap made of a slice went to the slice that lies its offset before.
    shifted = [_shift_depth(gradient, depth_taps // 2 - tap) for tap in range(depth_taps)]

    def add_slices(total: Array, slices: tuple[Array, Array]) -> tuple[Array, None]:
        outputs = jnp.einsum("ik,ipn->kpn", jnp.asarray(_OUTPUT), _split_tiles(slices[1]))
        return total + jnp.einsum("kpc,kpn->kcn", _transform_windows(slices[0]), outputs), None

    total = jnp.zeros((WINDOW**2, channels, depth_taps * features), x.dtype)
    chunks = _cut_slices(x), _cut_slices(jnp.concatenate(shifted, axis=-1))
    if len(chunks[0]) == 1:
        total, _ = add_slices(total, (chunks[0][0], chunks[1][0]))
    else:
        total, _ = lax.scan(add_slices, total, chunks)
    g = jnp.asarray(_G)
    total = total.reshape(WINDOW, WINDOW, channels, depth_taps, features)
    for_kernel = jnp.einsum("ai,bj,abctn->tijcn", g, g, total)
    mirrored = kernel[::-1, ::-1, ::-1].swapaxes(-1, -2)
    return convolve_winograd(gradient, mirrored), for_kernel


convolve_winograd.defvjp(_forward, _backward)


def _cut_slices(x: Array) -> Float[Array, "chunks slices height width channels"]:
    """All slices in chunks of equal size, each of at most `CHUNK` tiles or of one slice."""
    batch, depth, height, width, channels = x.shape
    count = batch * depth
    fitting = max(1, CHUNK // (-(-height // TILE) * -(-width // TILE)))
    size = max(n for n in range(1, min(count, fitting) + 1) if count % n == 0)
    return x.reshape(count // size, size, height, width, channels)


def _transform_kernel(kernel: Array) -> Float[Array, "36 channels taps_features"]:
    """G g G^T of every plane, all depth taps side by side."""
    taps, _, _, channels, features = kernel.shape
    g = jnp.asarray(_G)
    return jnp.einsum("ai,bj,tijcn->abctn", g, g, kernel).reshape(WINDOW**2, channels, taps * features)


def _transform_windows(slices: Float[Array, "slices height width channels"]) -> Float[Array, "36 tiles channels"]:
    """All 6x6 windows, 4 apart, transformed."""
    _, height, width, channels = slices.shape
    rows, columns = -(-height // TILE), -(-width // TILE)
    # One pixel before; behind, up to the last window's end and the first window's stride beyond it.
    padding = [(1, (n + 1) * TILE - 1 - size) for n, size in ((rows, height), (columns, width))]
    padded = jnp.pad(slices, ((0, 0), *padding, (0, 0)))
    windows = [
        padded[:, i : i + rows * TILE : TILE, j : j + columns * TILE : TILE]
        for i in range(WINDOW)
        for j in range(WINDOW)
    ]
    return jnp.einsum("ij,jpc->ipc", jnp.asarray(_INPUT), jnp.stack(windows).reshape(WINDOW**2, -1, channels))


def _join_tiles(tiles: Float[Array, "16 tiles features"], plane: tuple[int, int]) -> Array:
    """Tiles of 4x4 outputs as slices, (slices, height, width, features)."""
    rows, columns = (-(-size // TILE) for size in plane)
    tiles = tiles.reshape(TILE, TILE, -1, rows, columns, tiles.shape[-1])
    slices = tiles.transpose(2, 3, 0, 4, 1, 5).reshape(-1, rows * TILE, columns * TILE, tiles.shape[-1])
    return slices[:, : plane[0], : plane[1]]


def _split_tiles(slices: Float[Array, "slices height width features"]) -> Float[Array, "16 tiles features"]:
    """The transpose of `_join_tiles`: slices as tiles, filled up with zeros."""
    _, height, width, features = slices.shape
    padded = jnp.pad(slices, ((0, 0), (0, -height % TILE), (0, -width % TILE), (0, 0)))
    rows, columns = padded.shape[1] // TILE, padded.shape[2] // TILE
    tiles = padded.reshape(-1, rows, TILE, columns, TILE, features)
    return tiles.transpose(2, 4, 0, 1, 3, 5).reshape(TILE**2, -1, features)


def sum_over_taps(taps: list[Array], spacing: int = 1) -> Array:
    """Sum of what each depth tap makes of every slice, shifted to the slice that it belongs to."""
    total = None
    for index, y in enumerate(taps):
        offset = (index - len(taps) // 2) * spacing
        if abs(offset) >= y.shape[1]:  # this tap only ever sees padding
            continue
        y = _shift_depth(y, offset)
        total = y if total is None else total + y
    assert total is not None  # the middle tap has offset 0
    return total


def _shift_depth(y: Array, offset: int) -> Array:
    """`result[:, d] = y[:, d + offset]`, zero where that lies outside."""
    if offset == 0:
        return y
    kept = lax.slice_in_dim(y, max(offset, 0), y.shape[1] + min(offset, 0), axis=1)
    padding = [(0, 0)] * y.ndim
    padding[1] = (max(-offset, 0), max(offset, 0))
    return jnp.pad(kept, padding)
