"""The settings of a run as frozen dataclasses. Defaults are the paper's (Kamal et al. 2020, sections 3 and 4)."""

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from data_pipeline.ranges import Length, Pattern, Range, check_fields
from data_pipeline.registry import NameIn
from data_pipeline.settings import NETWORK_WINDOW_HU, PatchDepth, PatchSelection, Share, plane_shape, size_in_words
from rdunet_jax.errors import RunError
from rdunet_jax.registry import (
    ARCHITECTURES,
    AUGMENTATIONS,
    BLOCKS,
    BOTTLENECKS,
    LOSSES,
    PAPER_AUGMENTATION,
)

Kernel = Literal["disk", "square"]
"""Shape of the kernel that dilates a mask."""
Threshold = Annotated[float, Range(0, 1, below=True)] | Literal["histogram"]
"""A probability, or one that is picked for each patient from the histogram of its probabilities."""
Protocol = Literal["paper", "authors_code"]
"""Rules of scoring: see `rdunet_jax.scoring.protocols`."""
WindowWeights = Literal["uniform", "gaussian"]
"""Weights of the slices of a window in the mean over windows: equal as in the paper, or more in the middle."""
Stride = Annotated[int, Range(1, 64)]
DilationDiameter = Annotated[int, Range(1, 101, step=2)]
"""In pixels; 101 are about 10 cm on a CT, more than any margin."""
ComponentVolume = Annotated[float, Range(0, 1000)]
"""In ml; both lungs hold about 5,000."""
Augmentation = Annotated[str, NameIn(AUGMENTATIONS)]
Recipe = Literal["paper", "authors_code", "plain", "rdunet"]
TrackerName = Literal["mlflow", "wandb"]
"""Trackers of experiments beside TensorBoard: see `rdunet_jax.training.trackers`."""
Gate = Literal["hard_sigmoid", "sigmoid"]
NetworkName = Annotated[str, Pattern(r"[\w.\-]{1,64}", "of 1 to 64 letters, digits, dots or dashes")]
Fraction = Annotated[float, Range(0, 1)]
Count = Annotated[int, Range(1, 1_000_000_000)]
Features = Annotated[int, Range(1, 4096)]
HuWindow = Literal["lung", "soft_tissue"]
WINDOWS_HU: dict[HuWindow, tuple[float, float]] = {"lung": NETWORK_WINDOW_HU, "soft_tissue": (-160.0, 240.0)}
"""Limits in Hounsfield units. The soft-tissue window (level 40, width 400) is the usual one of the mediastinum."""
_Side = Annotated[int, Range(1, 4096)]
ImageSize = _Side | tuple[_Side, _Side]
"""Of a patch, in pixels: the side of a square, or rows and columns."""


