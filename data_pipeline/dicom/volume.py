"""CT series to volumes in Hounsfield units. Every doubt about a slice becomes a note or an `InputError`."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int16
from pydicom import Dataset

from data_pipeline.dicom.discovery import CTSeries
from data_pipeline.dicom.files import decimals, quiet_pydicom, read_dataset
from data_pipeline.dicom.geometry import AFFINE_TOLERANCE, FARTHEST_MM, CTGeometry
from data_pipeline.dicom.hounsfield import UnusableImageError, decode_hounsfield
from data_pipeline.errors import InputError

__all__ = ["CTGeometry", "CTVolume", "read_volume"]

SAME_POSITION_MM = 0.01
UNEVEN = 0.01  # difference between gaps, as a fraction of the median one
SAME_DIRECTION = 1e-3  # of a cosine, about 0.06 degrees
MOST_PIXELS = 4096 * 4096  # a damaged header may claim any matrix


@dataclass(frozen=True, eq=False)
class CTVolume:
    """A CT series as an array.

    Attributes:
        hounsfield: HU; padding is -1024, see `decode_hounsfield`.
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
    position: Float64[np.ndarray, "3"]
    orientation: Float64[np.ndarray, "6"]
    spacing: Float64[np.ndarray, "2"]
    frame: str
    sop: str
    acquisition: str
    hounsfield: Int16[np.ndarray, "height width"]
    notes: tuple[str, ...]


def read_volume(series: CTSeries) -> CTVolume:
    """Read a CT series into one volume, slices ascending along the slice normal.

    Repaired, with a note: images not parallel to most are dropped, a slice stored twice is dropped once, and of several
    acquisitions that overlap the one with at least two thirds of the images is kept.
    Kept, with a note: missing or unevenly spaced slices, slices shifted in plane or sheared by a gantry tilt. Nothing
    is resampled: `geometry` has the true place of each slice.
    Refused: slices that differ in matrix, pixel spacing or frame of reference, different images at one place, several
    acquisitions of similar size, images without position or rescale, undecodable pixels, fewer than two slices, more
    slices missing than there are.

    How values become HU, and what becomes of padding: see `decode_hounsfield`.

    Raises:
        InputError: naming the file or the series' folder.
    """
    notes: list[str] = []
    with quiet_pydicom():
        slices, stack = _read_slices(series.files)
    kept = _in_order(_parallel(slices, notes), notes)
    geometry = _geometry(kept, notes)
    told = Counter(note for one in kept for note in one.notes)
    notes += [f"{note} in {count} of {len(kept)} slices" for note, count in sorted(told.items())]
    hounsfield = _gather(stack, slices, kept)
    return CTVolume(hounsfield, geometry, series.series_uid, series.study_uid, series.patient_id, tuple(notes))


def _read_slices(files: Sequence[Path]) -> tuple[list[_Slice], Int16[np.ndarray, "files height width"]]:
    """Decode each file as it is read, into one stack; images of another matrix than the first's stay outside it.

    A new page of memory costs more than decoding it, so neither encoded pixels nor a second stack are kept.
    """
    slices: list[_Slice] = []
    stack = np.empty((0, 0, 0), np.int16)
    for index, path in enumerate(files):
        try:
            dataset = read_dataset(path, pixels=True)
            if index == 0:
                stack = np.empty((len(files), *_matrix(dataset)), np.int16)
            out = stack[index] if _matrix(dataset) == stack.shape[1:] else np.empty(_matrix(dataset), np.int16)
            slices.append(_slice(path, dataset, out))
        except UnusableImageError as error:
            raise InputError(f"{path}: {error}; export the series again, or remove the file") from error
        except Exception as error:
            raise InputError(
                f"{path}: not a readable CT image ({_tell(error)}); export the series again, or remove the file"
            ) from error
    return slices, stack


def _tell(error: Exception) -> str:
    """Name an error without pydicom's own text, which may quote values from the file."""
    missing = error.name if isinstance(error, AttributeError) else None
    return f"no {missing}" if missing else "not DICOM" if str(error) == "not DICOM" else type(error).__name__


def _matrix(dataset: Dataset) -> tuple[int, int]:
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if not 0 < rows * columns <= MOST_PIXELS:
        raise UnusableImageError(f"claims {rows} x {columns} pixels")
    return rows, columns


