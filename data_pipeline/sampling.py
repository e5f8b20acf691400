"""The patches of a split, cut from its slices while they are read, and the order in which training gets them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

import grain
import numpy as np
from jaxtyping import Bool, Int, Shaped

from data_pipeline.preprocessing.patches import hold_tumour, patch_starts
from data_pipeline.settings import PatchSelection, Sampling

Patch = tuple[Shaped[np.ndarray, "depth rows columns"], Bool[np.ndarray, "depth rows columns"]]
"""Stored grey values and mask."""
ReadSlices = Callable[[str, int, int], Patch]
"""(patient's name, first slice, number of slices) to these slices."""


@dataclass(frozen=True)
class Patches(Sequence[Patch]):
    """Patches with random access, in the order of patients and slices.

    Attributes:
        names, starts: patient and first slice of each.
        with_tumour: which hold tumour.
        depth: slices in a patch.
        read: reads slices.
    """

    names: Sequence[str]
    starts: Int[np.ndarray, " patches"]
    with_tumour: Bool[np.ndarray, " patches"]
    depth: int
    read: ReadSlices

    @classmethod
    def of(
        cls,
        tumour_slices: dict[str, Bool[np.ndarray, " slices"]],
        selection: PatchSelection,
        depth: int,
        read: ReadSlices,
    ) -> "Patches":
        """The patches that a selection takes from patients.

        Args:
            tumour_slices: name of each patient to which of its slices hold tumour.
        """
        starts = {name: patch_starts(flags, selection, depth) for name, flags in tumour_slices.items()}
        with_tumour = [hold_tumour(tumour_slices[name], one, depth) for name, one in starts.items()]
        names = [name for name, one in starts.items() for _ in one]
        empty = np.arange(0)
        return cls(
            names, np.concatenate([empty, *starts.values()]), np.concatenate([empty > 0, *with_tumour]), depth, read
        )

    def where(self, chosen: Bool[np.ndarray, " patches"]) -> "Patches":
        """Some of the patches."""
        names = [self.names[index] for index in np.flatnonzero(chosen).tolist()]
        return Patches(names, self.starts[chosen], self.with_tumour[chosen], self.depth, self.read)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Patch:  # pyright: ignore[reportIncompatibleMethodOverride]: no ranges
        return self.read(self.names[index], int(self.starts[index]), self.depth)

    def __iter__(self) -> Iterator[Patch]:
        """One patient in memory at a time, each of whose slices is read once."""
        places = zip(self.names, self.starts.tolist(), strict=True)
        for name, of_patient in groupby(places, key=itemgetter(0)):
            starts = [start for _, start in of_patient]
            first = starts[0]
            image, mask = self.read(name, first, starts[-1] + self.depth - first)
            for start in starts:
                slices = slice(start - first, start - first + self.depth)
                yield image[slices], mask[slices]

    def example(self, index: int) -> dict[str, np.ndarray]:
        """One patch as training takes it: see `Dataset.batches`, without the axis of the batch."""
        image, mask = self[index]
        return {
            "image": image[..., np.newaxis],
            "mask": mask.astype(np.uint8)[..., np.newaxis],
            "patient": np.array(self.names[index]),
            "start": np.asarray(self.starts[index], np.int32),
        }


@dataclass(frozen=True)
class Strata:
    """The patches of a training: those that are selected, or those with and without tumour, to be mixed.

    Attributes:
        selected: the selected patches; with a tumour-free share, those of them that hold tumour.
        tumour_free: all patches without tumour; None where the selected ones are taken as they are.
        share: of the tumour-free patches in a batch, 0 up to, not including, 1.
    """

    selected: Patches
    tumour_free: Patches | None = None
    share: float = 0.0

    @classmethod
    def of(
        cls, tumour_slices: dict[str, Bool[np.ndarray, " slices"]], sampling: Sampling, read: ReadSlices
    ) -> "Strata":
        """The patches of a training on patients: see `Patches.of`."""
        selected = Patches.of(tumour_slices, sampling.selection, sampling.depth, read)
        if sampling.tumour_free_share is None:
            return cls(selected)
        selected = selected.where(selected.with_tumour)
        if not sampling.tumour_free_share:
            return cls(selected)
        every = Patches.of(tumour_slices, "all", sampling.depth, read)
        return cls(selected, every.where(~every.with_tumour), sampling.tumour_free_share)

    @property
    def epoch_patches(self) -> int:
        """Number of patches until each selected one was taken once."""
        return int(len(self.selected) / (1 - self.share))

    def batches(self, batch_size: int, seed: int) -> grain.MapDataset:
        """Endless batches with random access: batch `i` depends on the seed and `i` alone."""
        selected = _shuffled(self.selected, seed)
        if self.tumour_free is None:
            # Batched before it repeats: an epoch drops its odd patches instead of mixing two epochs in a batch.
            return selected.batch(batch_size, drop_remainder=True).repeat()
        streams = [selected.repeat(), _shuffled(self.tumour_free, seed).repeat()]
        return grain.MapDataset.select_from_datasets(streams, _Systematic(self.share, seed)).batch(batch_size)


def _shuffled(patches: Patches, seed: int) -> grain.MapDataset:
    return grain.MapDataset.range(len(patches)).seed(seed).map(patches.example).shuffle()


class _Systematic(grain.transforms.DatasetSelectionMap):
    """Systematic sampling of two streams, of which the second gets `share` of the places.

    Among the first n places floor(n * share + u) are the second stream's, with u drawn from 0 to 1 by the seed. So each
    place, and each batch, has the share in expectation, any number of batches is within one patch of it, and both
    streams are taken in their order, without gaps: every patch once before any comes again.
    """

    def __init__(self, share: float, seed: int):
        self._share, self._shift = share, np.random.default_rng(seed).random()

    def __len__(self) -> int:
        return 2**62  # endless

    def __getitem__(self, index: int) -> tuple[int, int]:
        before, after = (int(count * self._share + self._shift) for count in (index, index + 1))
        return (1, before) if after > before else (0, index - before)
