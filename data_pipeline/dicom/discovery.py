"""Which CT series a folder tree holds, and which RTSTRUCTs and SEGs belong to each: by UID, never by file name."""

import filecmp
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from rich.progress import Progress

from data_pipeline.dicom.files import quiet_pydicom, read_dataset
from data_pipeline.dicom.headers import DRAWN_ON, Header, read_headers
from data_pipeline.errors import InputError

_Group = tuple[str, str, str]
_IDENTITY = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID")
_LAST_IDENTITY = 0x0020000E  # SeriesInstanceUID
USED = ("CT", "RTSTRUCT", "SEG")
"""Kinds of files that are read."""


@dataclass(frozen=True)
class CTSeries:
    """One CT series, and the RTSTRUCTs and SEGs drawn on it.

    Attributes:
        series_uid, study_uid, patient_id: as in its files. They identify a person: not for logs, reports or outputs.
        files: one file per image, ordered by path. This order has no meaning: `read_volume` sorts by position.
        rtstructs, segs: RTSTRUCT and SEG files that belong to the series; empty if there is none.
        notes: what is unusual about its headers, without identities.
    """

    series_uid: str
    study_uid: str
    patient_id: str
    files: tuple[Path, ...]
    rtstructs: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    segs: tuple[Path, ...] = ()

    @property
    def mask_files(self) -> tuple[Path, ...]:
        """The files that hold its masks."""
        return self.rtstructs + self.segs


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
    """Find the CT series in a folder and the RTSTRUCTs and SEGs that belong to each. Only headers are read.

    An RTSTRUCT or a SEG belongs to the series that it references (PS3.3 C.8.8.5, C.12.2); if that series is not in the
    folder, to the one that holds the images it references; if none of them is in the folder either, to the same
    patient's only series in its frame of reference, unless the SOP class of the images is another modality's. The
    images that its contours reference must not contradict this. Where the result is a series of another modality, no
    series, or more than one, it is rejected. Also rejected: copies of a file, localizers, enhanced CT, archives and
    damaged headers.

    Args:
        source: folder, searched with all its sub-folders; or one file.
        index: file that stores the headers for the next run; see `read_headers`.
        workers: processes that read headers; see `read_headers`.
        progress: shows a bar in it.

    Raises:
        InputError: the source does not exist, or holds no CT series.
    """
    source = Path(source)
    if not source.exists():
        raise InputError("no such folder; name the folder that holds the DICOM files", path=source)
    headers = read_headers(source, index=index, workers=workers, progress=progress)
    rejected = [Rejection(path, header.fault) for path, header in headers.items() if header.fault]
    usable = {path: one for path, one in headers.items() if one.kind in USED and not one.fault}
    for path in _copies(usable):
        rejected.append(Rejection(path, "a copy of another file"))
        del usable[path]

    images: dict[_Group, list[Path]] = defaultdict(list)
    for path, header in usable.items():
        if header.kind == "CT":
            images[header.group].append(path)
    owners = _Owners(headers.values())
    structures: dict[_Group, list[Path]] = defaultdict(list)
    for path, header in usable.items():
        if header.kind != "CT":
            try:
                structures[owners.of(header)].append(path)
            except _NoOwnerError as error:
                rejected.append(Rejection(path, f"{header.kind} {error}"))

    kinds = Counter(header.kind for header in headers.values() if not header.fault)
    ignored = {kind: count for kind, count in sorted(kinds.items()) if kind not in USED}
    if not images:
        example = f"such as {rejected[0].what}" if rejected else ""
        raise InputError(_no_ct(ignored, rejected), path=source, quoted=example)
    series = [_series(files, structures[group], headers) for group, files in images.items()]
    return Discovery(
        tuple(sorted(series, key=lambda one: (one.patient_id, one.files[0]))),
        tuple(sorted(rejected, key=lambda one: one.what)),
        ignored,
    )


def _no_ct(ignored: dict[str, int], rejected: list[Rejection]) -> str:
    held = [f"{count} {kind}" for kind, count in ignored.items()]
    held += [f"{count} rejected ({reason})" for reason, count in Counter(one.reason for one in rejected).items()]
    return (
        f"holds no DICOM CT series, but {', '.join(held) or 'no file'}; name the folder that holds the axial CT slices"
    )


