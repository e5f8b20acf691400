"""What `rdunet prepare` tells of a data set: `report.json` for programs, `report.md` for people."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from data_pipeline.files import atomic_path
from data_pipeline.settings import SPLITS

PAPER_TABLE_2 = {"train": (260, 4296, 26951), "test": (40, 848, 3630)}
"""Split: (patients, slices with tumour, slices without). The paper's validation patients count as training ones."""

PATIENT_COLUMNS = ("patient", "split", "slices", "tumour", "contours", "voxels", "mask mm³", "polygons mm³")
"""On the CT's own grid: slices, those with tumour, contours used of all, tumour voxels and volume, polygons' volume."""


def write_report(account: dict[str, Any], folder: Path) -> None:
    """Writes both reports into the folder."""
    with atomic_path(folder / "report.json") as path:
        path.write_text(json.dumps(account | {"table_2": table_2(account)}, indent=1))
    with atomic_path(folder / "report.md") as path:
        path.write_text(report_markdown(account))


def table_2(account: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Patients and slices with and without tumour, a row a split, counted on the CT's own grid."""
    rows = {}
    for split in SPLITS:
        records = [account["patients"][name] for name in account["splits"][split]]
        tumour = sum(r["tumour_slices"] for r in records)
        rows[split] = {
            "patients": len(records),
            "tumour_slices": tumour,
            "other_slices": sum(r["slices"] for r in records) - tumour,
            "patches": sum(r["patches"] for r in records),
        }
    return rows


def report_markdown(account: dict[str, Any]) -> str:
    """The account as Markdown tables: Table 2 beside the paper's, every patient, every rejection."""
    lines = [
        "| split | patients | slices with tumour | slices without | patches | paper: patients / with / without |",
        "|---|--:|--:|--:|--:|---|",
    ]
    for split, row in table_2(account).items():
        paper = " / ".join(map(str, PAPER_TABLE_2[split])) if split in PAPER_TABLE_2 else ""
        lines.append("| " + " | ".join([split, *map(str, row.values()), paper]) + " |")
    lines += ["", "| " + " | ".join(PATIENT_COLUMNS) + " |", "|---|---|" + "--:|" * (len(PATIENT_COLUMNS) - 2)]
    lines += ["| " + " | ".join(row) + " |" for row in patient_rows(account)]
    lines += _scan_table(account) + _fates(account)
    for name, record in account["patients"].items():
        contours = record["contours"]
        told = [f"contour {number} repaired: {how}" for number, how in contours["repaired"]]
        told += [f"contour {number} rejected: {why}" for number, why in contours["rejected"]]
        if told or record["notes"]:
            lines += ["", f"{name}:", "", *(f"- {line}" for line in [*record["notes"], *told])]
    rejected = account["rejected"]
    if rejected:
        lines += ["", f"Rejected ({len(rejected)}):", ""]
        lines += [f"- {entry['patient'] or 'files'}: {entry['reason']}" for entry in rejected]
    return "\n".join(lines) + "\n"


def patient_rows(account: dict[str, Any]) -> list[tuple[str, ...]]:
    """A row a patient, of `PATIENT_COLUMNS`."""
    split_of = {name: split for split, names in account["splits"].items() for name in names}
    rows = []
    for name, record in account["patients"].items():
        contours = record["contours"]
        rows.append(
            (
                name,
                split_of[name],
                str(record["slices"]),
                str(record["tumour_slices"]),
                f"{contours['used']} of {contours['total']}",
                str(contours["mask_voxels"]),
                f"{contours['mask_volume_mm3']:.0f}",
                f"{contours['polygon_volume_mm3']:.0f}",
            )
        )
    return rows


def _scan_table(account: dict[str, Any]) -> list[str]:
    """Spacing, HU range and the checksum of the inputs, a row a patient."""
    lines = ["", "| patient | rows x columns | slice, row, column spacing, mm | HU | SHA-256 of inputs |"]
    lines += ["|---|---|---|---|---|"]
    for name, record in account["patients"].items():
        spacing = " ".join(f"{mm:g}" for mm in record["spacing_mm"])
        low, high = record["hounsfield_range"]
        size = f"{record['rows']} x {record['columns']}"
        lines.append(f"| {name} | {size} | {spacing} | {low} to {high} | {record['inputs_sha256'][:16]}… |")
    return lines


def _fates(account: dict[str, Any]) -> list[str]:
    """Contours by what became of them, with the reasons counted (numbers in a reason do not tell it apart)."""
    fates: Counter[str] = Counter()
    for record in account["patients"].values():
        contours = record["contours"]
        fates["used as they are"] += contours["used"] - len(contours["repaired"])
        for kind in ("repaired", "rejected"):
            fates.update(f"{kind}: {re.sub(r'[0-9.]+', '#', why)}" for _, why in contours[kind])
    return ["", "| contours | |", "|---|--:|", *(f"| {fate} | {count} |" for fate, count in fates.items())]
