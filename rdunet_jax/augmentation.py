"""Random changes of training patches, on the device: pure functions of a key, images and masks alike."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Patches = Float[Array, "batch depth height width 1"]
Augmentation = Literal["horizontal_flip"]


def horizontal_flip(key: Array, images: Patches, masks: Patches) -> tuple[Patches, Patches]:
    """Mirrors each patch left to right with chance 1/2, all its slices and its mask together (paper, section 3.2)."""
    flipped = jax.random.bernoulli(key, shape=(len(images), 1, 1, 1, 1))
    return tuple(jnp.where(flipped, x[:, :, :, ::-1], x) for x in (images, masks))  # pyright: ignore[reportReturnType]


AUGMENTATIONS: dict[str, Callable[[Array, Patches, Patches], tuple[Patches, Patches]]] = {
    "horizontal_flip": horizontal_flip,
}


def augment(key: Array, images: Patches, masks: Patches, names: tuple[Augmentation, ...]) -> tuple[Patches, Patches]:
    """Applies the named changes in the order given, each with a key of its own."""
    for index, name in enumerate(names):
        images, masks = AUGMENTATIONS[name](jax.random.fold_in(key, index), images, masks)
    return images, masks
