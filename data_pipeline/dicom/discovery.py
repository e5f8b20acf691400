"""Which CT series a folder tree holds, and which RTSTRUCTs belong to each: decided by UID, never by file name."""

import filecmp
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from rich.progress import Progress

from data_pipeline.dicom.files import quiet_pydicom, read_dataset
from data_pipeline.dicom.headers import Header, read_headers
from data_pipeline.errors import InputError

_Group = tuple[str, str, str]
_IDENTITY = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID")
_LAST_IDENTITY = 0x0020000E  # SeriesInstanceUID


@dataclass(frozen=True)
class CTSeries:
    """One CT series and the RTSTRUCTs drawn on it.

    Attributes:
        series_uid, study_uid, patient_id: as in its files. They identify a person: not for logs, reports or outputs.
        files: one file per image, ordered by path. This order has no meaning: `read_volume` sorts by position.
        rtstructs: RTSTRUCT files that belong to the series; empty if there is none.
    """

    series_uid: str
    study_uid: str
    patient_id: str
    files: tuple[Path, ...]
    rtstructs: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Rejection:
    """A file or folder that cannot be used, and the reason in one line."""

    what: Path
    reason: str


@dataclass(frozen=True)
class Discovery:
    """What a folder tree holds.

    Attributes:
        series: the CT series, ordered by patient ID, then by path. One person may have several.
        rejected: files that cannot be used, ordered by path.
        ignored: number of files that are not needed, by kind: `not DICOM`, `DICOMDIR`, or the modality.
    """

    series: tuple[CTSeries, ...]
    rejected: tuple[Rejection, ...]
    ignored: dict[str, int] = field(default_factory=dict)


def discover(
    source: Path, *, index: Path | None = None, workers: int = 1, progress: Progress | None = None
) -> Discovery:
    """Find the CT series under a folder and the RTSTRUCTs that belong to each. Only headers are read.

    An RTSTRUCT belongs to the series that it references (PS3.3 C.8.8.5); if that series is not here, to the one that
    holds the images it references; if none of them is here either, to the same patient's only series in its frame of
    reference. Where that is no series, or more than one, it is rejected. So are copies of a file, localizers,
    enhanced CT and damaged headers.

    Args:
        source: folder, searched through all its sub-folders.
        index: file that remembers the headers for the next run; see `read_headers`.
        workers: processes that read headers; see `read_headers`.
        progress: shows a bar in it.

    Raises:
        InputError: the folder does not exist, or holds no CT series.
    """
    source = Path(source)
    if not source.is_dir():
        raise InputError(f"{source}: no such folder; name the folder that holds the DICOM files")
    headers = read_headers(source, index=index, workers=workers, progress=progress)

    ignored = Counter(header.kind for header in headers.values() if header.kind not in ("CT", "RTSTRUCT", "damaged"))
    rejected = [Rejection(path, header.fault) for path, header in headers.items() if header.fault]
    usable = {
        path: header for path, header in headers.items() if header.kind in ("CT", "RTSTRUCT") and not header.fault
    }
    for path, original in _copies(usable).items():
        rejected.append(Rejection(path, f"a copy of {original}"))
        del usable[path]

    images: dict[_Group, list[Path]] = defaultdict(list)
    for path, header in usable.items():
        if header.kind == "CT":
            images[header.group].append(path)
    owners = _Owners(header for header in usable.values() if header.kind == "CT")
    structures: dict[_Group, list[Path]] = defaultdict(list)
    for path, header in usable.items():
        if header.kind == "RTSTRUCT":
            candidates = owners.of(header)
            if len(candidates) == 1:
                structures[candidates.pop()].append(path)
            else:
                reason = "fits several CT series" if candidates else "references no CT series that is here"
                rejected.append(Rejection(path, f"RTSTRUCT {reason}"))

    if not images:
        hint = f" ({len(rejected)} files rejected, {rejected[0].what}: {rejected[0].reason})" if rejected else ""
        raise InputError(f"{source}: holds no DICOM CT series{hint}; name the folder that holds the CT slices")
    series = [_series(files, structures[group]) for group, files in images.items()]
    return Discovery(
        tuple(sorted(series, key=lambda one: (one.patient_id, one.files[0]))),
        tuple(sorted(rejected, key=lambda one: one.what)),
        dict(sorted(ignored.items())),
    )


def _copies(headers: dict[Path, Header]) -> dict[Path, Path]:
    """Files with the UIDs and the bytes of an earlier one, and that one.

    Different images under one UID stay: `read_volume` sees them, and refuses them by name.
    """
    first: dict[tuple[str, ...], Path] = {}
    copies = {}
    for path, header in headers.items():
        original = first.setdefault((*header.group, header.image), path)
        if original is not path and header.image and filecmp.cmp(original, path, shallow=False):
            copies[path] = original
    return copies


def _series(files: list[Path], rtstructs: list[Path]) -> CTSeries:
    """Headers hold digests only, so one file of the series is asked for its identity."""
    try:
        with quiet_pydicom():
            dataset = read_dataset(files[0], tags=_IDENTITY, until=_LAST_IDENTITY)
            patient, study, series = (str(dataset.get(keyword) or "").strip() for keyword in _IDENTITY)
    except Exception as error:
        raise InputError(f"{files[0]}: changed while it was read ({type(error).__name__}); start again") from error
    return CTSeries(series, study, patient, tuple(files), tuple(rtstructs))


class _Owners:
    """Looks up the series that an RTSTRUCT was drawn on."""

    def __init__(self, images: Iterable[Header]) -> None:
        self._by_series: dict[str, set[_Group]] = defaultdict(set)
        self._by_image: dict[str, set[_Group]] = defaultdict(set)
        self._by_frame: dict[str, set[_Group]] = defaultdict(set)
        for image in images:
            self._by_series[image.series].add(image.group)
            self._by_image[image.image].add(image.group)
            self._by_frame[image.patient + image.frame].add(image.group)

    def of(self, rtstruct: Header) -> set[_Group]:
        """The series it may belong to: one, if all is well."""
        frame = (rtstruct.patient + rtstruct.frame,) if rtstruct.frame else ()
        for uids, table in (
            (rtstruct.series_references, self._by_series),
            (rtstruct.image_references, self._by_image),
            (frame, self._by_frame),
        ):
            found = {group for uid in uids for group in table.get(uid, ())}
            # A UID that an anonymiser repeated is told apart by the patient, then by the study.
            for same in (1, 2):
                narrower = {group for group in found if group[:same] == rtstruct.group[:same]}
                found = narrower if len(found) > 1 and narrower else found
            if found:
                return found
        return set()
