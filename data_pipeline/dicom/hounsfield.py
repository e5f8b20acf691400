"""Stored pixel values to Hounsfield units."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int16, Shaped
from pydicom import Dataset

from data_pipeline.dicom.pixels import UnusableImageError, stored_values

AIR = -1024
"""Lowest HU of a 12-bit CT; anything lower is padding."""
DENSEST = 3071
"""Highest HU of a 12-bit CT; declared padding above it cannot be tissue."""
THIN_AIR = -950
"""HU below which even emphysematous lung is rare; see `air_fraction`."""


LUNG_OR_AIR = -500
"""HU below which is neither soft tissue nor bone: aerated lung, and the air around the body."""
POSSIBLE_HU = (-1100, 3100)
"""Range of HU of air, tissue and bone with some tolerance; metal and padding may be outside."""
LEAST_AIR = 1e-3
"""Smallest fraction of voxels of lung or air (`LUNG_OR_AIR`) in a chest CT, cropped ones included."""


@dataclass(frozen=True)
class Decoded:
    """What `decode_hounsfield` found in an image, before padding was replaced.

    Attributes:
        lowest, highest: HU range, padding included.
        air: pixels of lung or air, from the lower end of `POSSIBLE_HU` up to `LUNG_OR_AIR`.
        impossible: pixels outside `POSSIBLE_HU`.
        notes: what was repaired, one note each.
    """

    lowest: float
    highest: float
    air: int
    impossible: int
    notes: tuple[str, ...]


def implausible(images: Sequence[Decoded], pixels: int) -> str:
    """Why images cannot be a chest CT in Hounsfield units; empty if they can.

    Wrong signs, a missing or doubled intercept and other modalities show in the histogram: a chest CT contains air, and
    most of its voxels are within `POSSIBLE_HU`.

    Args:
        images: of one CT.
        pixels: number of pixels of all images.
    """
    low, high = min(one.lowest for one in images), max(one.highest for one in images)
    seen = f"its values range from {low:g} to {high:g} HU"
    if sum(one.impossible for one in images) > pixels / 2:
        return f"most voxels are outside {POSSIBLE_HU[0]}..{POSSIBLE_HU[1]} HU ({seen})"
    if sum(one.air for one in images) < LEAST_AIR * pixels:
        return f"no air or lung, so the values are not Hounsfield units of a chest ({seen})"
    return ""


def air_fraction(
    hounsfield: Int16[np.ndarray, "depth height width"], mask: Bool[np.ndarray, "depth height width"]
) -> float:
    """Fraction of a mask's voxels that are thin air (below `THIN_AIR`): over a half means that it misses the body.

    Some contours of NSCLC-Radiomics are displaced by hundreds of pixels. A tumour in its place has 0.6% at most in the
    two real patients; the same masks moved out of the body have 71% to 100%.

    Args:
        mask: with at least one voxel.
    """
    return float((hounsfield[mask] < THIN_AIR).mean())


def decode_hounsfield(dataset: Dataset, out: Int16[np.ndarray, "height width"]) -> Decoded:
    """Decode one CT image.

    Stored bits above BitsStored are dropped (PS3.5 8.1.1), slope and intercept applied (PS3.3 C.11.1.1.2), fractions
    rounded to the nearest integer, values beyond int16 clipped. Padding (PS3.3 C.7.5.1.1.2) becomes `AIR`: all values
    below `AIR`, declared or not; a declared padding value above `DENSEST`; a declared range of padding
    (PixelPaddingRangeLimit).

    Args:
        dataset: with its pixel data.
        out: is filled with HU.

    Raises:
        UnusableImageError: it has no valid pixels or no HU.
        Exception: decoders raise errors of many kinds on damaged data.
    """
    stored, notes = stored_values(dataset)
    stored = stored.astype(stored.dtype.newbyteorder("="), copy=False)  # big endian stays so in pydicom's hands
    slope, intercept = float(dataset.RescaleSlope), float(dataset.RescaleIntercept)
    if stored.shape != out.shape or not np.isfinite([slope, intercept]).all() or slope == 0:
        raise UnusableImageError("pixels or rescale are not valid")
    if str(dataset.get("RescaleType") or "HU").upper() != "HU":
        raise UnusableImageError("its values are not in Hounsfield units")
    stored = _without_unused_bits(stored, int(dataset.BitsStored), notes)
    lowest, highest = sorted(float(end) * slope + intercept for end in (stored.min(), stored.max()))
    padding = _padding(dataset, slope, intercept)
    usual = slope == 1 and intercept.is_integer() and stored.itemsize == 2 and lowest >= AIR and highest <= DENSEST
    if usual and (padding is None or padding[0] > DENSEST or padding[1] < AIR):
        # The usual case, in one pass: the sum fits into 16 bits, so it may wrap around on the way.
        np.add(stored.view(np.int16), np.array(int(intercept)).astype(np.int16), out=out)
        return Decoded(lowest, highest, int(np.count_nonzero(out < LUNG_OR_AIR)), 0, tuple(notes))
    values = stored * slope + intercept
    padded = np.zeros(values.shape, np.bool_) if padding is None else (values >= padding[0]) & (values <= padding[1])
    if not (slope.is_integer() and intercept.is_integer()):
        notes.append("fractional HU were rounded")
    return place_hounsfield(values, out, padded, notes)


def place_hounsfield(
    values: Shaped[np.ndarray, "height width"],
    out: Int16[np.ndarray, "height width"],
    padded: Bool[np.ndarray, "height width"] | None = None,
    notes: Sequence[str] = (),
) -> Decoded:
    """HU of any range to those of a volume: padding becomes `AIR`, fractions are rounded.

    Args:
        values: HU, of any dtype; floats are changed where they are declared padding.
        out: is filled.
        padded: which are declared padding; none by default.
        notes: what is known of the values.
    """
    notes = list(notes)
    lowest, highest = float(values.min()), float(values.max())
    if padded is None and values.dtype.kind in "iu" and lowest >= AIR and highest <= DENSEST:  # the usual case
        out[...] = values
        return Decoded(lowest, highest, int(np.count_nonzero(out < LUNG_OR_AIR)), 0, tuple(notes))
    values = values.astype(np.float64, copy=False)
    padded = np.zeros(values.shape, np.bool_) if padded is None else padded
    # Without the value around a round field of view, which is padding even where it is not declared.
    impossible = ((values < POSSIBLE_HU[0]) & (values != lowest)) | (values > POSSIBLE_HU[1])
    air = (values < LUNG_OR_AIR) & (values >= POSSIBLE_HU[0]) & ~padded
    if (values[padded] != AIR).any():
        values[padded] = AIR
        notes.append("declared padding was set to air")
    if values.min() < AIR:
        notes.append(f"padding below {AIR} HU was set to air")
    if values.max() > np.iinfo(np.int16).max:
        notes.append("values beyond 16 bits were clipped")
    out[...] = np.rint(np.clip(values, AIR, np.iinfo(np.int16).max))
    return Decoded(lowest, highest, int(air.sum()), int((impossible & ~padded).sum()), tuple(notes))


def _without_unused_bits(stored: np.ndarray, bits: int, notes: list[str]) -> np.ndarray:
    signed = stored.dtype.kind == "i"
    if stored.min() >= (-(1 << bits - 1) if signed else 0) and stored.max() < 1 << (bits - 1 if signed else bits):
        return stored
    unused = stored.dtype.itemsize * 8 - bits
    notes.append(f"bits above the {bits} stored ones were dropped")
    return (stored << unused) >> unused


def _padding(dataset: Dataset, slope: float, intercept: float) -> tuple[float, float] | None:
    """HU range of the declared padding; None if there is none, or it could be tissue.

    A single value within the range of tissue is often declared in error. A range is always deliberate.
    """
    value, limit = dataset.get("PixelPaddingValue"), dataset.get("PixelPaddingRangeLimit")
    if value is None:
        return None
    low, high = sorted(float(end) * slope + intercept for end in (value, value if limit is None else limit))
    return None if limit is None and low <= DENSEST else (low, high)
