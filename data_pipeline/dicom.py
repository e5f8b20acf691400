"""CT series to volumes in Hounsfield units. Every doubt about a slice becomes a note or an `InputError`."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int16
from pydicom import Dataset

from data_pipeline.dicom_io import quiet_pydicom, read_dataset
from data_pipeline.discovery import Series
from data_pipeline.errors import InputError
from data_pipeline.geometry import CTGeometry

__all__ = ["AIR", "CTGeometry", "CTVolume", "read_volume"]

AIR = -1024
"""Lowest HU of a 12-bit CT; anything lower is padding."""
DENSEST = 3071
"""Highest HU of a 12-bit CT; declared padding above it cannot be tissue."""

SAME_POSITION_MM = 0.01
EVEN_SPACING = 0.01  # fraction of the median
SAME_DIRECTION = 1e-3  # of a cosine, about 0.06 degrees
MOST_PIXELS = 4096 * 4096  # a damaged header may claim any matrix


@dataclass(frozen=True, eq=False)
class CTVolume:
    """A CT series as an array.

    Attributes:
        hounsfield: rescaled stored values (PS3.3 C.11.1.1.2), HU; padding is `AIR`, see `read_volume`.
        geometry: where the voxels lie.
        series_uid, study_uid, patient_id: as in the files. They identify a person: not for logs, reports or outputs.
        notes: what was repaired or is worth telling, without identities.
    """

    hounsfield: Int16[np.ndarray, "depth height width"]
    geometry: CTGeometry
    series_uid: str
    study_uid: str
    patient_id: str
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Slice:
    path: Path
    dataset: Dataset
    position: np.ndarray
    orientation: np.ndarray
    spacing: tuple[float, float]
    matrix: tuple[int, int]
    frame: str
    sop: str


def read_volume(series: Series) -> CTVolume:
    """Read a CT series into one volume, slices ascending along the slice normal.

    What is repaired, with a note: images not parallel to the rest (dropped), a slice stored twice (once dropped).
    What is kept, with a note: missing or unevenly spaced slices, slices sheared by a gantry tilt. Nothing is
    resampled: `geometry` has the true place of each slice.
    What is refused: slices that differ in matrix, pixel spacing or frame of reference, two different images at one
    place (several acquisitions), images without position or rescale, undecodable pixels, fewer than two slices.

    Values: stored bits above BitsStored are dropped (PS3.5 8.1.1), slope and intercept applied image by image,
    fractions rounded to the nearest integer, values beyond int16 clipped. Padding (PS3.3 C.7.5.1.1.2) becomes `AIR`:
    declared padding above 3071 HU, and all values below -1024 HU, declared or not.

    Raises:
        InputError: naming the file or the series' folder.
    """
    with quiet_pydicom():
        slices = [_read_slice(path) for path in series.files]
        notes: list[str] = []
        slices = _parallel(slices, notes)
        _require_alike(slices)
        slices = _in_order(slices, notes)
        geometry = _geometry(slices, notes)
        hounsfield = np.empty(geometry.shape, np.int16)
        told: Counter[str] = Counter()
        for index, one in enumerate(slices):
            told.update(_decode_hounsfield(one, hounsfield[index]))
    notes += [f"{note} in {count} of {len(slices)} slices" for note, count in sorted(told.items())]
    return CTVolume(hounsfield, geometry, series.series_uid, series.study_uid, series.patient_id, tuple(notes))


def _read_slice(path: Path) -> _Slice:
    try:
        dataset = read_dataset(path, pixels=True)
        position = np.array([float(value) for value in dataset.ImagePositionPatient])
        orientation = np.array([float(value) for value in dataset.ImageOrientationPatient])
        spacing = np.array([float(value) for value in dataset.PixelSpacing])
        matrix = (int(dataset.Rows), int(dataset.Columns))
        one_image = int(dataset.get("NumberOfFrames") or 1) == 1 and int(dataset.get("SamplesPerPixel") or 1) == 1
        frame, sop = str(dataset.get("FrameOfReferenceUID") or ""), str(dataset.get("SOPInstanceUID") or "")
    except Exception as error:
        raise InputError(
            f"{path}: not a readable CT image ({_tell(error)}); export the series again or remove the file"
        ) from error
    if position.shape != (3,) or orientation.shape != (6,) or spacing.shape != (2,):
        raise InputError(f"{path}: position, orientation or pixel spacing is incomplete; export the series again")
    if not (
        np.isfinite([*position, *orientation, *spacing]).all() and (spacing > 0).all() and _is_rotation(orientation)
    ):
        raise InputError(f"{path}: position, orientation or pixel spacing is not valid; export the series again")
    if not one_image or not 0 < matrix[0] * matrix[1] <= MOST_PIXELS:
        raise InputError(f"{path}: not a single-frame gray image of at most 4096 x 4096; export the series again")
    return _Slice(path, dataset, position, orientation, (spacing[0], spacing[1]), matrix, frame, sop)


def _tell(error: Exception) -> str:
    """Name an error without pydicom's own text, which may quote values from the file."""
    missing = getattr(error, "name", None) if isinstance(error, AttributeError) else None
    return f"no {missing}" if missing else "not DICOM" if str(error) == "not DICOM" else type(error).__name__


