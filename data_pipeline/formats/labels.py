"""Which numbers of a label file are the tumour."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from data_pipeline.contours.roi_names import matching_names
from data_pipeline.dicom.files import printable
from data_pipeline.dicom.geometry import CTGeometry
from data_pipeline.errors import InputError
from data_pipeline.files import parse_json
from data_pipeline.formats.volume_file import MOST_LABELS, read_labels
from data_pipeline.settings import DEFAULT_ROI

Labels = tuple[tuple[str, tuple[int, ...]], ...]
"""Names and numbers of the labels that a data set declares, without its background."""
MOST_JSON_BYTES = 10 * 2**20
_USUAL_MASKS = ({1}, {255})
_NO_TISSUE = ("background", "ignore")


def read_declared(path: Path) -> Labels:
    """The labels of a `dataset.json`: of the Decathlon (`{"1": "cancer"}`) or of nnU-Net (`{"cancer": 1}`, or a list of
    numbers). Empty if there is no such file.

    Raises:
        InputError: the file is no such description.
    """
    if not path.is_file():
        return ()
    try:
        if path.stat().st_size > MOST_JSON_BYTES:
            raise ValueError
        labels = parse_json(path.read_text(encoding="utf-8"))["labels"]
        found = [_label(key, value) for key, value in labels.items()]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            'not a description of labels; give it an entry such as "labels": {"0": "background", "1": "cancer"}',
            path=path,
        ) from error
    return tuple((name, numbers) for name, numbers in found if numbers and name.casefold() not in _NO_TISSUE)


def _label(key: str, value: Any) -> tuple[str, tuple[int, ...]]:
    name, numbers = (value, [int(key)]) if isinstance(value, str) else (key, np.atleast_1d(value).tolist())
    if not all(type(number) is int and 0 <= number <= MOST_LABELS for number in numbers):
        raise ValueError("number")
    return name, tuple(number for number in numbers if number)


def read_label_mask(path: Path, declared: Labels, roi: str, grid: CTGeometry) -> Bool[np.ndarray, "depth height width"]:
    """The tumour's mask from a label file on the grid of its CT.

    Args:
        path: a volume file of whole numbers.
        declared: names of its labels; empty if none are known.
        roi: name or number of the label, or a regular expression, as for an ROI. With the default the only declared
            label is the tumour; where none are declared, 1 or 255 if the file holds no other.

    Raises:
        InputError: as `read_labels`; or no label is meant, or it has no voxel.
    """
    labels = read_labels(path, grid)
    present = {number for plane in labels for number in np.unique(plane).tolist()} - {0}
    if not present:
        raise InputError("the mask is empty; check that it belongs to this CT", path=path)
    chosen = _chosen(path, declared, present, roi)
    if not chosen & present:
        raise InputError(f"the mask is empty: it has no voxel of label {_listed(chosen)}; use another --roi", path=path)
    return np.isin(labels, sorted(chosen))


def _chosen(path: Path, declared: Labels, present: set[int], roi: str) -> set[int]:
    if roi == DEFAULT_ROI and len(declared) == 1:
        return set(declared[0][1])
    if roi == DEFAULT_ROI and not declared and present in _USUAL_MASKS:
        return present
    known: Mapping[tuple[str, ...], tuple[int, ...]] = {
        (name, *(str(number) for number in numbers if len(numbers) == 1)): numbers for name, numbers in declared
    } or {(str(number),): (number,) for number in sorted(present)}
    if matching := matching_names(list(known), roi):
        return {number for index in matching for number in list(known.values())[index]}
    names = ", ".join(" = ".join(map(printable, names)) for names in known)
    raise InputError(
        f"no label matches {roi!r}; use --roi with the number of a label, or its name if dataset.json names it",
        path=path,
        quoted=names,
    )


def _listed(numbers: set[int]) -> str:
    return ", ".join(map(str, sorted(numbers)))
