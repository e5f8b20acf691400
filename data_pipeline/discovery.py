"""Which CT series lie in a folder tree, and which RTSTRUCTs belong to them: decided by UID, never by name."""

import filecmp
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import Dataset

from data_pipeline.dicom_io import quiet_pydicom, read_dataset
from data_pipeline.errors import InputError

CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2.1"
RTSTRUCT_STORAGE = "1.2.840.10008.5.1.4.1.1.481.3"
DIRECTORY_STORAGE = "1.2.840.10008.1.3.10"

_TAGS = (
    "SOPClassUID",
    "SOPInstanceUID",
    "Modality",
    "ImageType",
    "PatientID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "ReferencedFrameOfReferenceSequence",
)


@dataclass(frozen=True)
class Series:
    """One DICOM series.

    Attributes:
        series_uid, study_uid, patient_id: as its files say. They identify a person: not for logs, reports or outputs.
        modality: `CT`.
        files: one an image, ordered by path, which means nothing: `read_volume` orders by position.
    """

    series_uid: str
    study_uid: str
    patient_id: str
    modality: str
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Patient:
    """One CT series with the RTSTRUCTs that reference it (none, if nobody has contoured it)."""

    patient_id: str
    ct: Series
    rtstructs: tuple[Path, ...]


@dataclass(frozen=True)
class Rejection:
    """A file that was left out though it looked like ours, and the one-line reason."""

    what: Path
    reason: str


@dataclass(frozen=True)
class Discovery:
    """All that lies under a folder.

    Attributes:
        patients: one entry a CT series, ordered by patient ID, then by path. Two series of a person are two entries.
        rejected: DICOM files that cannot be used, ordered by path.
        ignored: what is not for us, counted by kind: `not DICOM`, `DICOMDIR`, or the modality.
    """

    patients: tuple[Patient, ...]
    rejected: tuple[Rejection, ...]
    ignored: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Header:
    """What pairing needs of one file."""

    path: Path
    kind: str
    sop: str = ""
    patient: str = ""
    study: str = ""
    series: str = ""
    frame: str = ""
    references: tuple[str, ...] = ()  # RTSTRUCT: SeriesInstanceUIDs, then SOPInstanceUIDs
    fault: str = ""

    @property
    def group(self) -> tuple[str, str, str]:
        """A series UID alone is not enough: careless anonymisers repeat it from patient to patient."""
        return (self.patient, self.study, self.series)


def discover(source: Path) -> Discovery:
    """Find the CT series under a folder and the RTSTRUCTs that belong to each.

    Every regular file is looked at, whatever its name; only headers are read. An RTSTRUCT belongs to the series that it
    references (PS3.3 C.8.8.5, RT Referenced Series Sequence); if that series is not here, to the one that holds the
    images it references; if none of them is here either, to the only series in its frame of reference. Otherwise it is
    rejected. Copies of a file are rejected too.

    Args:
        source: folder, searched through all its sub-folders.

    Raises:
        InputError: the folder does not exist, or holds no CT series.
    """
    source = Path(source)
    if not source.is_dir():
        raise InputError(f"{source}: no such folder; name the folder that holds the DICOM files")
    headers = [_read_header(path) for path in _walk(source)]
    discovery = _pair(headers)
    if not discovery.patients:
        hint = f" ({discovery.rejected[0].what}: {discovery.rejected[0].reason})" if discovery.rejected else ""
        raise InputError(f"{source}: holds no DICOM CT series{hint}; name the folder that holds the CT slices")
    return discovery


def _walk(source: Path) -> Iterator[Path]:
    """Regular files below `source` in a fixed order (a FIFO or a device would block)."""
    for folder, folders, names in os.walk(source):
        folders.sort()
        yield from (path for path in (Path(folder, name) for name in sorted(names)) if path.is_file())


def _read_header(path: Path) -> _Header:
    """Never raises: a file that cannot be used says so in `kind` and `fault`."""
    try:
        with quiet_pydicom():
            return _header_of(path, read_dataset(path, tags=_TAGS))
    except OSError as error:
        return _Header(path, "damaged", fault=f"cannot be read ({error.strerror or type(error).__name__})")
    except Exception as error:
        if str(error) == "not DICOM":
            return _Header(path, "not DICOM")
        return _Header(path, "damaged", fault=f"damaged DICOM header ({type(error).__name__})")