def _is_rotation(orientation: np.ndarray) -> bool:
    axes = orientation.reshape(2, 3)
    return bool(np.abs(axes @ axes.T - np.eye(2)).max() < SAME_DIRECTION)


def _folder(slices: list[_Slice]) -> Path:
    return slices[0].path.parent


def _parallel(slices: list[_Slice], notes: list[str]) -> list[_Slice]:
    """Drop images that are not parallel to most: a scout view without its label, or a reformatted plane."""
    usual = Counter(tuple(np.round(one.orientation, 2)) for one in slices).most_common(1)[0][0]
    reference = next(one.orientation for one in slices if tuple(np.round(one.orientation, 2)) == usual)
    kept = [one for one in slices if np.abs(one.orientation - reference).max() < SAME_DIRECTION]
    if len(kept) <= len(slices) // 2:
        raise InputError(f"{_folder(slices)}: the slices have no common orientation; export one CT volume by itself")
    if dropped := len(slices) - len(kept):
        notes.append(f"dropped {dropped} images that are not parallel to the other {len(kept)}")
    return kept


def _require_alike(slices: list[_Slice]) -> None:
    first = slices[0]
    for one in slices:
        for what, same in (
            ("matrix", one.matrix == first.matrix),
            ("pixel spacing", np.allclose(one.spacing, first.spacing, rtol=1e-4)),
            ("frame of reference", one.frame == first.frame),
        ):
            if not same:
                raise InputError(
                    f"{one.path}: its {what} differs from {first.path.name}'s; export one CT volume by itself"
                )


def _in_order(slices: list[_Slice], notes: list[str]) -> list[_Slice]:
    """Ascending along the normal, each place once."""
    normal = np.cross(slices[0].orientation[:3], slices[0].orientation[3:])
    slices = sorted(slices, key=lambda one: (float(one.position @ normal), one.path))
    kept = slices[:1]
    for one in slices[1:]:
        if (one.position - kept[-1].position) @ normal >= SAME_POSITION_MM:
            kept.append(one)
        elif np.abs(one.position - kept[-1].position).max() >= SAME_POSITION_MM or not _same_pixels(one, kept[-1]):
            raise InputError(
                f"{one.path}: a different image at the same place as {kept[-1].path.name}, so the series holds several "
                "acquisitions; export one of them by itself"
            )
    if len({one.sop for one in kept}) < len(kept):
        raise InputError(f"{_folder(kept)}: different slices share a SOPInstanceUID; export the series again")
    if len(kept) < 2:
        raise InputError(f"{_folder(kept)}: holds a single slice, which makes no volume; add the other slices")
    if dropped := len(slices) - len(kept):
        notes.append(f"dropped {dropped} slices that are stored twice")
    return kept


def _same_pixels(one: _Slice, other: _Slice) -> bool:
    values = np.empty((2, *one.matrix), np.int16)
    _decode_hounsfield(one, values[0])
    _decode_hounsfield(other, values[1])
    return np.array_equal(values[0], values[1])


