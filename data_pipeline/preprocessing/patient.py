"""One CT with its mask, from its files to the arrays of a data set, with a record of what happened to the files."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from jaxtyping import Bool, Int16, Shaped

from data_pipeline.contours.mask import ContourAccount
from data_pipeline.dicom.geometry import AFFINE_TOLERANCE
from data_pipeline.dicom.hounsfield import air_fraction
from data_pipeline.dicom.volume import CTVolume
from data_pipeline.errors import InputError
from data_pipeline.files import sha256_of
from data_pipeline.formats.scans import Scan, read_scan
from data_pipeline.formats.truth import find_truth
from data_pipeline.preprocessing.fingerprints import Fingerprint, fingerprint
from data_pipeline.preprocessing.intensity import AIR_HU, Intensity, background, to_grey
from data_pipeline.preprocessing.network_grid import mask_to_network_grid, to_network_grid
from data_pipeline.preprocessing.spacing import Resampling
from data_pipeline.ranges import Digest, Range, check_fields
from data_pipeline.settings import DatasetSettings, GridShape, MaskSource, VoxelSize, plane_shape

Size = Annotated[int, Range(1, 100_000)]
Millimetres = Annotated[float, Range(0, 10_000, above=True)]
MOSTLY_AIR = 0.5
"""A mask with a larger fraction of air is outside the body (see `hounsfield.air_fraction`)."""


@dataclass(frozen=True)
class PatientRecord:
    """What happened to one patient's files on the way into a data set.

    `dataclasses.asdict` of it is the patient's entry in `report.json`.

    Attributes:
        slices, rows, columns: shape of the CT.
        tumour_slices: slices with at least one voxel of the mask.
        tumour_runs: first and last slice of every run of consecutive tumour slices, counted from 0 in the order of
            positions.
        spacing_mm: distance between slices, rows and columns.
        hounsfield_range: lowest and highest HU.
        contours: number of contours used, repaired and rejected; volume and centroid of the mask.
        notes: what was repaired or is unusual, without identities.
        inputs_sha256: SHA-256 of the files that were read; names and order of the files do not change it.
        sides: letters for the left and the right edge of a slice (`CTGeometry.sides`); None in data sets of older
            versions.
        mask_source: what the mask was made from.
        grid_slices, grid_tumour_runs: as `slices` and `tumour_runs`, on the network's grid, where the CT was resampled
            to a voxel size; 0 and empty where its slices are those of the CT.
    """

    slices: Size
    tumour_slices: Annotated[int, Range(0, 100_000)]
    tumour_runs: tuple[tuple[int, int], ...]
    rows: Size
    columns: Size
    spacing_mm: tuple[Millimetres, Millimetres, Millimetres]
    hounsfield_range: tuple[int, int]
    contours: ContourAccount
    notes: tuple[str, ...]
    inputs_sha256: Digest
    sides: tuple[str, str] | None = None
    mask_source: MaskSource = "RTSTRUCT"
    grid_slices: Annotated[int, Range(0, 1_000_000)] = 0
    grid_tumour_runs: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def depth(self) -> int:
        """Number of slices on the network's grid."""
        return self.grid_slices or self.slices

    @property
    def holds_tumour(self) -> Bool[np.ndarray, " slices"]:
        """Which slices of the network's grid hold tumour."""
        flags = np.zeros(self.depth, bool)
        for first, last in self.grid_tumour_runs if self.grid_slices else self.tumour_runs:
            flags[first : last + 1] = True
        return flags


@dataclass(frozen=True)
class PreparedPatient:
    """A whole patient on the network's grid.

    Attributes:
        image: stored grey values, uint8 or int16 (see `intensity`).
        mask: tumour mask on the network's grid.
        ct_mask: tumour mask on the CT's own grid, against which predictions are scored.
        spacing_mm: distance between slices, rows and columns of the CT, before the reduction to the network's grid.
        record: what happened on the way.
        fingerprint: hashes of slices and contours, which find copies of the patient under other IDs.
    """

    image: Shaped[np.ndarray, "slices rows columns"]
    mask: Bool[np.ndarray, "slices rows columns"]
    ct_mask: Bool[np.ndarray, "depth height width"]
    spacing_mm: tuple[float, float, float]
    record: PatientRecord
    fingerprint: Fingerprint


def prepare_image(
    volume: CTVolume, intensity: Intensity, image_size: GridShape, voxel_mm: VoxelSize | None = None
) -> Shaped[np.ndarray, "slices rows columns"]:
    """A CT as the network's stored grey values; `prepare` and `segment` share it.

    Args:
        voxel_mm: size of the voxels to which it is resampled, if it is.

    Raises:
        InputError: it is to be resampled, and its slices are unevenly spaced.
    """
    resampling = None if voxel_mm is None else _resampling(volume, image_size, voxel_mm)
    return prepare_hounsfield(volume.hounsfield, intensity, image_size, resampling)