def _copies(headers: dict[Path, Header]) -> list[Path]:
    """Files with the UIDs and the bytes of an earlier one.

    Different images with one UID stay: `read_volume` finds them, and refuses them by name.
    """
    first: dict[tuple[str, ...], Path] = {}
    copies = []
    for path, header in headers.items():
        original = first.setdefault((*header.group, header.image), path)
        if original is not path and header.image and filecmp.cmp(original, path, shallow=False):
            copies.append(path)
    return copies


def _series(files: list[Path], structures: list[Path], headers: dict[Path, Header]) -> CTSeries:
    """Headers hold digests only, so one file of the series is read again for its identity."""
    try:
        with quiet_pydicom():
            dataset = read_dataset(files[0], tags=_IDENTITY, until=_LAST_IDENTITY)
            patient, study, series = (str(dataset.get(keyword) or "").strip() for keyword in _IDENTITY)
    except Exception as error:
        raise InputError(f"changed while it was read ({type(error).__name__}); start again", path=files[0]) from error
    notes = dict.fromkeys(note for path in files if (note := headers[path].note))
    rtstructs, segs = (tuple(path for path in structures if headers[path].kind == kind) for kind in ("RTSTRUCT", "SEG"))
    return CTSeries(series, study, patient, tuple(files), rtstructs, tuple(notes), segs)


class _NoOwnerError(Exception):
    """Why an RTSTRUCT or a SEG belongs to no CT series."""


class _Owners:
    """Finds the CT series that an RTSTRUCT or a SEG was drawn on, among the series of every modality."""

    def __init__(self, headers: Iterable[Header]) -> None:
        self._kinds: dict[_Group, str] = {}
        self._by_series: dict[str, set[_Group]] = defaultdict(set)
        self._by_image: dict[str, set[_Group]] = defaultdict(set)
        self._by_frame: dict[str, set[_Group]] = defaultdict(set)
        for header in headers:
            if header.kind in ("RTSTRUCT", "SEG") or not header.series:
                continue
            kind = f"rejected {header.kind}" if header.fault else header.kind
            if self._kinds.get(header.group) != "CT":  # a localizer may share the series of the slices
                self._kinds[header.group] = kind
            self._by_series[header.series].add(header.group)
            self._by_image[header.image].add(header.group)
            if kind in DRAWN_ON:
                self._by_frame[header.patient + header.frame].add(header.group)

    def of(self, rtstruct: Header) -> _Group:
        """The one CT series that it was drawn on. Raises _NoOwnerError."""
        drawn_on = self._named(rtstruct, rtstruct.contour_references, self._by_image)
        found = (
            self._named(rtstruct, rtstruct.series_references, self._by_series)
            or self._named(rtstruct, rtstruct.image_references, self._by_image)
            or drawn_on
        )
        if not found and rtstruct.drawn_on not in ("", "CT"):
            raise _NoOwnerError(f"was drawn on a {rtstruct.drawn_on} series that is not in the folder")
        if not found and rtstruct.frame:
            found = self._named(rtstruct, (rtstruct.patient + rtstruct.frame,), self._by_frame)
        if drawn_on <= found or "CT" not in {self._kinds[group] for group in drawn_on}:
            found = drawn_on or found  # the contours choose among the series that the file lists
        else:
            found |= drawn_on  # they contradict it
        kinds = sorted(self._kinds[group] for group in found)
        if not found:
            raise _NoOwnerError("references no CT series in the folder")
        if len(found) > 1:
            raise _NoOwnerError(
                f"fits several series ({', '.join(kinds)}); keep only the series that it was drawn on"
                if set(kinds) != {"CT"}
                else "fits several CT series; keep only the series that it was drawn on"
            )
        if kinds != ["CT"]:
            raise _NoOwnerError(f"was drawn on a {kinds[0]} series, not on a CT that can be used")
        return found.pop()

    def _named(self, rtstruct: Header, uids: Iterable[str], table: dict[str, set[_Group]]) -> set[_Group]:
        found = {group for uid in uids for group in table.get(uid, ())}
        # A UID that an anonymiser repeated is distinguished by the patient, then by the study.
        for same in (1, 2):
            narrower = {group for group in found if group[:same] == rtstruct.group[:same]}
            found = narrower if len(found) > 1 and narrower else found
        return found
