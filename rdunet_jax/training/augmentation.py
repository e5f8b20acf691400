"""Random augmentation of training patches, on the device: pure functions of a key, for images and masks together.

| name                   | change of a patch                                                                 |
|------------------------|-----------------------------------------------------------------------------------|
| `rotation`             | rotation about its centre                                                         |
| `cropping`             | a random rectangle of it, resized to the whole                                    |
| `global_shift`         | one number added to all pixels                                                    |
| `global_scale`         | all pixels multiplied by one factor                                               |
| `additive_noise`       | another number added to each pixel                                                |
| `multiplicative_noise` | each pixel multiplied by another factor                                           |
| `horizontal_flip`      | left and right exchanged                                                          |
| `blur`                 | Gaussian blur                                                                     |
| `gamma`                | grey values raised to one power                                                   |
| `contrast`             | the distance of each pixel to the patch's mean multiplied by one factor           |
| `elastic`              | a smooth random displacement of the pixels                                        |
| `authors_code`         | the scheme of the authors' code: nothing, a rotation of at most 5 degrees, an     |
|                        | elastic deformation, a change of intensity or a flip, with equal probability      |

The first eight are the paper's (section 3.2). `AugmentConfig` sets the probability and the strength of all but the
last. Shift and scale are changes of intensity, as in the authors' code. A plugin registers others in `AUGMENTATIONS`,
as `sometimes(change)` to be applied with that probability.

Every random value holds for a whole patch: all its slices get the same 2-D map, and the mask gets the same geometry.
Images are grey values in 0..1 and are clipped to that range; masks are 0 or 1, interpolated like the image and
thresholded at 1/2. Beyond its edge a slice is continued by its mirror image (SciPy's `reflect`). Patches may have other
rows than columns. Rotation, blur and elastic deformation are in pixels: where these are not square in mm, a rotation
also shears, at 4:3 and 5 degrees by 3%.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float

from rdunet_jax.config import Augmentation, AugmentConfig
from rdunet_jax.registry import AUGMENTATIONS

Patches = Float[Array, "batch depth height width 1"]
Slices = Float[Array, "depth height width"]
GREY_LEVELS = 255
DEFAULTS = AugmentConfig()


class Patch(NamedTuple):
    """An image and its mask, without batch and channel."""

    image: Slices
    mask: Slices


Change = Callable[[Array, Patch, AugmentConfig], Patch]
"""(key, patch, settings) to the changed patch."""


def between(key: Array, low: float, high: float, shape: tuple[int, ...] = ()) -> Array:
    """Random numbers, uniform in low..high, float32."""
    return jax.random.uniform(key, shape, jnp.float32, low, high)


# Geometry: the position in the patch of each pixel of the result.


def warp(patch: Patch, coordinates: Float[Array, "2 height width"]) -> Patch:
    """The patch resampled at (row, column) `coordinates` in pixels, bilinearly."""

    def resampled(slice_: Array) -> Array:
        return map_coordinates(slice_, list(coordinates), order=1, mode="reflect")

    image, mask = (jax.vmap(resampled)(slices) for slices in patch)
    return Patch(image, (mask >= 0.5).astype(mask.dtype))


def pixel_grid(patch: Patch) -> Float[Array, "2 height width"]:
    """Row and column of each pixel."""
    return jnp.stack(jnp.meshgrid(*(jnp.arange(n, dtype=jnp.float32) for n in patch.image.shape[1:]), indexing="ij"))


def rotate(patch: Patch, degrees: Float[Array, ""]) -> Patch:
    """The patch rotated about its centre, in the direction of `scipy.ndimage.rotate`."""
    centre = jnp.array([(n - 1) / 2 for n in patch.image.shape[1:]], jnp.float32)[:, None, None]
    row, column = pixel_grid(patch) - centre
    cos, sin = jnp.cos(jnp.deg2rad(degrees)), jnp.sin(jnp.deg2rad(degrees))
    return warp(patch, jnp.stack([cos * row + sin * column, cos * column - sin * row]) + centre)


def crop(patch: Patch, side: Float[Array, ""], place: Float[Array, "2"]) -> Patch:
    """A part of the patch, resized to the whole.

    Args:
        side: of the part, as a fraction of the patch's.
        place: position of the part, down and across: 0 is at the first pixel, 1 at the last.
    """
    size = jnp.array(patch.image.shape[1:], jnp.float32)
    first = (1 - side) * place * size
    # The half: the outer edges of the pixels are aligned, not their centres.
    return warp(patch, first[:, None, None] + side * (pixel_grid(patch) + 0.5) - 0.5)


def elastic(patch: Patch, noise: Float[Array, "2 height width"], strength: float) -> Patch:
    """The patch displaced by noise in -1..1, smoothed over 0.08 widths and multiplied by `strength` widths."""
    width = patch.image.shape[2]
    return warp(patch, pixel_grid(patch) + strength * width * gaussian_blur(noise, jnp.float32(0.08 * width)))


def mirror(patch: Patch) -> Patch:
    """Left and right exchanged."""
    return Patch(patch.image[:, :, ::-1], patch.mask[:, :, ::-1])


# Intensity: of images only.


def smooth(slices: Slices, kernel: Callable[[Array], Array]) -> Slices:
    """Each slice convolved along both axes with a kernel (distance in pixels to weight), shorter than the slice.

    By products with banded matrices: so the kernel may be a traced value, and its length needs no bound.
    """

    def matrix(size: int) -> Array:
        source = jnp.arange(size, dtype=jnp.float32)[None, :]
        target = source.T
        # a source pixel, and its mirror images beyond the first and the last
        places = (source, -1 - source, 2 * size - 1 - source)
        weights = jnp.stack([kernel(place - target) for place in places]).sum(0)
        return weights / weights.sum(1, keepdims=True)

    _, height, width = slices.shape
    rows = jnp.einsum("ij,djw->diw", matrix(height), slices, precision="highest")
    return jnp.einsum("ij,dhj->dhi", matrix(width), rows, precision="highest")


def gaussian_blur(slices: Slices, sigma: Float[Array, ""]) -> Slices:
    """Gaussian blur with a standard deviation of `sigma` pixels; 0 changes nothing."""
    # 0 would divide 0 by 0; at 1/100 all weights but the middle one are 0 already
    return smooth(slices, lambda distance: jnp.exp(-0.5 * (distance / jnp.maximum(sigma, 0.01)) ** 2))


def mean_blur(slices: Slices, size: Array) -> Slices:
    """The mean of `size` x `size` pixels; of an even number the larger half is above and to the left."""
    half, size = (size // 2).astype(slices.dtype), size.astype(slices.dtype)
    return smooth(slices, lambda distance: ((distance >= -half) & (distance < size - half)).astype(slices.dtype))


def median_blur(slices: Slices, size: int) -> Slices:
    """The median of `size` x `size` pixels; `size` is odd."""
    _, height, width = slices.shape
    padded = jnp.pad(slices, ((0, 0), (size // 2, size // 2), (size // 2, size // 2)), mode="symmetric")
    neighbours = [padded[:, i : i + height, j : j + width] for i in range(size) for j in range(size)]
    return jnp.sort(jnp.stack(neighbours), axis=0)[size * size // 2]


def on_image(change: Callable[[Array, Slices, AugmentConfig], Slices]) -> Change:
    """A change of the image's intensity, kept within 0..1, as one of the patch."""
    return lambda key, patch, how: Patch(jnp.clip(change(key, patch.image, how), 0, 1), patch.mask)


