"""`rdunet prepare`: a folder of DICOM to a dataset on disk, with a report for people and one for programs."""

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from data_pipeline.errors import InputError
from data_pipeline.files import atomic_path
from data_pipeline.nsclc_radiomics import Builder
from data_pipeline.settings import DatasetSettings
from data_pipeline.splits import SPLITS

PAPER_TABLE_2 = {"train": (260, 4296, 26951), "test": (40, 848, 3630)}
"""Split: (patients, slices with tumour, slices without). The paper's validation patients count as training ones."""

PATIENT_COLUMNS = ("patient", "split", "slices", "tumour", "contours", "voxels", "mask mm³", "polygons mm³")
"""On the CT's own grid: slices, those with tumour, contours used of all, tumour voxels and volume, polygons' volume."""


def prepare_dataset(
    source: Path,
    data_dir: Path,
    settings: DatasetSettings,
    *,
    workers: int | None = None,
    keep_ids: bool = False,
    key_file: Path | None = None,
    overwrite: bool = False,
    on_patient: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Path, dict[str, Any]]:
    """Builds the dataset named by `settings` under `data_dir`, whole or not at all.

    Returns:
        The dataset's folder and its account.

    Raises:
        InputError: the source has nothing to use, or the dataset is there already and `overwrite` is not set.
    """
    if not source.is_dir():
        raise InputError(f"{source}: no such folder; name the folder that holds the DICOM files")
    config_dir = data_dir / "nsclc_radiomics" / settings.name
    if any(config_dir.glob("*/dataset_info.json")) and not overwrite:
        raise InputError(f"{config_dir}: is there already; use another --data-dir, or --overwrite to build it anew")
    existed = data_dir.exists()
    tfds.disable_progress_bar()
    try:
        with tempfile.TemporaryDirectory() as downloads:  # nothing is downloaded; TFDS wants the folder
            builder = Builder(
                settings=settings,
                data_dir=str(data_dir),
                file_format="array_record",
                workers=workers,
                keep_ids=keep_ids,
                key_file=key_file,
                on_patient=on_patient,
            )
            builder.download_and_prepare(
                download_dir=downloads,
                download_config=tfds.download.DownloadConfig(
                    manual_dir=str(source),
                    download_mode=tfds.GenerateMode.REUSE_CACHE_IF_EXISTS
                    if overwrite
                    else tfds.GenerateMode.REUSE_DATASET_IF_EXISTS,
                ),
            )
    except BaseException:
        for partial in config_dir.glob("incomplete.*"):
            shutil.rmtree(partial, ignore_errors=True)
        if not existed:  # leave nothing behind that was not there before
            shutil.rmtree(data_dir, ignore_errors=True)
        raise
    account = dict(builder.info.metadata or {})
    folder = Path(builder.data_dir)
    with atomic_path(folder / "report.json") as path:
        path.write_text(json.dumps(account | {"table_2": table_2(account)}, indent=1))
    with atomic_path(folder / "report.md") as path:
        path.write_text(report_markdown(account))
    return folder, account


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
