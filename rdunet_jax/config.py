"""The settings of a run as frozen dataclasses. Defaults are the paper's (Kamal et al. 2020, sections 3 and 4)."""

import re
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Literal, get_args

from data_pipeline.settings import MaskFormat, SplitName
from rdunet_jax.errors import RunError
from rdunet_jax.ranges import Length, Pattern, Range, check_fields

Kernel = Literal["disk", "square"]
"""Shape of the kernel that dilates a mask."""
Threshold = Annotated[float, Range(0, 1, below=True)] | Literal["histogram"]
"""A probability, or one that is picked for each patient from the histogram of its probabilities."""
Protocol = Literal["paper", "authors_code"]
"""Rules of scoring: see `rdunet_jax.scoring.protocols`."""
WindowWeights = Literal["uniform", "gaussian"]
"""Weights of the slices of a window in the mean over windows: equal as in the paper, or more in the middle."""
Stride = Annotated[int, Range(1, 64)]
DilationDiameter = Annotated[int, Range(1, 101, odd=True)]
"""In pixels; 101 are about 10 cm on a CT, more than any margin."""
PaperAugmentation = Literal[
    "rotation",
    "cropping",
    "global_shift",
    "global_scale",
    "additive_noise",
    "multiplicative_noise",
    "horizontal_flip",
    "blur",
]
"""The paper's eight augmentations (section 3.2)."""
Augmentation = Literal[PaperAugmentation, "authors_code"]
PAPER_AUGMENTATION: tuple[PaperAugmentation, ...] = get_args(PaperAugmentation)
Recipe = Literal["paper", "authors_code", "plain"]
Gate = Literal["hard_sigmoid", "sigmoid"]
LossName = Literal["bce", "dice", "tversky", "focal", "iou"]
NetworkName = Annotated[str, Pattern(r"[\w.\-]{1,64}", "of 1 to 64 letters, digits, dots or dashes")]
Fraction = Annotated[float, Range(0, 1)]
Count = Annotated[int, Range(1, 1_000_000_000)]
Features = Annotated[int, Range(1, 4096)]
ImageSize = Annotated[int, Range(1, 4096)]


@dataclass(frozen=True)
class AugmentConfig:
    """Probability and strength of the paper's eight augmentations.

    The paper names them (section 3.2) without their strengths. The defaults are those of the public Keras code where it
    has the same augmentation. Intensities are 8-bit gray levels, 0..255.
    """

    augmentation_probability: Fraction = 0.5
    """Probability of applying each selected augmentation, independently per patch."""
    rotation: Annotated[float, Range(0, 180)] = 5.0
    """Largest rotation in plane, in degrees, in either direction."""
    cropping: Annotated[float, Range(0, 1, above=True)] = 0.9
    """Smallest side of a crop, as a fraction of the patch's side; the crop is resized to the patch's size."""
    global_shift: Annotated[float, Range(0, 255)] = 10.0
    """Largest change of brightness, in gray levels: one value for all pixels of a patch."""
    global_scale: Fraction = 0.1
    """Largest relative change of brightness: one factor for all pixels of a patch."""
    additive_noise: Annotated[float, Range(0, 255)] = 10.0
    """Largest change of brightness, in gray levels: another value for each pixel."""
    multiplicative_noise: Fraction = 0.05
    """Largest relative change of brightness: another factor for each pixel."""
    blur: Annotated[float, Range(0, 100)] = 1.0
    """Largest standard deviation of the Gaussian blur, in pixels."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class TrainConfig:
    """The training recipe (paper, section 3.3)."""

    epochs: Count = 30
    """Largest number of passes over the training patches."""
    batch_size: Annotated[int, Range(1, 4096)] = 2
    """Patches per training step."""
    learning_rate: Annotated[float, Range(0, 10, above=True)] = 1e-4
    """Initial learning rate of Adam."""
    plateau_patience: Count = 3
    """Epochs without a better validation Dice before the learning rate is reduced."""
    plateau_factor: Annotated[float, Range(0, 1, above=True, below=True)] = 0.5
    """Factor by which the learning rate is reduced on a plateau."""
    min_learning_rate: Annotated[float, Range(0, 10)] = 1e-8
    """Smallest learning rate of the plateau rule."""
    early_stopping: Count | None = None
    """Stop after this many epochs without a better validation Dice (default: never, as in the paper; the authors' code
    stops after 15)."""
    steps: Count | None = None
    """Stop after this many training steps in total (default: `epochs` alone decides)."""
    steps_per_epoch: Count | None = None
    """Training steps per epoch (default: one pass over the training patches)."""
    validation: Literal["patients", "patches", "none"] = "patients"
    """Validation Dice is measured on whole patients, as `rdunet evaluate` does, or on patches only, which is faster.
    With `none` there is no validation, and the last checkpoint is used instead of the best."""
    augmentation: tuple[Augmentation, ...] = ()
    """Augmentations of the training patches, applied in this order: any of the paper's eight, or `authors_code` for the
    scheme of the authors' code."""
    augment: AugmentConfig = AugmentConfig()
    """Probability and strength of the paper's eight augmentations."""
    loss: str = "bce"
    """Loss function: `bce`, `dice`, `tversky`, `focal` or `iou`, or a weighted sum such as `bce+0.5*dice`."""
    tversky_alpha: Fraction = 0.5
    """Weight of false positives in the Tversky loss; false negatives have 1 minus this."""
    step_decay: Annotated[float, Range(0, 1000)] = 0.0
    """Decay of the learning rate per step: it is divided by 1 + decay * steps, as with `decay` in Keras 2."""
    clip_norm: Annotated[float, Range(0, 1e6, above=True)] | None = None
    """Largest norm of the gradient over all parameters; a longer one is scaled down to it (default: no limit)."""
    accumulate: Annotated[int, Range(1, 4096)] = 1
    """Batches whose gradients are averaged for one update: a larger batch without its memory."""
    ema: Annotated[float, Range(0, 1, above=True, below=True)] | None = None
    """Decay of an exponential moving average of the weights, such as 0.999, that is validated and stored in place of
    the weights (default: no averaging)."""
    seed: Annotated[int, Range(0, 2**32 - 1)] = 0
    """Random seed of the initial weights, the order of the patches, augmentation and dropout."""

    def __post_init__(self) -> None:
        check_fields(self)
        parse_loss(self.loss)
        if self.min_learning_rate > self.learning_rate:
            raise RunError(
                f"min_learning_rate is {self.min_learning_rate}, but must not exceed learning_rate "
                f"({self.learning_rate})"
            )


