"""A plugin with a loss: the boundary loss of Kervadec et al. 2019, to be added to one of overlap.

rdunet train --plugin experiments/tutorials/boundary_loss.py --loss bce+0.1*boundary --data-dir data --workdir run
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rdunet_jax.registry import LOSSES

FAR = 1e9


def distance(mask: Bool[Array, "height width"]) -> Float[Array, "height width"]:
    """Distance of each pixel to the nearest one of the mask, in pixels: the nearest in its row, then over the rows."""
    squared = jnp.where(mask, 0.0, FAR)
    for _ in range(2):
        places = jnp.arange(squared.shape[1], dtype=jnp.float32)
        squared = (squared[:, None, :] + (places[None, :, None] - places[None, None, :]) ** 2).min(axis=2).T
    return jnp.sqrt(squared)


def signed_distance(tumour: Bool[Array, "height width"]) -> Float[Array, "height width"]:
    """Distance to the tumour outside of it, less that to the rest inside, in heights of the slice; 0 without tumour."""
    both = tumour.any() & ~tumour.all()
    return jnp.where(both, distance(tumour) - distance(~tumour), 0.0) / len(tumour)


@LOSSES.register("boundary")
def boundary(
    logits: Float[Array, "batch depth height width 1"], targets: Float[Array, "batch depth height width 1"]
) -> Float[Array, ""]:
    """Mean over the voxels of probability times signed distance: less where tumour is predicted inside the contour."""
    slices = targets.reshape(-1, *targets.shape[2:4]) > 0.5
    distances = jax.lax.map(signed_distance, slices).reshape(targets.shape)
    return (jax.nn.sigmoid(logits.astype(jnp.float32)) * distances).mean()
