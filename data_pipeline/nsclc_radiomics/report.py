"""The account of a data set for reading: `report.json` for programs, `report.md` for people."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from data_pipeline.account import Account, Rejected
from data_pipeline.files import write_whole
from data_pipeline.privacy import one_line
from data_pipeline.settings import SPLITS

PAPER_TABLE_2 = {"train": (260, 4296, 26951), "test": (40, 848, 3630)}
"""Split: (patients, slices with tumour, slices without). The paper's validation patients count as training ones."""

PATIENT_COLUMNS = ("patient", "split", "slices", "tumour", "contours", "voxels", "mask mm³", "polygons mm³")
"""On the CT's own grid: slices, those with tumour, contours used of all (or what else holds the mask),
tumour voxels and volume, polygons' volume."""


def write_report(account: Account, folder: Path) -> None:
    """Writes both reports into the folder."""
    write_whole(folder / "report.json", json.dumps(account.to_json() | {"table_2": table_2(account)}, indent=1))
    write_whole(folder / "report.md", report_markdown(account))


def table_2(account: Account) -> dict[str, dict[str, int]]:
    """Patients and slices with and without tumour, by split, counted on the CT's own grid (paper, Table 2)."""
    rows = {}
    for split in SPLITS:
        entries = [account.patients[name] for name in account.splits[split]]
        tumour = sum(one.tumour_slices for one in entries)
        rows[split] = {
            "patients": len(entries),
            "tumour_slices": tumour,
            "other_slices": sum(one.slices for one in entries) - tumour,
        }
    return rows


def report_markdown(account: Account) -> str:
    """The account as Markdown tables: Table 2 beside the paper's, every patient, every rejection."""
    lines = [
        "| split | patients | slices with tumour | slices without | paper: patients / with / without |",
        "|---|--:|--:|--:|---|",
    ]
    for split, row in table_2(account).items():
        paper = " / ".join(map(str, PAPER_TABLE_2[split])) if split in PAPER_TABLE_2 else ""
        lines.append("| " + " | ".join([split, *map(str, row.values()), paper]) + " |")
    lines += ["", "| " + " | ".join(PATIENT_COLUMNS) + " |", "|---|---|" + "--:|" * (len(PATIENT_COLUMNS) - 2)]
    lines += ["| " + " | ".join(map(_plain, row)) + " |" for row in patient_rows(account)]
    lines += _scan_table(account) + _contour_table(account)
    for name, entry in account.patients.items():
        notes = [
            *entry.notes,
            *(f"contour {number} repaired: {how}" for number, how in entry.contours.repaired),
            *(f"contour {number} rejected: {why}" for number, why in entry.contours.rejected),
        ]
        if notes:
            lines += ["", f"{_plain(name)}:", "", *(f"- {_plain(note)}" for note in notes)]
    if account.rejected:
        lines += ["", f"Rejected ({len(account.rejected)}):", ""]
        lines += [f"- {_plain(times(*one))}" for one in rejections(account.rejected)]
    return "\n".join(lines) + "\n"


def rejections(rejected: Sequence[Rejected]) -> list[tuple[str, int]]:
    """What was left out and why, a line each, equal lines counted."""
    lines = []
    for one in rejected:
        name = one.patient or ("a file" if one.file is None else one.file)
        where = f" ({one.file})" if one.patient and one.file else ""
        lines.append(one_line(f"{name}: {one.reason}{one.quoted and f': {one.quoted}'}{where}"))
    return list(Counter(lines).items())


def times(line: str, count: int) -> str:
    """The line, with its number if there are several."""
    return line if count == 1 else f"{line} ({count} times)"


def patient_rows(account: Account) -> list[tuple[str, ...]]:
    """A row for each patient, of `PATIENT_COLUMNS`."""
    split_of = {name: split for split, names in account.splits.items() for name in names}
    return [
        (
            name,
            split_of[name],
            str(entry.slices),
            str(entry.tumour_slices),
            f"{entry.contours.used} of {entry.contours.total}" if entry.contours.total else entry.mask_source,
            str(entry.contours.mask_voxels),
            f"{entry.contours.mask_volume_mm3:.0f}",
            f"{entry.contours.polygon_volume_mm3:.0f}" if entry.contours.total else "",
        )
        for name, entry in account.patients.items()
    ]


def _scan_table(account: Account) -> list[str]:
    """Spacing, HU range and the checksum of the inputs, a row for each patient."""
    lines = ["", "| patient | rows x columns | slice, row, column spacing, mm | HU | SHA-256 of inputs |"]
    lines += ["|---|---|---|---|---|"]
    for name, entry in account.patients.items():
        spacing = " ".join(f"{mm:g}" for mm in entry.spacing_mm)
        low, high = entry.hounsfield_range
        size = f"{entry.rows} x {entry.columns}"
        lines.append(f"| {_plain(name)} | {size} | {spacing} | {low} to {high} | {entry.inputs_sha256[:16]}… |")
    return lines


def _contour_table(account: Account) -> list[str]:
    """Contours used, repaired and rejected, by reason; reasons that differ in numbers alone count as one."""
    counts: Counter[str] = Counter()
    for entry in account.patients.values():
        contours = entry.contours
        counts["used as they are"] += contours.used - len(contours.repaired)
        counts.update(f"repaired: {re.sub(r'[0-9.]+', '#', how)}" for _, how in contours.repaired)
        counts.update(f"rejected: {re.sub(r'[0-9.]+', '#', why)}" for _, why in contours.rejected)
    return ["", "| contours | |", "|---|--:|", *(f"| {_plain(what)} | {count} |" for what, count in counts.items())]


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, in one line."""
    return re.sub(r"([\\`*<>\[\]|])", r"\\\1", one_line(text))
