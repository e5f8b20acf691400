"""The headers of a folder tree: read once, in parallel, and stored in an index file that holds no identities."""

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from pydicom import Dataset
from rich.progress import Progress

from data_pipeline.dicom.files import NotDicomError, OversizedError, decimals, quiet_pydicom, read_dataset
from data_pipeline.dicom.header_index import Header, Stamp, digest_of, load_index, save_index
from data_pipeline.errors import InputError
from data_pipeline.processes import worker_pool

CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2.1"
RTSTRUCT_STORAGE = "1.2.840.10008.5.1.4.1.1.481.3"
IMAGES_OF = {
    CT_STORAGE: "CT",
    ENHANCED_CT_STORAGE: "CT",
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.4.1": "MR",
    "1.2.840.10008.5.1.4.1.1.20": "NM",
    "1.2.840.10008.5.1.4.1.1.128": "PT",
    "1.2.840.10008.5.1.4.1.1.130": "PT",
}
"""Modality of sectional images by SOP class, of enhanced (multi-frame) ones too."""
DIRECTORY_STORAGE = "1.2.840.10008.1.3.10"

_OTHER = ("CR", "DX", "ES", "FID", "KO", "MG", "MR", "NM", "OT", "PLAN", "PR", "PT", "REG", "RF", "RTDOSE", "RTIMAGE")
_OTHER += ("RTPLAN", "RTRECORD", "RWV", "SEG", "SM", "SR", "US", "XA", "XC")
MODALITIES = frozenset(_OTHER)
"""Modalities (PS3.3 C.7.3.1.1.1) that a report names. Any other text in that element could be a name."""
DRAWN_ON = frozenset(("CT", "MR", "NM", "PT"))
"""Modalities of sectional images, on which contours are drawn."""
ARCHIVES = (".zip", ".gz", ".tgz", ".tar", ".bz2", ".xz", ".zst", ".7z", ".rar")

CHUNK = 200  # files; keeps the traffic between processes small, and the progress bar moving

_TAGS = (
    "SOPClassUID",
    "SOPInstanceUID",
    "Modality",
    "ImageType",
    "PatientID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
)
_LAST_TAG = 0x00200052  # FrameOfReferenceUID
_REFERENCED_SERIES = 0x00081115
_PLANE = ("ImageOrientationPatient", "PixelSpacing")
_LAST_PLANE_TAG = 0x00280030  # PixelSpacing


def read_headers(
    source: Path, *, index: Path | None = None, workers: int = 1, progress: Progress | None = None
) -> dict[Path, Header]:
    """Read the header of every regular file in a folder tree, whatever its name; ordered by path.

    Links to folders are followed; a folder that is reached twice is read once, so that loops end.

    Args:
        source: folder, searched with all its sub-folders; or one file.
        index: JSON file that stores the headers, by path, size and modification time. Read if it is there, ignored
            if it is damaged, replaced atomically at the end, also of an interrupted run. It holds digests under a
            random key of its own, no names, paths or identifiers.
        workers: processes that read. With more than 1 the calling script needs its `if __name__ == "__main__"`.
        progress: shows a bar in it.
    """
    unreadable: list[Path] = []
    stamps = {Path(path): stamp for path, stamp in sorted(_walk(source, unreadable))}
    key, known = load_index(index)
    names = {path: digest_of(key, os.path.abspath(path)) for path in stamps}
    headers = {
        path: known[names[path]][1]
        for path, stamp in stamps.items()
        if names[path] in known and known[names[path]][0] == stamp
    }
    new = [path for path in stamps if path not in headers]
    task = progress.add_task("Reading DICOM headers", total=len(stamps), completed=len(headers)) if progress else None
    try:
        for paths, results in _read_all(new, key, workers):
            headers.update(zip(paths, results, strict=True))
            if progress and task is not None:
                progress.advance(task, len(paths))
    finally:
        if index is not None and new:
            save_index(index, key, {names[path]: (stamps[path], header) for path, header in headers.items()})
    lost = {path: Header("damaged", fault="a folder that cannot be read") for path in unreadable}
    return {path: headers[path] for path in stamps} | lost


