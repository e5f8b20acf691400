"""The tumour's mask of a CT, from whichever file holds it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Bool

from data_pipeline.contours.mask import ContourAccount, account_of_mask, mask_from_contours
from data_pipeline.contours.rtstruct import Contour, read_contours
from data_pipeline.dicom.discovery import CTSeries
from data_pipeline.dicom.geometry import CTGeometry
from data_pipeline.errors import InputError
from data_pipeline.formats.dicom_seg import Segments, read_segments
from data_pipeline.formats.labels import read_label_mask
from data_pipeline.formats.layouts import FileScan
from data_pipeline.formats.scans import Scan
from data_pipeline.settings import DEFAULT_ROI, DatasetSettings, MaskSource

Read = TypeVar("Read")


@dataclass(frozen=True, eq=False)
class Truth:
    """The tumour's mask on the CT's own grid.

    Attributes:
        mask: with at least one voxel.
        account: contours used, repaired and rejected; of a mask that was stored as voxels, its volume alone.
        source: the kind of file.
        file: the file.
        contours: those of an RTSTRUCT; empty otherwise.
        notes: what is unusual, without identities.
    """

    mask: Bool[np.ndarray, "depth height width"]
    account: ContourAccount
    source: MaskSource
    file: Path
    contours: tuple[Contour, ...] = ()
    notes: tuple[str, ...] = ()


def find_truth(scan: Scan, settings: DatasetSettings) -> Callable[[CTGeometry], Truth]:
    """The file with the tumour's mask is chosen before the CT is read; the result makes the mask on the CT's grid.

    Of DICOM, an RTSTRUCT with the ROI comes before a SEG with the segment; where both have it and their masks differ, a
    note says by how much (Dice).

    Raises:
        InputError: there is none, or none that can be used, or several of a kind. The result raises it where the mask
            is empty or not on the CT's grid.
    """
    if isinstance(scan, FileScan):
        if scan.mask is None:
            raise InputError(
                "no mask belongs to this CT; a data set needs one, so name it in a table (CSV) or put it into labelsTr",
                path=scan.image,
            )
        return partial(_of_labels, scan, scan.mask, settings)
    contours = segments = None
    unused: tuple[str, ...] = ()
    try:
        contours = _only(scan, scan.rtstructs, "RTSTRUCT", "ROI", partial(read_contours, roi=settings.roi))
    except InputError as error:
        if not scan.segs:
            raise
        if scan.rtstructs:
            unused = (f"the RTSTRUCT of this CT cannot be used, so the SEG is: {error.reason}",)
    fault: InputError | None = None
    try:
        if scan.segs:
            segments = _only(scan, scan.segs, "SEG", "segment", partial(read_segments, roi=settings.roi))
    except InputError as error:
        fault = error
        if contours is None:
            raise
    if contours is None:
        assert segments is not None  # else one of the two was raised
        return partial(_of_segments, *segments, unused)
    return partial(_of_contours, *contours, settings, fault if segments is None else segments[1])


def shown_masks(
    scan: Scan, geometry: CTGeometry
) -> Iterator[Bool[np.ndarray, "depth height width"] | tuple[str, InputError]]:
    """The masks that come with a CT, to show beside a prediction: each, or its kind and why it cannot be used."""
    if isinstance(scan, FileScan):
        readers: list[tuple[str, Callable[[], Bool[np.ndarray, "depth height width"]]]] = [
            ("labels", partial(read_label_mask, path, scan.labels, DEFAULT_ROI, geometry)) for path in scan.mask_files
        ]
    else:
        readers = [
            ("contours of an RTSTRUCT", lambda path=path: mask_from_contours(read_contours(path), geometry)[0])
            for path in scan.rtstructs
        ]
        readers += [
            ("segments of a SEG", lambda path=path: read_segments(path).on_grid(geometry)[0]) for path in scan.segs
        ]
    for kind, read in readers:
        try:
            yield read()
        except InputError as error:
            yield kind, error


def _only(
    scan: CTSeries, paths: tuple[Path, ...], kind: str, region: str, read: Callable[[Path], Read]
) -> tuple[Path, Read]:
    """The one file of a kind that has the region, and what is in it."""
    folder = scan.files[0].parent
    if not paths:
        raise InputError(f"no {kind} refers to this CT; a data set needs its contours", path=folder)
    if len(paths) == 1:
        return paths[0], read(paths[0])
    usable: list[tuple[Path, Read]] = []
    reasons: list[InputError] = []
    for path in paths:
        try:
            usable.append((path, read(path)))
        except InputError as error:
            reasons.append(error)
    if not usable:
        raise InputError(
            f"none of the {len(paths)} {kind}s of this CT can be used; choose another ROI with --roi",
            path=folder,
            quoted="; ".join(str(error) for error in reasons),
        )
    if len(usable) > 1:
        raise InputError(
            f"{len(usable)} {kind}s of this CT have the {region}; move away all but the one to use",
            path=folder,
            quoted=", ".join(path.name for path, _ in usable),
        )
    return usable[0]


def _of_contours(
    path: Path,
    contours: tuple[Contour, ...],
    settings: DatasetSettings,
    other: Segments | InputError | None,
    geometry: CTGeometry,
) -> Truth:
    try:
        mask, account = mask_from_contours(
            contours, geometry, fill_rule=settings.fill_rule, interpolate_gaps=settings.interpolate_gaps
        )
    except InputError as error:
        raise InputError(error.reason, path=path) from error
    notes = [*_contour_notes(contours, account), *_compared(mask, other, geometry)]
    return Truth(mask, account, "RTSTRUCT", path, contours, tuple(notes))


def _compared(
    mask: Bool[np.ndarray, "depth height width"], other: Segments | InputError | None, geometry: CTGeometry
) -> list[str]:
    """How the mask of a SEG differs from that of the RTSTRUCT, which is used."""
    if other is None:
        return []
    if isinstance(other, Segments):
        try:
            also, notes = other.on_grid(geometry)
        except InputError as error:
            other = error
        else:
            if np.array_equal(mask, also):
                return []
            dice = 2 * int((mask & also).sum()) / (int(mask.sum()) + int(also.sum()))
            return [*notes, f"the RTSTRUCT and the SEG of this CT differ: Dice {dice:.4f}; the RTSTRUCT is used"]
    return [f"the SEG of this CT is not compared with the RTSTRUCT: {other.reason}"]


def _of_segments(path: Path, segments: Segments, notes: tuple[str, ...], geometry: CTGeometry) -> Truth:
    mask, resampled = segments.on_grid(geometry)
    return Truth(mask, account_of_mask(mask, geometry), "SEG", path, notes=notes + resampled)


def _of_labels(scan: FileScan, path: Path, settings: DatasetSettings, geometry: CTGeometry) -> Truth:
    mask = read_label_mask(path, scan.labels, settings.roi, geometry)
    return Truth(mask, account_of_mask(mask, geometry), "labels", path)


def _contour_notes(contours: tuple[Contour, ...], account: ContourAccount) -> list[str]:
    notes = []
    if (rois := len({one.roi_number for one in contours})) > 1:
        notes.append(f"{rois} ROIs match and were merged")
    if account.gap_slices:
        done = "filled by interpolation" if account.interpolated_slices else "left empty (see --interpolate-gaps)"
        notes.append(f"{account.gap_slices} slices without contour within the tumour's run of slices, {done}")
    return notes
