"""Which CTs a folder of volume files holds, and which mask belongs to each: by the layouts that are in use.

| layout | what it is recognised by |
|---|---|
| Decathlon | `imagesTr` with `labelsTr`; a CT and its labels have one name |
| nnU-Net | the same; the CT's name has `_0000` behind that of its labels |
| table | a CSV file with the columns image, mask and patient |
| files | any other folder with volume files, or one file: CTs without masks |
"""

import csv
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.dicom.discovery import Rejection
from data_pipeline.errors import InputError
from data_pipeline.formats.labels import Labels, read_declared
from data_pipeline.formats.suffixes import DETACHED, TABLE, stem_of, suffix_of

IMAGES, MASKS, UNLABELLED = "imagesTr", "labelsTr", "imagesTs"
COLUMNS = ("image", "mask", "patient")
MOST_TABLE_BYTES = 64 * 2**20
_CHANNEL = re.compile(r"(.+)_(\d{4})")


@dataclass(frozen=True)
class FileScan:
    """A CT in a volume file.

    Attributes:
        patient_id: from a table, or the file's name without suffix. It may identify a person: not for logs, reports or
            outputs.
        image: the file.
        mask: the file of its labels; None if there is none.
        labels: their names, where `dataset.json` gives any.
    """

    patient_id: str
    image: Path
    mask: Path | None = None
    labels: Labels = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of the CT."""
        return (self.image,)

    @property
    def mask_files(self) -> tuple[Path, ...]:
        """The files that hold its mask."""
        return () if self.mask is None else (self.mask,)


@dataclass(frozen=True)
class FileScans:
    """The CTs of a source of volume files, files that cannot be used, and numbers of those that are not needed."""

    series: tuple[FileScan, ...]
    rejected: tuple[Rejection, ...]
    ignored: dict[str, int]


def find_files(source: Path) -> FileScans | None:
    """The CTs of a table, of a folder of volume files, or of one such file; None if the source is none of them.

    A folder is the root of a layout, or holds one in a folder.

    Raises:
        InputError: the table or `dataset.json` cannot be read.
    """
    if source.is_file():
        if source.suffix.lower() == TABLE:
            return _of_table(source)
        return _of_files([source]) if suffix_of(source) else None
    # os.path, since Path.is_dir raises in a folder that may not be read; what cannot be read is reported later
    roots = [one for one in (source, *sorted(_folders(source))) if os.path.isdir(one / IMAGES)]
    if len(roots) > 1 and roots[0] != source:
        raise InputError(f"holds {len(roots)} data sets with {IMAGES}; name the folder of one of them", path=source)
    if roots:
        return _of_layout(roots[0])
    files = sorted(_walk(source))
    return _of_files(files) if any(map(suffix_of, files)) else None


def _folders(source: Path) -> list[Path]:
    try:
        return [one for one in source.iterdir() if os.path.isdir(one)]
    except OSError:
        return []


def _walk(source: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(source):
        yield from (Path(folder, name) for name in names)


def _of_files(files: Iterable[Path]) -> FileScans:
    """Every volume file is a CT of its own; where two have one name (`1/ct.nii.gz`, `2/ct.nii.gz`), by path."""
    files, scans, rejected, others = list(files), [], [], 0
    counts = Counter(stem_of(path) for path in files if suffix_of(path))
    for path in files:
        if suffix_of(path) and path.is_file():
            stem = stem_of(path)
            channel = _CHANNEL.fullmatch(stem)
            name = channel[1] if channel and channel[2] == "0000" else stem
            scans.append(FileScan(name if counts[stem] == 1 else str(path.parent / stem), path))
        elif path.suffix.lower() in DETACHED:
            rejected.append(Rejection(path, "a header with its voxels in another file; save it as one file"))
        else:
            others += 1
    return FileScans(_ordered(scans), tuple(rejected), {"other file": others} if others else {})


def _of_layout(root: Path) -> FileScans:
    """`imagesTr` and `labelsTr` of the Decathlon and of nnU-Net."""
    labels = read_declared(root / "dataset.json")
    masks = {stem_of(path): path for path in _volumes(root / MASKS)}
    scans, rejected, used = [], [], set()
    for path in _volumes(root / IMAGES):
        stem, channel = stem_of(path), _CHANNEL.fullmatch(stem_of(path))
        if channel and stem not in masks:
            if channel[2] != "0000":
                rejected.append(Rejection(path, "a further channel of a CT; the networks take one"))
                continue
            stem = channel[1]
        used.add(stem)
        scans.append(FileScan(stem, path, masks.get(stem), labels))
    rejected += [
        Rejection(path, "labels without their image in imagesTr") for stem, path in masks.items() if stem not in used
    ]
    if not scans:
        raise InputError(f"holds no volume file in {IMAGES}; copy the data set again", path=root)
    unlabelled = len(_volumes(root / UNLABELLED))
    return FileScans(_ordered(scans), tuple(rejected), {f"image in {UNLABELLED}": unlabelled} if unlabelled else {})


def _volumes(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if suffix_of(path) and path.is_file())


def _of_table(path: Path) -> FileScans:
    """A CSV file: image, mask (may be empty or missing) and patient (may be missing: the image's name)."""
    scans, rejected, seen = [], [], set()
    for row in _rows(path):
        image, mask, patient = ((row.get(column) or "").strip() for column in COLUMNS)
        if not image:
            rejected.append(Rejection(path, "a row without an image"))
            continue
        file, label = path.parent / image, path.parent / mask if mask else None
        if unusable := next((one for one in (file, label) if one is not None and not suffix_of(one)), None):
            rejected.append(Rejection(unusable, "no volume file by its name (.nii, .nii.gz, .nrrd, .mha)"))
        elif file in seen:
            rejected.append(Rejection(file, "an image that the table lists twice"))
        else:
            seen.add(file)
            scans.append(FileScan(patient or stem_of(file), file, label))
    if not scans:
        raise InputError("lists no volume file; name one a row in the column image", path=path)
    return FileScans(_ordered(scans), tuple(rejected), {})


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        if path.stat().st_size > MOST_TABLE_BYTES:
            raise ValueError
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [
                {str(name).strip().casefold(): value for name, value in row.items() if isinstance(value, str)}
                for row in csv.DictReader(file)
            ]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(
            f"not a readable table ({type(error).__name__}); save it as CSV in UTF-8", path=path
        ) from error
    if not rows or "image" not in rows[0]:
        raise InputError(
            "has no column image; give it the columns image, mask and patient, separated by commas", path=path
        )
    return rows


def _ordered(scans: Iterable[FileScan]) -> tuple[FileScan, ...]:
    return tuple(sorted(scans, key=lambda one: (one.patient_id, one.image)))
