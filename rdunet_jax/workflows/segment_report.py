"""What `rdunet segment` reports of a CT: `report.json` beside its mask, and its row of `report.csv`."""

import json
import os
import platform
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from data_pipeline.errors import InputError
from data_pipeline.export.lesions import Lesion
from data_pipeline.formats.scans import Scans
from data_pipeline.privacy import one_line
from rdunet_jax.config import PostprocessingConfig, WindowWeights
from rdunet_jax.files import read_json, sha256_of, write_whole

REPORT, TABLE = "report.json", "report.csv"
SOFTWARE = f"rdunet-jax {version('rdunet-jax')}"
Status = Literal["segmented", "incomplete", "failed"]
"""`incomplete`: segmented, but a file could not be written."""
Seen = Literal["trained", "selected", "not_found", "unknown"]
"""Whether the run was trained on the patient, or its checkpoint or post-processing was chosen on it.

It is recognised by its name or by a slice that is equal, whatever its name. `not_found`: neither is in the run.
`unknown`: the run has no list of its patients, or the key of their pseudonyms is missing."""


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
    def of(cls, found: Scans, source: Path, keep_ids: bool) -> "SourceReport":
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
    """Between slices, rows and columns."""
    hounsfield_range: tuple[int, int]


@dataclass(frozen=True)
class NetworkFacts:
    """What made the mask: one network, or the mean of several."""

    name: str
    """Of the first run's network."""
    runs: list[dict[str, object]]
    """`run`, `step`, `best` and `weights_sha256` of each."""
    step: int | None
    """None for several."""
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
    files_sha256: dict[str, str] = field(default_factory=dict)
    """SHA-256 of each of these files, by name."""
    inputs_sha256: str | None = None
    """SHA-256 over the files of the CT and its contours; their names do not matter."""
    settings_sha256: str | None = None
    """SHA-256 of what the files depend on besides the CT: weights, settings, version, name of the patient."""
    ct: CTFacts | None = None
    network: NetworkFacts | None = None
    source: SourceReport | None = None

    def to_json(self) -> dict[str, Any]:
        """What `report.json` holds."""
        return asdict(self) | {"software": SOFTWARE, "versions": _versions()}

    def write(self, folder: Path) -> None:
        """Writes `report.json`.

        Raises:
            InputError: the file cannot be written.
        """
        write_whole(folder / REPORT, json.dumps(self.to_json(), indent=1) + "\n")


def _versions() -> dict[str, str]:
    """Of what computes the mask and its measures."""
    packages = ("jax", "jaxlib", "flax", "numpy", "scipy", "pydicom")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def stored_report(folder: Path, settings_sha256: str) -> dict[str, Any] | None:
    """The `report.json` of an earlier command with the same settings; None if there is none that can be read."""
    try:
        report = read_json(folder / REPORT)
    except (OSError, ValueError):
        return None
    return report if isinstance(report, dict) and report.get("settings_sha256") == settings_sha256 else None


def is_of_another(folder: Path, report: CTReport) -> bool:
    """Whether the `report.json` of an earlier command in this folder is of another CT or network."""
    try:
        earlier = read_json(folder / REPORT)
        ours = json.loads(json.dumps(asdict(report)["network"]))
        return earlier["inputs_sha256"] != report.inputs_sha256 or earlier["network"] != ours
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, TypeError):  # damaged, or changed by hand
        return True


def is_done(folder: Path, settings_sha256: str, inputs_sha256: Callable[[], str]) -> bool:
    """Whether an earlier command has segmented this CT with these settings, and all its files are as it wrote them.

    Args:
        inputs_sha256: gives that of the CT as it is now; called only where all else is equal.
    """
    report = stored_report(folder, settings_sha256)
    try:
        return (
            report is not None
            and report["status"] == "segmented"
            and bool(table_row(report, ""))
            and all(sha256_of(folder / name) == digest for name, digest in report["files_sha256"].items())
            and report["inputs_sha256"] == inputs_sha256()
        )
    except (OSError, KeyError, TypeError, AttributeError, ValueError):  # changed by hand
        return False


def table_row(report: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """The row of `report.csv` of what `CTReport.to_json` gives; lists are separated by semicolons, in the order of the
    lesions."""
    lesions = report["lesions"]

    def of_lesions(name: str) -> str:
        return "; ".join(f"{one[name]:g}" for one in lesions)

    return {
        "patient": report["patient"],
        "folder": folder,
        "status": report["status"],
        "failure": report["failure"] or "",
        "seen_by_network": report["seen_by_network"],
        "tumour_ml": "" if report["tumour_ml"] is None else report["tumour_ml"],
        "tumour_slices": "" if report["tumour_slices"] is None else report["tumour_slices"],
        "lesions": len(lesions),
        "lesion_ml": of_lesions("volume_ml"),
        "lesion_centroid_mm": "; ".join(f"({' '.join(f'{x:g}' for x in one['centroid_mm'])})" for one in lesions),
        "lesion_longest_diameter_mm": of_lesions("longest_diameter_mm"),
        "lesion_perpendicular_diameter_mm": of_lesions("perpendicular_diameter_mm"),
        "lesion_mean_hu": of_lesions("mean_hu"),
        "lesion_slices": "; ".join(f"{one['first_slice']}-{one['last_slice']}" for one in lesions),
        "warnings": "; ".join(report["warnings"]),
    }


def lesion_table(lesions: Sequence[Lesion]) -> list[dict[str, str | int]]:
    """The measures of lesions as the page shows them."""
    return [
        {
            "Lesion": number,
            "Volume (ml)": f"{one.volume_ml:.2f}",
            "Longest diameter (mm)": f"{one.longest_diameter_mm:.1f}",
            "Perpendicular (mm)": f"{one.perpendicular_diameter_mm:.1f}",
            "Measured on slice": one.diameter_slice,
            "Slices": f"{one.first_slice} to {one.last_slice}",
            "Mean HU": f"{one.mean_hu:.0f}",
        }
        for number, one in enumerate(lesions, 1)
    ]


def reason_of(error: InputError, keep_ids: bool) -> str:
    """An error as reports state it: names of files and text from them only if identities are kept."""
    return one_line(str(error) if keep_ids else error.reason)
