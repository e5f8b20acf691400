"""`rdunet prepare`."""

from pathlib import Path

from rich.console import Console

from data_pipeline.nsclc_radiomics.report import PATIENT_COLUMNS, patient_rows, table_2
from data_pipeline.prepare import prepare_dataset
from data_pipeline.settings import DatasetSettings
from rdunet_jax.progress import progress_bar
from rdunet_jax.workflows.display import print_table


def prepare_source(
    source: Path,
    data_dir: Path,
    settings: DatasetSettings,
    console: Console,
    *,
    workers: int | None = None,
    keep_ids: bool = False,
    key: Path | None = None,
    split_file: Path | None = None,
    beam_options: tuple[str, ...] | None = None,
    overwrite: bool = False,
) -> Path:
    """Builds the data set and shows its account; returns the data set's folder."""
    with progress_bar(console) as progress:
        folder, account = prepare_dataset(
            source,
            data_dir,
            settings,
            workers=workers,
            keep_ids=keep_ids,
            key_file=key,
            split_file=split_file,
            beam_options=beam_options,
            overwrite=overwrite,
            progress=progress,
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
    console.print(f"data set SHA-256 {account['dataset_sha256'][:16]}…, split {account['split_sha256'][:16]}…")
    console.print(f"data set: {folder}\nreport:   {folder / 'report.md'}", markup=False)
    return folder
