"""`rdunet prepare`: a folder of DICOM to a dataset on disk, with a report for people and one for programs."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from rich.progress import Progress

from data_pipeline.errors import InputError
from data_pipeline.nsclc_radiomics import Builder
from data_pipeline.nsclc_radiomics.staging import pipeline_options
from data_pipeline.settings import DatasetSettings

INDEX = "dicom_index.json"
"""In the folder of data sets: the headers read so far, under digests."""


def prepare_dataset(
    source: Path,
    data_dir: Path,
    settings: DatasetSettings,
    *,
    workers: int | None = None,
    keep_ids: bool = False,
    key_file: Path | None = None,
    split_file: Path | None = None,
    beam_options: Sequence[str] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Builds the dataset named by `settings` under `data_dir`, whole or not at all.

    Args:
        workers, keep_ids, key_file, split_file, beam_options, progress: see the TFDS `Builder`.

    Returns:
        The dataset's folder and its account.

    Raises:
        InputError: the source has nothing to use, or the dataset is there already and `overwrite` is not set.
    """
    if not source.is_dir():
        raise InputError(f"{source}: no such folder; name the folder that holds the DICOM files")
    config_dir = data_dir / "nsclc_radiomics" / settings.name
    if any(config_dir.glob("[0-9]*/dataset_info.json")) and not overwrite:
        raise InputError(f"{config_dir}: is there already; use another --data-dir, or --overwrite to build it anew")
    existed = data_dir.exists()
    _remove_partial(config_dir)
    if not existed:
        data_dir.mkdir(parents=True)
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
                index=data_dir / INDEX,
                split_file=split_file,
                beam_options=beam_options,
                progress=progress,
            )
            builder.download_and_prepare(
                download_dir=downloads,
                download_config=tfds.download.DownloadConfig(
                    manual_dir=str(source),
                    download_mode=tfds.GenerateMode.REUSE_CACHE_IF_EXISTS
                    if overwrite
                    else tfds.GenerateMode.REUSE_DATASET_IF_EXISTS,
                    beam_options=None if beam_options is None else pipeline_options(beam_options),
                ),
            )
    except BaseException:
        _remove_partial(config_dir)
        if not existed:  # leave nothing behind that was not there before
            shutil.rmtree(data_dir, ignore_errors=True)
        raise
    return Path(builder.data_dir), dict(builder.info.metadata or {})


def _remove_partial(config_dir: Path) -> None:
    """What TFDS had begun, in this run or in one that was killed."""
    for partial in config_dir.glob("incomplete.*"):
        shutil.rmtree(partial, ignore_errors=True)