@dataclass(frozen=True)
class AugmentConfig:
    """Probability and strength of the paper's eight augmentations, and of three that it does not have.

    The paper names its eight (section 3.2) without their strengths. The defaults are those of the public Keras code
    where it has the same augmentation. Intensities are 8-bit grey levels, 0..255.
    """

    augmentation_probability: Fraction = 0.5
    """Probability of applying each selected augmentation, independently per patch."""
    rotation: Annotated[float, Range(0, 180)] = 5.0
    """Largest rotation in plane, in degrees, in either direction."""
    cropping: Annotated[float, Range(0, 1, above=True)] = 0.9
    """Smallest side of a crop, as a fraction of the patch's side; the crop is resized to the patch's size."""
    global_shift: Annotated[float, Range(0, 255)] = 10.0
    """Largest change of brightness, in grey levels: one value for all pixels of a patch."""
    global_scale: Fraction = 0.1
    """Largest relative change of brightness: one factor for all pixels of a patch."""
    additive_noise: Annotated[float, Range(0, 255)] = 10.0
    """Largest change of brightness, in grey levels: another value for each pixel."""
    multiplicative_noise: Fraction = 0.05
    """Largest relative change of brightness: another factor for each pixel."""
    blur: Annotated[float, Range(0, 100)] = 1.0
    """Largest standard deviation of the Gaussian blur, in pixels."""
    gamma: Annotated[float, Range(1, 10)] = 1.5
    """Largest exponent of the grey values in 0..1; the smallest is its inverse."""
    contrast: Fraction = 0.25
    """Largest relative change of the distance of a grey value to the patch's mean."""
    elastic: Annotated[float, Range(0, 100)] = 2.0
    """Elastic deformation: uniform noise in -1..1 is smoothed over 0.08 widths of the patch and multiplied by this many
    widths."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class TrainConfig:
    """The training recipe (paper, section 3.3)."""

    epochs: Count = 30
    """Largest number of passes over the training patches."""
    batch_size: Annotated[int, Range(1, 4096)] = 2
    """Patches per training step."""
    selection: PatchSelection = "tumour_run"
    """Training patches: those in the run from the first to the last tumour slice (`tumour_run`), any patch with tumour,
    or all."""
    tumour_free_share: Share | None = None
    """Share of the patches without tumour in a batch, on average, from 0 up to, not including, 1. They are taken from
    all slices of the training patients; the others are the selected patches with tumour (None: the selected patches
    as they are)."""
    learning_rate: Annotated[float, Range(0, 10, above=True)] = 1e-4
    """Initial learning rate of Adam."""
    schedule: Literal["plateau", "cosine"] = "plateau"
    """Course of the learning rate: reduced on a plateau of the validation Dice, as in the paper, or lowered along half
    a cosine from its initial value to 0 at the last step. With `cosine` the length of a run cannot change later."""
    plateau_patience: Count = 3
    """Epochs without a better validation Dice before the learning rate is reduced."""
    plateau_factor: Annotated[float, Range(0, 1, above=True, below=True)] = 0.5
    """Factor by which the learning rate is reduced on a plateau."""
    min_learning_rate: Annotated[float, Range(0, 10)] = 1e-8
    """Smallest learning rate of the plateau rule."""
    early_stopping: Count | None = None
    """Stop after this many epochs without a better validation Dice (None: never, as in the paper; the authors' code
    stops after 15)."""
    steps: Count | None = None
    """Stop after this many training steps in total (None: `epochs` alone decides)."""
    steps_per_epoch: Count | None = None
    """Training steps per epoch (None: one pass over the training patches)."""
    validation: Literal["patients", "patches", "none"] = "patients"
    """Validation Dice is measured on whole patients, as `rdunet evaluate` does, or on patches only, which is faster.
    With `none` there is no validation, and the last checkpoint is used instead of the best."""
    augmentation: tuple[Augmentation, ...] = ()
    """Augmentations of the training patches, applied in this order: any of the paper's eight, `gamma`, `contrast`,
    `elastic`, `authors_code` for the scheme of the authors' code, or those of a plugin."""
    augment: AugmentConfig = AugmentConfig()
    """Probability and strength of the augmentations, except those of `authors_code`."""
    loss: str = "bce"
    """Loss function: `bce`, `dice`, `tversky`, `focal`, `iou` or one of a plugin, or a weighted sum such as
    `bce+0.5*dice`."""
    tversky_alpha: Fraction = 0.5
    """Weight of false positives in the Tversky loss; false negatives have 1 minus this."""
    step_decay: Annotated[float, Range(0, 1000)] = 0.0
    """Decay of the learning rate per step: it is divided by 1 + decay * steps, as with `decay` in Keras 2."""
    clip_norm: Annotated[float, Range(0, 1e6, above=True)] | None = None
    """Largest norm of the gradient over all parameters; a longer one is scaled down to it (None: no limit)."""
    accumulate: Annotated[int, Range(1, 4096)] = 1
    """Batches whose gradients are averaged for one update: a larger batch without its memory."""
    ema: Annotated[float, Range(0, 1, above=True, below=True)] | None = None
    """Decay of an exponential moving average of the weights, such as 0.999, that is validated and stored in place of
    the weights (None: no averaging)."""
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

    @property
    def total_steps(self) -> int | None:
        """Training steps in total; None while the number of steps per epoch is that of the data set."""
        if self.steps_per_epoch is None:
            return None
        return min(self.epochs * self.steps_per_epoch, self.steps or self.epochs * self.steps_per_epoch)


