"""Which of the patients to score a network has already seen, and what the reports say about it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.loading import Dataset
from data_pipeline.settings import SplitName
from rdunet_jax.errors import RunError
from rdunet_jax.runs.chosen_postprocessing import patients_chosen_on
from rdunet_jax.runs.training_data import TrainingData, Use
from rdunet_jax.runs.workdir import RunConfig


def data_of_runs(data_dir: Path, dataset: str | None, workdirs: Sequence[Path]) -> Dataset:
    """The data set to score runs on: of their own, the fold that they held out; else its own split.

    Raises:
        InputError: there is no such data set or run.
    """
    data = Dataset(data_dir, dataset)
    folds = {RunConfig.load(workdir).fold for workdir in workdirs if not workdir.is_file()}
    trained = [TrainingData.load(workdir) for workdir in workdirs]
    own = all(one is not None and not one.is_other_dataset(data.account.to_json()) for one in trained)
    return Dataset(data_dir, dataset, folds.pop()) if own and len(folds) == 1 else data


@dataclass(frozen=True)
class SeenPatients:
    """The patients of a split that a run, or one of several, has used before."""

    uses: dict[str, Use]
    """By name; a patient that is new to the network is absent."""
    renamed: frozenset[str]
    """Those of them that the run has under another name; their slices or contours are equal."""
    count: int
    """Patients of the split."""
    known: bool
    """Whether the run records what it was trained on; imported weights do not."""
    other_dataset: bool
    """Whether the data set is another than the run's own."""

    @classmethod
    def of(
        cls, data: Dataset, workdirs: Sequence[Path], split: SplitName, chosen_with: Sequence[str] = ()
    ) -> "SeenPatients":
        """Looks up the patients of a split in the records of runs.

        Args:
            chosen_with: SHA-256 of the weights of each network, if its chosen post-processing is used: then the
                patients on which that was chosen count as selected on.

        Raises:
            RunError: a record is damaged.
        """
        patients = data.fingerprints(split)
        each = [TrainingData.load(workdir) for workdir in workdirs]
        trained = TrainingData.load_all(workdirs)
        chosen = patients_chosen_on(workdirs, chosen_with) if chosen_with else set()
        uses: dict[str, Use] = {name: "selected" for name in patients if name in chosen}
        renamed: set[str] = set()
        if trained:
            uses |= trained.seen(patients)
            renamed = {name for name in uses if name not in chosen and not trained.use_of({name})}
        other_dataset = any(one is not None and one.is_other_dataset(data.account.to_json()) for one in each)
        return cls(uses, frozenset(renamed), len(patients), bool(trained and trained.is_complete), other_dataset)

    def refuse(self, workdirs: Sequence[Path], *uses: Use) -> None:
        """Raises RunError if a patient was used in one of these ways."""
        found = [name for name, use in self.uses.items() if use in uses]
        if found:
            under = ", which the run has under another name: slices or contours are equal"
            such = f"{found[0]}{under if found[0] in self.renamed else ''}"
            runs = ", ".join(map(str, workdirs))
            raise RunError(
                f"{runs}: the network was trained or selected on {len(found)} of the {self.count} patients to score "
                f"(such as {such}), so their scores do not show how it does on new patients; to score them anyway, "
                "marked as such, add --allow-seen"
            )

    def notes(self) -> list[str]:
        """Sentences for the page and the terminal; none where all patients are new to the network."""
        counts = Counter(self.uses.values())
        verbs = {"trained": "trained on", "selected": "selected on (checkpoint, learning rate or post-processing)"}
        notes = [
            f"NOT NEW PATIENTS: the network was {verbs[use]} {count} of these {self.count} patients."
            for use, count in counts.items()
        ]
        if self.renamed:
            notes.append(
                f"The run has {len(self.renamed)} of them under another name: their slices or contours are equal."
            )
        if self.other_dataset:
            notes.append("Another data set than the network was trained on.")
        if not self.known:
            notes.append("It is not recorded which patients this network was trained on.")
        return notes

    def fields(self) -> dict[str, object]:
        """For `summary.json`."""
        counts = Counter(self.uses.values())
        return {
            "training_data_known": self.known,
            "other_dataset": self.other_dataset,
            "patients_trained_on": counts["trained"],
            "patients_selected_on": counts["selected"],
        }