def parse_loss(formula: str) -> list[tuple[float, str]]:
    """The (weight, name) of every term of a loss function such as `bce+0.5*dice`.

    Raises:
        RunError: the text is no such sum, or a weight is not positive.
    """
    names = "|".join(get_args(LossName))
    terms = [re.fullmatch(rf"\s*(?:([\d.]+(?:e-?\d+)?)\s*\*)?\s*({names})\s*", term) for term in formula.split("+")]
    try:
        parsed = [(float(term[1] or 1), term[2]) for term in terms if term]
    except ValueError:
        parsed = []
    if len(parsed) != len(terms) or not all(weight in Range(0, 1e6, above=True) for weight, _ in parsed):
        raise RunError(
            f"loss is {formula!r}, but must be one of {', '.join(get_args(LossName))}, or a sum such as bce+0.5*dice "
            "with weights above 0 up to 1e+06"
        )
    return parsed


RECIPES: dict[Recipe, TrainConfig] = {
    "paper": TrainConfig(augmentation=PAPER_AUGMENTATION),
    "authors_code": TrainConfig(augmentation=("authors_code",), early_stopping=15),
    "plain": TrainConfig(),
}
"""The recipe of the paper (section 3.3), of the authors' public Keras code, and the paper's without augmentation."""


@dataclass(frozen=True)
class HostsConfig:
    """Training on several machines: how the processes, each started with the same command, find each other."""

    distributed: Literal["no", "auto"] = "no"
    """With `auto` the cluster's scheduler gives the addresses (SLURM, Open MPI, Kubernetes)."""
    coordinator: Annotated[str, Pattern(r"[\w.\-\[\]:]+:\d{1,5}", "an address and a port")] | None = None
    """Address and port of the first process, such as 10.0.0.1:8476, where no scheduler gives it."""
    processes: Annotated[int, Range(1, 65536)] | None = None
    """Total number of processes, with a coordinator."""
    process_id: Annotated[int, Range(0, 65535)] | None = None
    """Number of this process, from 0, with a coordinator."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.processes is not None and self.process_id is not None and self.process_id >= self.processes:
            raise RunError(
                f"process_id is {self.process_id}, but must be less than the number of processes ({self.processes})"
            )


@dataclass(frozen=True)
class PostprocessingConfig:
    """From mean probabilities to a mask (paper, section 3.4).

    Raises:
        RunError: a setting is out of range.
    """

    threshold: Threshold = 0.7
    """A voxel is tumour where its mean probability exceeds this; `histogram` picks it for each patient (prediction of
    whole patients only, not in training)."""
    dilation_diameter: DilationDiameter = 7
    """Diameter in pixels of the kernel that dilates each slice, an odd number; 1 dilates nothing."""
    kernel: Kernel = "disk"
    """Shape of the kernel: the paper's disk, or the full square of the authors' code."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class InferenceConfig(PostprocessingConfig):
    """The sliding-window evaluator and its post-processing (paper, section 3.4)."""

    window_batch: Annotated[int, Range(1, 4096)] = 2
    """Windows in one call of the compiled predictor."""
    stride: Stride = 1
    """Slices from one prediction window to the next, at most the slices of a window: 1 as in the paper; 4 takes about
    a quarter of the time."""
    window_weights: WindowWeights = "uniform"
    """Weights of a window's slices in the mean over windows: equal as in the paper, or more in the middle."""
    flip: bool = False
    """Test-time augmentation: the mean of the predictions of a window and of its mirror image; twice the time."""