def _slice(path: Path, dataset: Dataset, out: Int16[np.ndarray, "height width"]) -> _Slice:
    position = decimals(dataset, "ImagePositionPatient")
    orientation = decimals(dataset, "ImageOrientationPatient")
    spacing = decimals(dataset, "PixelSpacing")
    if position.shape != (3,) or orientation.shape != (6,) or spacing.shape != (2,):
        raise UnusableImageError("position, orientation or pixel spacing is incomplete")
    axes = orientation.reshape(2, 3)
    if not (np.abs(axes @ axes.T - np.eye(2)).max() < SAME_DIRECTION and (spacing > 0).all()):  # False for NaN too
        raise UnusableImageError("orientation or pixel spacing is not valid")
    if not (np.abs(position) < FARTHEST_MM).all() or spacing.max() > FARTHEST_MM:
        raise UnusableImageError("position or pixel spacing is not valid")
    if int(dataset.get("NumberOfFrames") or 1) != 1 or int(dataset.get("SamplesPerPixel") or 1) != 1:
        raise UnusableImageError("not a single-frame gray image")
    return _Slice(
        path,
        position,
        orientation,
        spacing,
        frame=str(dataset.get("FrameOfReferenceUID") or ""),
        sop=str(dataset.get("SOPInstanceUID") or ""),
        acquisition=str(dataset.get("AcquisitionNumber") or ""),
        hounsfield=out,
        notes=tuple(decode_hounsfield(dataset, out)),
    )


def _folder(slices: Sequence[_Slice]) -> Path:
    return slices[0].path.parent


def _parallel(slices: list[_Slice], notes: list[str]) -> list[_Slice]:
    """Drop images that are not parallel to most: a scout view without its label, or a reformatted plane."""
    directions = Counter(tuple(np.round(one.orientation, 2)) for one in slices)
    usual = next(one for one in slices if tuple(np.round(one.orientation, 2)) == directions.most_common(1)[0][0])
    kept = [one for one in slices if np.abs(one.orientation - usual.orientation).max() < SAME_DIRECTION]
    if len(kept) <= len(slices) // 2:
        raise InputError(f"{_folder(slices)}: the slices have no common orientation; export one CT volume by itself")
    if dropped := len(slices) - len(kept):
        notes.append(f"dropped {dropped} images that are not parallel to the other {len(kept)}")
    for one in kept:
        for what, same in (
            ("matrix", one.hounsfield.shape == kept[0].hounsfield.shape),
            ("pixel spacing", np.allclose(one.spacing, kept[0].spacing, rtol=1e-4)),
            ("frame of reference", one.frame == kept[0].frame),
        ):
            if not same:
                raise InputError(
                    f"{one.path}: its {what} differs from that of {kept[0].path.name}; export one CT volume by itself"
                )
    return kept


def _in_order(slices: list[_Slice], notes: list[str]) -> list[_Slice]:
    """Ascending along the normal, each place once, one acquisition."""
    normal = np.cross(slices[0].orientation[:3], slices[0].orientation[3:])
    ordered = sorted(slices, key=lambda one: (float(one.position @ normal), one.path))
    places = ordered[:1]
    for one in ordered[1:]:
        if (one.position - places[-1].position) @ normal >= SAME_POSITION_MM or not _same_image(one, places[-1]):
            places.append(one)
    if dropped := len(ordered) - len(places):
        notes.append(f"dropped {dropped} slices that are stored twice")

    if clash := _clash(places, normal):
        most, count = Counter(one.acquisition for one in places).most_common(1)[0]
        main = [one for one in places if one.acquisition == most]
        if count * 3 < len(places) * 2 or _clash(main, normal):
            raise InputError(
                f"{clash[1].path}: collides with {clash[0].path.name}, so the series holds several acquisitions; "
                "export one by itself"
            )
        notes.append(f"dropped {len(places) - count} images of other acquisitions than the main one of {count}")
        places = main
    if len({one.sop for one in places}) < len(places):
        raise InputError(f"{_folder(places)}: different slices share a SOPInstanceUID; export the series again")
    if len(places) < 2:
        raise InputError(f"{_folder(places)}: holds a single slice, which makes no volume; add the other slices")
    return places