# The paper's eight augmentations.


def rotation(key: Array, patch: Patch, how: AugmentConfig) -> Patch:
    return rotate(patch, between(key, -how.rotation, how.rotation))


def cropping(key: Array, patch: Patch, how: AugmentConfig) -> Patch:
    side_key, place_key = jax.random.split(key)
    return crop(patch, between(side_key, how.cropping, 1.0), between(place_key, 0.0, 1.0, (2,)))


def horizontal_flip(key: Array, patch: Patch, how: AugmentConfig) -> Patch:
    return mirror(patch)


@on_image
def global_shift(key: Array, image: Slices, how: AugmentConfig) -> Slices:
    return image + between(key, -how.global_shift, how.global_shift) / GREY_LEVELS


@on_image
def global_scale(key: Array, image: Slices, how: AugmentConfig) -> Slices:
    return image * between(key, 1 - how.global_scale, 1 + how.global_scale)


@on_image
def additive_noise(key: Array, image: Slices, how: AugmentConfig) -> Slices:
    noise = between(key, -how.additive_noise, how.additive_noise, (1, *image.shape[1:]))
    return image + noise / GREY_LEVELS


@on_image
def multiplicative_noise(key: Array, image: Slices, how: AugmentConfig) -> Slices:
    return image * between(key, 1 - how.multiplicative_noise, 1 + how.multiplicative_noise, (1, *image.shape[1:]))


@on_image
def blur(key: Array, image: Slices, how: AugmentConfig) -> Slices:
    return gaussian_blur(image, between(key, 0.0, how.blur))


# Beyond the paper.


@on_image
def gamma(key: Array, image: Slices, how: AugmentConfig) -> Slices:
    """Grey values raised to a power, whose logarithm is uniform: darker as often as brighter."""
    return image ** (jnp.float32(how.gamma) ** between(key, -1.0, 1.0))


