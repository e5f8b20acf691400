"""Which of the patients to score a network has already seen, and what the reports say about it."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.loading import Dataset
from rdunet_jax.config import SplitName
from rdunet_jax.errors import RunError
from rdunet_jax.runs.chosen_postprocessing import ChosenPostprocessing
from rdunet_jax.runs.training_data import TrainingData, Use


@dataclass(frozen=True)
class SeenPatients:
    """The patients of a split that a run has used before."""

    uses: dict[str, Use]
    """By name; a patient that is new to the network is absent."""
    count: int
    """Patients of the split."""
    known: bool
    """Whether the run records what it was trained on; imported weights do not."""
    other_dataset: bool
    """Whether the data set is another than the run's own."""

    @classmethod
    def of(cls, data: Dataset, workdir: Path, split: SplitName, chosen_at: int | None = None) -> "SeenPatients":
        """Looks up the patients of a split in the records of a run.

        Args:
            chosen_at: step of the network, if its chosen post-processing is used: then the patients on which that was
                chosen count as selected on.

        Raises:
            RunError: a record is damaged.
        """
        names = data.patient_names(split)
        trained = TrainingData.load(workdir)
        chosen = () if chosen_at is None else ChosenPostprocessing.load(workdir, chosen_at).patients
        selected: dict[str, Use] = {name: "selected" for name in names if name in chosen}
        uses = selected | (trained.seen(names) if trained else {})
        return cls(
            uses, len(names), trained is not None, bool(trained and trained.is_other_dataset(data.account.to_json()))
        )

    def refuse(self, workdir: Path, *uses: Use) -> None:
        """Raises RunError if a patient was used in one of these ways."""
        found = [name for name, use in self.uses.items() if use in uses]
        if found:
            raise RunError(
                f"{workdir}: the network was trained or selected on {len(found)} of the {self.count} patients to score "
                f"(such as {found[0]}), so their scores do not show how it does on new patients; to score them anyway, "
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
