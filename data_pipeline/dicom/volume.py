"""CT series to volumes in Hounsfield units. Whatever is unusual about a slice becomes a note or an `InputError`."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int16

from data_pipeline.dicom.discovery import CTSeries
from data_pipeline.dicom.files import quiet_pydicom
from data_pipeline.dicom.geometry import AFFINE_TOLERANCE, CTGeometry
from data_pipeline.dicom.hounsfield import Decoded, implausible
from data_pipeline.dicom.slices import RECONSTRUCTION, SAME_DIRECTION, Slice, read_slices
from data_pipeline.errors import InputError

__all__ = ["CTGeometry", "CTVolume", "read_chest_ct", "read_volume"]

SAME_POSITION_MM = 0.01
UNEVEN = 0.01  # difference between gaps, as a fraction of the median one
STRAY_GAP = 10
"""Distance in slice spacings beyond which a few slices at an end do not belong to the volume."""
STRAY_SLICES = 2


@dataclass(frozen=True, eq=False)
class CTVolume:
    """A CT series as an array.

    Attributes:
        hounsfield: HU; padding is -1024, see `decode_hounsfield`.
        geometry: the position of the voxels in the patient.
        series_uid, study_uid, patient_id: as in the files. They identify a person: not for logs, reports or outputs.
        notes: what was repaired or is unusual, without identities.
    """

    hounsfield: Int16[np.ndarray, "depth height width"]
    geometry: CTGeometry
    series_uid: str
    study_uid: str
    patient_id: str
    notes: tuple[str, ...]


def read_volume(series: CTSeries) -> CTVolume:
    """Read a CT series into one volume, slices ascending along the slice normal.

    Repaired, with a note: images not parallel to most are dropped, a slice stored twice is dropped once, and of several
    acquisitions or reconstructions that overlap the one with at least two thirds of the images is kept.
    Kept, with a note: missing or unevenly spaced slices, slices shifted in plane or sheared by a gantry tilt. Nothing
    is resampled: `geometry` has the true place of each slice.
    Refused: slices that differ in matrix, pixel spacing or frame of reference, different images at one place, several
    acquisitions or reconstructions of similar size, images without position, rescale or SOPInstanceUID, undecodable
    pixels, fewer than two slices, one or two slices far away from the others, more slices missing than there are.

    How values become HU, and what becomes of padding: see `decode_hounsfield`.

    Raises:
        InputError: naming the file or the series' folder.
    """
    volume, _ = _read(series)
    return volume


def read_chest_ct(series: CTSeries) -> CTVolume:
    """Read a CT series that the networks can be used on: axial slices of a chest in Hounsfield units.

    Raises:
        InputError: as `read_volume`; or the slices are coronal or sagittal, or the values cannot be those of a chest CT
            (see `hounsfield.implausible`).
    """
    volume, decoded = _read(series)
    folder = series.files[0].parent
    plane = volume.geometry.plane
    if plane != "axial":
        raise InputError(f"the slices are {plane}; the networks need axial slices, so choose that series", path=folder)
    if why := implausible(decoded, volume.hounsfield.size):
        raise InputError(f"not a chest CT in Hounsfield units: {why}; export the series again", path=folder)
    return volume


def _read(series: CTSeries) -> tuple[CTVolume, list[Decoded]]:
    notes = list(series.notes)
    with quiet_pydicom():
        slices, stack = read_slices(series.files)
    kept = _in_order(_one_reconstruction(_parallel(slices, notes), notes), notes)
    geometry = _geometry(kept, notes)
    found = Counter(note for one in kept for note in one.decoded.notes)
    notes += [f"{note} in {count} of {len(kept)} slices" for note, count in sorted(found.items())]
    hounsfield = _gather(stack, slices, kept)
    volume = CTVolume(hounsfield, geometry, series.series_uid, series.study_uid, series.patient_id, tuple(notes))
    return volume, [one.decoded for one in kept]


def _folder(slices: Sequence[Slice]) -> Path:
    return slices[0].path.parent


def _parallel(slices: list[Slice], notes: list[str]) -> list[Slice]:
    """Drop images that are not parallel to most: a scout view without its label, or a reformatted plane."""
    directions = Counter(tuple(np.round(one.orientation, 2)) for one in slices)
    usual = next(one for one in slices if tuple(np.round(one.orientation, 2)) == directions.most_common(1)[0][0])
    kept = [one for one in slices if np.abs(one.orientation - usual.orientation).max() < SAME_DIRECTION]
    if len(kept) <= len(slices) // 2:
        raise InputError("the slices have no common orientation; export one CT volume alone", path=_folder(slices))
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
                    f"its {what} differs from that of the other slices; export one CT volume alone", path=one.path
                )
    return kept


def _one_reconstruction(slices: list[Slice], notes: list[str]) -> list[Slice]:
    """Drop the images of a second reconstruction of the scan, which may fill the places between the first's.

    Reconstructions differ in kernel or slice thickness. Planning systems also write the distance to the next slice as
    its thickness: that is no second reconstruction, and shows as an uneven spacing of the slices of one thickness.
    """
    count = Counter(one.reconstruction for one in slices)
    if len(count) == 1:
        return slices
    normal = np.cross(slices[0].orientation[:3], slices[0].orientation[3:])
    ordered = sorted(slices, key=lambda one: float(one.position @ normal))
    changes = sum(one.reconstruction != other.reconstruction for one, other in pairwise(ordered))
    main, most = count.most_common(1)[0]
    gaps = np.diff([float(one.position @ normal) for one in ordered if one.reconstruction == main])
    even = gaps.size > 0 and gaps.max() - gaps.min() < UNEVEN * np.median(gaps)
    same_kernel = len({kernel for kernel, _ in count}) == 1
    if changes < len(count) or (same_kernel and not even):  # one after the other along the body, or no second one
        notes.append(f"slices differ in {_differing(count)}")
        return slices
    if most * 3 < len(slices) * 2:
        raise InputError(
            f"holds several reconstructions, which differ in {_differing(count)}; export one of them alone",
            path=_folder(slices),
        )
    notes.append(
        f"dropped {len(slices) - most} images of another reconstruction, which differs in {_differing(count)}, "
        f"from the main one of {most}"
    )
    return [one for one in slices if one.reconstruction == main]


def _differing(reconstructions: Iterable[tuple[str, str]]) -> str:
    values = zip(*reconstructions, strict=True)
    return " and ".join(keyword for keyword, each in zip(RECONSTRUCTION, values, strict=True) if len(set(each)) > 1)


def _in_order(slices: list[Slice], notes: list[str]) -> list[Slice]:
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
                "collides with another slice, so the series holds several acquisitions; export one of them alone",
                path=clash[1].path,
            )
        notes.append(f"dropped {len(places) - count} images of other acquisitions than the main one of {count}")
        places = main
    if nameless := sum(not one.sop for one in places):
        raise InputError(
            f"{nameless} slices have no SOPInstanceUID, which contours and exports refer to; export the series again",
            path=_folder(places),
        )
    if len({one.sop for one in places}) < len(places):
        raise InputError("different slices share a SOPInstanceUID; export the series again", path=_folder(places))
    if len(places) < 2:
        raise InputError("holds a single slice, which makes no volume; add the other slices", path=_folder(places))
    return places


def _same_image(one: Slice, other: Slice) -> bool:
    there = np.abs(one.position - other.position).max() < SAME_POSITION_MM
    return bool(there) and np.array_equal(one.hounsfield, other.hounsfield)


def _clash(slices: list[Slice], normal: Float64[np.ndarray, "3"]) -> tuple[Slice, Slice] | None:
    """Neighbours that cannot both belong to one volume: at one place, or of acquisitions that interleave unevenly."""
    gaps = np.diff([float(one.position @ normal) for one in slices])
    even = gaps.size == 0 or gaps.max() - gaps.min() < UNEVEN * np.median(gaps)
    changes = [index for index in range(1, len(slices)) if slices[index].acquisition != slices[index - 1].acquisition]
    interleaved = len(changes) >= len({one.acquisition for one in slices})
    for index, gap in enumerate(gaps):
        if gap < SAME_POSITION_MM or (interleaved and not even and index + 1 in changes):
            return slices[index], slices[index + 1]
    return None


def _geometry(slices: list[Slice], notes: list[str]) -> CTGeometry:
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
    _describe_gaps(slices, geometry, notes)
    run = geometry.positions_mm[-1] - geometry.positions_mm[0]
    along = (geometry.distances_mm - geometry.distances_mm[0]) / (run @ geometry.normal)
    shift = np.linalg.norm(geometry.positions_mm - geometry.positions_mm[0] - along[:, None] * run, axis=1).max()
    if shift > AFFINE_TOLERANCE * min(geometry.spacing_mm):
        notes.append(f"slices are shifted in plane, by up to {shift:.2f} mm")
    shear = np.degrees(np.arccos(min(1.0, float(run @ geometry.normal / np.linalg.norm(run)))))
    if shear > 0.5:
        notes.append(f"the stack is sheared by {shear:.1f} degrees (gantry tilt), and is not resampled")
    return geometry


def _describe_gaps(slices: list[Slice], geometry: CTGeometry, notes: list[str]) -> None:
    """Note missing and unevenly spaced slices; refuse slices that cannot belong to one volume."""
    step = geometry.spacing_mm[0]
    gaps = np.diff(geometry.distances_mm)
    for end in (gaps[:STRAY_SLICES], gaps[-STRAY_SLICES:]):
        if len(slices) > 4 * STRAY_SLICES and end.max() > STRAY_GAP * step:
            raise InputError(
                f"slices at one end are {end.max():g} mm away from the others, whose spacing is {step:g} mm; "
                "remove them, or add the slices in between",
                path=_folder(slices),
            )
    missing = np.where(gaps > 1.5 * step, gaps / step - 1, 0.0)
    if missing.sum() > len(slices):
        raise InputError(
            f"{missing.sum():.0f} slices are missing between the {len(slices)} there are; add them, or export one CT "
            "volume alone",
            path=_folder(slices),
        )
    whole = np.rint(missing)
    if (lost := whole[(whole > 0) & (np.abs(missing - whole) < 0.1)]).size:
        where = f"{lost.size} gaps of up to {gaps.max():g} mm, {step:g} mm elsewhere"
        notes.append(f"{lost.sum():.0f} slices are missing ({where})")
    elif gaps.max() - gaps.min() > UNEVEN * step:
        notes.append(f"slices are unevenly spaced, {gaps.min():g} to {gaps.max():g} mm")


def _gather(stack: np.ndarray, slices: list[Slice], kept: list[Slice]) -> Int16[np.ndarray, "depth height width"]:
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
