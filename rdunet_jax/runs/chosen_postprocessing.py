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
    dataset_sha256: Digest
    patients: tuple[str, ...]
    """Names (pseudonyms) of the patients that it was chosen on."""

    def __post_init__(self) -> None:
        check_fields(self)

    def save(self, workdir: Path) -> None:
        """Writes the file, whole."""
        write_checked(workdir / FILE, asdict(self))

    @classmethod
    def load(cls, workdir: Path, step: int) -> "ChosenPostprocessing":
        """The choice stored in a run.

        Args:
            step: of the checkpoint that it is to be used with.

        Raises:
            RunError: there is none, it is damaged, or it was made with another checkpoint.
        """
        again = f"run `rdunet choose-postprocessing --workdir {workdir}` with its --data-dir"
        path = workdir / FILE
        try:
            chosen = from_json(cls, read_checked(path))
        except FileNotFoundError:
            raise RunError(f"{workdir}: no post-processing was chosen for this run yet; {again}") from None
        except (DamagedError, InputError) as error:
            raise RunError(f"{path}: damaged ({error}); {again}") from error
        if chosen.step != step:
            raise RunError(f"{path}: was chosen with the network of step {chosen.step}, not {step}; {again} again")
        return chosen


def patients_chosen_on(workdirs: Sequence[Path], steps: Sequence[int]) -> set[str]:
    """Names of the patients on whom the post-processing of runs was chosen; a model file names none.

    Args:
        steps: of the checkpoint of each run.

    Raises:
        RunError: none was chosen for a run, or it cannot be used.
    """
    chosen = zip(workdirs, steps, strict=True)
    return {name for run, step in chosen if not run.is_file() for name in ChosenPostprocessing.load(run, step).patients}
