"""`training_data.json`: the data sets and the patients that a run was trained and selected on.

Evaluation and segmentation ask it whether a patient is new to the network: `TrainingData.load`, then `seen` and
`is_other_dataset`.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rdunet_jax.checked_json import DamagedError, read_checked, write_checked
from rdunet_jax.errors import RunError

FILE = "training_data.json"
Use = Literal["trained", "selected"]
"""How a run has used a patient: for its gradients, or to choose its checkpoint and learning rate."""


@dataclass(frozen=True)
class DataIdentity:
    """What tells one prepared data set from another."""

    name: str
    """Such as `hu_window_256`."""
    dataset_sha256: str
    """Of all examples, with their split."""
    split_sha256: str
    """Of the patients' names, by split."""

    @classmethod
    def of(cls, account: dict[str, Any], name: str) -> "DataIdentity":
        """The identity of a prepared data set.

        Args:
            account: its metadata (`data_pipeline.loading.Dataset.account`).
            name: its name.
        """
        return cls(name, account["dataset_sha256"], account["split_sha256"])


@dataclass(frozen=True)
class TrainingData:
    """The data of a run, over all its sessions."""

    data_sets: tuple[DataIdentity, ...]
    """In the order of their last use; more than one only after `train --other-dataset`."""
    trained_on: tuple[str, ...]
    """Names (pseudonyms) of the patients whose patches were trained on."""
    selected_on: tuple[str, ...]
    """Names of the patients whose validation Dice chose the best checkpoint and the learning rate."""

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
        return cls((DataIdentity.of(account, name),), tuple(splits["train"]), tuple(selected))

    @classmethod
    def load(cls, workdir: Path) -> "TrainingData | None":
        """The data of the run in `workdir`; None where that is unknown (imported weights, runs of older versions).

        Raises:
            RunError: the file is damaged.
        """
        path = workdir / FILE
        try:
            fields = read_checked(path)
            return cls(
                tuple(DataIdentity(**one) for one in fields["data_sets"]),
                tuple(fields["trained_on"]),
                tuple(fields["selected_on"]),
            )
        except FileNotFoundError:
            return None
        except (DamagedError, KeyError, TypeError) as error:
            raise RunError(
                f"{path}: damaged ({error}), so it is unknown which patients the network has seen; restore the file "
                "from a copy, or delete it to use the run as one whose training data are unknown"
            ) from error

    def save(self, workdir: Path) -> None:
        """Writes the file, whole."""
        write_checked(workdir / FILE, asdict(self))

    def seen(self, names: Iterable[str]) -> dict[str, Use]:
        """Which of these patients the run was trained or selected on, and how; the others are absent."""
        trained_on, used = set(self.trained_on), {*self.selected_on, *self.trained_on}
        return {name: "trained" if name in trained_on else "selected" for name in names if name in used}

    def is_other_dataset(self, account: dict[str, Any]) -> bool:
        """Whether a data set, by its metadata, is none of those that the run was trained on."""
        return account["dataset_sha256"] not in {one.dataset_sha256 for one in self.data_sets}

    def joined_by(self, now: "TrainingData") -> "TrainingData":
        """The data of a run that goes on with `now`, whose data set becomes the last."""
        earlier = tuple(one for one in self.data_sets if one not in now.data_sets)
        return TrainingData(
            earlier + now.data_sets,
            tuple(dict.fromkeys(self.trained_on + now.trained_on)),
            tuple(dict.fromkeys(self.selected_on + now.selected_on)),
        )
