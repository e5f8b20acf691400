"""Augmentations against SciPy and scikit-image, and how often and how far they go."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import skimage.exposure
import skimage.transform

from rdunet_jax.config import PAPER_AUGMENTATION, AugmentConfig
from rdunet_jax.training.augmentation import (
    AUGMENTATIONS,
    AUTHORS_CODE,
    DEFAULTS,
    Patch,
    augment,
    crop,
    elastic,
    gaussian_blur,
    intensity,
    mean_blur,
    median_blur,
    rotate,
)

ALWAYS = AugmentConfig(augmentation_probability=1.0)
CONFIGURED = tuple(name for name in AUGMENTATIONS if name != "authors_code")
DRAWS = 10_000


def test_every_augmentation_but_the_authors_has_settings() -> None:
    assert set(CONFIGURED) == {*PAPER_AUGMENTATION, "gamma", "contrast", "elastic"}


@partial(jax.jit, static_argnames=("names", "settings"))
def augmented(key, images, masks, names, settings=DEFAULTS):
    return augment(jax.random.split(key, len(images)), images, masks, names, settings)


def smooth_image(shape=(3, 40, 48), seed=0) -> np.ndarray:
    """Grey in 0..1 that changes slowly from pixel to pixel."""
    noise = np.random.default_rng(seed).normal(size=shape)
    image = scipy.ndimage.gaussian_filter(noise, (0, 4, 4))
    return ((image - image.min()) / (image.max() - image.min())).astype(np.float32)


def rough_image(shape=(3, 40, 48)) -> np.ndarray:
    return np.random.default_rng(1).uniform(size=shape).astype(np.float32)


def patch(image: np.ndarray) -> Patch:
    return Patch(jnp.asarray(image), jnp.asarray(image > 0.5, jnp.float32))


def batch(slices: np.ndarray):
    return jnp.asarray(slices, jnp.float32)[..., None]


def draws(image: np.ndarray, name: str) -> np.ndarray:
    """What a change makes of the same small slice, 10,000 times."""
    images = batch(np.broadcast_to(image, (DRAWS, 1, *image.shape)))
    changed, _ = augmented(jax.random.key(3), images, jnp.zeros_like(images), (name,), ALWAYS)
    return np.asarray(changed)[:, 0, :, :, 0].astype(np.float64)


def assert_uniform(values: np.ndarray, low: float, high: float) -> None:
    # The draws are the same in every run, so this fails never or always; a right sampler does in one of 1000 seeds.
    assert scipy.stats.kstest(values, scipy.stats.uniform(low, high - low).cdf).pvalue > 1e-3


# Coordinates in float32 are off by up to 4e-6 pixels a step here, and neighbouring pixels differ by less than 1.
WARPED: dict[str, Any] = {"atol": 2e-5}
# A sum of some 100 products of numbers below 1, in float32.
FILTERED: dict[str, Any] = {"atol": 2e-6}


@pytest.mark.parametrize("degrees", [-5.0, 3.0, 30.0, 90.0])
def test_rotation_is_scipys(degrees) -> None:
    image = rough_image((3, 40, 40))
    expected = scipy.ndimage.rotate(image, degrees, axes=(1, 2), reshape=False, order=1, mode="reflect")
    np.testing.assert_allclose(rotate(patch(image), jnp.float32(degrees)).image, expected, **WARPED)


def test_rotation_of_an_oblong_patch_keeps_its_centre_and_its_angles() -> None:
    image = rough_image()
    expected = scipy.ndimage.rotate(image, 20, axes=(1, 2), reshape=False, order=1, mode="reflect")
    np.testing.assert_allclose(rotate(patch(image), jnp.float32(20)).image, expected, **WARPED)


def test_crop_is_scikit_images_resize_of_a_part() -> None:
    image = rough_image((2, 40, 80))
    # 30 x 60 of 40 x 80 pixels, from row 4 of the 10 that are left over and column 15 of the 20
    cropped = crop(patch(image), jnp.float32(0.75), jnp.array([0.4, 0.75], jnp.float32)).image
    for ours, slice_ in zip(cropped, image[:, 4:34, 15:75], strict=True):
        expected = skimage.transform.resize(slice_, (40, 80), order=1, anti_aliasing=False)
        # the outermost pixels have neighbours outside the part, which scikit-image does not see
        np.testing.assert_allclose(np.asarray(ours)[1:-1, 1:-1], np.asarray(expected)[1:-1, 1:-1], **WARPED)


def test_elastic_is_scipys() -> None:
    image, noise = smooth_image((2, 40, 48)), np.random.default_rng(2).uniform(-1, 1, (2, 40, 48))
    # truncate: SciPy cuts its Gaussian at 4 standard deviations, where the weight beyond is still 6e-5
    shift = 2 * 48 * scipy.ndimage.gaussian_filter(noise, (0, 0.08 * 48, 0.08 * 48), truncate=8)
    assert 3 < np.abs(shift).max() < 40
    expected = [
        scipy.ndimage.map_coordinates(slice_, np.indices((40, 48)) + shift, order=1, mode="reflect") for slice_ in image
    ]
    # Displacements are 96 times a smoothed noise that is right to 2e-7, and neighbouring pixels differ by up to 0.2.
    ours = elastic(patch(image), jnp.asarray(noise, jnp.float32), 2.0).image
    np.testing.assert_allclose(ours, expected, atol=2e-5)


@pytest.mark.parametrize("sigma", [0.0, 0.3, 1.0, 4.0])
def test_gaussian_blur_is_scipys(sigma) -> None:
    image = rough_image()
    expected = scipy.ndimage.gaussian_filter(image.astype(np.float64), (0, sigma, sigma), truncate=8)
    np.testing.assert_allclose(gaussian_blur(jnp.asarray(image), jnp.float32(sigma)), expected, **FILTERED)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_mean_blur_is_scipys(size) -> None:
    image = rough_image()
    expected = scipy.ndimage.uniform_filter(image.astype(np.float64), size, axes=(1, 2))
    np.testing.assert_allclose(mean_blur(jnp.asarray(image), jnp.int32(size)), expected, **FILTERED)


@pytest.mark.parametrize("size", [3, 5])
def test_median_blur_is_scipys(size) -> None:
    image = rough_image()
    np.testing.assert_array_equal(
        median_blur(jnp.asarray(image), size), scipy.ndimage.median_filter(image, (1, size, size))
    )


@pytest.mark.parametrize("name", ["rotation", "cropping", "horizontal_flip", "elastic"])
def test_image_and_mask_move_together(name) -> None:
    if name == "elastic":  # in the scheme `authors_code` changes of intensity, which move no mask, would come between
        image = smooth_image((2, 40, 48))
        noise = jax.random.uniform(jax.random.key(0), (2, 40, 48), minval=-1, maxval=1)
        moved = elastic(patch(image), noise, 2.0)
        images, masks = moved.image, moved.mask
    else:
        image = np.stack([smooth_image((2, 40, 48), seed) for seed in range(8)])
        images, masks = augmented(jax.random.key(0), batch(image), batch(image > 0.5), (name,), ALWAYS)
    assert not np.array_equal(np.ravel(images), np.ravel(image))
    masks, thresholded = np.asarray(masks) == 1, np.asarray(images) > 0.5
    # Interpolation and threshold commute but where the contour passes between a pixel's four sources, whose grey
    # levels differ by up to 0.1: pixels further than that from the threshold must agree.
    near = np.abs(np.asarray(images) - 0.5) < 0.1
    np.testing.assert_array_equal(masks[~near], thresholded[~near])
    assert (masks != thresholded).mean() < 0.02
    assert 0.2 < masks.mean() < 0.8


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_slices_share_the_map_masks_stay_binary_and_grey_in_its_range(name) -> None:
    slices = rough_image((20, 1, 24, 32))
    images = batch(np.repeat(slices, 3, axis=1))
    changed, masks = augmented(jax.random.key(4), images, (images > 0.5).astype(jnp.float32), (name,), ALWAYS)
    for x in (changed, masks):
        assert x.shape == images.shape and x.dtype == jnp.float32
        np.testing.assert_array_equal(x, jnp.broadcast_to(x[:, :1], x.shape))
    assert set(np.unique(masks)) == {0, 1}
    assert changed.min() >= 0 and changed.max() <= 1
    different = np.any(np.asarray(changed != images), axis=(1, 2, 3, 4))
    # `authors_code` makes none of a fifth; a blur of less than 0.07 pixels is none in float32
    assert different.mean() > (0.5 if name == "authors_code" else 0.8)


@pytest.mark.parametrize(
    "name",
    ["global_shift", "global_scale", "additive_noise", "multiplicative_noise", "blur", "gamma", "contrast"],
)
def test_changes_of_intensity_leave_the_mask_alone(name) -> None:
    images = batch(rough_image((4, 2, 16, 16)))
    masks = (images > 0.5).astype(jnp.float32)
    np.testing.assert_array_equal(augmented(jax.random.key(0), images, masks, (name,), ALWAYS)[1], masks)


def test_the_same_key_draws_the_same_and_no_name_changes_nothing() -> None:
    images = batch(rough_image((8, 2, 16, 16)))
    masks = (images > 0.5).astype(jnp.float32)
    names = tuple(AUGMENTATIONS)
    one, same, other = (augmented(jax.random.key(k), images, masks, names) for k in (2, 2, 3))
    for x, y in zip(one, same, strict=True):
        np.testing.assert_array_equal(x, y)
    assert not np.array_equal(one[0], other[0])
    assert augment(jax.random.split(jax.random.key(2), 2), images, masks, ()) == (images, masks)


@pytest.mark.parametrize("name", CONFIGURED)
def test_each_patch_is_changed_with_the_configured_chance(name) -> None:
    images = batch(np.broadcast_to(rough_image((8, 8)), (2000, 1, 8, 8)))
    changed, _ = augmented(jax.random.key(1), images, images, (name,), AugmentConfig(augmentation_probability=0.3))
    part = np.any(np.asarray(changed != images), axis=(1, 2, 3, 4)).mean()
    # five standard deviations of 2000 draws; a few blurs, of less than 0.07 pixels, are none in float32
    assert abs(part - 0.3) <= 5 * np.sqrt(0.3 * 0.7 / 2000) + (0.02 if name == "blur" else 0)


def test_a_flip_mirrors_left_and_right() -> None:
    image = rough_image((8, 9))
    np.testing.assert_array_equal(draws(image, "horizontal_flip")[0], image[:, ::-1])


def test_rotations_are_uniform() -> None:
    # Grey rises along the rows by 0.1 a pixel, so its slopes after a rotation are 0.1 of the angle's cosine and sine.
    rotated = draws(np.indices((8, 8))[0] * 0.1, "rotation")
    down, across = rotated[:, 4, 3] - rotated[:, 3, 3], rotated[:, 3, 4] - rotated[:, 3, 3]
    np.testing.assert_allclose(np.hypot(down, across), 0.1, atol=1e-5)
    assert_uniform(np.rad2deg(np.arctan2(across, down)), -ALWAYS.rotation, ALWAYS.rotation)


def test_crops_are_uniform() -> None:
    for axis in (0, 1):
        cropped = draws(np.indices((16, 16))[axis] * 0.05, "cropping") / 0.05
        cropped = cropped if axis == 0 else cropped.swapaxes(1, 2)
        side = cropped[:, 9, 8] - cropped[:, 8, 8]
        assert_uniform(side, ALWAYS.cropping, 1)
        # Pixel 8 lies at first + 8.5 side - 0.5. Where a crop is all but the whole, its place is lost in rounding.
        small = side < 0.99
        place = (cropped[:, 8, 8] + 0.5 - 8.5 * side)[small] / (16 * (1 - side[small]))
        assert_uniform(place, 0, 1)


def test_global_shifts_and_scales_are_uniform() -> None:
    grey = np.full((4, 4), 0.5)
    for name, low, high in (("global_shift", 0.5 - 10 / 255, 0.5 + 10 / 255), ("global_scale", 0.45, 0.55)):
        changed = draws(grey, name)
        assert np.ptp(changed, axis=(1, 2)).max() == 0
        assert_uniform(changed[:, 0, 0], low, high)


def test_gamma_is_scikit_images_and_the_logarithm_of_its_exponent_is_uniform() -> None:
    image = np.array([[0.0, 0.25], [0.5, 1.0]])
    changed = draws(image, "gamma")
    exponents = np.log(changed[:, 1, 0]) / np.log(0.5)
    for one, exponent in zip(changed[:10], exponents[:10], strict=True):
        np.testing.assert_allclose(one, skimage.exposure.adjust_gamma(image, exponent), **FILTERED)
    assert_uniform(np.log(exponents), -np.log(1.5), np.log(1.5))


def test_contrasts_are_uniform_and_keep_the_mean() -> None:
    image = np.array([[0.4, 0.6], [0.45, 0.55]])  # too near to their mean to be clipped
    changed = draws(image, "contrast")
    np.testing.assert_allclose(changed.mean(axis=(1, 2)), 0.5, **FILTERED)
    factors = (changed[:, 0, 1] - 0.5) / 0.1
    np.testing.assert_allclose(changed[:, 1, 0], 0.5 - 0.05 * factors, **FILTERED)
    assert_uniform(factors, 0.75, 1.25)


def test_noises_are_uniform_and_of_every_pixel_its_own() -> None:
    grey = np.full((4, 4), 0.5)
    for name, low, high in (("additive_noise", 0.5 - 10 / 255, 0.5 + 10 / 255), ("multiplicative_noise", 0.475, 0.525)):
        changed = draws(grey, name).reshape(DRAWS, -1)
        for pixel in (0, 7, 15):
            assert_uniform(changed[:, pixel], low, high)
        # 10,000 independent pairs: five standard deviations are 0.05
        correlations = np.corrcoef(changed.T) - np.eye(16)
        assert np.abs(correlations).max() < 0.05


def test_blurs_are_uniform() -> None:
    point = np.zeros((9, 9))
    point[4, 4] = 1
    blurred = draws(point, "blur")
    # A Gaussian's weights one pixel away and at its centre; below 0.2 pixels the former drown in rounding.
    with np.errstate(divide="ignore"):
        sigma = np.sqrt(-0.5 / np.log(blurred[:, 4, 5] / blurred[:, 4, 4]))
    assert_uniform(sigma[sigma > 0.2], 0.2, 1)
    # five standard deviations
    assert abs((sigma <= 0.2).mean() - 0.2) < 0.02


def test_the_keras_scheme_makes_one_of_five_with_equal_chance() -> None:
    ramp = 0.2 + np.indices((8, 8))[1] * 0.08
    images = batch(np.broadcast_to(ramp, (DRAWS, 1, 8, 8)))
    masks = jnp.broadcast_to(batch(rough_image((1, 1, 8, 8)) > 0.5), images.shape)
    changed, moved = (
        np.asarray(x)[:, 0, :, :, 0] for x in augmented(jax.random.key(5), images, masks, ("authors_code",))
    )
    same_image, ramp = np.all(changed == np.asarray(images)[:, 0, :, :, 0], axis=(1, 2)), ramp.astype(np.float32)
    same_mask = np.all(moved == np.asarray(masks)[0, 0, :, :, 0], axis=(1, 2))
    flipped = np.all(changed == ramp[:, ::-1], axis=(1, 2))
    # a rotated ramp is still plane, and an elastically deformed one is not
    bend = np.abs(np.diff(changed[:, 2:6, 2:6], n=2, axis=2)).max(axis=(1, 2))
    level = np.abs(changed - ramp).max(axis=(1, 2))
    # a rotation by at most 5 degrees moves no pixel's column by 1/2
    rotated = ~same_image & ~flipped & (bend < 1e-5) & (np.ptp(changed[:, :, 4], axis=1) > 1e-4) & (level < 0.08)
    intense = ~same_image & same_mask & ~flipped & ~rotated
    bent = ~same_image & ~same_mask & ~flipped & ~rotated
    # Five standard deviations are 0.02; 0.01 more for the few rotations and deformations that look like another kind.
    for part in (same_image, flipped, rotated, intense, bent):
        assert abs(part.mean() - 0.2) < 0.03


def test_the_keras_codes_intensities() -> None:
    # An edge, flat away from it; eight bits' 128 is where contrast holds still.
    edge = np.where(np.indices((16, 16))[1] < 8, 0.4, 0.6)
    image = Patch(*(jnp.asarray(x, jnp.float32)[None] for x in (edge, np.zeros((16, 16)))))
    keys = jax.random.split(jax.random.key(6), 3000)
    changed = jax.jit(lambda keys: jax.lax.map(lambda key: intensity(key, image, AUTHORS_CODE).image, keys))(keys)[:, 0]
    left, right = np.asarray(changed[:, 4:12, 1:3]), np.asarray(changed[:, 4:12, -3:-1])
    noisy = np.ptp(left, axis=(1, 2)) > 1e-4
    step = (right - left)[:, 0, 0] / 0.2
    # Blurs (3 of 7) leave flat places as they are, as shifts (1) do their difference; noises are 2 of 7.
    assert abs(noisy.mean() - 2 / 7) < 0.042  # five standard deviations
    assert abs((~noisy & np.isclose(step, 1, atol=1e-5)).mean() - 0.7 * 4 / 7) < 0.045
    # Contrast by itself: the blurred ones, whose flat places lie on a line through 128.
    factor = (left[:, 0, 0] - 128 / 255) / (0.4 - 128 / 255)
    other = (right[:, 0, 0] - 128 / 255) / (0.6 - 128 / 255)
    contrasted = ~noisy & np.isclose(factor, other, atol=1e-4) & ~np.isclose(factor, 1, atol=1e-4)
    assert abs(contrasted.mean() - 0.3 * 3 / 7) < 0.03
    assert_uniform(factor[contrasted], 0.5, 1.5)
