"""Data sets from disk: whole patients one by one, patches, and batches of them. Reads without TensorFlow."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import grain
import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Bool, Shaped

from data_pipeline.account import Account, from_json
from data_pipeline.errors import InputError
from data_pipeline.files import access_faults
from data_pipeline.records import FILES, Records, compare_checksums, damaged, read_object
from data_pipeline.sampling import Patch, Patches, Strata
from data_pipeline.settings import INTENSITIES, SPLITS, GridShape, Intensity, Sampling, VoxelSize

FOLDER = "nsclc_radiomics"
"""Name of the TFDS builder, and so of the folder of data sets."""
_OLD_INTENSITIES = {"keras": "slice_minmax"}
_SAMPLING = Sampling()


class _OtherFormatError(InputError):
    """A data set of an earlier version or of another kind, which is not damaged."""


@dataclass(frozen=True)
class PatientExample:
    """A whole patient on the network's grid.

    Attributes:
        name: pseudonym, or the Patient ID where identities are kept.
        image: stored grey values, uint8 or int16 (see `preprocessing.intensity`).
        mask: tumour.
        ct_mask: tumour on the CT's own grid.
        spacing_mm: distance between slices, rows and columns of the CT.
        sides: letters for the left and the right edge of its slices, where they are known.
        voxel_mm: size of the voxels to which it was resampled, if it was (see `DatasetSettings.spacing`).
    """

    name: str
    image: Shaped[np.ndarray, "slices rows columns"]
    mask: Bool[np.ndarray, "slices rows columns"]
    ct_mask: Bool[np.ndarray, "depth height width"]
    spacing_mm: tuple[float, float, float]
    sides: tuple[str, str] | None = None
    voxel_mm: VoxelSize | None = None


@dataclass(frozen=True)
class _Place:
    """Where a patient is on disk.

    Attributes:
        split: the part of the data set's own split.
        record: of its mask on the CT's grid.
        first_slice: record of its first slice.
    """

    split: str
    record: int
    first_slice: int


class Dataset:
    """A prepared data set on disk.

    Args:
        data_dir: the folder that was given to `rdunet prepare`.
        name: such as `slice_minmax_256`, where the folder holds several.
        fold: the fold whose parts are `train`, `validation` and `test`, from 0 (default: the data set's own split).

    Raises:
        InputError: there is none in the folder, or several and none is named; it has no such fold; or its files are
            damaged or of an earlier version. Damaged examples raise it when they are read.
    """

    def __init__(self, data_dir: Path, name: str | None = None, fold: int | None = None):
        self.fold = fold
        with access_faults(data_dir):
            self.folder = _dataset_folder(data_dir, name)
            for file in FILES:
                read_object(self.folder / file)
            compare_checksums(self.folder)
        try:
            sources = tfds.builder_from_directory(str(self.folder)).as_data_source()
        except Exception as error:  # TFDS and array_record have no error of their own
            raise InputError(damaged(f"cannot be opened ({type(error).__name__})"), path=self.folder) from error
        assert isinstance(sources, dict)  # one a split, since none is named
        self._sources = {split: Records(source, split, self.folder) for split, source in sources.items()}
        if fold is not None:
            _ = self.account  # raises where there is no such fold

    @property
    def name(self) -> str:
        """Such as `slice_minmax_256`."""
        return self.folder.parent.name

    @cached_property
    def account(self) -> Account:
        """Settings, splits, and what happened to every patient's files, as `prepare` wrote them; of a fold, its split.

        Raises:
            InputError: it is damaged, or from another version; or there is no such fold.
        """
        if self.fold is None:
            return self._stored_account
        folds = self._stored_account.folds
        if not folds:
            raise InputError(
                f"{self.folder}: has no folds; make it again with `rdunet prepare SOURCE --data-dir "
                f"{self.folder.parents[2]} --folds 5 --overwrite`"
            )
        if not 0 <= self.fold < len(folds):
            raise InputError(f"{self.folder}: has the folds 0 to {len(folds) - 1}, not {self.fold}")
        chosen = folds[self.fold]
        return replace(self._stored_account, splits=chosen.splits, split_sha256=chosen.split_sha256)

    @cached_property
    def _stored_account(self) -> Account:
        path = self.folder / "metadata.json"
        fields = read_object(path)
        try:
            self._refuse_other_formats(fields)
            return from_json(Account, fields)
        except _OtherFormatError:
            raise
        except InputError as error:
            raise InputError(damaged(f"damaged ({error})"), path=path) from error
        except (TypeError, KeyError) as error:
            raise InputError(damaged("damaged, or from another version"), path=path) from error

    def _refuse_other_formats(self, account: dict[str, Any]) -> None:
        """Raises InputError where the data set is of an earlier version, or holds patches for users of TFDS."""
        settings, why = account["settings"], ""
        if (own := settings["intensity"]) not in (*INTENSITIES, *_OLD_INTENSITIES):
            raise _OtherFormatError(
                f"{self.folder}: its intensity {own!r} is none of {', '.join(INTENSITIES)}; give --plugin the file "
                "that registers it"
            )
        if (old := settings["intensity"]) in _OLD_INTENSITIES:
            why = f"from an earlier version, where the intensity {_OLD_INTENSITIES[old]} was called {old}"
        elif "selection" in settings:
            why = "from an earlier version, which stored patches; `rdunet train --selection` chooses them"
        elif account["selection"] is not None:
            why = "holds the patches of the TFDS builder, not the slices from which patches are cut"
        if why:
            command = f"rdunet prepare SOURCE --data-dir {self.folder.parents[2]} --overwrite"
            raise _OtherFormatError(f"{self.folder}: {why}; make it again with `{command}`")

    @property
    def intensity(self) -> Intensity:
        """Grey conversion of the stored values."""
        return self.account.settings.intensity

    @property
    def image_size(self) -> GridShape:
        """Rows and columns of a slice, in pixels; one number for a square."""
        return self.account.settings.image_size

    @property
    def voxel_mm(self) -> VoxelSize | None:
        """Size of the voxels to which the CTs were resampled, if they were."""
        return self.account.settings.spacing

    @property
    def dataset_sha256(self) -> str:
        """Of all examples and of how they are split."""
        return self.account.dataset_sha256

    @property
    def split_sha256(self) -> str:
        """Of the names of the patients of each part."""
        return self.account.split_sha256

    @property
    def folds_sha256(self) -> list[str]:
        """Hash of the split of every fold; empty for a data set without folds."""
        return [fold.split_sha256 for fold in self.account.folds]

    def patient_names(self, split: str) -> tuple[str, ...]:
        """Names of the CTs of `train`, `validation` or `test`, in the order in which `patients` gives them."""
        return tuple(self.account.splits[split])

    def fingerprints(self, split: str) -> dict[str, str]:
        """What recognises the CTs of a split under other names (`PatientEntry.fingerprint`), by name."""
        return {name: self.account.patients[name].fingerprint for name in self.patient_names(split)}

    def patient_count(self, split: str) -> int:
        """Number of whole patients (CTs); 0 for a split without."""
        return len(self.patient_names(split))

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
            InputError: one of its records is damaged.
        """
        name = self.patient_names(split)[index]
        place = self._places[name]
        example = self._sources[f"{place.split}_patients"].read(range(place.record, place.record + 1))[0]
        if example["patient"].decode() != name:
            what = f"record {place.record} of '{place.split}_patients' is not the patient that metadata.json names"
            raise InputError(damaged(what), path=self.folder)
        image, mask = self._slices(name, 0, self.account.patients[name].depth)
        return PatientExample(
            name=name,
            image=image,
            mask=mask,
            ct_mask=example["ct_mask"].astype(bool),
            spacing_mm=tuple(example["spacing_mm"].tolist()),
            voxel_mm=self.voxel_mm,
            sides=self.account.patients[name].sides,
        )

    def patches(self, split: str, sampling: Sampling = _SAMPLING) -> Patches:
        """The selected patches of a split as a sequence of (stored grey values, mask), patient by patient.

        A patient with fewer slices than a patch has no patch, though it is one of `patients`. The tumour-free share is
        a matter of `batches`.

        Raises:
            InputError: when a patch is read: a record is damaged.
        """
        return Patches.of(self._tumour_slices(split), sampling.selection, sampling.depth, self._slices)

    def patch_count(self, split: str, sampling: Sampling = _SAMPLING) -> int:
        """Number of patches in an epoch: the selected ones, with their share of tumour-free ones; 0 without any.

        Raises:
            InputError: a share of patches without tumour is asked for, and there are none.
        """
        return self._strata(split, sampling).epoch_patches

    def batches(
        self, split: str, batch_size: int, seed: int, start: int = 0, sampling: Sampling = _SAMPLING
    ) -> Iterator[dict[str, np.ndarray]]:
        """Endless batches of patches, every epoch in another order; the order depends on `seed` alone.

        Args:
            start: the batch to begin with: batch `i` is the same whether one starts there or passes by it.
            sampling: which patches.

        Yields:
            `image` (batch, depth, rows, columns, 1), the stored grey values; `mask` likewise, uint8; `patient`
            (batch,), the names; `start` (batch,), int32, each patch's first slice in its patient.

        Raises:
            InputError: the split has fewer patches than a batch, or none without tumour where a share of them is asked
                for, or a record is damaged.
        """
        strata = self._strata(split, sampling)
        if strata.epoch_patches < batch_size:
            raise InputError(
                f"{self.folder}: {strata.epoch_patches} patches in the split '{split}', fewer than a batch of "
                f"{batch_size}"
            )
        batches = strata.batches(batch_size, seed).slice(slice(start, None))
        return iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)))

    def _strata(self, split: str, sampling: Sampling) -> Strata:
        strata = Strata.of(self._tumour_slices(split), sampling, self._slices)
        if strata.tumour_free is not None and not len(strata.tumour_free):
            raise InputError(f"{self.folder}: no patch without tumour in the split '{split}'; use no tumour-free share")
        return strata

    def _tumour_slices(self, split: str) -> dict[str, Bool[np.ndarray, " slices"]]:
        """Which slices of each patient hold tumour, by name."""
        return {name: self.account.patients[name].holds_tumour for name in self.patient_names(split)}

    def _slices(self, name: str, first: int, count: int) -> Patch:
        """Consecutive slices of a patient: stored grey values and mask.

        Raises:
            InputError: a record is damaged, or is not what the account says.
        """
        place = self._places[name]
        records = range(place.first_slice + first, place.first_slice + first + count)
        examples = self._sources[place.split].read(records)
        image = np.concatenate([one["image"] for one in examples])
        mask = np.concatenate([one["mask"] for one in examples]).astype(bool)
        labels = [(one["patient"].decode(), int(one["start"])) for one in examples]
        tumour = self.account.patients[name].holds_tumour[first : first + count]
        if labels != [(name, first + i) for i in range(count)] or not np.array_equal(mask.any(axis=(1, 2)), tumour):
            which = f"records {records[0]} to {records[-1]} of '{place.split}'"
            what = f"{which} are not the slices that metadata.json names"
            raise InputError(damaged(what), path=self.folder)
        return image, mask

    @cached_property
    def _places(self) -> dict[str, _Place]:
        """Where each patient is on disk: in its part of the data set's own split, which a fold does not change."""
        account, places = self._stored_account, {}
        for split, names in account.splits.items():
            first = 0
            for record, name in enumerate(names):
                places[name] = _Place(split, record, first)
                first += account.patients[name].depth
            for source, expected in ((split, first), (f"{split}_patients", len(names))):
                if (found := len(self._sources.get(source, ()))) != expected:
                    what = f"damaged ({expected} records in '{source}', but the data set holds {found})"
                    raise InputError(damaged(what), path=self.folder / "metadata.json")
        return places


def _dataset_folder(data_dir: Path, name: str | None) -> Path:
    folders = sorted((data_dir / FOLDER).glob("[!.]*/[0-9]*"))
    found = {one.parent.name: one for one in folders if any((one / file).exists() for file in FILES)}
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
