"""What a DICOM export takes over from the CT that it refers to: identity, geometry and references, made valid."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Shaped
from pydicom.charset import python_encoding
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import CTImageStorage
from pydicom.valuerep import DA, TM

from data_pipeline.dicom.files import decimals, quiet_pydicom, read_dataset
from data_pipeline.dicom.geometry import CTGeometry
from data_pipeline.errors import InputError

# Attributes that the CT and an object derived from it share: Patient, General Study and Frame of Reference modules
# (PS3.3 C.7.1.1, C.7.2.1, C.7.4.1).
TYPE_2 = (  # must be present, and may be empty
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
    "PositionReferenceIndicator",
)
OPTIONAL = (
    "IssuerOfPatientID",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "StudyDescription",
)
_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID")
_GEOMETRY = ("Rows", "Columns", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
_UTF_8 = "ISO_IR 192"


def _is_sex(value: str) -> bool:
    if value not in ("M", "F", "O"):  # PS3.3 C.7.1.1
        raise ValueError
    return True


_CHECKS: dict[str, Callable[[str], object]] = {
    "PatientSex": _is_sex,
    "PatientBirthDate": DA,
    "StudyDate": DA,
    "StudyTime": TM,
}


def prepare_export(
    mask: Shaped[np.ndarray, "depth height width"], geometry: CTGeometry, source_files: Sequence[Path], path: Path
) -> tuple[Bool[np.ndarray, "depth height width"], list[Dataset]]:
    """Check a mask and read the headers of its CT: the first step of every DICOM export.

    Args:
        mask: bool or 0 and 1, on the grid of `geometry`.
        geometry: of the CT, with the SOP instance UID of each slice.
        source_files: the CT's files in any order; all slices of `geometry` must be among them.
        path: the file that will be written; it names the export in messages.

    Returns:
        The mask as bool, and one header per slice in the order of `geometry`. A header is a repaired copy: it holds
        UIDs, geometry and the attributes of `TYPE_2` and `OPTIONAL` only. Anonymisers remove such attributes or write
        values that DICOM does not allow; both become empty, and the SliceThickness the median slice spacing.

    Raises:
        InputError: the mask has another shape, or a slice's file is missing, unreadable or without its UIDs.
    """
    if mask.shape != geometry.shape:
        reason = f"the mask is {mask.shape}, the CT {geometry.shape}; export it on the CT's own grid"
        raise InputError(reason, path=path)
    return mask.astype(bool), source_headers(geometry, source_files)


def source_headers(geometry: CTGeometry, source_files: Sequence[Path]) -> list[Dataset]:
    """The repaired headers of `prepare_export`, in the order of `geometry`.

    Raises:
        InputError: a slice's file is missing, unreadable or without its UIDs.
    """
    if not geometry.sop_instance_uids:
        raise InputError("a DICOM export refers to the DICOM files of its CT, and this CT has none; export NIfTI")
    headers: dict[str, Dataset] = {}
    with quiet_pydicom():
        for file in source_files:
            header = _read_header(file, geometry.spacing_mm[0])
            headers[str(header.SOPInstanceUID)] = header
    missing = sum(uid not in headers for uid in geometry.sop_instance_uids)
    if missing:
        reason = f"{missing} of {geometry.shape[0]} slices are missing; name all files of the series"
        raise InputError(reason, path=source_files[0].parent if source_files else None)
    return [headers[uid] for uid in geometry.sop_instance_uids]


def _read_header(file: Path, spacing_mm: float) -> Dataset:
    try:
        original = read_dataset(file)
        if not all(original[keyword].value for keyword in _UIDS):
            raise KeyError
    except KeyError:
        reason = "DICOM exports need its UIDs (study, series, frame of reference, image); export NIfTI"
        raise InputError(reason, path=file) from None
    except Exception as error:  # pydicom raises errors of many kinds on a damaged file
        raise InputError(f"no readable CT slice ({type(error).__name__}); restore the file", path=file) from error
    header = Dataset()
    header.SOPClassUID, header.Modality = CTImageStorage, "CT"
    header.SliceThickness = _thickness(original) or spacing_mm
    for keyword in (*_UIDS, *_GEOMETRY):
        if keyword in original:
            header[keyword] = original[keyword]
    if (character_set := _character_set(original)) is not None:
        header.SpecificCharacterSet = character_set
    for keyword in TYPE_2:
        setattr(header, keyword, _valid_text(original, keyword))
    for keyword in OPTIONAL:
        if keyword == "DeidentificationMethodCodeSequence":
            if keyword in original:
                header[keyword] = original[keyword]
        elif text := _valid_text(original, keyword):
            setattr(header, keyword, text)
    return header


def _thickness(original: Dataset) -> float | None:
    """SliceThickness (mm) if the file holds one that is possible."""
    try:
        (thickness,) = decimals(original, "SliceThickness")
    except ValueError:  # absent, or no number
        return None
    return float(thickness) if 0 < thickness < np.inf else None


def _character_set(original: Dataset) -> str | list[str] | None:
    """The file's own Specific Character Set (PS3.3 C.12.1.1.2), or UTF-8 in place of a value that is not defined."""
    value = original.get("SpecificCharacterSet")
    if not value:
        return None
    values = list(value) if isinstance(value, MultiValue) else [str(value)]
    if not all(one in python_encoding for one in values):
        return _UTF_8
    return values if len(values) > 1 else values[0]


def _valid_text(original: Dataset, keyword: str) -> str:
    """The value of a text attribute, empty if it is absent or not allowed."""
    try:
        value = original[keyword].value
        if value is None or isinstance(value, MultiValue):
            return ""
        text = str(value).strip()
        if text and keyword in _CHECKS:
            _CHECKS[keyword](text)
    except Exception:  # absent, or bytes that pydicom cannot decode
        return ""
    return text