@dataclass(frozen=True)
class PostprocessingOverrides:
    """What a command sets instead of the run's own post-processing; None keeps the run's value."""

    threshold: Threshold | None = None
    """Probability above which a voxel is tumour, or `histogram`: picked for each patient (default: the run's)."""
    dilation_diameter: DilationDiameter | None = None
    """Diameter in pixels of the dilating kernel, an odd number; 1 dilates nothing (default: the run's)."""
    kernel: Kernel | None = None
    """Shape of the dilating kernel (default: the run's)."""
    chosen_postprocessing: bool = False
    """Use what `choose-postprocessing` stored in the run in place of the run's own; the settings above override it."""

    def __post_init__(self) -> None:
        check_fields(self)

    def applied_to(self, run: PostprocessingConfig) -> PostprocessingConfig:
        """The post-processing to use.

        Raises:
            RunError: a value is out of range.
        """
        names = [field.name for field in fields(PostprocessingConfig)]
        chosen = {name: getattr(self, name) for name in names}
        return PostprocessingConfig(
            **{name: getattr(run, name) if value is None else value for name, value in chosen.items()}
        )


@dataclass(frozen=True)
class PredictionOverrides(PostprocessingOverrides):
    """What a command sets instead of the run's own prediction and post-processing; None keeps the run's value."""

    stride: Stride | None = None
    """Slices from one prediction window to the next, at most the slices of a window (default: the run's)."""
    window_weights: WindowWeights | None = None
    """Weights of a window's slices in the mean over windows (default: the run's)."""
    flip: bool = False
    """Average the predictions of a window and of its mirror image, also where the run does not."""

    def prediction_of(self, run: InferenceConfig) -> InferenceConfig:
        """The sliding window to use, with the run's own post-processing.

        Raises:
            RunError: a value is out of range.
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

    format: Annotated[tuple[MaskFormat, ...], Length(1, 3)] = ("nifti",)
    """Formats of the mask: NIfTI (`mask.nii.gz`), DICOM Segmentation (`seg.dcm`), RT Structure Set (`rtstruct.dcm`).
    The DICOM files refer to the CT's slices and hold its patient and study."""
    keep_ids: bool = False
    """Name the CTs by Patient ID instead of by keyed pseudonym, and show names of files in messages."""
    key: Path | None = None
    """File with the secret key of the pseudonyms (default: ~/.config/rdunet/pseudonym.key, made at first use)."""
    html: bool = False
    """Also write `page.html`, one file that shows slices and overlays in a browser."""


