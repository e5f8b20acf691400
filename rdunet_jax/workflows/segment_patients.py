"""Who the CTs of `rdunet segment` belong to: names for folders and reports, and whether the run has used the person."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int16

from data_pipeline.errors import InputError
from data_pipeline.preprocessing.fingerprints import fingerprint
from data_pipeline.privacy import DEFAULT_KEY_FILE, in_home, load_key, pseudonym, safe_name, safe_names
from rdunet_jax.options import SegmentOptions
from rdunet_jax.runs.chosen_postprocessing import patients_chosen_on
from rdunet_jax.runs.training_data import TrainingData, Use
from rdunet_jax.runs.workdir import Ensemble, TrainedNetwork
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
    """The patients that a run, or one of several, has used."""

    data: TrainingData | None
    """None where the run does not record them."""
    chosen: frozenset[str]
    """Names of those on which the post-processing was chosen that is used."""

    @classmethod
    def of(cls, workdirs: Sequence[Path], network: TrainedNetwork | Ensemble, options: SegmentOptions) -> "RunPatients":
        """Reads the records of runs.

        Raises:
            RunError: a record is damaged.
        """
        chosen: set[str] = set()
        if options.chosen_postprocessing:
            chosen = patients_chosen_on(workdirs, [member.weights_sha256 for member in network.members])
        return cls(TrainingData.load_all(workdirs), frozenset(chosen))

    def seen(self, patient_id: str, key: bytes | None) -> Seen:
        """How the run has used a person, by name; the endings of further CTs (.ct2 and so on) do not matter."""
        # A data set with identities has safe names, with a digest where two differ in case only.
        names = {safe_name(patient_id), safe_names([patient_id, patient_id.swapcase()])[patient_id]}
        if key is not None:
            names.add(pseudonym(patient_id, key))
        listed = {*self.data.trained_on, *self.data.selected_on, *self.chosen} if self.data else self.chosen
        if use := self._use({name for name in listed if re.sub(r"\.ct\d+$", "", name) in names}):
            return use
        has_pseudonyms = any(re.fullmatch(r"P-[0-9a-f]{10}", name) for name in listed)
        known = self.data is not None and self.data.is_complete
        return "unknown" if not known or (key is None and has_pseudonyms) else "not_found"

    def seen_slices(self, hounsfield: Int16[np.ndarray, "depth height width"]) -> Use | None:
        """How the run has used a CT, by its slices, whatever its patient is called; None if it has none of them."""
        return self._use(self.data.copies(str(fingerprint(hounsfield, ())))) if self.data else None

    def _use(self, names: set[str]) -> Use | None:
        use = self.data.use_of(names) if self.data else None
        return use or (None if self.chosen.isdisjoint(names) else "selected")
