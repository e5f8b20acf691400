"""`postprocessing.json`: the post-processing that `rdunet choose-postprocessing` found best for a run."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from data_pipeline.ranges import Digest, Range, check_fields, from_json
from rdunet_jax.checked_json import DamagedError, read_checked, write_checked
from rdunet_jax.config import PostprocessingConfig
from rdunet_jax.errors import InputError, RunError

FILE = "postprocessing.json"


@dataclass(frozen=True)
class ChosenPostprocessing:
    """A choice, and what it was made with."""

    postprocessing: PostprocessingConfig
    step: Annotated[int, Range(0, 1_000_000_000)]
    """Of the checkpoint whose probabilities were scored."""
    weights_sha256: Digest
    """Of its weights, as `TrainedNetwork.weights_sha256`."""
    dataset_sha256: Digest
    patients: tuple[str, ...]
    """Names (pseudonyms) of the patients that it was chosen on."""

    def __post_init__(self) -> None:
        check_fields(self)

    def save(self, workdir: Path) -> None:
        """Writes the file, whole."""
        write_checked(workdir / FILE, asdict(self))

    @classmethod
    def load(cls, workdir: Path, weights_sha256: str) -> "ChosenPostprocessing":
        """The choice stored in a run.

        Args:
            weights_sha256: of the network that it is to be used with.

        Raises:
            RunError: there is none, it is damaged, or it was made with other weights.
        """
        again = f"run `rdunet choose-postprocessing --workdir {workdir}` with its --data-dir"
        path = workdir / FILE
        try:
            chosen = from_json(cls, read_checked(path))
        except FileNotFoundError:
            raise RunError(f"{workdir}: no post-processing was chosen for this run yet; {again}") from None
        except (DamagedError, InputError) as error:
            raise RunError(f"{path}: damaged ({error}); {again}") from error
        if chosen.weights_sha256 != weights_sha256:
            raise RunError(f"{path}: was chosen with other weights, those of step {chosen.step}; {again} again")
        return chosen


def patients_chosen_on(workdirs: Sequence[Path], weights_sha256: Sequence[str]) -> set[str]:
    """Names of the patients on whom the post-processing of runs was chosen; a model file names none.

    Args:
        weights_sha256: of the network of each run.

    Raises:
        RunError: none was chosen for a run, or it cannot be used.
    """
    chosen = zip(workdirs, weights_sha256, strict=True)
    used = [ChosenPostprocessing.load(run, sha256) for run, sha256 in chosen if not run.is_file()]
    return {name for one in used for name in one.patients}