def parse_loss(formula: str) -> list[tuple[float, str]]:
    """The (weight, name) of every term of a loss function such as `bce+0.5*dice`.

    Raises:
        RunError: the text is no such sum, or a weight is not positive.
    """
    names = "|".join(map(re.escape, LOSSES))
    terms = [re.fullmatch(rf"\s*(?:([\d.]+(?:e-?\d+)?)\s*\*)?\s*({names})\s*", term) for term in formula.split("+")]
    try:
        parsed = [(float(term[1] or 1), term[2]) for term in terms if term]
    except ValueError:
        parsed = []
    if len(parsed) != len(terms) or not all(weight in Range(0, 1e6, above=True) for weight, _ in parsed):
        raise RunError(
            f"loss is {formula!r}, but must be {LOSSES}, or a sum such as bce+0.5*dice with weights above 0 up to 1e+06"
        )
    return parsed


RECIPES: dict[Recipe, TrainConfig] = {
    "paper": TrainConfig(augmentation=PAPER_AUGMENTATION),
    "authors_code": TrainConfig(augmentation=("authors_code",), early_stopping=15),
    "plain": TrainConfig(),
    "rdunet": TrainConfig(
        selection="any_tumour",
        tumour_free_share=0.25,
        augmentation=PAPER_AUGMENTATION,
        loss="bce+0.5*dice",
        schedule="cosine",
        ema=0.99,
    ),
}
"""The recipe of the paper (section 3.3), of the authors' public Keras code, the paper's without augmentation, and our
own, for data sets of `hu_window` intensity."""


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
    """From mean probabilities to a mask, in this order: threshold and dilation (paper, section 3.4), holes, components.

    All that the paper does not have is off by default.

    Raises:
        InputError: a setting is out of range.
    """

    threshold: Threshold = 0.7
    """A voxel is tumour where its mean probability exceeds this; `histogram` picks it for each patient (prediction of
    whole patients only, not in training)."""
    dilation_diameter: DilationDiameter = 7
    """Diameter in pixels of the kernel that dilates each slice, an odd number; 1 dilates nothing."""
    kernel: Kernel = "disk"
    """Shape of the kernel: the paper's disk, or the full square of the authors' code."""
    fill_holes: bool = False
    """Fill the holes of the mask in each slice (2-D)."""
    lungs_only: bool = False
    """Remove components that do not touch the lungs, which are found by their Hounsfield units."""
    min_component_ml: ComponentVolume = 0.0
    """Remove components of a smaller volume, in ml; voxels that share a face, an edge or a corner are one component."""
    largest_component: bool = False
    """Keep the component with the largest volume alone."""

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
class ModelConfig:
    """A network of the Recurrent 3D-DenseUNet family; the defaults are those of the authors' Keras code (`keras`)."""

    name: NetworkName = "keras"
    """Name of the network in tables and checkpoints."""
    architecture: Annotated[str, NameIn(ARCHITECTURES)] = "unet"
    """U-Net with encoder, bottleneck and decoder; LungNet: dilated convolutions at full resolution; or a network of a
    plugin."""
    hu_windows: Annotated[tuple[HuWindow, ...], Length(0, 2)] = ()
    """Windows of the image, each an input channel of a U-Net: `lung` (-1000..400 HU) and `soft_tissue` (-160..240 HU);
    for data sets of `hu_window`. Empty: the image as it is."""
    widths: Annotated[tuple[Features, ...], Length(1, 32)] = (32, 64, 128)
    """Features per level of the encoder, finest first; the decoder has the same. In a LungNet, features per layer."""
    kernel_depth: Annotated[int, Range(1, 15, step=2)] = 3
    """Slices in a 3x3 kernel; with 1 the network is 2-D and treats each slice separately."""
    block: Annotated[str, NameIn(BLOCKS)] = "pseudo-dense"
    """Layers of a level of encoder or decoder: the paper's block of two convolutions, or one of a plugin."""
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
    bottleneck: Annotated[str, NameIn(BOTTLENECKS)] = "convlstm"
    """Layers between encoder and decoder: ConvLSTM in one direction or in both, ConvGRU, a convolution block, none, or
    those of a plugin."""
    recurrent_layers: Annotated[int, Range(1, 16)] = 3
    """Number of recurrent layers in the bottleneck."""
    recurrent_width: Features = 256
    """Features of each recurrent layer (per direction), or of the bottleneck's block."""
    recurrent_norm: bool = True
    """Normalisation after each recurrent layer."""
    gate: Gate = "hard_sigmoid"
    """Activation of the recurrent gates: Keras 2's clip(0.2x + 0.5, 0, 1), as the authors trained, or the sigmoid."""
    norm: Literal["batch", "group"] = "batch"
    """Normalisation after each convolution: over the batch, or over groups of channels."""
    norm_groups: Features = 8
    """Number of groups in group normalisation."""
    norm_momentum: Annotated[float, Range(0, 1, below=True)] = 0.99
    """Momentum of the running mean and variance in batch normalisation."""
    norm_epsilon: Annotated[float, Range(0, 1, above=True)] = 1e-3
    """Small number added to the variance in normalisation."""
    dilations: Annotated[tuple[Annotated[int, Range(1, 512)], ...], Length(0, 32)] = ()
    """Dilation in plane of each layer of a LungNet."""
    fusion_widths: Annotated[tuple[Features, ...], Length(0, 8)] = ()
    """Features of the 3x3x3 convolutions that join the slices of a LungNet; empty for a 2-D network."""
    patch_depth: PatchDepth = 8
    """Slices in a training patch and in a prediction window; the network itself takes any depth."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of the computation; parameters and logits stay float32."""
    remat: bool = False
    """Recompute activations in the backward pass (rematerialisation): less memory, a third more computation."""

    def __post_init__(self) -> None:
        check_fields(self)
        problem = {"lungnet": _lungnet_problem, "unet": _unet_problem}.get(self.architecture, lambda _: None)(self)
        if problem:
            raise RunError(f"network {self.name}: {problem}")

    @property
    def size_multiple(self) -> int:
        """Rows and columns of a patch must be a multiple of this: a U-Net halves them once per level."""
        return 2 ** len(self.widths) if self.architecture == "unet" else 1

    def check_image_size(self, image_size: ImageSize) -> None:
        """Raises RunError where the network cannot take images of these rows and columns (one number for a square)."""
        if any(extent % self.size_multiple for extent in plane_shape(image_size)):
            raise RunError(
                f"network {self.name} takes images with a multiple of {self.size_multiple} rows and columns, not "
                f"{size_in_words(image_size)} (one factor of 2 per level)"
            )


