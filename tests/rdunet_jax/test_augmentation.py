"""Augmentations: image and mask move together, with the chances stated."""

import jax
import jax.numpy as jnp
import numpy as np

from rdunet_jax.augmentation import augment, horizontal_flip


def test_each_patch_is_whole_or_mirrored_and_its_mask_with_it() -> None:
    images = jax.random.uniform(jax.random.key(0), (2000, 2, 3, 4, 1))
    masks = (images > 0.5).astype(jnp.float32)
    flipped, flipped_masks = horizontal_flip(jax.random.key(1), images, masks)
    np.testing.assert_array_equal(flipped_masks, flipped > 0.5)
    mirrored = np.all(flipped == images[:, :, :, ::-1], axis=(1, 2, 3, 4))
    whole = np.all(flipped == images, axis=(1, 2, 3, 4))
    assert np.all(mirrored ^ whole)
    # 2000 fair coins: five standard deviations are 0.056
    assert abs(mirrored.mean() - 0.5) < 0.056


def test_the_same_key_draws_the_same_and_no_name_changes_nothing() -> None:
    images = jax.random.uniform(jax.random.key(0), (8, 2, 3, 4, 1))
    one, other = (augment(jax.random.key(2), images, images, ("horizontal_flip",)) for _ in range(2))
    np.testing.assert_array_equal(one[0], other[0])
    assert augment(jax.random.key(2), images, images, ()) == (images, images)
