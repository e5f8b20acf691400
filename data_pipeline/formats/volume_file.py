"""A NIfTI, NRRD or MetaImage file as a volume in the order of a DICOM series.

Whatever the order and direction of its axes, a volume comes as slices from foot to head, rows from front to back,
columns from the patient's right to the left: the order of an axial series of a patient on the back, head first.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from jaxtyping import Float64, Int16, Shaped, UInt16
from nibabel.arrayproxy import ArrayProxy
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

from data_pipeline.dicom.files import quiet_pydicom
from data_pipeline.dicom.geometry import AFFINE_TOLERANCE, FARTHEST_MM, CTGeometry
from data_pipeline.dicom.hounsfield import Decoded, implausible, place_hounsfield
from data_pipeline.dicom.slices import SAME_DIRECTION
from data_pipeline.errors import InputError
from data_pipeline.formats.declared import check_declared, nifti_version
from data_pipeline.formats.suffixes import IMAGE_IO, KIND, suffix_of

VOXEL_EDGES_MM = (0.05, 20.0)
"""Edges of the voxels of a CT. Others are in another unit, or not known."""
MOST_LABELS = 65535
_MILLIMETRES = {"mm": 1.0, "unknown": 1.0, "meter": 1e3, "micron": 1e-3}
_COARSE = 1.5
"""A spacing so many times that of both other axes is that between slices."""

_Read = tuple[Any, Float64[np.ndarray, "4 4"], float, float, object]
"""Stored values by the file's axes, affine to LPS mm, slope, intercept, and what holds the memory."""


@dataclass(frozen=True, eq=False)
class StoredVolume:
    """A volume file.

    Attributes:
        values: as stored, slices from foot to head. A view of `owner`.
        geometry: the position of the voxels. It has no UIDs.
        slope, intercept: of the file's own scale.
        owner: what holds the memory.
    """

    values: Shaped[np.ndarray, "depth height width"]
    geometry: CTGeometry
    slope: float
    intercept: float
    owner: object

    def planes(self) -> Iterator[Shaped[np.ndarray, "height width"]]:
        """The slices, scaled one by one: a scaled copy of a whole volume could take 6 GiB."""
        for plane in self.values:
            yield plane if (self.slope, self.intercept) == (1, 0) else plane * self.slope + self.intercept


def read_stored(path: Path) -> StoredVolume:
    """Read a volume file.

    Raises:
        InputError: as `check_declared`; or it is damaged, its axes are not perpendicular, or its voxels have no
            possible size or place.
    """
    if not path.is_file():
        raise InputError("no such file; check the table or the folder that names it", path=path)
    declared = check_declared(path)
    kind = KIND[suffix_of(path)]
    try:
        stored, affine, slope, intercept, owner = _read_nifti(path) if kind == "NIfTI" else _read_by_simpleitk(path)
        if stored.shape != declared.shape:
            raise ValueError("another shape")
    except MemoryError:
        raise
    except Exception as error:  # the libraries raise errors of many kinds, with texts that hold the file's name
        raise InputError(
            f"not a readable {kind} file ({type(error).__name__}); copy or export it again", path=path
        ) from error
    values, geometry = _in_order(stored, affine, path)
    return StoredVolume(values, geometry, slope, intercept, owner)


def _read_nifti(path: Path) -> _Read:
    """By nibabel, because ITK's reader of NIfTI writes errors with the file's name to the terminal."""
    with quiet_pydicom():
        image = nib.Nifti2Image if nifti_version(path) == 2 else nib.Nifti1Image
        opened = image.from_filename(path)
        header, proxy = opened.header, opened.dataobj
        assert isinstance(proxy, ArrayProxy)  # of a file
        stored = proxy.get_unscaled()
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ opened.affine
    affine[:3] *= _MILLIMETRES[str(header.get_xyzt_units()[0])]
    shape = stored.shape[:3]
    return stored.reshape(shape), affine, float(proxy.slope), float(proxy.inter), stored


def _read_by_simpleitk(path: Path) -> _Read:
    import SimpleITK as sitk  # noqa: N813 (takes a second to import, which readers of DICOM need not wait for)

    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # the warnings name the file
    reader = sitk.ImageFileReader()
    reader.SetImageIO(IMAGE_IO[suffix_of(path)])
    reader.SetFileName(str(path))
    with _silent_terminal():
        reader.ReadImageInformation()
        if reader.GetDimension() != 3 or reader.GetNumberOfComponents() != 1:
            raise ValueError("another shape")
        image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayViewFromImage(image).transpose(2, 1, 0), affine, 1.0, 0.0, image  # a copy could take 1.5 GiB


