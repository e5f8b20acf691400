"""One CT with its contours, from DICOM to the arrays of a data set, with a record of what happened to the files."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Shaped

from data_pipeline.contours.mask import ContourAccount, mask_from_contours
from data_pipeline.contours.rtstruct import Contour, read_contours
from data_pipeline.dicom.discovery import CTSeries
from data_pipeline.dicom.hounsfield import air_fraction
from data_pipeline.dicom.volume import CTVolume, read_chest_ct
from data_pipeline.errors import InputError
from data_pipeline.preprocessing.fingerprints import Fingerprint, fingerprint
from data_pipeline.preprocessing.intensity import Intensity, background, to_gray
from data_pipeline.preprocessing.network_grid import mask_to_network_grid, to_network_grid
from data_pipeline.settings import DatasetSettings

MOSTLY_AIR = 0.5
"""A mask with a larger fraction of air is outside the body (see `hounsfield.air_fraction`)."""


@dataclass(frozen=True)
class PatientRecord:
    """What happened to one patient's files on the way into a data set.

    `dataclasses.asdict` of it is the patient's entry in `report.json`.

    Attributes:
        slices, rows, columns: shape of the CT.
        tumour_slices: slices with at least one voxel of the mask.
        spacing_mm: distance between slices, rows and columns.
        hounsfield_range: lowest and highest HU.
        contours: number of contours used, repaired and rejected; volume and centroid of the mask.
        notes: what was repaired or is unusual, without identities.
        inputs_sha256: SHA-256 of the files that were read; names and order of the files do not change it.
    """

    slices: int
    tumour_slices: int
    rows: int
    columns: int
    spacing_mm: tuple[float, float, float]
    hounsfield_range: tuple[int, int]
    contours: ContourAccount
    notes: tuple[str, ...]
    inputs_sha256: str


@dataclass(frozen=True)
class PreparedPatient:
    """A whole patient on the network's grid.

    Attributes:
        image: stored gray values, uint8 or int16 (see `intensity`).
        mask: tumour mask on the network's grid.
        ct_mask: tumour mask on the CT's own grid, against which predictions are scored.
        spacing_mm: distance between slices, rows and columns of the CT, before the reduction to the network's grid.
        record: what happened on the way.
        fingerprint: hashes of slices and contours, which find copies of the patient under other IDs.
    """

    image: Shaped[np.ndarray, "depth size size"]
    mask: Bool[np.ndarray, "depth size size"]
    ct_mask: Bool[np.ndarray, "depth height width"]
    spacing_mm: tuple[float, float, float]
    record: PatientRecord
    fingerprint: Fingerprint


def prepare_image(volume: CTVolume, intensity: Intensity, image_size: int) -> Shaped[np.ndarray, "depth size size"]:
    """A CT as the network's stored gray values; `prepare` and `segment` share it."""
    return to_network_grid(to_gray(volume.hounsfield, intensity), image_size, background(intensity))


def prepare_patient(series: CTSeries, settings: DatasetSettings) -> PreparedPatient:
    """Read one CT and its contours.

    Args:
        series: the CT and the RTSTRUCTs drawn on it.
        settings: ROI, fill rule, intensity and image size.

    Raises:
        InputError: the CT or the contours cannot be used, or the mask is empty or outside the body.
    """
    rtstruct, contours = _only_rtstruct(series, settings.roi)
    volume = read_chest_ct(series)
    try:
        mask, account = mask_from_contours(
            contours,
            volume.geometry,
            fill_rule=settings.fill_rule,
            interpolate_gaps=settings.interpolate_gaps,
        )
    except InputError as error:
        raise InputError(error.reason, path=rtstruct) from error
    air = air_fraction(volume.hounsfield, mask)
    if air > MOSTLY_AIR:
        raise InputError(
            f"{air:.0%} of the tumor mask is air; check that the contours belong to this CT", path=rtstruct
        )
    between_slices, between_rows, between_columns = volume.geometry.spacing_mm
    record = PatientRecord(
        slices=len(mask),
        tumour_slices=int(mask.any(axis=(1, 2)).sum()),
        rows=mask.shape[1],
        columns=mask.shape[2],
        spacing_mm=(round(between_slices, 6), round(between_rows, 6), round(between_columns, 6)),
        hounsfield_range=(int(volume.hounsfield.min()), int(volume.hounsfield.max())),
        contours=account,
        notes=(*volume.notes, *_contour_notes(contours, account)),
        inputs_sha256=_digest([*series.files, rtstruct]),
    )
    return PreparedPatient(
        image=prepare_image(volume, settings.intensity, settings.image_size),
        mask=mask_to_network_grid(mask, settings.image_size),
        ct_mask=mask,
        spacing_mm=volume.geometry.spacing_mm,
        record=record,
        fingerprint=fingerprint(volume.hounsfield, contours),
    )


def _contour_notes(contours: tuple[Contour, ...], account: ContourAccount) -> list[str]:
    notes = []
    if (rois := len({one.roi_number for one in contours})) > 1:
        notes.append(f"{rois} ROIs match and were merged")
    if account.gap_slices:
        done = "filled by interpolation" if account.interpolated_slices else "left empty (see --interpolate-gaps)"
        notes.append(f"{account.gap_slices} slices without contour within the tumor's run of slices, {done}")
    return notes


def _only_rtstruct(series: CTSeries, roi: str) -> tuple[Path, tuple[Contour, ...]]:
    """The one RTSTRUCT of the series that has the ROI, and its contours."""
    folder = series.files[0].parent
    if not series.rtstructs:
        raise InputError("no RTSTRUCT refers to this CT; a data set needs its contours", path=folder)
    if len(series.rtstructs) == 1:
        return series.rtstructs[0], read_contours(series.rtstructs[0], roi)
    usable: list[tuple[Path, tuple[Contour, ...]]] = []
    reasons: list[InputError] = []
    for path in series.rtstructs:
        try:
            usable.append((path, read_contours(path, roi)))
        except InputError as error:
            reasons.append(error)
    if not usable:
        raise InputError(
            f"none of the {len(series.rtstructs)} RTSTRUCTs of this CT can be used; choose another ROI with --roi",
            path=folder,
            quoted="; ".join(str(error) for error in reasons),
        )
    if len(usable) > 1:
        raise InputError(
            f"{len(usable)} RTSTRUCTs of this CT have the ROI; move away all but the one to use",
            path=folder,
            quoted=", ".join(path.name for path, _ in usable),
        )
    return usable[0]


def _digest(files: list[Path]) -> str:
    """SHA-256 over the files' own SHA-256s, in ascending order, so that names and places do not matter."""
    digests = []
    for path in files:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()
