"""One patient from DICOM to the arrays of a dataset, with an account of what happened on the way."""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Shaped

from data_pipeline.contours.rtstruct import mask_from_contours, read_contours
from data_pipeline.dicom.discovery import Patient
from data_pipeline.dicom.hounsfield import air_fraction
from data_pipeline.dicom.volume import CTVolume, read_volume
from data_pipeline.errors import InputError
from data_pipeline.preprocessing.intensity import Intensity, background, to_gray
from data_pipeline.preprocessing.network_grid import mask_to_network_grid, to_network_grid
from data_pipeline.settings import DatasetSettings

MOSTLY_AIR = 0.5
"""A mask of which more is air lies outside the body (see `hounsfield.air_fraction`)."""


@dataclass(frozen=True)
class PreparedPatient:
    """A whole patient on the network's grid."""

    image: Shaped[np.ndarray, "depth size size"]
    """Stored gray values, uint8 or int16 (see `intensity`)."""
    mask: Bool[np.ndarray, "depth size size"]
    ct_mask: Bool[np.ndarray, "depth height width"]
    """The mask on the CT's own grid, against which predictions are scored."""
    spacing_mm: tuple[float, float, float]
    """(slice, row, column) spacing of the CT itself, before the reduction to the network's grid."""
    record: dict[str, Any]
    """The account, JSON-able."""


def prepare_image(volume: CTVolume, intensity: Intensity, image_size: int) -> Shaped[np.ndarray, "depth size size"]:
    """A CT as the network's stored gray values; training and segmentation of new patients share it."""
    return to_network_grid(to_gray(volume.hounsfield, intensity), image_size, background(intensity))


def prepare_patient(patient: Patient, settings: DatasetSettings) -> PreparedPatient:
    """Reads one patient's CT and contours.

    Raises:
        InputError: the CT or the contours cannot be used, or the mask comes out empty or outside the body.
    """
    rtstruct = _only_rtstruct(patient, settings.roi)
    volume = read_volume(patient.ct)
    contours = read_contours(rtstruct, settings.roi)
    mask, account = mask_from_contours(contours, volume.geometry)
    if not mask.any():
        why = "; ".join(dict.fromkeys(reason for _, reason in account.rejected)) or "no contour holds a pixel centre"
        raise InputError(f"{rtstruct}: its {account.total} contours give no tumour voxel ({why})")
    air = air_fraction(volume.hounsfield, mask)
    if air > MOSTLY_AIR:
        raise InputError(f"{rtstruct}: {air:.0%} of the tumour's mask is air; the contours seem displaced")
    tumour_slices = mask.any(axis=(1, 2))
    record = {
        "slices": len(mask),
        "tumour_slices": int(tumour_slices.sum()),
        "rows": mask.shape[1],
        "columns": mask.shape[2],
        "spacing_mm": [round(float(s), 6) for s in volume.geometry.spacing_mm],
        "hounsfield_range": [int(volume.hounsfield.min()), int(volume.hounsfield.max())],
        "contours": asdict(account),
        "notes": list(volume.notes),
        "inputs_sha256": _digest([*patient.ct.files, rtstruct]),
    }
    return PreparedPatient(
        image=prepare_image(volume, settings.intensity, settings.image_size),
        mask=mask_to_network_grid(mask, settings.image_size),
        ct_mask=mask,
        spacing_mm=volume.geometry.spacing_mm,
        record=record,
    )


def _only_rtstruct(patient: Patient, roi: str) -> Path:
    """The patient's one RTSTRUCT that has the ROI."""
    if not patient.rtstructs:
        raise InputError(
            f"{patient.ct.files[0].parent}: this CT has no RTSTRUCT that refers to it; training needs contours"
        )
    if len(patient.rtstructs) == 1:
        return patient.rtstructs[0]
    usable: list[Path] = []
    for path in patient.rtstructs:
        try:
            read_contours(path, roi)
        except InputError:
            continue
        usable.append(path)
    if len(usable) != 1:
        raise InputError(
            f"{patient.ct.files[0].parent}: {len(patient.rtstructs)} RTSTRUCTs refer to this CT, "
            f"{len(usable)} of them with the ROI; move away all but the one to use"
        )
    return usable[0]


def _digest(files: list[Path]) -> str:
    """SHA-256 over the files' own SHA-256s, in ascending order, so that names and places do not matter."""
    digests = []
    for path in files:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()
