"""3x3x3 convolution by Winograd's algorithm (Lavin and Grey 2016), F(4x4, 3x3) in plane and F(2, 3) along depth, for
backends whose matrix product is fast and whose convolution is not.

F(m, r) makes m outputs of an r-tap filter from m + r - 1 products, by the matrices B, G and A of `_matrices`. For an
input window d and a kernel g, in one dimension and with * element by element,

    m outputs = A [(G g) * (B d)]

and in three dimensions along each axis in turn. A window of 4x6x6 inputs gives 2x4x4 outputs of 27 taps each by 144
products, where the sum itself needs 864: a sixth. Over channels each of the 144 is a matrix product over all windows.
Planes are worked through in bands of some rows over all slices, so that what is made on the way fits into the
processor's cache:

    band         (batch, depth + 2, rows + 2, width + 2, channels)
    windows      (144, windows, channels)        = B of its overlapping 4x6x6 windows, axis by axis, rows first
    products     (144, windows, features)        = windows @ kernels
    outputs      (32, windows, features)         = A of the products, axis by axis
    band of y    (batch, depth, rows, width, features)

The numbers in B, G and A cost digits: the error in float32 is up to 2e-5 of the largest output, against 1e-6 of the
direct sum.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float
from numpy.polynomial.polynomial import polyfromroots

TILE = 4
WINDOW = 6
BAND = 512
"""Windows of a plane that a band holds over all its slices (but at least one row of them)."""


class _Matrices(NamedTuple):
    b: np.ndarray
    g: np.ndarray
    a: np.ndarray


def _matrices(points: Sequence[float], taps: int) -> _Matrices:
    """B, G and A after Toom and Cook: polynomials are multiplied by their values at `points` and at infinity.

    Row i of B holds the coefficients of the product of (x - p) over all points p but the i-th (the last row: over all),
    row i of G the powers of point i over the product of its distances to the others, column i of A its powers.
    """
    size = len(points) + 1
    b, g, a = np.zeros((size, size)), np.zeros((size, taps)), np.zeros((size - taps + 1, size))
    for i, point in enumerate(points):
        others = np.array([p for p in points if p != point])
        b[i, :-1] = polyfromroots(others)
        g[i] = point ** np.arange(taps) / np.prod(point - others)
        a[:, i] = point ** np.arange(len(a))
    b[-1] = polyfromroots(points)
    g[-1, -1] = a[-1, -1] = 1
    return _Matrices(*(matrix.astype(np.float32) for matrix in (b, g, a)))


# At quarters B and A are exact. These four were searched for: against the usual 1, -1, 2, -2 the error is half in the
# mean square and a quarter in the largest.
_PLANE = _matrices((0, 3 / 4, -3 / 4, 3 / 2, -3 / 2), taps=3)
# By the kernel's depth. A kernel of one plane leaves the depth as it is.
_DEPTH = {1: _matrices((), taps=1), 3: _matrices((0, 1, -1), taps=3)}


@jax.custom_vjp
def convolve_winograd(
    x: Float[Array, "batch depth height width channels"], kernel: Float[Array, "kd 3 3 channels features"]
) -> Float[Array, "batch depth height width features"]:
    """3-D convolution, stride 1, zero padding to the input's size; `kd` must be 1 or 3.

    Its gradient for x is the same algorithm with the mirrored kernel, and its gradient for the kernel the same products
    transposed: autodiff would turn the windows' overlap into 36 scattered sums.
    """
    bands = _Bands(x.shape, len(kernel))
    filled = bands.fill(x)
    kernels = _transform_axes((_DEPTH[len(kernel)].g, _PLANE.g, _PLANE.g), kernel.swapaxes(1, 2))
    kernels = kernels.reshape(-1, *kernel.shape[3:])

    def add_band(index: Array, y: Array) -> Array:
        windows = bands.transform_windows(bands.cut_windows(filled, index))
        band = bands.transform_products(jnp.einsum("kpc,kcn->kpn", windows, kernels))
        return lax.dynamic_update_slice_in_dim(y, band, index * bands.height, axis=2)

    y = jnp.zeros((*bands.whole, kernel.shape[-1]), x.dtype)
    y = lax.fori_loop(0, bands.count, add_band, y)
    return y[:, : x.shape[1], : x.shape[2], : x.shape[3]]


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return convolve_winograd(x, kernel), (x, kernel)


def _backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = saved
    bands = _Bands(x.shape, len(kernel))
    filled, filled_gradient = bands.fill(x), bands.fill(gradient)

    def add_band(index: Array, total: Array) -> Array:
        windows = bands.transform_windows(bands.cut_windows(filled, index))
        outputs = bands.transform_outputs(bands.cut(filled_gradient, index))
        return total + jnp.einsum("kpc,kpn->kcn", windows, outputs)

    depth = _DEPTH[len(kernel)]
    total = jnp.zeros((len(depth.b) * WINDOW**2, *kernel.shape[3:]), x.dtype)
    total = lax.fori_loop(0, bands.count, add_band, total)
    total = total.reshape(-1, WINDOW, WINDOW, *kernel.shape[3:])
    for_kernel = _transform_axes((depth.g.T, _PLANE.g.T, _PLANE.g.T), total).swapaxes(1, 2)
    mirrored = kernel[::-1, ::-1, ::-1].swapaxes(-1, -2)
    return convolve_winograd(gradient, mirrored), for_kernel


convolve_winograd.defvjp(_forward, _backward)


class _Bands:
    """How a convolution's planes are cut into bands, and the transforms of one band.

    Attributes:
        count: bands, of `height` rows of pixels each.
        whole: batch, depth, height, width of the output, filled up to whole windows.
    """

    def __init__(self, shape: Sequence[int], kernel_depth: int) -> None:
        batch, depth, height, width, _ = shape
        self.b, _, self.a = _DEPTH[kernel_depth]
        self.step = len(self.a)
        self.batch, self.depth = batch, -(-depth // self.step) * self.step
        rows, self.columns = -(-height // TILE), -(-width // TILE)
        fitting = max(1, BAND // (batch * self.depth * self.columns))
        self.rows = max(n for n in range(1, min(rows, fitting) + 1) if rows % n == 0)
        self.count, self.height = rows // self.rows, self.rows * TILE
        self.whole = (batch, self.depth, rows * TILE, self.columns * TILE)

    def fill(self, x: Array) -> Array:
        """x, filled up to `whole` with zeros."""
        return jnp.pad(x, [(0, n - size) for n, size in zip(self.whole, x.shape[:4], strict=True)] + [(0, 0)])

    def cut(self, filled: Array, index: Array) -> Array:
        """One band of what `fill` gave."""
        return lax.dynamic_slice_in_dim(filled, index * self.height, self.height, axis=2)

    def cut_windows(self, filled: Array, index: Array) -> Array:
        """One band and what its windows see around it, which outside the planes is zero."""
        first = index * self.height
        above = lax.dynamic_slice_in_dim(filled, jnp.maximum(first - 1, 0), 1, axis=2)
        below = lax.dynamic_slice_in_dim(filled, jnp.minimum(first + self.height, self.whole[2] - 1), 1, axis=2)
        above, below = jnp.where(index > 0, above, 0), jnp.where(index < self.count - 1, below, 0)
        deep = int(len(self.b) > 1)
        return jnp.pad(
            jnp.concatenate([above, self.cut(filled, index), below], axis=2),
            ((0, 0), (deep, deep), (0, 0), (1, 1), (0, 0)),
        )

    def transform_windows(
        self, band: Float[Array, "batch depth rows width channels"]
    ) -> Float[Array, "products windows channels"]:
        """B d: all windows of a band, transformed."""
        high, wide = ((count - 1) * TILE + 1 for count in (self.rows, self.columns))
        deep = self.depth - self.step + 1
        x = _combine(_PLANE.b, [band[:, :, i : i + high : TILE] for i in range(WINDOW)])
        x = _combine(_PLANE.b, [x[:, :, :, :, j : j + wide : TILE] for j in range(WINDOW)])
        x = _combine(self.b, [x[:, :, :, k : k + deep : self.step] for k in range(len(self.b))])
        return x.reshape(len(self.b) * WINDOW**2, -1, band.shape[-1])

    def transform_products(
        self, products: Float[Array, "products windows features"]
    ) -> Float[Array, "batch depth rows width features"]:
        """A p: a band of the output."""
        features = products.shape[-1]
        y = products.reshape(len(self.b), WINDOW, WINDOW, -1, features)
        y = _transform_axes((self.a, _PLANE.a, _PLANE.a), y)
        y = y.reshape(self.step, TILE, TILE, self.batch, -1, self.rows, self.columns, features)
        return y.transpose(3, 4, 0, 5, 2, 6, 1, 7).reshape(*self.whole[:2], self.height, self.whole[3], features)

    def transform_outputs(
        self, band: Float[Array, "batch depth rows width features"]
    ) -> Float[Array, "products windows features"]:
        """The transpose of `transform_products`."""
        features = band.shape[-1]
        y = band.reshape(self.batch, -1, self.step, self.rows, TILE, self.columns, TILE, features)
        y = y.transpose(2, 6, 4, 0, 1, 3, 5, 7).reshape(self.step, TILE, TILE, -1, features)
        return _transform_axes((self.a.T, _PLANE.a.T, _PLANE.a.T), y).reshape(len(self.b) * WINDOW**2, -1, features)


def _transform_axes(matrices: Sequence[np.ndarray], x: Array) -> Array:
    """Each matrix times x along an axis: the last along axis 2, the first along axis 0."""
    for matrix in reversed(matrices):
        x = _combine(matrix, [x[:, :, i] for i in range(matrix.shape[1])])
    return x


def _combine(matrix: np.ndarray, parts: list[Array]) -> Array:
    """The matrix times the parts, stacked: a new first axis. Written out, for half of the numbers are 0, 1 or -1."""
    rows = [sum(float(number) * part for number, part in zip(row, parts, strict=True) if number) for row in matrix]
    # Not to be fused with what reads it, which would compute it once for each of its readers.
    return lax.optimization_barrier(jnp.stack(rows))