def _walk(source: Path, unreadable: list[Path]) -> Iterator[tuple[str, Stamp]]:
    """Regular files below `source` (a FIFO or a device would block); folders that cannot be read go to the list."""
    if source.is_file():
        yield from _regular([str(source)])
        return
    seen: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(
        source, onerror=lambda error: unreadable.append(Path(error.filename)), followlinks=True
    ):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        # Real folders first, so that a file is usually known by its own path and not by a link's.
        folders.sort(key=lambda name: (os.path.islink(os.path.join(folder, name)), name))
        yield from _regular(os.path.join(folder, name) for name in names)


def _regular(paths: Iterable[str]) -> Iterator[tuple[str, Stamp]]:
    for path in paths:
        try:
            status = os.stat(path)
        except OSError:
            continue  # a link to nowhere, or removed since
        if stat.S_ISREG(status.st_mode):
            yield path, (status.st_size, status.st_mtime_ns)


def _read_all(paths: list[Path], key: bytes, workers: int) -> Iterator[tuple[list[Path], list[Header]]]:
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    if workers <= 1 or len(chunks) <= 1:
        yield from ((chunk, _read_chunk(chunk, key)) for chunk in chunks)
        return
    pool = worker_pool(min(workers, len(chunks)))
    try:
        yield from zip(chunks, pool.map(_read_chunk, chunks, [key] * len(chunks)), strict=True)
    except BrokenProcessPool as error:
        raise InputError(
            "a process that read DICOM headers was ended from outside, most often for lack of memory; use fewer "
            "--workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _read_chunk(paths: Sequence[Path], key: bytes) -> list[Header]:
    return [_read_header(path, key) for path in paths]


def _read_header(path: Path, key: bytes) -> Header:
    """Never raises: a file that cannot be used says so in `kind` and `fault`."""
    try:
        with quiet_pydicom():
            return _header(path, key)
    except OSError as error:
        return Header("damaged", fault=f"cannot be read ({error.strerror or type(error).__name__})")
    except NotDicomError:
        name = path.name.lower()
        if name.endswith(ARCHIVES) and not name.endswith(".nii.gz"):
            return Header("archive", fault="an archive inside the folder, which is not searched; unpack it")
        return Header("not DICOM")
    except OversizedError as error:
        return Header("damaged", fault=f"refused: {error}")
    except Exception as error:
        return Header("damaged", fault=f"damaged DICOM header ({type(error).__name__})")


def _header(path: Path, key: bytes) -> Header:
    dataset = read_dataset(path, tags=_TAGS, until=_LAST_TAG)
    kind, fault = _kind(dataset)
    if kind in ("not DICOM", "DICOMDIR", "damaged"):
        return Header(kind, fault)

    def digest(value: object) -> str:
        return digest_of(key, str(value).strip()) if value else ""

    def digests(values: Iterable[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(map(digest, filter(None, values))))

    header = Header(
        kind,
        fault,
        image=digest(dataset.get("SOPInstanceUID")),
        patient=digest(dataset.get("PatientID")),
        study=digest(dataset.get("StudyInstanceUID")),
        series=digest(dataset.get("SeriesInstanceUID")),
        frame=digest(dataset.get("FrameOfReferenceUID")),
    )
    if kind == "CT" and not header.series and not fault:
        return _without_series_uid(path, key, header)
    if kind not in ("RTSTRUCT", "SEG"):
        return header
    references = _references(path) if kind == "RTSTRUCT" else _references_of_seg(path)
    return replace(
        header,
        # Planning systems often leave the file's own frame out, and name it only in the sequence.
        frame=next(map(digest, filter(None, references.frames)), header.frame),
        series_references=digests(references.series),
        image_references=digests(references.images),
        contour_references=digests(references.contours),
        drawn_on=references.classes.pop() if len(references.classes) == 1 else "",
    )


def _without_series_uid(path: Path, key: bytes, header: Header) -> Header:
    """A CT image without SeriesInstanceUID: images with one study, frame, orientation and spacing are a series."""
    dataset = read_dataset(path, tags=_PLANE, until=_LAST_PLANE_TAG)
    orientation, spacing = (decimals(dataset, keyword) for keyword in _PLANE)
    if orientation.size != 6 or spacing.size != 2:
        return replace(header, fault="has no SeriesInstanceUID, and no orientation or pixel spacing to group it by")
    plane = f"{orientation.round(3) + 0.0} {spacing.round(4)}"
    return replace(
        header,
        series=digest_of(key, f"no series UID {header.frame} {plane}"),
        note="has no SeriesInstanceUID; its images were grouped by study, frame of reference, orientation and spacing",
    )


def _kind(dataset: Dataset) -> tuple[str, str]:
    """`kind` and `fault`. The SOP class decides; the modality where there is none, and against secondary captures."""
    modality = str(dataset.get("Modality") or "").strip()
    sop_class = str(dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID") or "").strip()
    image_type = dataset.get("ImageType") or ()
    image_type = (image_type,) if isinstance(image_type, str) else image_type
    if sop_class == DIRECTORY_STORAGE:
        return "DICOMDIR", ""
    if not sop_class and not modality:
        if not dataset.preamble:
            return "not DICOM", ""  # anything may begin like DICOM
        return "damaged", "damaged DICOM header (neither SOP class nor modality)"
    if sop_class == RTSTRUCT_STORAGE or (not sop_class and modality == "RTSTRUCT"):
        return "RTSTRUCT", ""
    if sop_class == ENHANCED_CT_STORAGE:
        return "CT", "enhanced (multi-frame) CT; convert it to single-frame CT images"
    if not (sop_class in (CT_STORAGE, "") and modality in ("CT", "")):
        # A CT's secondary captures and reports call themselves CT too.
        return modality if modality in MODALITIES else "other DICOM", ""
    if "LOCALIZER" in (str(value).upper() for value in image_type):
        return "CT", "a localizer, not a slice of the volume"
    return "CT", ""


class _References(NamedTuple):
    """UIDs that an RTSTRUCT or a SEG refers to: frames, series, images listed for the series, images named by contours.

    `classes` has the modalities of the images, by their SOP class.
    """

    frames: list[str]
    series: list[str]
    images: list[str]
    contours: list[str]
    classes: set[str]


def _references(path: Path) -> _References:
    """What an RTSTRUCT was drawn on (PS3.3 C.8.8.5, C.8.8.6)."""
    rtstruct = read_dataset(path, tags=("ReferencedFrameOfReferenceSequence", "ROIContourSequence"))
    frames = rtstruct.get("ReferencedFrameOfReferenceSequence") or ()
    series = list(_items(_items(frames, "RTReferencedStudySequence"), "RTReferencedSeriesSequence"))
    contours = _items(rtstruct.get("ROIContourSequence") or (), "ContourSequence")
    listed = list(_items(series, "ContourImageSequence"))
    named = list(_items(contours, "ContourImageSequence"))
    return _References(
        [str(frame.get("FrameOfReferenceUID") or "") for frame in frames],
        [str(one.get("SeriesInstanceUID") or "") for one in series],
        [str(image.get("ReferencedSOPInstanceUID") or "") for image in listed],
        [str(image.get("ReferencedSOPInstanceUID") or "") for image in named],
        {IMAGES_OF.get(str(image.get("ReferencedSOPClassUID") or ""), "") for image in named or listed},
    )


def _references_of_seg(path: Path) -> _References:
    """What a SEG was drawn on: its Common Instance Reference module (PS3.3 C.12.2)."""
    seg = read_dataset(path, tags=("ReferencedSeriesSequence",), until=_REFERENCED_SERIES)
    series = seg.get("ReferencedSeriesSequence") or ()
    images = list(_items(series, "ReferencedInstanceSequence"))
    return _References(
        [],
        [str(one.get("SeriesInstanceUID") or "") for one in series],
        [str(image.get("ReferencedSOPInstanceUID") or "") for image in images],
        [],
        {IMAGES_OF.get(str(image.get("ReferencedSOPClassUID") or ""), "") for image in images},
    )


def _items(parents: Iterable[Dataset], keyword: str) -> Iterator[Dataset]:
    return chain.from_iterable(parent.get(keyword) or () for parent in parents)
