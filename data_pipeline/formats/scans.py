"""The CTs of a source of any format: found, read, and their tumour masks."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress

from data_pipeline.dicom.archive import opened_source as opened_dicom
from data_pipeline.dicom.discovery import CTSeries, Rejection, discover
from data_pipeline.dicom.files import HEAD_BYTES, looks_like_dicom
from data_pipeline.dicom.volume import CTVolume, read_chest_ct
from data_pipeline.formats.layouts import FileScan, find_files
from data_pipeline.formats.suffixes import is_file_source
from data_pipeline.formats.volume_file import read_image

Scan = CTSeries | FileScan
"""One CT with its masks: a DICOM series, or a volume file."""


@dataclass(frozen=True)
class Scans:
    """What a source holds.

    Attributes:
        series: the CTs, ordered by patient. One person may have several.
        rejected: files that cannot be used.
        ignored: number of files that are not needed, by kind.
    """

    series: tuple[Scan, ...]
    rejected: tuple[Rejection, ...]
    ignored: dict[str, int]


@contextmanager
def opened_source(source: Path) -> Iterator[Path]:
    """`dicom.archive.opened_source`, which also lets volume files and tables pass.

    Raises:
        InputError: as there.
    """
    if source.is_file() and is_file_source(source):
        yield source
        return
    with opened_dicom(source) as opened:
        yield opened


def find_scans(source: Path, *, index: Path | None = None, workers: int = 1, progress: Progress | None = None) -> Scans:
    """Find the CTs of a source and their masks. The format is seen from the files; DICOM comes first: in a folder that
    holds a DICOM file, volume files are not used.

    Args:
        source: folder, or one file; see `discover` and `find_files`.
        index, workers, progress: of the headers of DICOM; see `discover`.

    Raises:
        InputError: the source does not exist, or holds no CT.
    """
    found = find_files(source) if source.exists() else None
    if found is None or (source.is_dir() and _holds_dicom(source)):
        dicom = discover(source, index=index, workers=workers, progress=progress)
        return Scans(dicom.series, dicom.rejected, dicom.ignored)
    return Scans(found.series, found.rejected, found.ignored)


def _holds_dicom(source: Path) -> bool:
    for path in source.rglob("*"):
        try:
            if path.is_file() and not is_file_source(path):
                with path.open("rb") as file:
                    if looks_like_dicom(file.read(HEAD_BYTES)):
                        return True
        except OSError:
            continue
    return False


def read_scan(scan: Scan) -> CTVolume:
    """Read a CT that the networks can be used on: axial slices of a chest in Hounsfield units.

    Raises:
        InputError: as `read_chest_ct`; of a volume file, as `read_image`.
    """
    if isinstance(scan, CTSeries):
        return read_chest_ct(scan)
    hounsfield, geometry, notes = read_image(scan.image)
    return CTVolume(hounsfield, geometry, "", "", scan.patient_id, notes)
