"""Data of one's own in place of a prepared data set: anything with `patients` and `batches`.

>>> import numpy as np
>>> class Discs:
...     intensity = "hu_window"  # what the stored grey values are: Hounsfield units, int16
...
...     def patients(self, split: str) -> Iterator[PatientExample]:
...         for number in range({"train": 2, "validation": 1, "test": 1}[split]):
...             mask = np.zeros((10, 16, 16), bool)
...             mask[3:7, 4:9, 5:10] = True
...             image = np.where(mask, 40, -800 - number).astype(np.int16)
...             yield PatientExample(f"{split}-{number}", image, mask, mask, (3.0, 1.0, 1.0))
...
...     def batches(self, split, batch_size, seed, start=0, sampling=Sampling()):
...         patients = list(self.patients(split))
...         for step in count(start):  # batch i depends on the seed and i alone, so that a stopped run can go on
...             random = np.random.default_rng([seed, step])
...             chosen = [patients[i] for i in random.integers(len(patients), size=batch_size)]
...             first = random.integers(10 - sampling.depth + 1)
...             cut = slice(first, first + sampling.depth)
...             yield {
...                 "image": np.stack([one.image[cut] for one in chosen])[..., None],
...                 "mask": np.stack([one.mask[cut] for one in chosen])[..., None].astype(np.uint8),
...             }
>>> data = as_dataset(Discs())
>>> data.name, data.image_size, data.patient_names("train"), data.patch_count("train")
('Discs', 16, ('train-0', 'train-1'), 2)
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool

from data_pipeline.account import Account
from data_pipeline.errors import InputError
from data_pipeline.loading import Dataset, PatientExample
from data_pipeline.preprocessing.fingerprints import fingerprint
from data_pipeline.preprocessing.intensity import stored_dtype
from data_pipeline.sampling import Patch
from data_pipeline.settings import SPLITS, DatasetSettings, Sampling, plane_shape
from data_pipeline.splits import split_sha256

__all__ = ["PatientData", "PatientExample", "Sampling", "as_dataset", "count"]
_SAMPLING = Sampling()


class PatientData(Protocol):
    """What training, evaluation and the choice of post-processing need of data.

    `Dataset` has it. A class of one's own needs no base class: it is enough that the names and types agree.
    """

    @property
    def intensity(self) -> str:
        """Grey conversion of the stored values, a name in `INTENSITIES`: Hounsfield units are `hu_window`."""
        ...

    def patients(self, split: str) -> Iterable[PatientExample]:
        """The whole patients of `train`, `validation` or `test`, the same in the same order at every call.

        Names are unique over all splits. `image` is int16 (uint8 for `slice_minmax`), and has the same rows and columns
        for all. Nothing for a split without patients.
        """
        ...

    def batches(
        self, split: str, batch_size: int, seed: int, start: int = 0, sampling: Sampling = _SAMPLING
    ) -> Iterator[Mapping[str, np.ndarray[Any, Any]]]:
        """Endless batches of training patches: `image` and `mask`, both (batch, depth, rows, columns, 1).

        Args:
            split: always `train`.
            batch_size: patches in a batch.
            seed: of the order.
            start: the batch to begin with. Batch i is the same whether one starts there or passes by it.
            sampling: its `depth` is that of the patches; `selection` and `tumour_free_share` may be ignored.
        """
        ...


def as_dataset(data: Dataset | PatientData, name: str | None = None) -> Dataset:
    """The data as a `Dataset`; one of one's own is read once, patient by patient, for its names and its SHA-256.

    Args:
        name: of the data set in records and messages (default: its class's).

    Raises:
        InputError: a patient cannot be used, or two have one name.
    """
    return data if isinstance(data, Dataset) else _OwnDataset(data, name or type(data).__name__)


@dataclass(frozen=True)
class _Entry:
    """What is known of a patient without its arrays."""

    depth: int
    holds_tumour: Bool[np.ndarray, " slices"]
    fingerprint: str


class _OwnDataset(Dataset):
    """Data of one's own behind the methods of `Dataset`."""

    def __init__(self, data: PatientData, name: str):
        self.fold = None
        self.folder = Path(name)
        self._data, self._name = data, name
        self._reader: tuple[str, int, Iterator[PatientExample]] | None = None
        self._last: PatientExample | None = None
        splits: dict[str, list[str]] = {split: [] for split in SPLITS}
        entries, digest, plane = {}, hashlib.sha256(), tuple[int, ...]()
        for split in SPLITS:
            for patient in data.patients(split):
                plane = plane or patient.image.shape[1:]
                self._check(patient, plane, entries)
                splits[split].append(patient.name)
                flags = np.asarray(patient.mask.any(axis=(1, 2)))
                prints = str(fingerprint(patient.image, ())) if patient.image.dtype == np.int16 else ""
                entries[patient.name] = _Entry(len(flags), flags, prints)
                digest.update(f"{split} {patient.name} {patient.image.shape} {patient.ct_mask.shape} ".encode())
                for array in (patient.image, patient.mask, patient.ct_mask):
                    digest.update(np.ascontiguousarray(array).tobytes())
        if not splits["train"]:
            raise InputError(f"{name}: patients('train') gives no patient; training needs some")
        rows, columns = plane
        self.__dict__["account"] = Account(
            DatasetSettings(intensity=data.intensity, image_size=(rows, columns)),
            splits,
            split_sha256(splits),
            entries,  # pyright: ignore[reportArgumentType]: of a patient's record only what training reads
            [],
            {},
            identities_kept=False,
            dataset_sha256=digest.hexdigest(),
            selection=None,
        )

    def _check(self, patient: PatientExample, plane: tuple[int, ...], before: Mapping[str, object]) -> None:
        """Raises InputError where a patient is not as `PatientData.patients` says."""
        one, depth = patient, len(patient.image)
        dtype = stored_dtype(self._data.intensity)
        problem = None
        if one.name in before:
            problem = "two patients have this name"
        elif one.image.shape != (depth, *plane) or len(plane) != 2 or not depth:
            wanted = ", ".join(map(str, plane)) if len(plane) == 2 else "rows, columns"
            problem = f"image is {one.image.shape}, but must be (slices, {wanted})"
        elif one.image.dtype != dtype:
            problem = f"image is {one.image.dtype}, but must be {np.dtype(dtype)} for intensity {self._data.intensity}"
        elif one.mask.shape != one.image.shape or len(one.ct_mask) != depth or one.ct_mask.ndim != 3:
            problem = f"mask is {one.mask.shape} and ct_mask {one.ct_mask.shape} for an image of {one.image.shape}"
        elif one.mask.dtype != bool or one.ct_mask.dtype != bool:
            problem = "mask and ct_mask must be of dtype bool"
        if problem:
            raise InputError(f"{self._name}: patient {one.name}: {problem}")

    @property
    def name(self) -> str:
        return self._name

    def patient(self, split: str, index: int) -> PatientExample:
        """One patient; in ascending order each is read once."""
        where, place, source = self._reader or ("", 0, iter(()))
        if where != split or index < place:
            where, place, source = split, 0, iter(self._data.patients(split))
        for found in source:
            place += 1
            if place > index:
                self._reader = (where, place, source)
                return found
        self._reader = None
        raise InputError(f"{self._name}: patients('{split}') gave fewer patients than at first")

    def batches(
        self, split: str, batch_size: int, seed: int, start: int = 0, sampling: Sampling = _SAMPLING
    ) -> Iterator[dict[str, np.ndarray]]:
        """Those of the data, the first of which is checked."""
        expected = (batch_size, sampling.depth, *plane_shape(self.image_size), 1)
        for number, batch in enumerate(self._data.batches(split, batch_size, seed, start, sampling)):
            shapes = [getattr(batch.get(name), "shape", None) for name in ("image", "mask")]
            if not number and shapes != [expected, expected]:
                raise InputError(f"{self._name}: batches gives image and mask of {shapes}, but must give {expected}")
            yield dict(batch)

    def _slices(self, name: str, first: int, count: int) -> Patch:
        if self._last is None or self._last.name != name:
            (split,) = (split for split in SPLITS if name in self.patient_names(split))
            self._last = self.patient(split, self.patient_names(split).index(name))
        return self._last.image[first : first + count], self._last.mask[first : first + count]