@on_image
def contrast(key: Array, image: Slices, how: AugmentConfig) -> Slices:
    mean = image.mean()
    return mean + between(key, 1 - how.contrast, 1 + how.contrast) * (image - mean)


def elastic_deformation(key: Array, patch: Patch, how: AugmentConfig) -> Patch:
    return elastic(patch, between(key, -1.0, 1.0, (2, *patch.image.shape[1:])), how.elastic)


# The scheme of the authors' code, whose strengths are fixed.

AUTHORS_CODE = AugmentConfig(
    rotation=5.0,
    global_shift=10.0,
    global_scale=0.1,
    additive_noise=10.0,
    multiplicative_noise=0.05,
    blur=1.0,
    elastic=2.0,
)


def one_of(*changes: Change) -> Change:
    """One of the changes, with equal probability."""

    def change(key: Array, patch: Patch, how: AugmentConfig) -> Patch:
        choice_key, change_key = jax.random.split(key)
        choice = jax.random.randint(choice_key, (), 0, len(changes))
        return jax.lax.switch(
            choice, [lambda k, p, change=change: change(k, p, how) for change in changes], change_key, patch
        )

    return change


@on_image
def contrast_about_middle_grey(key: Array, image: Slices, how: AugmentConfig) -> Slices:
    """With probability 0.3, the distance to middle grey (128) multiplied by 0.5..1.5."""
    chance_key, factor_key = jax.random.split(key)
    middle = 128 / GREY_LEVELS
    factor = jnp.where(jax.random.bernoulli(chance_key, 0.3), between(factor_key, 0.5, 1.5), 1.0)
    return middle + factor * (image - middle)


_one_intensity = one_of(
    global_shift,
    additive_noise,
    global_scale,
    multiplicative_noise,
    blur,
    on_image(lambda key, image, how: mean_blur(image, jax.random.randint(key, (), 2, 5))),
    # The median needs an odd number of pixels: 3 or 5, with equal probability.
    one_of(*(on_image(lambda key, image, how, size=size: median_blur(image, size)) for size in (3, 5))),
)


def intensity(key: Array, patch: Patch, how: AugmentConfig) -> Patch:
    """Contrast, then one of seven: shift, noise, scale, multiplicative noise, Gaussian, mean or median blur."""
    contrast_key, change_key = jax.random.split(key)
    return _one_intensity(change_key, contrast_about_middle_grey(contrast_key, patch, how), how)


_one_of_five = one_of(lambda key, patch, how: patch, rotation, elastic_deformation, intensity, horizontal_flip)


@AUGMENTATIONS.register("authors_code")
def authors_code(key: Array, patch: Patch, how: AugmentConfig) -> Patch:
    return _one_of_five(key, patch, AUTHORS_CODE)


def sometimes(change: Change) -> Change:
    """The change, with the probability of the settings."""

    def maybe(key: Array, patch: Patch, how: AugmentConfig) -> Patch:
        chance_key, change_key = jax.random.split(key)
        chosen = jax.random.bernoulli(chance_key, how.augmentation_probability)
        return jax.lax.cond(chosen, lambda k, p: change(k, p, how), lambda k, p: p, change_key, patch)

    return maybe


for _name, _change in {
    "rotation": rotation,
    "cropping": cropping,
    "global_shift": global_shift,
    "global_scale": global_scale,
    "additive_noise": additive_noise,
    "multiplicative_noise": multiplicative_noise,
    "horizontal_flip": horizontal_flip,
    "blur": blur,
    "gamma": gamma,
    "contrast": contrast,
    "elastic": elastic_deformation,
}.items():
    AUGMENTATIONS.register(_name)(sometimes(_change))


def augment(
    keys: Array,
    images: Patches,
    masks: Patches,
    names: tuple[Augmentation, ...],
    settings: AugmentConfig = DEFAULTS,
) -> tuple[Patches, Patches]:
    """Makes the named changes in the order given, each with another key.

    Args:
        keys: one per patch, (batch,).
        images: grey in 0..1, float32.
        masks: 0 or 1, float32.
        settings: probability and strength of all but `authors_code`.
    """
    if not names:
        return images, masks

    def changed(pair: tuple[Array, Patch]) -> Patch:
        key, patch = pair
        for index, name in enumerate(names):
            patch = AUGMENTATIONS[name](jax.random.fold_in(key, index), patch, settings)
        return patch

    # Patch by patch: vmap would compute every change for every patch, and XLA would then fuse one resampling into the
    # next and compute the first one again for each of the four neighbours that the second one interpolates.
    patches = jax.lax.map(changed, (keys, Patch(images[..., 0], masks[..., 0])))
    return patches.image[..., None], patches.mask[..., None]