def _geometry(slices: list[_Slice], notes: list[str]) -> CTGeometry:
    row, column = slices[0].orientation[:3], slices[0].orientation[3:]
    row = row / np.linalg.norm(row)
    column = column - (column @ row) * row  # DS holds 16 characters, so the cosines come a little askew
    geometry = CTGeometry(
        positions_mm=np.stack([one.position for one in slices]),
        row_cosine=row,
        column_cosine=column / np.linalg.norm(column),
        pixel_spacing_mm=(float(slices[0].spacing[0]), float(slices[0].spacing[1])),
        shape=(len(slices), *slices[0].matrix),
        sop_instance_uids=tuple(one.sop for one in slices),
        frame_of_reference_uid=slices[0].frame,
    )
    step = geometry.spacing_mm[0]
    gaps = np.diff(geometry.distances_mm)
    missing = np.rint(gaps / step).astype(int) - 1
    whole = np.abs(gaps / step - missing - 1) < 0.1
    if (lost := missing[whole & (missing > 0)]).size:
        notes.append(
            f"{lost.sum()} slices are missing ({lost.size} gaps of up to {gaps.max():g} mm, {step:g} mm elsewhere)"
        )
    elif (np.abs(gaps - step) > EVEN_SPACING * step).any():
        notes.append(f"slices are unevenly spaced, {gaps.min():g} to {gaps.max():g} mm")
    run = geometry.positions_mm[-1] - geometry.positions_mm[0]
    shear = np.degrees(np.arccos(min(1.0, float(run @ geometry.normal / np.linalg.norm(run)))))
    if shear > 0.5:
        notes.append(f"the stack is sheared by {shear:.1f} degrees (gantry tilt), and is not resampled")
    return geometry


def _decode_hounsfield(one: _Slice, out: Int16[np.ndarray, "height width"]) -> list[str]:
    """Decode one image into `out`, HU; returns notes. Raises InputError."""
    dataset = one.dataset
    try:
        stored = dataset.pixel_array
        slope, intercept = float(dataset.RescaleSlope), float(dataset.RescaleIntercept)
        bits, signed = int(dataset.BitsStored), int(dataset.PixelRepresentation) == 1
        padding = dataset.get("PixelPaddingValue")
        padding = None if padding is None else float(padding) * slope + intercept
        kind = str(dataset.get("RescaleType") or "HU").upper()
    except Exception as error:
        raise InputError(f"{one.path}: its pixels cannot be read ({_tell(error)}); export the series again") from error
    if stored.shape != one.matrix or not np.isfinite([slope, intercept]).all() or slope == 0 or kind != "HU":
        raise InputError(f"{one.path}: its values are not Hounsfield units on its own matrix; export the series again")

    notes = []
    low, high = int(stored.min()), int(stored.max())
    if low < (-(1 << bits - 1) if signed else 0) or high >= 1 << (bits - 1 if signed else bits):
        unused = stored.dtype.itemsize * 8 - bits
        stored = (stored << unused) >> unused
        low, high = int(stored.min()), int(stored.max())
        notes.append(f"bits above the {bits} stored ones were dropped")
    bounds = sorted((low * slope + intercept, high * slope + intercept))
    if slope == 1 and intercept.is_integer() and bounds[0] >= AIR and bounds[1] <= DENSEST:
        np.add(stored, np.int32(intercept), out=out, casting="unsafe")
        return notes
    values = stored * slope + intercept
    if padding is not None and padding > DENSEST and (padded := values == padding).any():
        values[padded] = AIR
        notes.append("declared padding was set to air")
    if bounds[0] < AIR:
        notes.append(f"padding below {AIR} HU was set to air")
    if values.max() > np.iinfo(np.int16).max:
        notes.append("values beyond 16 bits were clipped")
    if not (slope.is_integer() and intercept.is_integer()):
        notes.append("fractional HU were rounded")
    out[...] = np.rint(np.clip(values, AIR, np.iinfo(np.int16).max))
    return notes
