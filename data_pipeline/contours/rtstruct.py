"""Contours of an RTSTRUCT, read and checked."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from pydicom import Dataset
from pydicom.dataelem import RawDataElement

from data_pipeline.contours.roi_names import matching_names, pattern_of
from data_pipeline.dicom.files import NotDicomError, OversizedError, decimals, printable, quiet_pydicom, read_dataset
from data_pipeline.errors import InputError
from data_pipeline.settings import DEFAULT_ROI

MOST_POINTS = 100_000
"""Most points in one contour. A contour drawn along every pixel side of a slice of 512 x 512 has a few thousand."""
MOST_ROI_POINTS = 2_000_000
"""Most points in the contours of one ROI. The outline of a body on 300 slices has about 600,000."""
MOST_CONTOURS = 100_000
"""Most contours in one ROI. The bones on 300 slices have some 10,000."""
_BYTES_PER_POINT = 3 * 17  # three decimal strings of 16 characters (PS3.5 6.2) and their separators


@dataclass(frozen=True, eq=False)
class Contour:
    """One item of an ROI's Contour Sequence (PS3.3 C.8.8.6).

    Attributes:
        points_mm: vertices in the order drawn (LPS, mm).
        geometric_type: `CLOSED_PLANAR`, `POINT`, ... as in the file; empty if it gives none.
        sop_instance_uid: of the image it was drawn on, if it names exactly one.
        roi_name: name of its ROI.
        number: its index in that ROI, from 0.
        roi_number: ROINumber, which is unique where names may not be.
        frame_of_reference_uid: frame of `points_mm`; empty if the file gives none.
        fault: why its coordinates could not be read (`points_mm` is empty then).
    """

    points_mm: Float64[np.ndarray, "n 3"]
    geometric_type: str
    sop_instance_uid: str | None
    roi_name: str
    number: int
    roi_number: int = 0
    frame_of_reference_uid: str = ""
    fault: str = ""


def read_contours(path: Path, roi: str = DEFAULT_ROI) -> tuple[Contour, ...]:
    """Read the contours of the ROIs whose name matches.

    Args:
        path: an RTSTRUCT file.
        roi: name of the ROI, taken literally if an ROI has it, else as a regular expression for the whole name. Both
            are compared without regard to case, outer blanks and Unicode composition (NFKC). A text that is no regular
            expression is a name only. If several ROIs match (`gtv.*`), the contours of all are returned, and
            `mask_from_contours` merges them.

    Raises:
        InputError: not an RTSTRUCT; no ROI matches (`quoted` lists the names); a matching ROI has no contours, or
            shares its number with another, so that their contours cannot be distinguished.
    """
    try:
        with quiet_pydicom():
            dataset = read_dataset(path)
            is_rtstruct = dataset.get("Modality") == "RTSTRUCT"
            rois = [_ROI.read(item) for item in dataset.get("StructureSetROISequence") or ()]
            items = [(int(one.ReferencedROINumber), one) for one in dataset.get("ROIContourSequence") or ()]
    except OversizedError as error:
        raise InputError(f"{error}; export it again with fewer structures", path=path) from error
    except Exception as error:
        why = "not DICOM" if isinstance(error, NotDicomError) else type(error).__name__
        raise InputError(f"not a readable RTSTRUCT ({why}); export it again", path=path) from error
    if not is_rtstruct:
        raise InputError("not an RTSTRUCT; name the file with the contours", path=path)
    matching = {rois[index].number: rois[index] for index in matching_names([(one.name,) for one in rois], roi)}
    if not matching:
        names = ", ".join(one.shown for one in rois) or "none"
        neither = "" if pattern_of(roi) else ", which is no regular expression either"
        raise InputError(f"no ROI matches {roi!r}{neither}; use --roi with a name that it has", path=path, quoted=names)
    _check_numbers(path, matching, [one.number for one in rois], [number for number, _ in items])
    contours: list[Contour] = []
    points = 0
    try:
        with quiet_pydicom():
            for roi_item in (item for number, item in items if number in matching):
                for index, item in enumerate(roi_item.get("ContourSequence") or ()):
                    contours.append(_contour(item, matching[int(roi_item.ReferencedROINumber)], index))
                    points += len(contours[-1].points_mm)
                    if points > MOST_ROI_POINTS:
                        raise OversizedError(f"the ROI has more than {MOST_ROI_POINTS} points")
                    if len(contours) > MOST_CONTOURS:
                        raise OversizedError(f"the ROI has more than {MOST_CONTOURS} contours")
    except OversizedError as error:
        raise InputError(f"{error}; export it again with fewer", path=path) from error
    except Exception as error:
        raise InputError(f"not a readable RTSTRUCT ({type(error).__name__}); export it again", path=path) from error
    if not contours:
        names = ", ".join(one.shown for one in matching.values())
        raise InputError("the ROI has no contours; export it again or choose another", path=path, quoted=names)
    return tuple(contours)


@dataclass(frozen=True)
class _ROI:
    """One item of the Structure Set ROI Sequence (PS3.3 C.8.8.5)."""

    number: int
    name: str
    frame: str

    @classmethod
    def read(cls, item: Dataset) -> "_ROI":
        frame = str(item.get("ReferencedFrameOfReferenceUID") or "")
        name = item.get("ROIName") or ""
        # a backslash in a name separates values (PS3.5 6.2), though ROIName has one only (PS3.6)
        name = str(name) if isinstance(name, str) else "\\".join(map(str, name))
        return cls(int(item.ROINumber), name, frame)

    @property
    def shown(self) -> str:
        """The name for a message."""
        return printable(self.name) or "(no name)"


def _check_numbers(path: Path, matching: dict[int, _ROI], rois: Sequence[int], items: Sequence[int]) -> None:
    """Refuse a file in which a number names several ROIs: another organ's contours would join the tumour's."""
    for numbers, what in ((rois, "ROIs have"), (items, "lists of contours refer to")):
        for number, count in Counter(numbers).items():
            if number in matching and count > 1:
                raise InputError(
                    f"{count} {what} the ROI number {number}, so that contours cannot be assigned; export it again",
                    path=path,
                )


def _contour(item: Dataset, roi: _ROI, number: int) -> Contour:
    points, fault = np.zeros((0, 3)), ""
    coordinates = item.get_item("ContourData")
    if isinstance(coordinates, RawDataElement) and len(coordinates.value or b"") > MOST_POINTS * _BYTES_PER_POINT:
        fault = f"has more than {MOST_POINTS} points"
    else:
        try:
            points = decimals(item, "ContourData").reshape(-1, 3)
        except ValueError:
            fault = "its coordinates are not a list of x, y, z"
    if len(points) > MOST_POINTS:
        points, fault = points[:0], f"has more than {MOST_POINTS} points"
    images = item.get("ContourImageSequence") or ()
    return Contour(
        points_mm=points,
        geometric_type=str(item.get("ContourGeometricType") or "").strip().upper(),
        sop_instance_uid=str(images[0].get("ReferencedSOPInstanceUID") or "") or None if len(images) == 1 else None,
        roi_name=roi.name,
        number=number,
        roi_number=roi.number,
        frame_of_reference_uid=roi.frame,
        fault=fault,
    )
