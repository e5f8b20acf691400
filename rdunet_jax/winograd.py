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
from jaxtyping import Array, Float

TILE = 4
WINDOW = 6

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

    Its gradient for x is the same algorithm with the mirrored kernel, and its gradient for the kernel is the transpose
    of the matrix products: autodiff would turn the tiles' overlap into 36 scattered sums.
    """
    return _multiply(_transform(x), kernel, x.shape)


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return convolve_winograd(x, kernel), (x, kernel)


def _backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = saved
    transformed = _transform(x)
    (for_kernel,) = jax.linear_transpose(lambda k: _multiply(transformed, k, x.shape), kernel)(gradient)
    mirrored = kernel[::-1, ::-1, ::-1].swapaxes(-1, -2)
    return convolve_winograd(gradient, mirrored), for_kernel


convolve_winograd.defvjp(_forward, _backward)


def _transform(x: Array) -> Float[Array, "36 tiles channels"]:
    """All 6x6 windows, 4 apart, transformed."""
    batch, depth, height, width, channels = x.shape
    rows, columns = -(-height // TILE), -(-width // TILE)
    slices = x.reshape(batch * depth, height, width, channels)
    # One pixel before; behind, up to the last window's end and the first window's stride beyond it.
    padding = [(1, (n + 1) * TILE - 1 - size) for n, size in ((rows, height), (columns, width))]
    padded = jnp.pad(slices, ((0, 0), *padding, (0, 0)))
    windows = jnp.stack(
        [
            padded[:, i : i + rows * TILE : TILE, j : j + columns * TILE : TILE]
            for i in range(WINDOW)
            for j in range(WINDOW)
        ]
    )
    return jnp.einsum("ij,jpc->ipc", jnp.asarray(_INPUT), windows.reshape(WINDOW**2, -1, channels))


def _multiply(transformed: Array, kernel: Array, shape: tuple[int, ...]) -> Array:
    """Transformed windows times the transformed kernel, transformed back, as voxels; linear in the kernel."""
    batch, depth, height, width, _ = shape
    rows, columns = -(-height // TILE), -(-width // TILE)
    taps, _, _, channels, features = kernel.shape
    g = jnp.asarray(_G)
    kernels = jnp.einsum("ai,bj,tijcn->abctn", g, g, kernel).reshape(WINDOW**2, channels, taps * features)
    products = jnp.einsum("kpc,kcn->kpn", transformed, kernels)
    outputs = jnp.einsum("ik,kpn->ipn", jnp.asarray(_OUTPUT), products)
    outputs = outputs.reshape(TILE, TILE, batch, depth, rows, columns, taps, features)
    voxels = outputs.transpose(6, 2, 3, 4, 0, 5, 1, 7).reshape(
        taps, batch, depth, rows * TILE, columns * TILE, features
    )
    voxels = voxels[:, :, :, :height, :width]
    return sum_over_taps([voxels[tap] for tap in range(taps)])


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
    kept = jax.lax.slice_in_dim(y, max(offset, 0), y.shape[1] + min(offset, 0), axis=1)
    padding = [(0, 0)] * y.ndim
    padding[1] = (max(-offset, 0), max(offset, 0))
    return jnp.pad(kept, padding)