def prepare_hounsfield(
    hounsfield: Int16[np.ndarray, "depth height width"],
    intensity: Intensity,
    image_size: GridShape,
    resampling: Resampling | None = None,
) -> Shaped[np.ndarray, "slices rows columns"]:
    """Hounsfield units on a CT's own grid as the network's stored grey values."""
    if resampling is not None:
        return to_grey(resampling.image(hounsfield, AIR_HU), intensity)
    return to_network_grid(to_grey(hounsfield, intensity), image_size, background(intensity))


def _resampling(volume: CTVolume, image_size: GridShape, voxel_mm: VoxelSize) -> Resampling:
    """How a CT is resampled.

    Raises:
        InputError: its slices are unevenly spaced.
    """
    geometry = volume.geometry
    if geometry.affine_error_mm > AFFINE_TOLERANCE * min(geometry.spacing_mm):
        raise InputError(
            f"its slices are not evenly spaced (up to {geometry.affine_error_mm:.2f} mm off), and cannot be resampled "
            "to --spacing; leave the CT or --spacing out"
        )
    return Resampling.of(geometry.shape, geometry.spacing_mm, plane_shape(image_size), voxel_mm)


def prepare_patient(scan: Scan, settings: DatasetSettings) -> PreparedPatient:
    """Read one CT and its tumour mask.

    Args:
        scan: the CT, and the files of its masks.
        settings: ROI, fill rule, intensity and image size.

    Raises:
        InputError: the CT or the mask cannot be used, or the mask is empty or outside the body.
    """
    truth_on = find_truth(scan, settings)
    volume = read_scan(scan)
    truth = truth_on(volume.geometry)
    mask = truth.mask
    air = air_fraction(volume.hounsfield, mask)
    if air > MOSTLY_AIR:
        raise InputError(
            f"{air:.0%} of the tumour mask is air; check that the contours belong to this CT", path=truth.file
        )
    grid_mask, of_grid, notes = _on_network_grid(mask, volume, settings)
    between_slices, between_rows, between_columns = volume.geometry.spacing_mm
    holds_tumour = np.asarray(mask.any(axis=(1, 2)))
    record = PatientRecord(
        slices=len(mask),
        tumour_slices=int(holds_tumour.sum()),
        tumour_runs=_runs(holds_tumour),
        rows=mask.shape[1],
        columns=mask.shape[2],
        spacing_mm=(round(between_slices, 6), round(between_rows, 6), round(between_columns, 6)),
        hounsfield_range=(int(volume.hounsfield.min()), int(volume.hounsfield.max())),
        contours=truth.account,
        notes=(*volume.notes, *truth.notes, *notes),
        inputs_sha256=inputs_sha256([*scan.files, truth.file]),
        sides=volume.geometry.sides,
        mask_source=truth.source,
        **of_grid,
    )
    return PreparedPatient(
        image=prepare_image(volume, settings.intensity, settings.image_size, settings.spacing),
        mask=grid_mask,
        ct_mask=mask,
        spacing_mm=volume.geometry.spacing_mm,
        record=record,
        fingerprint=fingerprint(volume.hounsfield, truth.contours),
    )


def _on_network_grid(
    mask: Bool[np.ndarray, "depth height width"], volume: CTVolume, settings: DatasetSettings
) -> tuple[Bool[np.ndarray, "slices rows columns"], dict[str, Any], list[str]]:
    """The mask on the network's grid, the fields of a record on that grid, and notes."""
    if settings.spacing is None:
        return mask_to_network_grid(mask, settings.image_size), {}, []
    resampling = _resampling(volume, settings.image_size, settings.spacing)
    grid_mask, lost = resampling.mask(mask), resampling.lost(mask)
    notes = [f"{lost:.1%} of the tumour is outside the field of the network (--spacing, --image-size)"] if lost else []
    runs = _runs(np.asarray(grid_mask.any(axis=(1, 2))))
    return grid_mask, {"grid_slices": len(grid_mask), "grid_tumour_runs": runs}, notes


def _runs(flags: Bool[np.ndarray, " slices"]) -> tuple[tuple[int, int], ...]:
    """First and last index of every run of consecutive true values."""
    changes = np.diff(np.concatenate(([0], flags.astype(np.int8), [0])))
    firsts, ends = np.flatnonzero(changes == 1), np.flatnonzero(changes == -1)
    return tuple((int(first), int(end) - 1) for first, end in zip(firsts, ends, strict=True))


def inputs_sha256(files: Iterable[Path]) -> str:
    """SHA-256 over the files' own SHA-256s, in ascending order, so that names and places do not matter.

    Raises:
        OSError: a file cannot be read.
    """
    return hashlib.sha256("".join(sorted(map(sha256_of, files))).encode()).hexdigest()
