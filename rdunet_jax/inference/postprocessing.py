"""From mean probabilities to a mask on the CT's own grid.

In this order, each step on the result of the one before:

1. resizing to the CT's grid;
2. threshold and dilation by a disk (paper, section 3.4) or a square (the authors' code);
3. holes are filled;
4. components that do not touch the lungs are removed;
5. components smaller than a volume are removed;
6. of those that are left, only the largest is kept.

Steps 3 to 6 are off by default: the paper has none of them.
"""

from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Float64, Int16, Shaped
from skimage.filters import threshold_otsu
from skimage.morphology import disk

from data_pipeline.preprocessing.network_grid import place_on_canvas
from data_pipeline.preprocessing.spacing import Resampling
from data_pipeline.settings import plane_shape
from rdunet_jax.config import ImageSize, Kernel, PostprocessingConfig, Threshold
from rdunet_jax.inference.components import Components, fill_holes
from rdunet_jax.inference.lungs import filled_part, find_lungs, near_lungs

BATCH = 16
"""Slices in one call of the compiled programs."""
_HISTOGRAM_FLOOR = 0.1
_HISTOGRAM_BOUNDS = (0.3, 0.9)
_PAPER_THRESHOLD = PostprocessingConfig().threshold


@lru_cache
def disk_kernel(diameter: int) -> np.ndarray:
    """Footprint of the pixels within (diameter - 1) / 2 of the centre, (diameter, diameter) float32.

    Raises:
        ValueError: the diameter is not an odd number of at least 1.
    """
    if diameter < 1 or diameter % 2 == 0:
        raise ValueError(f"dilation_diameter is {diameter}, but must be odd and at least 1")
    return np.asarray(disk(diameter // 2), np.float32)


@partial(jax.jit, static_argnames=("diameter", "kernel"))
def dilate(
    mask: Bool[Array, "depth height width"], diameter: int, kernel: Kernel = "disk"
) -> Bool[Array, "depth height width"]:
    """Each slice dilated by a disk or a full square of `diameter` pixels; outside the slice is background."""
    footprint = disk_kernel(diameter)
    if kernel == "square":
        footprint = np.ones_like(footprint)
    hits = jax.lax.conv_general_dilated(
        mask[..., jnp.newaxis].astype(jnp.float32),
        jnp.asarray(footprint)[:, :, jnp.newaxis, jnp.newaxis],
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return hits[..., 0] > 0.5  # a count of pixels: 0 or at least 1


def histogram_threshold(probabilities: Float[np.ndarray, "depth height width"]) -> float:
    """A threshold picked for one patient from the histogram of its probabilities.

    The VIP Cup report states only that the threshold is picked from a histogram. Our reading: Otsu's threshold of the
    probabilities above 0.1 (the many voxels that are clearly no tumour would dominate the histogram), bounded to
    0.3..0.9. The paper's 0.7 where fewer than two different probabilities are above 0.1.
    """
    values = probabilities[probabilities > _HISTOGRAM_FLOOR]
    if len(values) == 0 or values.min() == values.max():
        return float(_PAPER_THRESHOLD)
    return float(np.clip(threshold_otsu(values), *_HISTOGRAM_BOUNDS))


def threshold_of(threshold: Threshold, probabilities: Float[np.ndarray, "depth height width"]) -> float:
    """The number to cut a patient's probabilities at: `threshold` itself, or its `histogram_threshold`."""
    return histogram_threshold(probabilities) if threshold == "histogram" else float(threshold)


class Canvas(NamedTuple):
    """Where a CT's slice is on the square canvas that the network's grid covers, in pixels of the CT."""

    side: int
    top: int
    left: int
    height: int
    width: int


def canvas_of(height: int, width: int) -> Canvas:
    """The canvas of a CT's slices, as `place_on_canvas` defines it."""
    return Canvas(*place_on_canvas(height, width), height, width)


def to_ct_grid(
    volume: Shaped[np.ndarray, "depth rows columns"], height: int, width: int
) -> Float32[np.ndarray, "depth height width"]:
    """Values on the network's grid resized bilinearly to the CT's own pixels, without the canvas around them.

    `BATCH` slices at a time go through one program, which is compiled once for a size of slice.
    """
    resized = np.empty((len(volume), height, width), np.float32)
    canvas = canvas_of(height, width)
    for start in range(0, len(volume), BATCH):
        block = _resize_block(_filled(volume[start : start + BATCH].astype(np.float32)), canvas)
        resized[start : start + BATCH] = np.asarray(block)[: len(volume) - start]
    return resized


def threshold_and_dilate(
    probabilities: Float[np.ndarray, "depth height width"], postprocessing: PostprocessingConfig
) -> Bool[np.ndarray, "depth height width"]:
    """The mask of probabilities on the grid that they have: above the threshold, then dilated.

    The dilation of `BATCH` slices is compiled once for a size of slice and a kernel. The diameter is in pixels of the
    given grid, and the threshold `histogram` is that of the given probabilities.
    """
    mask = probabilities > threshold_of(postprocessing.threshold, probabilities)
    if postprocessing.dilation_diameter == 1:
        return mask
    for start in range(0, len(mask), BATCH):
        block = _filled(mask[start : start + BATCH])
        dilated = dilate(jnp.asarray(block), postprocessing.dilation_diameter, postprocessing.kernel)
        mask[start : start + BATCH] = np.asarray(dilated)[: len(mask) - start]
    return mask


@dataclass(frozen=True, eq=False)
class CTGrid:
    """The CT's own grid, and what post-processing needs to know of the CT.

    Attributes:
        height, width: rows and columns of a slice.
        pixel_mm: distance between rows and between columns.
        slice_mm: thickness of each slice; unevenly spaced slices differ in it.
        hounsfield: the CT on the network's grid, HU; None if only other grey values are known.
        voxel_mm: size of the voxels to which the CT was resampled (between rows, columns, slices); None if it was not.
    """

    height: int
    width: int
    pixel_mm: tuple[float, float]
    slice_mm: Float64[np.ndarray, " depth"]
    hounsfield: Int16[np.ndarray, "slices rows columns"] | None = None
    voxel_mm: tuple[float, float, float] | None = None

    @property
    def voxel_mm3(self) -> Float64[np.ndarray, " depth"]:
        """Volume of the voxels of each slice."""
        return self.slice_mm * self.pixel_mm[0] * self.pixel_mm[1]

    def resampling(self, image_size: ImageSize, slices: int | None = None) -> Resampling | None:
        """How the CT is resampled to a grid of so many rows and columns, and slices if they are known; None if it is
        not."""
        if self.voxel_mm is None:
            return None
        shape, spacing = (
            (len(self.slice_mm), self.height, self.width),
            (float(np.median(self.slice_mm)), *self.pixel_mm),
        )
        return Resampling.of(shape, spacing, plane_shape(image_size), self.voxel_mm, slices)

    def values(self, volume: Shaped[np.ndarray, "slices rows columns"]) -> Float32[np.ndarray, "depth height width"]:
        """Values on the network's grid, interpolated linearly to the CT's own voxels."""
        resampling = self.resampling(volume.shape[1:], len(volume))
        return to_ct_grid(volume, self.height, self.width) if resampling is None else resampling.to_ct(volume)


class CTPrediction(NamedTuple):
    """A patient's mask and probabilities on the CT's own grid."""

    mask: Bool[np.ndarray, "depth height width"]
    probabilities: Float32[np.ndarray, "depth height width"]
    notes: tuple[str, ...] = ()
    """What a reader must know of the steps that remove components."""


def postprocess_on_ct(
    probabilities: Float32[np.ndarray, "slices rows columns"], ct: CTGrid, postprocessing: PostprocessingConfig
) -> CTPrediction:
    """The mask on the CT's own grid, and the probabilities there.

    Resized bilinearly first, then thresholded and dilated, as the authors' code does: the kernel is measured in pixels
    of the CT. The threshold `histogram` is that of the network's grid.

    Raises:
        ValueError: the mask is to be restricted to the lungs, and the Hounsfield units are not known.
    """
    on_ct = ct.values(probabilities)
    number = threshold_of(postprocessing.threshold, probabilities)
    mask = threshold_and_dilate(on_ct, replace(postprocessing, threshold=number))
    mask, notes = clean(mask, ct, postprocessing)
    return CTPrediction(mask, on_ct, notes)


def clean(
    mask: Bool[np.ndarray, "depth height width"], ct: CTGrid, postprocessing: PostprocessingConfig
) -> tuple[Bool[np.ndarray, "depth height width"], tuple[str, ...]]:
    """A mask on the CT's grid with its holes filled and components removed (steps 3 to 6); and notes on it.

    Where no lungs are found, the mask is not restricted to them: a tumour must not be lost to a CT that is unusual.

    Raises:
        ValueError: the mask is to be restricted to the lungs, and the Hounsfield units are not known.
    """
    p = postprocessing
    if p.fill_holes:
        mask = fill_holes(mask)
    if not (p.lungs_only or p.min_component_ml or p.largest_component):
        return mask, ()
    notes = []
    lungs = near_lungs_on_ct(ct) if p.lungs_only else None
    if p.lungs_only and lungs is None:
        notes.append("no lungs were found in the CT, so the mask is not restricted to them")
    components = Components.of(mask, ct.voxel_mm3, lungs)
    keep = components.kept(p)
    if not keep.all():
        lost = f"{(~keep).sum()} of {len(keep)} components ({components.volumes_ml[~keep].sum():.2f} ml)"
        notes.append(f"post-processing removed {lost}{'' if keep.any() else ', and nothing is left'}")
        mask = components.mask(keep)
    return mask, tuple(notes)


def near_lungs_on_ct(ct: CTGrid) -> Bool[np.ndarray, "depth height width"] | None:
    """The voxels of the CT's grid that are in the lungs or touch them; None where no lungs are found.

    They are found on the network's grid, so that `evaluate`, whose data set holds that, and `segment` agree.

    Raises:
        ValueError: the Hounsfield units are not known.
    """
    if ct.hounsfield is None:
        raise ValueError("the lungs are found by their Hounsfield units, which are not known")
    (slices, rows, columns), slice_mm = ct.hounsfield.shape, ct.slice_mm
    resampling = ct.resampling((rows, columns), slices)
    if resampling is None or ct.voxel_mm is None:
        side = canvas_of(ct.height, ct.width).side
        pixel_mm = ct.pixel_mm[0] * (side / rows), ct.pixel_mm[1] * (side / columns)
        inside = filled_part(ct.height, ct.width, (rows, columns))
    else:
        pixel_mm, inside = ct.voxel_mm[:2], resampling.filled
        slice_mm = np.full(slices, ct.voxel_mm[2])
    lungs = find_lungs(ct.hounsfield, inside, slice_mm, pixel_mm)
    return ct.values(near_lungs(lungs, pixel_mm)) >= 0.5 if lungs.any() else None


def _filled(block: np.ndarray) -> np.ndarray:
    """A block of at most `BATCH` slices, with empty slices at its end, so that all blocks have one shape."""
    return np.pad(block, ((0, BATCH - len(block)), (0, 0), (0, 0)))


@partial(jax.jit, static_argnames="canvas")
def _resize_block(block: Float32[Array, "batch rows columns"], canvas: Canvas) -> Float32[Array, "batch height width"]:
    return jax.image.scale_and_translate(
        block,
        (len(block), canvas.height, canvas.width),
        (1, 2),
        jnp.array([canvas.side / extent for extent in block.shape[1:]], jnp.float32),
        -jnp.array([canvas.top, canvas.left], jnp.float32),
        "linear",
        antialias=False,
        precision=jax.lax.Precision.HIGHEST,  # TPU and GPU would round the factors to fewer bits
    )
