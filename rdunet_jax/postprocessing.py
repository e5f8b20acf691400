"""From mean probabilities to a mask: threshold, then dilation with a disk (paper, section 3.4)."""

from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from skimage.morphology import disk


@lru_cache
def disk_kernel(diameter: int) -> np.ndarray:
    """Footprint of the pixels within (diameter - 1) / 2 of the middle one, (diameter, diameter) float32.

    Raises:
        ValueError: the diameter is not an odd number of at least 1.
    """
    if diameter < 1 or diameter % 2 == 0:
        raise ValueError(f"dilation_diameter is {diameter}, but must be odd and at least 1")
    return np.asarray(disk(diameter // 2), np.float32)


@partial(jax.jit, static_argnames="diameter")
def dilate(mask: Bool[Array, "depth height width"], diameter: int) -> Bool[Array, "depth height width"]:
    """Each slice dilated by a disk of `diameter` pixels; beyond the border lies nothing."""
    kernel = jnp.asarray(disk_kernel(diameter))[:, :, jnp.newaxis, jnp.newaxis]
    hits = jax.lax.conv_general_dilated(
        mask[..., jnp.newaxis].astype(jnp.float32), kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return hits[..., 0] > 0.5  # a count of pixels: 0 or at least 1


def postprocess(
    probabilities: Float[np.ndarray, "depth height width"], threshold: float, dilation_diameter: int
) -> Bool[np.ndarray, "depth height width"]:
    """Tumour where the probability exceeds `threshold`, then dilated."""
    return np.asarray(dilate(jnp.asarray(probabilities > threshold), dilation_diameter))