def _lungnet_problem(c: ModelConfig) -> str | None:
    if len(c.dilations) != len(c.widths):
        return f"has {len(c.widths)} widths and {len(c.dilations)} dilations; give one dilation per layer"
    if c.norm == "group":
        return "its first normalisation has one channel, which group normalisation cannot divide; use --norm batch"
    if c.hu_windows:
        return "has one input channel; leave --hu-windows out, or use a U-Net"
    return None


def _unet_problem(c: ModelConfig) -> str | None:
    if c.dilations or c.fusion_widths:
        return "is a U-Net, which has no dilations and no fusion widths; leave them out, or use --architecture lungnet"
    if len(c.widths) > 8:
        return f"a U-Net has at most 8 levels, and there are {len(c.widths)} widths"
    if c.whole_skips > len(c.widths):
        return f"whole_skips is {c.whole_skips}, but there are only {len(c.widths)} levels"
    normalised = list(c.widths)
    if c.bottleneck == "block" or (c.recurrent_norm and c.bottleneck in ("convlstm", "convgru", "bidirectional")):
        normalised.append(c.recurrent_width * (2 if c.bottleneck == "bidirectional" else 1))
    odd = [width for width in normalised if width % c.norm_groups]
    if c.norm == "group" and odd:
        return f"group normalisation cannot divide {odd[0]} channels into {c.norm_groups} groups; change --norm-groups"
    return None
