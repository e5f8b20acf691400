"""Stored pixel values to Hounsfield units."""

import numpy as np
from jaxtyping import Bool, Int16
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

AIR = -1024
"""Lowest HU of a 12-bit CT; anything lower is padding."""
DENSEST = 3071
"""Highest HU of a 12-bit CT; declared padding above it cannot be tissue."""
THIN_AIR = -950
"""HU below which even emphysematous lung is rare; see `air_fraction`."""


class UnusableImageError(Exception):
    """Why an image cannot be part of a volume."""


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


def decode_hounsfield(dataset: Dataset, out: Int16[np.ndarray, "height width"]) -> list[str]:
    """Decode one CT image.

    Stored bits above BitsStored are dropped (PS3.5 8.1.1), slope and intercept applied (PS3.3 C.11.1.1.2), fractions
    rounded to the nearest integer, values beyond int16 clipped. Padding (PS3.3 C.7.5.1.1.2) becomes `AIR`: declared
    padding above `DENSEST`, and all values below `AIR`, declared or not.

    Args:
        dataset: with its pixel data.
        out: is filled with HU.

    Returns:
        what was repaired, one note each.

    Raises:
        UnusableImageError: it has no valid pixels or no HU.
        Exception: decoders raise errors of many kinds on damaged data.
    """
    stored = _stored_values(dataset)
    stored = stored.astype(stored.dtype.newbyteorder("="), copy=False)  # big endian stays so in pydicom's hands
    slope, intercept = float(dataset.RescaleSlope), float(dataset.RescaleIntercept)
    if stored.shape != out.shape or not np.isfinite([slope, intercept]).all() or slope == 0:
        raise UnusableImageError("pixels or rescale are not valid")
    if str(dataset.get("RescaleType") or "HU").upper() != "HU":
        raise UnusableImageError("its values are not in Hounsfield units")

    notes = []
    bits, signed = int(dataset.BitsStored), stored.dtype.kind == "i"
    low, high = int(stored.min()), int(stored.max())
    if low < (-(1 << bits - 1) if signed else 0) or high >= 1 << (bits - 1 if signed else bits):
        unused = stored.dtype.itemsize * 8 - bits
        stored = (stored << unused) >> unused
        low, high = int(stored.min()), int(stored.max())
        notes.append(f"bits above the {bits} stored ones were dropped")
    lowest, highest = sorted((low * slope + intercept, high * slope + intercept))
    if slope == 1 and intercept.is_integer() and stored.itemsize == 2 and lowest >= AIR and highest <= DENSEST:
        # The usual case, in one pass: the sum fits into 16 bits, so it may wrap around on the way.
        np.add(stored.view(np.int16), np.array(int(intercept)).astype(np.int16), out=out)
        return notes
    values = stored * slope + intercept
    padding = dataset.get("PixelPaddingValue")
    padding = None if padding is None else float(padding) * slope + intercept
    if padding is not None and padding > DENSEST and (padded := values == padding).any():
        values[padded] = AIR
        notes.append("declared padding was set to air")
    if lowest < AIR:
        notes.append(f"padding below {AIR} HU was set to air")
    if values.max() > np.iinfo(np.int16).max:
        notes.append("values beyond 16 bits were clipped")
    if not (slope.is_integer() and intercept.is_integer()):
        notes.append("fractional HU were rounded")
    out[...] = np.rint(np.clip(values, AIR, np.iinfo(np.int16).max))
    return notes


def _stored_values(dataset: Dataset) -> np.ndarray:
    """Pixel values as stored, (rows, columns). Plain 16-bit pixels are viewed where `pixel_array` would copy them."""
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    plain = syntax in (ImplicitVRLittleEndian, ExplicitVRLittleEndian)
    if plain and dataset.BitsAllocated == 16 and len(dataset.PixelData) == 2 * dataset.Rows * dataset.Columns:
        kind = "<i2" if dataset.PixelRepresentation == 1 else "<u2"
        return np.frombuffer(dataset.PixelData, kind).reshape(dataset.Rows, dataset.Columns)
    if syntax == RLELossless:
        # pylibjpeg's decoder is three times as fast, but panics on damaged data, which no `except Exception` stops.
        dataset.pixel_array_options(decoding_plugin="pydicom")
    return dataset.pixel_array
