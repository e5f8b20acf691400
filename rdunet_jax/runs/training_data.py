"""`training_data.json`: the data sets and the patients that a run was trained and selected on.

Evaluation and segmentation ask it whether a patient is new to the network: `TrainingData.load`, then `seen` and
`is_other_dataset`.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from data_pipeline.ranges import Digest, Length, check_fields, from_json
from rdunet_jax.checked_json import DamagedError, read_checked, write_checked
from rdunet_jax.errors import InputError, RunError

FILE = "training_data.json"
Use = Literal["trained", "selected"]
"""How a run has used a patient: for its gradients, or to choose its checkpoint and learning rate."""


@dataclass(frozen=True)
class DataIdentity:
    """What tells one prepared data set from another."""

    name: str
    """Such as `hu_window_256`."""
    dataset_sha256: Digest
    """Of all examples, with their split."""
    split_sha256: Digest
    """Of the patients' names, by split."""

    def __post_init__(self) -> None:
        check_fields(self)

    @classmethod
    def of(cls, account: dict[str, Any], name: str) -> "DataIdentity":
        """The identity of a prepared data set.

        Args:
            account: its metadata (`data_pipeline.loading.Dataset.account`).
            name: its name.
        """
        return cls(name, account["dataset_sha256"], account["split_sha256"])


UNKNOWN = DataIdentity("unknown", "", "")
"""Data that are not recorded: those of imported weights, or of a run of an older version."""


@dataclass(frozen=True)
class TrainingData:
    """The data of a run, over all its sessions."""

    data_sets: Annotated[tuple[DataIdentity, ...], Length(1, 1000)]
    """In the order of their last use; more than one after `train --other-dataset` and `train --init-from`."""
    trained_on: tuple[str, ...]
    """Names (pseudonyms) of the patients whose patches were trained on."""
    selected_on: tuple[str, ...]
    """Names of the patients whose validation Dice chose the best checkpoint and the learning rate."""
    fingerprints: dict[str, str] = field(default_factory=dict)
    """Hashes of the slices and contours of these patients, by name, separated by blanks; none where the data set does
    not hold them."""

    def __post_init__(self) -> None:
        check_fields(self)

    @classmethod
    def of(cls, account: dict[str, Any], name: str, validates: bool = True) -> "TrainingData":
        """The data of a run on one data set.

        Args:
            account: the data set's metadata (`data_pipeline.loading.Dataset.account`).
            name: the data set's name.
            validates: whether the run validates on its validation patients.
        """
        splits = account["splits"]
        selected = splits.get("validation", ()) if validates else ()
        entries = account.get("patients", {})
        found = {one: entries[one].get("fingerprint", "") for one in (*splits["train"], *selected) if one in entries}
        return cls((DataIdentity.of(account, name),), tuple(splits["train"]), tuple(selected), found)

    @classmethod
    def load(cls, workdir: Path) -> "TrainingData | None":
        """The data of the run in `workdir`; None where that is unknown: imported weights, runs of older versions, and
        model files, which name no patient.

        Raises:
            RunError: the file is damaged.
        """
        path = workdir / FILE
        if workdir.is_file():
            return None
        try:
            return from_json(cls, read_checked(path))
        except FileNotFoundError:
            return None
        except (DamagedError, InputError) as error:
            raise RunError(
                f"{path}: damaged ({error}), so it is unknown which patients the network has seen; restore the file "
                "from a copy, or delete it to use the run as one whose training data are unknown"
            ) from error

    @classmethod
    def load_all(cls, workdirs: Sequence[Path]) -> "TrainingData | None":
        """The data of several runs together; None where those of all are unknown.

        Raises:
            RunError: a file is damaged.
        """
        each = [cls.load(workdir) for workdir in workdirs]
        if not any(each):
            return None
        together, *others = (one or TrainingData((UNKNOWN,), (), ()) for one in each)
        for one in others:
            together = together.joined_by(one)
        return together

    def save(self, workdir: Path) -> None:
        """Writes the file, whole."""
        write_checked(workdir / FILE, asdict(self))

    @property
    def is_complete(self) -> bool:
        """Whether all data of the run are recorded."""
        return UNKNOWN not in self.data_sets

    def seen(self, patients: Mapping[str, str]) -> dict[str, Use]:
        """Which patients the run was trained or selected on, and how; the others are absent.

        Args:
            patients: the fingerprint of each, by name; empty where it is unknown.
        """
        uses: dict[str, Use] = {}
        for name, fingerprint in patients.items():
            if (use := self.use_of({name, *self.copies(fingerprint)})) is not None:
                uses[name] = use
        return uses

    def use_of(self, names: Collection[str]) -> Use | None:
        """How the run has used a patient that may have several names; training counts more than selection."""
        if not self._trained.isdisjoint(names):
            return "trained"
        return "selected" if not self._selected.isdisjoint(names) else None

    def copies(self, fingerprint: str) -> set[str]:
        """Names of the run's patients with an equal slice or contour: one person, whatever it is called."""
        return {name for piece in fingerprint.split() for name in self._owners.get(piece, ())}

    @cached_property
    def _trained(self) -> frozenset[str]:
        return frozenset(self.trained_on)

    @cached_property
    def _selected(self) -> frozenset[str]:
        return frozenset(self.selected_on)

    @cached_property
    def _owners(self) -> dict[str, list[str]]:
        owners: dict[str, list[str]] = defaultdict(list)
        for name, fingerprint in self.fingerprints.items():
            for piece in fingerprint.split():
                owners[piece].append(name)
        return owners

    def is_other_dataset(self, account: dict[str, Any]) -> bool:
        """Whether a data set, by its metadata, is none of those that the run was trained on."""
        return account["dataset_sha256"] not in {one.dataset_sha256 for one in self.data_sets}

    def joined_by(self, now: "TrainingData") -> "TrainingData":
        """The data of a network that goes on with `now`, whose data set becomes the last."""
        earlier = tuple(one for one in self.data_sets if one not in now.data_sets)
        names = self.fingerprints | now.fingerprints
        both = {name: f"{self.fingerprints.get(name, '')} {now.fingerprints.get(name, '')}".split() for name in names}
        return TrainingData(
            earlier + now.data_sets,
            tuple(dict.fromkeys(self.trained_on + now.trained_on)),
            tuple(dict.fromkeys(self.selected_on + now.selected_on)),
            {name: " ".join(dict.fromkeys(hashes)) for name, hashes in both.items()},
        )
