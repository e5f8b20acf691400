"""`postprocessing.json`: the post-processing that `rdunet choose-postprocessing` found best for a run."""

from dataclasses import asdict, dataclass
from pathlib import Path

from rdunet_jax.checked_json import DamagedError, read_checked, write_checked
from rdunet_jax.config import PostprocessingConfig
from rdunet_jax.errors import RunError

FILE = "postprocessing.json"


@dataclass(frozen=True)
class ChosenPostprocessing:
    """A choice, and what it was made with."""

    postprocessing: PostprocessingConfig
    step: int
    """Of the checkpoint whose probabilities were scored."""
    dataset_sha256: str
    patients: tuple[str, ...]
    """Names (pseudonyms) of the patients that it was chosen on."""

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
            fields = read_checked(path)
            chosen = cls(
                PostprocessingConfig(**fields["postprocessing"]),
                int(fields["step"]),
                str(fields["dataset_sha256"]),
                tuple(fields["patients"]),
            )
        except FileNotFoundError:
            raise RunError(f"{workdir}: no post-processing was chosen for this run yet; {again}") from None
        except (DamagedError, KeyError, TypeError, ValueError) as error:
            raise RunError(f"{path}: damaged ({error}); {again}") from error
        if chosen.step != step:
            raise RunError(f"{path}: was chosen with the network of step {chosen.step}, not {step}; {again} again")
        return chosen
