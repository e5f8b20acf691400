"""Data sets from disk: whole patients one by one, and batches of patches by Grain. Reads without TensorFlow."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import grain
import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Bool, Shaped

from data_pipeline.account import Account, from_json
from data_pipeline.errors import InputError
from data_pipeline.settings import SPLITS, Intensity

FOLDER = "nsclc_radiomics"
"""Name of the TFDS builder, and so of the folder of data sets."""
_FILES = ("dataset_info.json", "features.json", "metadata.json")
_OLD_INTENSITIES = {"keras": "slice_minmax"}


@dataclass(frozen=True)
class PatientExample:
    """A whole patient on the network's grid.

    Attributes:
        name: pseudonym, or the Patient ID where identities are kept.
        image: stored gray values, uint8 or int16 (see `preprocessing.intensity`).
        mask: tumour.
        ct_mask: tumour on the CT's own grid.
        spacing_mm: distance between slices, rows and columns of the CT.
    """

    name: str
    image: Shaped[np.ndarray, "depth size size"]
    mask: Bool[np.ndarray, "depth size size"]
    ct_mask: Bool[np.ndarray, "depth height width"]
    spacing_mm: tuple[float, float, float]


class Dataset:
    """A prepared data set on disk.

    Args:
        data_dir: the folder that was given to `rdunet prepare`.
        name: such as `slice_minmax_256`, where the folder holds several.

    Raises:
        InputError: there is none in the folder, or several and none is named; or its files are damaged or of an earlier
            version. Damaged examples raise it when they are read.
    """

    def __init__(self, data_dir: Path, name: str | None = None):
        self.folder = _dataset_folder(data_dir, name)
        for file in _FILES:
            _read_json(self.folder / file)
        try:
            self._builder = tfds.builder_from_directory(str(self.folder))
            sources = self._builder.as_data_source()
        except Exception as error:  # TFDS and array_record have no error of their own
            raise InputError(_damaged(f"cannot be opened ({type(error).__name__})"), path=self.folder) from error
        assert isinstance(sources, dict)  # one a split, since none is named
        self._sources = {split: _Records(source, split, self.folder) for split, source in sources.items()}

    @property
    def name(self) -> str:
        """Such as `slice_minmax_256`."""
        return self.folder.parent.name

    @cached_property
    def account(self) -> Account:
        """Settings, splits, and what happened to every patient's files, as `prepare` wrote them.

        Raises:
            InputError: it is damaged, or from another version.
        """
        path = self.folder / "metadata.json"
        account = _read_json(path)
        try:
            old = account["settings"]["intensity"]
            if old in _OLD_INTENSITIES:
                raise InputError(
                    f"{self.folder}: from an earlier version, where the intensity {_OLD_INTENSITIES[old]} was called "
                    f"{old}; make it again with `rdunet prepare SOURCE --data-dir {self.folder.parents[2]}`"
                )
            return from_json(Account, account)
        except (TypeError, KeyError) as error:
            raise InputError(_damaged("damaged, or from another version"), path=path) from error

    @property
    def intensity(self) -> Intensity:
        """Gray conversion of the stored values."""
        return self.account.settings.intensity

    @property
    def image_size(self) -> int:
        """Rows and columns of a slice, in pixels."""
        return self.account.settings.image_size

    @property
    def dataset_sha256(self) -> str:
        """Of all examples and of how they are split."""
        return self.account.dataset_sha256

    @property
    def split_sha256(self) -> str:
        """Of the names of the patients of each part."""
        return self.account.split_sha256

    def patient_names(self, split: str) -> tuple[str, ...]:
        """Names of the CTs of `train`, `validation` or `test`, in the order in which `patients` gives them."""
        return tuple(self.account.splits[split])

    def patch_count(self, split: str) -> int:
        """Number of patches; 0 for a split without."""
        return len(self._sources[split]) if split in self._sources else 0

    def patient_count(self, split: str) -> int:
        """Number of whole patients (CTs); 0 for a split without."""
        return self.patch_count(f"{split}_patients")

    def patients(self, split: str) -> Iterator[PatientExample]:
        """The whole patients of `train`, `validation` or `test`, by name, one in memory at a time.

        Raises:
            InputError: the split has none, or a record is damaged.
        """
        if not self.patient_count(split):
            held = ", ".join(f"{s} {self.patient_count(s)}" for s in SPLITS)
            raise InputError(f"{self.folder}: no patient in the split '{split}' (patients: {held})")
        for index in range(self.patient_count(split)):
            yield self.patient(split, index)

    def patient(self, split: str, index: int) -> PatientExample:
        """One whole patient of a split, by its place in `patient_names`.

        Raises:
            InputError: its record is damaged.
        """
        example = self._sources[f"{split}_patients"][index]
        return PatientExample(
            name=example["patient"].decode(),
            image=example["image"],
            mask=example["mask"].astype(bool),
            ct_mask=example["ct_mask"].astype(bool),
            spacing_mm=tuple(example["spacing_mm"].tolist()),
        )

    def patches(
        self, split: str
    ) -> Iterator[tuple[Shaped[np.ndarray, "8 size size"], Bool[np.ndarray, "8 size size"]]]:
        """The patches of a split as (stored gray values, mask), patient by patient; none for a split without patches.

        A patient of fewer than 8 slices has no patch, though it is one of `patients`.

        Raises:
            InputError: a record is damaged.
        """
        for example in self._sources.get(split, ()):
            yield example["image"], example["mask"].astype(bool)

    def batches(self, split: str, batch_size: int, seed: int, start: int = 0) -> Iterator[dict[str, np.ndarray]]:
        """Endless batches of patches, every epoch in another order; the order depends on `seed` alone.

        Args:
            start: the batch to begin with: batch `i` is the same whether one starts there or passes by it.

        Yields:
            `image` (batch, 8, size, size, 1), the stored gray values; `mask` likewise, uint8; `patient` (batch,), the
            names; `start` (batch,), int32, each patch's first slice in its patient.

        Raises:
            InputError: the split has fewer patches than a batch, or a record is damaged.
        """
        count = self.patch_count(split)
        if count < batch_size:
            raise InputError(
                f"{self.folder}: {count} patches in the split '{split}', fewer than a batch of {batch_size}"
            )
        dataset = grain.MapDataset.source(self._sources[split]).seed(seed).map(_patch).shuffle()
        # Batched before it repeats, so that an epoch drops its odd patches instead of mixing two epochs in a batch.
        dataset = dataset.batch(batch_size, drop_remainder=True).repeat()
        return iter(
            dataset.slice(slice(start, None)).to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=8))
        )


class _Records:
    """The records of one split; a damaged one raises an InputError that names the data set."""

    def __init__(self, source: Any, split: str, folder: Path):
        self._source, self._split, self._folder = source, split, folder

    def __len__(self) -> int:
        return len(self._source)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: Any) -> dict[str, Any]:
        try:
            return self._source[index]
        except Exception as error:  # array_record and zlib raise errors of many kinds
            what = _damaged(f"record {index} of '{self._split}' is damaged ({type(error).__name__})")
            raise InputError(what, path=self._folder) from error

    def __repr__(self) -> str:
        return f"_Records({self._split})"


def _patch(example: dict[str, Any]) -> dict[str, np.ndarray]:
    return {
        "image": example["image"][..., np.newaxis],
        "mask": example["mask"][..., np.newaxis],
        "patient": np.array(example["patient"].decode()),
        "start": np.asarray(example["start"], np.int32),
    }


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
        why = "not a JSON object"
    except OSError as error:
        why = f"cannot be read: {error.strerror}"
    except ValueError:
        why = "not JSON"
    raise InputError(_damaged(f"damaged ({why})"), path=path)


def _damaged(what: str) -> str:
    return f"{what}; restore it, or make the data set again with `rdunet prepare SOURCE --data-dir ... --overwrite`"


def _dataset_folder(data_dir: Path, name: str | None) -> Path:
    folders = sorted((data_dir / FOLDER).glob("[!.]*/[0-9]*"))
    found = {one.parent.name: one for one in folders if any((one / file).exists() for file in _FILES)}
    if not found:
        raise InputError(
            f"{data_dir}: holds no prepared data set; make one with `rdunet prepare SOURCE --data-dir {data_dir}`"
        )
    if name is None and len(found) > 1:
        raise InputError(f"{data_dir}: holds several data sets; choose one with --dataset: {', '.join(found)}")
    if name is not None and name not in found:
        old, _, rest = name.partition("_")
        renamed = f" ({old} is now called {_OLD_INTENSITIES[old]})" if old in _OLD_INTENSITIES and rest else ""
        raise InputError(f"{data_dir}: holds no data set '{name}'{renamed}, but: {', '.join(found)}")
    return found[name] if name else next(iter(found.values()))
