"""Datasets from disk: whole patients one by one, and batches of patches by Grain. Reads without TensorFlow."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import grain
import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Bool, Shaped

from data_pipeline.errors import InputError
from data_pipeline.preprocessing.intensity import Intensity
from data_pipeline.settings import SPLITS


@dataclass(frozen=True)
class PatientExample:
    """A whole patient on the network's grid."""

    name: str
    image: Shaped[np.ndarray, "depth size size"]
    mask: Bool[np.ndarray, "depth size size"]
    ct_mask: Bool[np.ndarray, "depth height width"]
    """The mask on the CT's own grid."""
    spacing_mm: tuple[float, float, float]


class Dataset:
    """A prepared dataset on disk.

    Raises:
        InputError: there is none in the folder, or several and none is named.
    """

    def __init__(self, data_dir: Path, name: str | None = None):
        self._builder = tfds.builder_from_directory(_dataset_folder(data_dir, name))

    @property
    def folder(self) -> Path:
        return Path(self._builder.data_dir)

    @property
    def account(self) -> dict[str, Any]:
        """Settings, splits, and the account of every patient, as `prepare` wrote them."""
        return dict(self._builder.info.metadata or {})

    @property
    def intensity(self) -> Intensity:
        return self.account["settings"]["intensity"]

    @property
    def image_size(self) -> int:
        return self.account["settings"]["image_size"]

    @cached_property
    def _sources(self) -> dict[str, Any]:
        sources = self._builder.as_data_source()
        assert isinstance(sources, dict)  # one a split, since none is named
        return sources

    def patch_count(self, split: str) -> int:
        return len(self._sources[split]) if split in self._sources else 0

    def patient_count(self, split: str) -> int:
        return self.patch_count(f"{split}_patients")

    def patients(self, split: str) -> Iterator[PatientExample]:
        """The whole patients of `train`, `validation` or `test`, by name, one in memory at a time.

        Raises:
            InputError: the split has none.
        """
        if not self.patient_count(split):
            held = ", ".join(f"{s} {self.patient_count(s)}" for s in SPLITS)
            raise InputError(f"{self.folder}: no patient in the split '{split}' (patients held: {held})")
        for example in self._sources[f"{split}_patients"]:
            yield PatientExample(
                name=example["patient"].decode(),
                image=example["image"],
                mask=example["mask"].astype(bool),
                ct_mask=example["ct_mask"].astype(bool),
                spacing_mm=tuple(example["spacing_mm"].tolist()),
            )

    def patches(
        self, split: str
    ) -> Iterator[tuple[Shaped[np.ndarray, "8 size size"], Bool[np.ndarray, "8 size size"]]]:
        """The patches of a split as (stored gray values, mask), patient by patient."""
        for example in self._sources[split]:
            yield example["image"], example["mask"].astype(bool)

    def batches(self, split: str, batch_size: int, seed: int, start: int = 0) -> Iterator[dict[str, np.ndarray]]:
        """Endless batches of patches, every epoch in another order; the order depends on `seed` alone.

        Args:
            start: the batch to begin with: batch `i` is the same whether one starts there or passes by it.

        Yields:
            `image` (batch, 8, size, size, 1), the stored gray values, and `mask` likewise, uint8.
        """
        count = self.patch_count(split)
        if count < batch_size:
            raise InputError(
                f"{self.folder}: {count} patches in the split '{split}', fewer than a batch of {batch_size}"
            )
        dataset = grain.MapDataset.source(self._sources[split]).seed(seed).map(_image_and_mask).shuffle()
        # Batched before it repeats, so that an epoch drops its odd patches instead of mixing two epochs in a batch.
        dataset = dataset.batch(batch_size, drop_remainder=True).repeat()
        return iter(
            dataset.slice(slice(start, None)).to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=8))
        )


def _image_and_mask(example: dict[str, Any]) -> dict[str, np.ndarray]:
    return {"image": example["image"][..., np.newaxis], "mask": example["mask"][..., np.newaxis]}


def _dataset_folder(data_dir: Path, name: str | None) -> str:
    root = data_dir / "nsclc_radiomics"
    found = {path.parent.parent.name: path.parent for path in sorted(root.glob("*/*/dataset_info.json"))}
    if not found:
        raise InputError(
            f"{data_dir}: holds no prepared dataset; make one with `rdunet prepare SOURCE --data-dir {data_dir}`"
        )
    if name is None and len(found) > 1:
        raise InputError(f"{data_dir}: holds several datasets; choose one with --dataset: {', '.join(found)}")
    if name is not None and name not in found:
        raise InputError(f"{data_dir}: holds no dataset '{name}', but: {', '.join(found)}")
    return str(found[name] if name else next(iter(found.values())))