def _header_of(path: Path, dataset: Dataset) -> _Header:
    def text(keyword: str, source: Dataset = dataset) -> str:
        return str(source.get(keyword) or "").strip()

    modality = text("Modality")
    sop_class = text("SOPClassUID") or str(dataset.file_meta.get("MediaStorageSOPClassUID", ""))
    if sop_class == DIRECTORY_STORAGE:
        return _Header(path, "DICOMDIR")
    if not sop_class and not modality:
        # Without preamble anything may begin like DICOM; with it, a file that lost its header is a damaged one.
        return _Header(
            path, "damaged" if dataset.preamble else "not DICOM", fault="damaged DICOM header (no SOP class)"
        )
    is_ct = sop_class in (CT_STORAGE, ENHANCED_CT_STORAGE) and modality in ("CT", "")
    is_rtstruct = sop_class == RTSTRUCT_STORAGE or (not sop_class and modality == "RTSTRUCT")
    if not is_ct and not is_rtstruct and not (modality == "CT" and not sop_class):
        return _Header(path, modality or "other DICOM")

    fault = ""
    if not is_rtstruct and not text("SeriesInstanceUID"):
        fault = "has no SeriesInstanceUID"
    elif sop_class == ENHANCED_CT_STORAGE:
        fault = "enhanced (multi-frame) CT: convert it to single-frame CT images"
    elif "LOCALIZER" in [str(value).upper() for value in _values(dataset.get("ImageType"))]:
        fault = "a localizer, not a slice of the volume"
    frames, references = _references(dataset) if is_rtstruct else ([], [])
    return _Header(
        path,
        "RTSTRUCT" if is_rtstruct else "CT",
        sop=text("SOPInstanceUID"),
        patient=text("PatientID"),
        study=text("StudyInstanceUID"),
        series=text("SeriesInstanceUID"),
        frame=next(iter(frames), "") or text("FrameOfReferenceUID"),
        references=tuple(references),
        fault=fault,
    )


def _values(value: object) -> Iterable[object]:
    return () if value is None else (value,) if isinstance(value, str) else value  # type: ignore[return-value]


def _references(rtstruct: Dataset) -> tuple[list[str], list[str]]:
    """Frames of reference, and series before image UIDs, that the head of an RTSTRUCT names (PS3.3 C.8.8.5)."""
    frames, series_uids, image_uids = [], [], []
    for frame in rtstruct.get("ReferencedFrameOfReferenceSequence") or ():
        frames.append(str(frame.get("FrameOfReferenceUID", "")))
        for study in frame.get("RTReferencedStudySequence") or ():
            for series in study.get("RTReferencedSeriesSequence") or ():
                series_uids.append(str(series.get("SeriesInstanceUID", "")))
                for image in series.get("ContourImageSequence") or ():
                    image_uids.append(str(image.get("ReferencedSOPInstanceUID", "")))
    return frames, [*series_uids, *image_uids]


def _pair(headers: Iterable[_Header]) -> Discovery:
    ignored: dict[str, int] = defaultdict(int)
    rejected: list[Rejection] = []
    images: dict[tuple[str, str, str], list[_Header]] = defaultdict(list)
    rtstructs: list[_Header] = []
    first_of: dict[tuple[str, ...], _Header] = {}
    for header in headers:
        if header.kind not in ("CT", "RTSTRUCT", "damaged"):
            ignored[header.kind] += 1
            continue
        if header.fault:
            rejected.append(Rejection(header.path, header.fault))
            continue
        first = first_of.setdefault((*header.group, header.sop), header)
        # Different images under one UID stay: `read_volume` sees them, and refuses them by name.
        if first is not header and header.sop and filecmp.cmp(first.path, header.path, shallow=False):
            rejected.append(Rejection(header.path, f"a copy of {first.path}"))
        elif header.kind == "CT":
            images[header.group].append(header)
        else:
            rtstructs.append(header)

    owners = _Owners(images)
    structures: dict[tuple[str, str, str], list[Path]] = defaultdict(list)
    for rtstruct in rtstructs:
        candidates = owners.of(rtstruct)
        if len(candidates) == 1:
            structures[candidates[0]].append(rtstruct.path)
        else:
            reason = "fits several CT series" if candidates else "references no CT series that is here"
            rejected.append(Rejection(rtstruct.path, f"RTSTRUCT {reason}"))
    patients = [
        Patient(
            patient,
            Series(series, study, patient, "CT", tuple(image.path for image in members)),
            tuple(structures[key]),
        )
        for key, members in images.items()
        for patient, study, series in [key]
    ]
    patients.sort(key=lambda one: (one.patient_id, one.ct.files[0]))
    return Discovery(tuple(patients), tuple(sorted(rejected, key=lambda one: one.what)), dict(ignored))


class _Owners:
    """Looks up the series that an RTSTRUCT was drawn on."""

    def __init__(self, images: dict[tuple[str, str, str], list[_Header]]) -> None:
        self._by_uid: dict[str, set[tuple[str, str, str]]] = defaultdict(set)
        self._by_frame: dict[str, set[tuple[str, str, str]]] = defaultdict(set)
        for key, members in images.items():
            self._by_uid[key[2]].add(key)
            for image in members:
                self._by_uid[image.sop].add(key)
                self._by_frame[image.frame].add(key)

    def of(self, rtstruct: _Header) -> list[tuple[str, str, str]]:
        """Keys of the series it may belong to: one, if all is well."""
        found = {key for uid in rtstruct.references if uid for key in self._by_uid.get(uid, ())}
        if not found and rtstruct.frame:
            found = self._by_frame.get(rtstruct.frame, set())
        # A UID repeated by an anonymiser is told apart by the patient, then by the study.
        for narrower in (
            {key for key in found if key[0] == rtstruct.patient},
            {key for key in found if key[:2] == (rtstruct.patient, rtstruct.study)},
        ):
            found = narrower if len(found) > 1 and narrower else found
        return sorted(found)