def _same_image(one: _Slice, other: _Slice) -> bool:
    there = np.abs(one.position - other.position).max() < SAME_POSITION_MM
    return bool(there) and np.array_equal(one.hounsfield, other.hounsfield)


def _clash(slices: list[_Slice], normal: Float64[np.ndarray, "3"]) -> tuple[_Slice, _Slice] | None:
    """Neighbours that cannot both belong to one volume: at one place, or of acquisitions that interleave unevenly."""
    gaps = np.diff([float(one.position @ normal) for one in slices])
    even = gaps.size == 0 or gaps.max() - gaps.min() < UNEVEN * np.median(gaps)
    changes = [index for index in range(1, len(slices)) if slices[index].acquisition != slices[index - 1].acquisition]
    interleaved = len(changes) >= len({one.acquisition for one in slices})
    for index, gap in enumerate(gaps):
        if gap < SAME_POSITION_MM or (interleaved and not even and index + 1 in changes):
            return slices[index], slices[index + 1]
    return None


def _geometry(slices: list[_Slice], notes: list[str]) -> CTGeometry:
    row, column = slices[0].orientation[:3], slices[0].orientation[3:]
    row = row / np.linalg.norm(row)
    column = column - (column @ row) * row  # DS holds 16 characters, so the cosines come a little askew
    geometry = CTGeometry(
        positions_mm=np.stack([one.position for one in slices]),
        row_cosine=row,
        column_cosine=column / np.linalg.norm(column),
        pixel_spacing_mm=(float(slices[0].spacing[0]), float(slices[0].spacing[1])),
        shape=(len(slices), *slices[0].hounsfield.shape),
        sop_instance_uids=tuple(one.sop for one in slices),
        frame_of_reference_uid=slices[0].frame,
    )
    step = geometry.spacing_mm[0]
    gaps = np.diff(geometry.distances_mm)
    missing = np.rint(gaps / step) - 1
    if (lost := missing[(missing > 0) & (np.abs(gaps / step - missing - 1) < 0.1)]).size:
        if lost.sum() > len(slices):
            raise InputError(
                f"{_folder(slices)}: {lost.sum():.0f} slices are missing between the {len(slices)} there are; "
                "add them, or export one CT volume by itself"
            )
        where = f"{lost.size} gaps of up to {gaps.max():g} mm, {step:g} mm elsewhere"
        notes.append(f"{lost.sum():.0f} slices are missing ({where})")
    elif gaps.max() - gaps.min() > UNEVEN * step:
        notes.append(f"slices are unevenly spaced, {gaps.min():g} to {gaps.max():g} mm")
    run = geometry.positions_mm[-1] - geometry.positions_mm[0]
    along = (geometry.distances_mm - geometry.distances_mm[0]) / (run @ geometry.normal)
    shift = np.linalg.norm(geometry.positions_mm - geometry.positions_mm[0] - along[:, None] * run, axis=1).max()
    if shift > AFFINE_TOLERANCE * min(geometry.spacing_mm):
        notes.append(f"slices are shifted in plane, by up to {shift:.2f} mm")
    shear = np.degrees(np.arccos(min(1.0, float(run @ geometry.normal / np.linalg.norm(run)))))
    if shear > 0.5:
        notes.append(f"the stack is sheared by {shear:.1f} degrees (gantry tilt), and is not resampled")
    return geometry


def _gather(stack: np.ndarray, slices: list[_Slice], kept: list[_Slice]) -> Int16[np.ndarray, "depth height width"]:
    """The kept slices in order, moved inside the stack (along the cycles of the permutation) if they are all there."""
    if any(one.hounsfield.base is not stack for one in kept):
        return np.stack([one.hounsfield for one in kept])
    number = {id(one): index for index, one in enumerate(slices)}
    order = [number[id(one)] for one in kept]
    order += sorted(set(range(len(slices))) - set(order))
    moved = [source == index for index, source in enumerate(order)]
    for start in range(len(order)):
        if moved[start]:
            continue
        first, index = stack[start].copy(), start
        while not moved[index]:
            moved[index] = True
            stack[index] = first if order[index] == start else stack[order[index]]
            index = order[index]
    return stack[: len(kept)]
