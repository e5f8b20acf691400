"""Options of the commands: those of `evaluate` and `segment`, those that replace settings of a run, and `--plugin`."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import UseAppendAction

from data_pipeline.ranges import Length, Range, check_fields
from data_pipeline.settings import MaskFormat, SplitName
from rdunet_jax.config import (
    ComponentVolume,
    DilationDiameter,
    InferenceConfig,
    Kernel,
    PostprocessingConfig,
    Protocol,
    Stride,
    Threshold,
    WindowWeights,
)

ExportFormat = Literal["rdunet", "huggingface", "keras", "stablehlo"]


@dataclass(frozen=True)
class PostprocessingOverrides:
    """What a command sets instead of the run's own post-processing; None keeps the run's value."""

    threshold: Threshold | None = None
    """Probability above which a voxel is tumour, or `histogram`: picked for each patient (None: the run's)."""
    dilation_diameter: DilationDiameter | None = None
    """Diameter in pixels of the dilating kernel, an odd number; 1 dilates nothing (None: the run's)."""
    kernel: Kernel | None = None
    """Shape of the dilating kernel (None: the run's)."""
    fill_holes: bool = False
    """Fill the holes of the mask in each slice, also where the run does not."""
    lungs_only: bool = False
    """Remove components that do not touch the lungs, also where the run does not; needs Hounsfield units."""
    min_component_ml: ComponentVolume | None = None
    """Remove components of a smaller volume, in ml; 0 removes none (None: the run's)."""
    largest_component: bool = False
    """Keep the component with the largest volume alone, also where the run does not."""
    chosen_postprocessing: bool = False
    """Use what `choose-postprocessing` stored in the run in place of the run's own; the settings above override it."""

    def __post_init__(self) -> None:
        check_fields(self)

    def applied_to(self, run: PostprocessingConfig) -> PostprocessingConfig:
        """The post-processing to use.

        Raises:
            InputError: a value is out of range.
        """
        names = [field.name for field in fields(PostprocessingConfig)]
        chosen: dict[str, Any] = {name: value for name in names if (value := getattr(self, name)) is not None}
        switched_on: dict[str, Any] = {name: True for name in names if getattr(run, name) is True}
        return PostprocessingConfig(**{name: getattr(run, name) for name in names} | chosen | switched_on)


@dataclass(frozen=True)
class PredictionOverrides(PostprocessingOverrides):
    """What a command sets instead of the run's own prediction and post-processing; None keeps the run's value."""

    stride: Stride | None = None
    """Slices from one prediction window to the next, at most the slices of a window (None: the run's)."""
    window_weights: WindowWeights | None = None
    """Weights of a window's slices in the mean over windows (None: the run's)."""
    flip: bool = False
    """Average the predictions of a window and of its mirror image, also where the run does not."""

    def prediction_of(self, run: InferenceConfig) -> InferenceConfig:
        """The sliding window to use, with the run's own post-processing.

        Raises:
            InputError: a value is out of range.
        """
        chosen = {"stride": self.stride, "window_weights": self.window_weights, "flip": self.flip or run.flip}
        return replace(run, **{name: value for name, value in chosen.items() if value is not None})


@dataclass(frozen=True)
class EvaluateOptions(PredictionOverrides):
    """What `rdunet evaluate` scores, and how."""

    split: SplitName = "test"
    """The patients to score."""
    protocol: Protocol = "paper"
    """The paper's scores of every slice, or those of the authors' code: without the outer slices, and dilated by a
    square if no kernel is given."""
    html: bool = False
    """Also write `page.html`, one file that shows slices, overlays and scores in a browser."""
    allow_seen: bool = False
    """Also score patients that the network was trained on or selected by; their scores are marked."""


@dataclass(frozen=True)
class SegmentOptions(PredictionOverrides):
    """What `rdunet segment` writes, and how."""

    format: Annotated[tuple[MaskFormat, ...], Length(1, 4)] = ("nifti",)
    """Formats of the mask: NIfTI (`mask.nii.gz`), DICOM Segmentation (`seg.dcm`), RT Structure Set (`rtstruct.dcm`);
    and of the measures of its lesions: DICOM structured report (`sr.dcm`). The DICOM files refer to the CT's slices and
    hold its patient and study."""
    probabilities: bool = False
    """Also write the probabilities on the CT's grid as NIfTI (`probabilities.nii.gz`, 32-bit)."""
    keep_ids: bool = False
    """Name the CTs by Patient ID instead of by keyed pseudonym, and show names of files in messages."""
    key: Path | None = None
    """File with the secret key of the pseudonyms (None: ~/.config/rdunet/pseudonym.key, made at first use)."""
    html: bool = False
    """Also write `page.html`, one file that shows slices and overlays in a browser."""
    beam: tuple[str, ...] | None = None
    """Segment several CTs at once by Apache Beam with these options of its pipeline, such as runner=FlinkRunner (needs
    the extra `beam`; all workers must see the source, the run and the output)."""


@dataclass(frozen=True)
class PluginOptions:
    """Code of the user's that a command runs first, for it adds to the names that the other options may have."""

    plugin: UseAppendAction[tuple[str, ...]] = ()
    """Python file that registers parts of your own: blocks, bottlenecks, networks, losses, augmentations, grey
    conversions; or the name of an installed package's entry point. It is code that runs. Give it again for another
    file; a command on a trained network needs it only where the file was not named before or has moved."""


@dataclass(frozen=True)
class ExperimentOptions:
    """What `rdunet run` sets instead of an experiment's file, and how it shares the runs."""

    data_dir: Path | None = None
    """Folder with a data set that `rdunet prepare` made (None: the file's `data_dir`)."""
    dataset: str | None = None
    """Name of the data set, where the folder holds several (None: the file's)."""
    output: Path | None = None
    """Folder for the runs and the table (None: the file's)."""
    seeds: Annotated[tuple[Annotated[int, Range(0, 2**32 - 1)], ...], Length(1, 1000)] | None = None
    """Seeds of the runs of each variant (None: the file's)."""
    folds: Annotated[tuple[Annotated[int, Range(0, 1000)], ...], Length(1, 1000)] | Literal["all"] | None = None
    """Folds of the data set to hold out in turn, or `all` (None: the file's)."""
    variants: tuple[str, ...] = ()
    """Variants to run (none: all of the file)."""
    baseline: str | None = None
    """Variant that the others are compared with (None: the file's)."""
    override: tuple[str, ...] = ()
    """Settings that replace those of the file in every variant, each as KEY=VALUE, such as epochs=10."""
    jobs: Annotated[int, Range(1, 256)] = 1
    """Processes that share the runs, each with a run at a time."""
    shard: str | None = None
    """Share the runs among machines: `2/4` does every fourth run, from the second."""

    def __post_init__(self) -> None:
        check_fields(self)
