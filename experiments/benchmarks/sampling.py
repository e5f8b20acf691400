"""Disk, preparation and reading of a data set that holds every slice once, beside one that holds its patches.

    python -m experiments.benchmarks.sampling

`rdunet prepare` stores slices, from which training cuts patches of 8 while it reads. The TFDS builder's other configs
store the patches themselves, so a slice is there up to eight times. Both are made from the same phantoms of
512 x 512 pixels and read in the same order, in batches of 2; the batches are compared before anything is reported.

Times are CPU seconds of one process, which other programs on the machine change less than the clock's. Disk and time
are also given for the 35,725 slices of the paper's 300 patients. Costs about 3 minutes on 2 cores.
"""

if not __package__:
    raise SystemExit("error: run this in the checkout as: python -m experiments.benchmarks.sampling")

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import grain
import numpy as np
import tensorflow_datasets as tfds

from data_pipeline.loading import Dataset
from data_pipeline.nsclc_radiomics import Builder
from data_pipeline.nsclc_radiomics.report import PAPER_TABLE_2
from data_pipeline.phantom.phantom import write_phantoms
from data_pipeline.settings import DatasetSettings, PatchSelection, PrepareOptions, Sampling
from experiments.benchmarks.timing import machine_in_words, versions_in_words
from experiments.common import script
from rdunet_jax.workflows.display import print_table

PAPER_SLICES = sum(tumour + others for _, tumour, others in PAPER_TABLE_2.values())
SELECTIONS: tuple[PatchSelection, ...] = ("tumour_run", "all")
BATCH_SIZE = 2
Batches = Iterator[dict[str, Any]]


@dataclass(frozen=True)
class Stored:
    """A data set on disk: its folder, its builder, the CPU seconds that making it took, and its bytes."""

    folder: Path
    builder: Any
    seconds: float
    size: int

    @classmethod
    def make(cls, source: Path, folder: Path, image_size: int, selection: PatchSelection | None) -> "Stored":
        """Builds it; of patches where a selection is given."""
        builder = Builder(
            source=source,
            settings=DatasetSettings(image_size=image_size, test_share=0, validation_share=0),
            selection=selection,
            options=PrepareOptions(workers=1, keep_ids=True),
            data_dir=str(folder),
            file_format="array_record",
        )
        started = time.process_time()
        builder.download_and_prepare()
        seconds = time.process_time() - started
        return cls(folder, builder, seconds, sum(path.stat().st_size for path in folder.rglob("*.array_record*")))

    def stored_batches(self) -> Batches:
        """Batches of the stored patches, in the order of `Dataset.batches`."""
        patches = grain.MapDataset.source(self.builder.as_data_source("train"))
        batches = patches.seed(0).map(_image_and_mask).shuffle().batch(BATCH_SIZE, drop_remainder=True).repeat()
        return iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)))

    def cut_batches(self, selection: PatchSelection) -> Batches:
        """Batches of patches that are cut from the slices."""
        return Dataset(self.folder).batches("train", BATCH_SIZE, seed=0, sampling=Sampling(selection))


def _image_and_mask(example: dict[str, Any]) -> dict[str, Any]:
    return {name: example[name][..., np.newaxis] for name in ("image", "mask")}


def patches_per_second(batches: Batches, count: int) -> float:
    """Patches per CPU second over `count` batches; the first ones fill the buffers and are not counted."""
    for _ in islice(batches, 5):
        pass
    started = time.process_time()
    for _ in islice(batches, count):
        pass
    return count * BATCH_SIZE / (time.process_time() - started)


def check_equal(stored: Batches, cut: Batches) -> None:
    """Raises AssertionError where the two sources differ."""
    for one, other in islice(zip(stored, cut, strict=False), 3):
        for name in ("image", "mask"):
            np.testing.assert_array_equal(one[name], other[name])


def main(patients: int = 6, slices: int = 60, image_size: int = 256, batches: int = 100) -> None:
    """Make the data sets and print the table.

    Args:
        patients: Number of phantoms.
        slices: Slices of each.
        image_size: Rows and columns of a slice in the data set, in pixels.
        batches: Batches that are timed.
    """
    tfds.disable_progress_bar()
    console, scale = script.make_console(), PAPER_SLICES / (patients * slices)
    rows = []

    def add(name: str, one: Stored, speed: float) -> None:
        megabytes = one.size / 1e6
        shown = (f"{megabytes:.1f}", f"{scale * megabytes / 1000:.2f}", f"{one.seconds:.1f}")
        rows.append((name, *shown, f"{scale * one.seconds / 60:.0f}", f"{speed:.0f}"))

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_phantoms(folder / "dicom", count=patients, slices=slices)
        of_slices = Stored.make(folder / "dicom", folder / "slices", image_size, None)
        for selection in SELECTIONS:
            of_patches = Stored.make(folder / "dicom", folder / selection, image_size, selection)
            check_equal(of_patches.stored_batches(), of_slices.cut_batches(selection))
            add(f"patches, {selection}", of_patches, patches_per_second(of_patches.stored_batches(), batches))
            add(f"slices, {selection}", of_slices, patches_per_second(of_slices.cut_batches(selection), batches))
    header = ("stored", "MB", f"GB of {PAPER_SLICES:,}", "s", f"min of {PAPER_SLICES:,}", "patches/s")
    print_table(console, f"{patients} phantoms of {slices} slices at {image_size} x {image_size}", header, rows)
    console.print(f"{machine_in_words()}, {versions_in_words('numpy', 'grain', 'tensorflow-datasets')}", markup=False)


if __name__ == "__main__":
    script.run(main, __doc__)