@contextmanager
def _silent_terminal() -> Iterator[None]:
    """Nothing is written to standard error: MetaIO complains there of damaged headers, past Python."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _in_order(
    stored: Shaped[np.ndarray, "i j k"], affine: Float64[np.ndarray, "4 4"], path: Path
) -> tuple[Shaped[np.ndarray, "depth height width"], CTGeometry]:
    """The axes permuted and flipped to (slice, row, column), each ascending along its LPS axis."""
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    low, high = VOXEL_EDGES_MM
    if not ((edges >= low) & (edges <= high)).all():  # False for NaN too
        raise InputError(
            f"its voxels have edges of {' x '.join(f'{mm:g}' for mm in edges)} mm, not those of a CT; export it again "
            "in mm",
            path=path,
        )
    cosines = affine[:3, :3] / edges
    if np.abs(cosines.T @ cosines - np.eye(3)).max() > SAME_DIRECTION or np.abs(affine[:3, 3]).max() > FARTHEST_MM:
        raise InputError("its axes are not perpendicular, or far away; export it again unsheared", path=path)
    orientation = io_orientation(affine)
    affine = affine @ inv_ornt_aff(orientation, stored.shape)
    values = apply_orientation(stored, orientation).transpose(2, 1, 0)
    columns_mm, rows_mm, slices_mm = np.linalg.norm(affine[:3, :3], axis=0)
    row = affine[:3, 0] / columns_mm
    column = affine[:3, 1] / rows_mm
    column = column - (column @ row) * row  # stored in 32 bits, so they come a little askew
    column = column / np.linalg.norm(column)
    steps = np.arange(len(values))[:, None] * slices_mm
    geometry = CTGeometry(
        positions_mm=affine[:3, 3] + steps * np.cross(row, column),
        row_cosine=row,
        column_cosine=column,
        pixel_spacing_mm=(float(rows_mm), float(columns_mm)),
        shape=values.shape,
        sop_instance_uids=(),
        frame_of_reference_uid="",
        stored_axes=tuple((int(axis), int(flip)) for axis, flip in orientation),
    )
    return values, geometry


def read_image(path: Path) -> tuple[Int16[np.ndarray, "depth height width"], CTGeometry, tuple[str, ...]]:
    """A chest CT in Hounsfield units from a volume file: HU, geometry, and notes on what is unusual.

    Raises:
        InputError: as `read_stored`; or values are not finite or cannot be those of a chest CT (see
            `hounsfield.implausible`), or its slices are coronal or sagittal.
    """
    stored = read_stored(path)
    spacing = stored.geometry.spacing_mm
    for axis, plane in ((1, "coronal"), (2, "sagittal")):
        others = [mm for number, mm in enumerate(spacing) if number != axis]
        if spacing[axis] > _COARSE * max(others):
            raise InputError(
                f"the slices are {plane}; the networks need axial slices, so choose that series", path=path
            )
    hounsfield = np.empty(stored.values.shape, np.int16)
    decoded: list[Decoded] = []
    for plane, out in zip(stored.planes(), hounsfield, strict=True):
        if not np.isfinite(plane).all():
            raise InputError("holds values that are no numbers (NaN or infinite); export it again", path=path)
        rounded = ["fractional HU were rounded"] if plane.dtype.kind == "f" and (np.rint(plane) != plane).any() else []
        decoded.append(place_hounsfield(plane, out, notes=rounded))
    if why := implausible(decoded, hounsfield.size):
        raise InputError(f"not a chest CT in Hounsfield units: {why}; export the series again", path=path)
    counts: dict[str, int] = {}
    for note in (note for one in decoded for note in one.notes):
        counts[note] = counts.get(note, 0) + 1
    notes = tuple(f"{note} in {count} of {len(decoded)} slices" for note, count in sorted(counts.items()))
    return hounsfield, stored.geometry, notes


def read_labels(path: Path, grid: CTGeometry) -> UInt16[np.ndarray, "depth height width"]:
    """Whole numbers of a label file that is on the grid of its CT, whatever the order of its axes.

    Raises:
        InputError: as `read_stored`; or it is on another grid, or its values are not whole numbers from 0.
    """
    stored = read_stored(path)
    off = np.inf if stored.geometry.shape != grid.shape else _corners_apart_mm(stored.geometry, grid)
    if off > AFFINE_TOLERANCE * min(grid.spacing_mm):
        sizes = " and ".join(" x ".join(map(str, one.shape)) for one in (stored.geometry, grid))
        how = f"its corners are {off:.1f} mm apart" if np.isfinite(off) else f"{sizes} voxels"
        raise InputError(f"the mask is on another grid than its CT ({how}); export it on the CT's grid", path=path)
    labels = np.empty(grid.shape, np.uint16)
    for plane, out in zip(stored.planes(), labels, strict=True):
        if plane.dtype.kind == "f" and not (np.rint(plane) == plane).all():  # False for NaN too
            raise InputError(
                "holds fractions or NaN, so it is no mask; save whole numbers, 0 for background", path=path
            )
        if plane.min() < 0 or plane.max() > MOST_LABELS:
            raise InputError(
                f"holds numbers outside 0..{MOST_LABELS}, so it is no mask; save whole numbers, 0 for background",
                path=path,
            )
        out[...] = plane
    return labels


def _corners_apart_mm(one: CTGeometry, other: CTGeometry) -> float:
    """Largest distance between the corners of two grids of one shape."""
    corners = np.stack(np.meshgrid(*((0.0, size - 1.0) for size in one.shape), indexing="ij"), axis=-1).reshape(-1, 3)
    return float(np.linalg.norm(one.to_patient(corners) - other.to_patient(corners), axis=1).max())
