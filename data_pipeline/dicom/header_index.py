"""The index file: headers of a folder tree, stored for the next run without identities."""

import hashlib
import json
import secrets
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_pipeline.errors import InputError
from data_pipeline.files import parse_json, write_whole

FORMAT = "rdunet DICOM index 4"
Stamp = tuple[int, int]
"""Size in bytes and modification time in ns: a file whose stamp is unchanged is taken as unchanged."""


@dataclass(frozen=True)
class Header:
    """What grouping and pairing need of one file. Identifiers are digests: equal where the originals are.

    Attributes:
        kind: `CT`, `RTSTRUCT`, another modality, `other DICOM`, `DICOMDIR`, `not DICOM`, `archive` or `damaged`.
        fault: why the file cannot be used; empty if it can.
        note: what is unusual about a file that is used.
        image, patient, study, series, frame: digests of SOPInstanceUID, PatientID, StudyInstanceUID, SeriesInstanceUID
            and FrameOfReferenceUID; empty where the file has none. For a CT without SeriesInstanceUID, `series` is a
            digest of orientation and pixel spacing.
        series_references: digests of the series that an RTSTRUCT or a SEG refers to.
        image_references: digests of the images that it lists for them.
        contour_references: digests of the images that its contours refer to.
        drawn_on: modality of the images that it refers to, by their SOP class; empty where it gives none, or
            several.
    """

    kind: str
    fault: str = ""
    note: str = ""
    image: str = ""
    patient: str = ""
    study: str = ""
    series: str = ""
    frame: str = ""
    series_references: tuple[str, ...] = ()
    image_references: tuple[str, ...] = ()
    contour_references: tuple[str, ...] = ()
    drawn_on: str = ""

    @property
    def group(self) -> tuple[str, str, str]:
        """Which series it belongs to: some anonymisers repeat a series UID from patient to patient."""
        return (self.patient, self.study, self.series)


def digest_of(key: bytes, text: str) -> str:
    """Keyed BLAKE2b of a text, 24 hexadecimal digits."""
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), key=key, digest_size=12).hexdigest()


def load_index(index: Path | None) -> tuple[bytes, dict[str, tuple[Stamp, Header]]]:
    """Key and headers of an index file; a new key and no headers if it cannot be used."""
    try:
        if index is not None:
            text, _, digest = index.read_text(encoding="utf-8").rstrip("\n").rpartition("\n")
            content = parse_json(text)
            # A changed digest of a series would put an image into another one.
            if content["format"] == FORMAT and digest == hashlib.sha256(text.encode()).hexdigest():
                known = {
                    name: ((size, time), _from_json(fields)) for name, (size, time, fields) in content["files"].items()
                }
                return bytes.fromhex(content["key"]), known
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        pass  # an index only saves time
    return secrets.token_bytes(16), {}


def _from_json(fields: dict[str, Any]) -> Header:
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
    }
    return Header(**values)


def save_index(index: Path, key: bytes, known: dict[str, tuple[Stamp, Header]]) -> None:
    """Replace an index file. Where it cannot be written, the next run reads the headers again."""
    files = {
        name: (*stamp, {field: value for field, value in asdict(header).items() if value})
        for name, (stamp, header) in known.items()
    }
    content = json.dumps({"format": FORMAT, "key": key.hex(), "files": files}, separators=(",", ":"))
    with suppress(OSError, InputError):  # an index only saves time
        write_whole(index, f"{content}\n{hashlib.sha256(content.encode()).hexdigest()}\n")
