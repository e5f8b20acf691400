"""`rdunet prepare`."""

from pathlib import Path

from rich.console import Console

from data_pipeline.nsclc_radiomics.report import PATIENT_COLUMNS, patient_rows, rejections, table_2, times
from data_pipeline.prepare import prepare_dataset
from data_pipeline.settings import SPLITS, DatasetSettings, PrepareOptions
from rdunet_jax.progress import progress_bar
from rdunet_jax.workflows.display import print_table

_DEFAULTS = PrepareOptions()


def prepare_source(
    source: Path, data_dir: Path, settings: DatasetSettings, console: Console, options: PrepareOptions = _DEFAULTS
) -> Path:
    """Builds the data set and prints its account; returns the data set's folder.

    Raises:
        InputError: see `prepare_dataset`.
    """
    with progress_bar(console) as progress:
        folder, account = prepare_dataset(source, data_dir, settings, options, progress)
    print_table(console, "Patients", PATIENT_COLUMNS, patient_rows(account))
    print_table(
        console,
        "Slices on the CT's own grid (as the paper's Table 2)",
        ("split", "patients", "with tumour", "without"),
        [(split, *map(str, row.values())) for split, row in table_2(account).items()],
    )
    if account.folds:
        counts = [[len(fold.splits[part]) for part in SPLITS] for fold in account.folds]
        rows = [
            (str(number), *map(str, count), f"{fold.split_sha256[:16]}…")
            for number, (count, fold) in enumerate(zip(counts, account.folds, strict=True))
        ]
        print_table(console, "Folds (`train --fold`)", ("fold", *SPLITS, "SHA-256 of the split"), rows)
    for one in rejections(account.rejected):
        console.print(f"rejected {times(*one)}", markup=False)
    for names in account.copies:
        console.print(f"one person under several IDs, kept in one part: {', '.join(names)}", markup=False)
    if account.rejected and not options.keep_ids:
        console.print("names of files and ROIs are left out; with --keep-ids the report has them")
    console.print(f"data set SHA-256 {account.dataset_sha256[:16]}…, split {account.split_sha256[:16]}…")
    console.print(f"data set: {folder}\nreport:   {folder / 'report.md'}", markup=False)
    return folder
