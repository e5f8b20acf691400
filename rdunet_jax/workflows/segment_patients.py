"""Who the CTs of `rdunet segment` belong to: names for folders and reports, and whether the run has used the person."""

import re
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.errors import InputError
from data_pipeline.privacy import DEFAULT_KEY_FILE, in_home, load_key, pseudonym, safe_name, safe_names
from rdunet_jax.config import SegmentOptions
from rdunet_jax.runs.chosen_postprocessing import ChosenPostprocessing
from rdunet_jax.runs.training_data import TrainingData
from rdunet_jax.runs.workdir import TrainedNetwork
from rdunet_jax.workflows.segment_report import Seen


def load_key_of(options: SegmentOptions, required: bool) -> bytes | None:
    """The key of the pseudonyms. Where nothing is named by it, it is read only if there is one."""
    if options.key is not None or (required and not options.keep_ids):
        return load_key(options.key)
    default = in_home(DEFAULT_KEY_FILE)
    try:
        return load_key(default) if default is not None and default.exists() else None
    except (InputError, OSError):
        return None


def names_of(patient_ids: list[str], key: bytes | None, keep_ids: bool) -> dict[str, str]:
    """What the CTs are called in folders and reports, by Patient ID."""
    if keep_ids:
        return safe_names(patient_ids)
    return {one: pseudonym(one, key) if key is not None else "patient" for one in patient_ids}


@dataclass(frozen=True)
class RunPatients:
    """Names of the patients that a run has used, without the endings of a person's further CTs (.ct2 and so on)."""

    trained: frozenset[str]
    selected: frozenset[str]
    known: bool
    """Whether the run records them."""

    @classmethod
    def of(cls, workdir: Path, network: TrainedNetwork, options: SegmentOptions) -> "RunPatients":
        data = TrainingData.load(workdir)
        trained, selected = (data.trained_on, data.selected_on) if data else ((), ())
        if options.chosen_postprocessing:
            selected += ChosenPostprocessing.load(workdir, network.step).patients
        persons = (frozenset(re.sub(r"\.ct\d+$", "", name) for name in names) for names in (trained, selected))
        return cls(*persons, known=data is not None)

    def seen(self, patient_id: str, key: bytes | None) -> Seen:
        """How the run has used a person."""
        # A data set with identities has safe names, with a digest where two differ in case only.
        names = {safe_name(patient_id), safe_names([patient_id, patient_id.swapcase()])[patient_id]}
        if key is not None:
            names.add(pseudonym(patient_id, key))
        if names & self.trained:
            return "trained"
        if names & self.selected:
            return "selected"
        has_pseudonyms = any(re.fullmatch(r"P-[0-9a-f]{10}", name) for name in self.trained | self.selected)
        return "unknown" if not self.known or (key is None and has_pseudonyms) else "not_found"