@dataclass(frozen=True)
class ModelConfig:
    """A network of the Recurrent 3D-DenseUNet family; the defaults are those of the authors' Keras code (`keras`)."""

    name: NetworkName = "keras"
    """Name of the network in tables and checkpoints."""
    architecture: Literal["unet", "lungnet"] = "unet"
    """U-Net with encoder, bottleneck and decoder, or LungNet: dilated convolutions at full resolution."""
    widths: Annotated[tuple[Features, ...], Length(1, 32)] = (32, 64, 128)
    """Features per level of the encoder, finest first; the decoder has the same. In a LungNet, features per layer."""
    kernel_depth: Annotated[int, Range(1, 15, odd=True)] = 3
    """Slices in a 3x3 kernel; with 1 the network is 2-D and treats each slice separately."""
    dense: bool = True
    """Pseudo-dense blocks: the second convolution also gets the block's input."""
    block_output: Literal["concatenate", "last"] = "concatenate"
    """Output of a block: its input and its last layer concatenated, or its last layer alone."""
    whole_skips: Annotated[int, Range(0, 32)] = 1
    """Number of levels, coarsest first, whose skip connection carries the whole block output; the others carry the
    block's last layer alone."""
    dropout: Annotated[float, Range(0, 1, below=True)] = 0.1
    """Probability of dropping a channel in the encoder (spatial dropout)."""
    dropout_after: Literal["pooling", "convolution"] = "pooling"
    """Position of the dropout in the encoder."""
    pooling: Literal["spatial", "spatio-temporal"] = "spatial"
    """Pooling and upsampling in plane only, or along depth too."""
    upsampling: Literal["transposed", "nearest"] = "transposed"
    """Upsampling by a learned transposed convolution, or by repeating voxels."""
    decoder: Literal["upsample-first", "block-first"] = "upsample-first"
    """Order within a decoder level: upsampling, skip connection, block; or block, upsampling, skip connection."""
    bottleneck: Literal["convlstm", "bidirectional", "convgru", "block", "none"] = "convlstm"
    """Layers between encoder and decoder: ConvLSTM in one direction or in both, ConvGRU, a convolution block, or
    none."""
    recurrent_layers: Annotated[int, Range(1, 16)] = 3
    """Number of recurrent layers in the bottleneck."""
    recurrent_width: Features = 256
    """Features of each recurrent layer (per direction), or of the bottleneck's block."""
    recurrent_norm: bool = True
    """Normalization after each recurrent layer."""
    gate: Gate = "hard_sigmoid"
    """Activation of the recurrent gates: Keras 2's clip(0.2x + 0.5, 0, 1), as the authors trained, or the sigmoid."""
    norm: Literal["batch", "group"] = "batch"
    """Normalization after each convolution: over the batch, or over groups of channels."""
    norm_groups: Features = 8
    """Number of groups in group normalization."""
    norm_momentum: Annotated[float, Range(0, 1, below=True)] = 0.99
    """Momentum of the running mean and variance in batch normalization."""
    norm_epsilon: Annotated[float, Range(0, 1, above=True)] = 1e-3
    """Small number added to the variance in normalization."""
    dilations: Annotated[tuple[Annotated[int, Range(1, 512)], ...], Length(0, 32)] = ()
    """Dilation in plane of each layer of a LungNet."""
    fusion_widths: Annotated[tuple[Features, ...], Length(0, 8)] = ()
    """Features of the 3x3x3 convolutions that join the slices of a LungNet; empty for a 2-D network."""
    patch_depth: Annotated[int, Range(1, 512)] = 8
    """Slices in a training patch and in a prediction window; the network itself takes any depth."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of the computation; parameters and logits stay float32."""
    remat: bool = False
    """Recompute activations in the backward pass (rematerialization): less memory, a third more computation."""

    def __post_init__(self) -> None:
        check_fields(self)
        problem = _lungnet_problem(self) if self.architecture == "lungnet" else _unet_problem(self)
        if problem:
            raise RunError(f"network {self.name}: {problem}")

    @property
    def size_multiple(self) -> int:
        """Rows and columns of a patch must be a multiple of this: a U-Net halves them once per level."""
        return 2 ** len(self.widths) if self.architecture == "unet" else 1

    def check_image_size(self, image_size: int) -> None:
        """Raises RunError where the network cannot take images of `image_size` rows and columns."""
        if image_size % self.size_multiple:
            raise RunError(
                f"network {self.name} takes images with a multiple of {self.size_multiple} rows and columns, not "
                f"{image_size} (one factor of 2 per level)"
            )


def _lungnet_problem(c: ModelConfig) -> str | None:
    if len(c.dilations) != len(c.widths):
        return f"has {len(c.widths)} widths and {len(c.dilations)} dilations; give one dilation per layer"
    if c.norm == "group":
        return "its first normalization has one channel, which group normalization cannot divide; use --norm batch"
    return None


def _unet_problem(c: ModelConfig) -> str | None:
    if c.dilations or c.fusion_widths:
        return "is a U-Net, which has no dilations and no fusion widths; leave them out, or use --architecture lungnet"
    if len(c.widths) > 8:
        return f"a U-Net has at most 8 levels, and there are {len(c.widths)} widths"
    if c.whole_skips > len(c.widths):
        return f"whole_skips is {c.whole_skips}, but there are only {len(c.widths)} levels"
    normalized = list(c.widths)
    if c.bottleneck == "block" or (c.recurrent_norm and c.bottleneck in ("convlstm", "convgru", "bidirectional")):
        normalized.append(c.recurrent_width * (2 if c.bottleneck == "bidirectional" else 1))
    odd = [width for width in normalized if width % c.norm_groups]
    if c.norm == "group" and odd:
        return f"group normalization cannot divide {odd[0]} channels into {c.norm_groups} groups; change --norm-groups"
    return None
