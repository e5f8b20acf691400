"""What `rdunet segment` reports of a CT: `report.json` beside its mask, and its row of `report.csv`."""

import json
import os
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from data_pipeline.dicom.discovery import Discovery
from data_pipeline.errors import InputError
from data_pipeline.export.lesions import Lesion
from data_pipeline.privacy import one_line
from rdunet_jax.config import PostprocessingConfig, WindowWeights
from rdunet_jax.files import write_whole

REPORT, TABLE = "report.json", "report.csv"
Status = Literal["segmented", "incomplete", "failed"]
"""`incomplete`: segmented, but a file could not be written."""
Seen = Literal["trained", "selected", "not_found", "unknown"]
"""Whether the run was trained on the patient, or its checkpoint or post-processing was chosen on it.

`not_found`: its name is none of those in the run (patients named with another key are not recognized). `unknown`: the
run has no list of its patients, or the key of their pseudonyms is missing."""


@dataclass(frozen=True)
class RejectedFiles:
    """Files that look like input and cannot be used, by reason."""

    reason: str
    count: int
    files: tuple[str, ...]
    """Their paths below the source; empty without --keep-ids."""


@dataclass(frozen=True)
class SourceReport:
    """What the source holds."""

    ct_series: int
    rejected: tuple[RejectedFiles, ...]
    ignored: dict[str, int]
    """Number of files that are not needed, by kind: the modality, or `not DICOM`."""

    @classmethod
    def of(cls, found: Discovery, source: Path, keep_ids: bool) -> "SourceReport":
        by_reason: dict[str, list[str]] = defaultdict(list)
        for rejection in found.rejected:
            by_reason[rejection.reason].append(one_line(os.path.relpath(rejection.what, source)))
        rejected = tuple(
            RejectedFiles(reason, len(files), tuple(files) if keep_ids else ()) for reason, files in by_reason.items()
        )
        return cls(len(found.series), rejected, {one_line(kind): count for kind, count in found.ignored.items()})

    def lines(self) -> list[str]:
        """For the terminal."""
        lines = [f"rejected: {one.count} files: {one.reason}" for one in self.rejected]
        if self.ignored:
            lines.append("not used: " + ", ".join(f"{count} {kind}" for kind, count in self.ignored.items()))
        return lines


@dataclass(frozen=True)
class CTFacts:
    """The CT as it was read."""

    files: int
    slices: int
    rows: int
    columns: int
    spacing_mm: tuple[float, float, float]
    """Between slices (the median), rows and columns."""
    hounsfield_range: tuple[int, int]


@dataclass(frozen=True)
class NetworkFacts:
    """What made the mask."""

    name: str
    step: int
    checkpoint: Literal["best", "latest"]
    postprocessing: PostprocessingConfig
    stride: int
    window_weights: WindowWeights
    flip: bool


@dataclass
class CTReport:
    """The keys of `report.json`."""

    patient: str
    """Pseudonym; with --keep-ids the Patient ID, as a file name."""
    status: Status = "failed"
    failure: str | None = None
    """Why the CT could not be segmented."""
    warnings: list[str] = field(default_factory=list)
    """What was dropped, repaired or unusual, and which contours are not shown."""
    seen_by_network: Seen = "unknown"
    tumour_ml: float | None = None
    tumour_slices: int | None = None
    lesions: list[Lesion] = field(default_factory=list)
    """Connected components of the mask, largest first."""
    files: dict[str, str] = field(default_factory=dict)
    """Names of the files that were written, by kind."""
    not_written: dict[str, str] = field(default_factory=dict)
    """Why a file was not written, by kind."""
    ct: CTFacts | None = None
    network: NetworkFacts | None = None
    source: SourceReport | None = None

    def write(self, folder: Path) -> None:
        """Writes `report.json`.

        Raises:
            InputError: the file cannot be written.
        """
        software = {"software": f"rdunet-jax {version('rdunet-jax')}"}
        write_whole(folder / REPORT, json.dumps(asdict(self) | software, indent=1) + "\n")

    def row(self, folder: str) -> dict[str, Any]:
        """The row of `report.csv`; lists are separated by semicolons, in the order of the lesions."""

        def of_lesions(values: list[str]) -> str:
            return "; ".join(values)

        return {
            "patient": self.patient,
            "folder": folder,
            "status": self.status,
            "failure": self.failure or "",
            "seen_by_network": self.seen_by_network,
            "tumour_ml": "" if self.tumour_ml is None else self.tumour_ml,
            "tumour_slices": "" if self.tumour_slices is None else self.tumour_slices,
            "lesions": len(self.lesions),
            "lesion_ml": of_lesions([f"{one.volume_ml:g}" for one in self.lesions]),
            "lesion_centroid_mm": of_lesions(
                [f"({' '.join(f'{x:g}' for x in one.centroid_mm)})" for one in self.lesions]
            ),
            "lesion_mean_hu": of_lesions([f"{one.mean_hu:g}" for one in self.lesions]),
            "lesion_slices": of_lesions([f"{one.first_slice}-{one.last_slice}" for one in self.lesions]),
            "warnings": of_lesions(self.warnings),
        }


def reason_of(error: InputError, keep_ids: bool) -> str:
    """An error as reports state it: names of files and text from them only if identities are kept."""
    return one_line(str(error) if keep_ids else error.reason)
