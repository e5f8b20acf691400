"""The settings of a run as frozen dataclasses. Defaults are the paper's (Kamal et al. 2020, sections 3 and 4)."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TrainConfig:
    """The training recipe (paper, section 3.3)."""

    epochs: int = 30
    """Passes over the training patches, at most."""
    batch_size: int = 2
    """Patches in one step."""
    learning_rate: float = 1e-4
    """Adam's first step size."""
    plateau_patience: int = 3
    """Epochs without a better validation Dice before the rate is halved."""
    plateau_factor: float = 0.5
    """What the rate is multiplied by on a plateau."""
    min_learning_rate: float = 1e-8
    """The rate is never lowered below this."""
    steps: int | None = None
    """Stop after this many steps in all (default: by epochs alone)."""
    steps_per_epoch: int | None = None
    """Steps between two validations (default: one pass over the training patches)."""
    validation: Literal["patients", "patches"] = "patients"
    """How validation Dice is measured: on whole patients through the evaluator, or faster on their tumour patches."""
    seed: int = 0
    """Seeds the initial weights, the order of the patches and the dropout."""


@dataclass(frozen=True)
class InferenceConfig:
    """The sliding-window evaluator and its post-processing (paper, section 3.4)."""

    window_batch: int = 2
    """Windows in one call of the compiled predictor."""
    threshold: float = 0.7
    """A voxel is tumour where its mean probability exceeds this."""
    dilation_diameter: int = 7
    """Diameter in pixels of the disk that dilates each slice; 1 dilates nothing."""
