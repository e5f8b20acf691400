"""`rdunet prepare`."""

from pathlib import Path

from rich.console import Console

from data_pipeline.prepare import PATIENT_COLUMNS, patient_rows, prepare_dataset, table_2
from data_pipeline.settings import DatasetSettings
from rdunet_jax.cli.display import print_table, progress_bar


def prepare_source(
    source: Path,
    data_dir: Path,
    settings: DatasetSettings,
    workers: int | None,
    keep_ids: bool,
    key: Path | None,
    overwrite: bool,
    console: Console,
) -> Path:
    """Builds the data set and shows its account; returns the data set's folder."""
    with progress_bar(console) as progress:
        bar = progress.add_task("reading patients", total=None)
        folder, account = prepare_dataset(
            source,
            data_dir,
            settings,
            workers=workers,
            keep_ids=keep_ids,
            key_file=key,
            overwrite=overwrite,
            on_patient=lambda done, total: progress.update(bar, completed=done, total=total),
        )
    print_table(console, "Patients", PATIENT_COLUMNS, patient_rows(account))
    print_table(
        console,
        "Slices on the CT's own grid (as the paper's Table 2)",
        ("split", "patients", "with tumour", "without", "patches"),
        [(split, *map(str, row.values())) for split, row in table_2(account).items()],
    )
    for entry in account["rejected"]:
        console.print(f"rejected {entry['patient'] or ''}: {entry['reason']}", markup=False)
    console.print(f"data set: {folder}\nreport:   {folder / 'report.md'}", markup=False)
    return folder
