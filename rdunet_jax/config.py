"""The settings of a run as frozen dataclasses. Defaults are the paper's (Kamal et al. 2020, sections 3 and 4)."""

from dataclasses import dataclass, fields
from typing import Literal, get_args

from rdunet_jax.errors import RunError

Kernel = Literal["disk", "square"]
"""Shape of the kernel that dilates a mask."""
Threshold = float | Literal["histogram"]
"""A probability, or one that is picked for each patient from the histogram of its probabilities."""
Protocol = Literal["paper", "authors_code"]
"""Rules of scoring: see `rdunet_jax.scoring.protocols`."""
SplitName = Literal["train", "validation", "test"]
MAX_DILATION_DIAMETER = 101
"""In pixels: about 10 cm on a CT, more than any margin."""
Augmentation = Literal[
    "rotation",
    "cropping",
    "global_shift",
    "global_scale",
    "additive_noise",
    "multiplicative_noise",
    "horizontal_flip",
    "blur",
    "authors_code",
]


@dataclass(frozen=True)
class AugmentConfig:
    """How often and how far the paper's eight changes go.

    The paper names the changes (section 3.2) and not their sizes: these are the public Keras code's where it makes the
    same change. Gray levels are those of 8 bits, 0..255.
    """

    chance: float = 0.5
    """Chance that a named change is made to a patch, each by itself."""
    rotation: float = 5.0
    """Degrees, at most, either way."""
    cropping: float = 0.9
    """Smallest side of a crop, as a part of the patch's."""
    global_shift: float = 10.0
    """Gray levels, at most, added to a whole patch or taken off it."""
    global_scale: float = 0.1
    """Part, at most, by which a whole patch gets brighter or darker."""
    additive_noise: float = 10.0
    """Gray levels, at most, added to a pixel or taken off it."""
    multiplicative_noise: float = 0.05
    """Part, at most, by which a pixel gets brighter or darker."""
    blur: float = 1.0
    """Largest standard deviation of the Gaussian, in pixels."""


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
    early_stopping: int | None = None
    """Stop after this many epochs without a better validation Dice (default: never, as in the paper; its Keras code
    stops after 15)."""
    steps: int | None = None
    """Stop after this many steps in all (default: by epochs alone)."""
    steps_per_epoch: int | None = None
    """Steps between two validations (default: one pass over the training patches)."""
    validation: Literal["patients", "patches", "none"] = "patients"
    """Where validation Dice is measured: on whole patients through the evaluator, or faster on their training patches
    alone; `none` measures nothing, and the latest checkpoint is used instead of the best."""
    augmentation: tuple[Augmentation, ...] = ()
    """Random changes of the training patches, in this order: any of the paper's eight, or `authors_code` for its
    code's."""
    augment: AugmentConfig = AugmentConfig()
    """How often and how far the paper's eight go."""
    loss: str = "bce"
    """What is minimised: `bce`, `dice`, `tversky`, `focal` or `iou`, or a weighted sum such as `bce+0.5*dice`."""
    tversky_alpha: float = 0.5
    """Weight of false positives in `tversky`, from 0 to 1; false negatives get the rest."""
    step_decay: float = 0.0
    """The rate is also divided by 1 + this x steps, as by Keras 2's `decay`."""
    clip_norm: float | None = None
    """Gradients are scaled down to this norm over all parameters (default: never)."""
    accumulate: int = 1
    """Batches whose mean gradient makes one update: a larger batch without its memory."""
    ema: float | None = None
    """Validate and keep the exponential moving average of the network with this decay, such as 0.999 (default: the
    network itself)."""
    seed: int = 0
    """Seeds the initial weights, the order of the patches, the augmentation and the dropout."""

    def __post_init__(self) -> None:
        if isinstance(self.augment, dict):  # as JSON brings it back
            object.__setattr__(self, "augment", AugmentConfig(**self.augment))


PAPER_AUGMENTATION: tuple[Augmentation, ...] = (
    "rotation",
    "cropping",
    "global_shift",
    "global_scale",
    "additive_noise",
    "multiplicative_noise",
    "horizontal_flip",
    "blur",
)

RECIPES: dict[str, TrainConfig] = {
    "paper": TrainConfig(augmentation=PAPER_AUGMENTATION),
    "authors_code": TrainConfig(augmentation=("authors_code",), early_stopping=15),
    "plain": TrainConfig(),
}
"""The paper's (section 3.3), its public Keras code's, and the paper's without augmentation."""


@dataclass(frozen=True)
class HostsConfig:
    """How the processes of a run on several machines find each other: each is started with the same command."""

    distributed: Literal["no", "auto"] = "no"
    """`auto`: by the cluster's own account of the job (SLURM, Open MPI, Kubernetes)."""
    coordinator: str | None = None
    """Address and port of the first process, as 10.0.0.1:8476, where the cluster says nothing."""
    processes: int | None = None
    """Number of processes in all, with a coordinator."""
    process_id: int | None = None
    """Number of this process, from 0, with a coordinator."""


@dataclass(frozen=True)
class PostprocessingConfig:
    """From mean probabilities to a mask (paper, section 3.4).

    Raises:
        RunError: a setting is out of range.
    """

    threshold: Threshold = 0.7
    """A voxel is tumour where its mean probability exceeds this; `histogram` picks it for each patient (prediction of
    whole patients only, not in training)."""
    dilation_diameter: int = 7
    """Diameter in pixels of the kernel that dilates each slice, an odd number; 1 dilates nothing."""
    kernel: Kernel = "disk"
    """Shape of the kernel: the paper's disk, or the full square of the authors' code."""

    def __post_init__(self) -> None:
        if self.threshold != "histogram" and not (
            isinstance(self.threshold, int | float) and 0 <= self.threshold < 1  # NaN is in no range
        ):
            raise RunError(f"threshold is {self.threshold}, but must be at least 0 and less than 1, or `histogram`")
        if not 1 <= self.dilation_diameter <= MAX_DILATION_DIAMETER or self.dilation_diameter % 2 == 0:
            raise RunError(
                f"dilation_diameter is {self.dilation_diameter}, but must be an odd number of pixels from 1 to "
                f"{MAX_DILATION_DIAMETER}"
            )
        if self.kernel not in get_args(Kernel):
            raise RunError(f"kernel is {self.kernel}, but must be one of {', '.join(get_args(Kernel))}")


@dataclass(frozen=True)
class InferenceConfig(PostprocessingConfig):
    """The sliding-window evaluator and its post-processing (paper, section 3.4)."""

    window_batch: int = 2
    """Windows in one call of the compiled predictor."""


@dataclass(frozen=True)
class PostprocessingOverrides:
    """What a command sets instead of the run's own post-processing; None keeps the run's value."""

    threshold: Threshold | None = None
    """Probability above which a voxel is tumour, or `histogram`: picked for each patient (default: the run's)."""
    dilation_diameter: int | None = None
    """Diameter in pixels of the dilating kernel, an odd number; 1 dilates nothing (default: the run's)."""
    kernel: Kernel | None = None
    """Shape of the dilating kernel (default: the run's)."""

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
class EvaluateOptions(PostprocessingOverrides):
    """What `rdunet evaluate` scores, and how."""

    split: SplitName = "test"
    """The patients to score."""
    protocol: Protocol = "paper"
    """The paper's scores of every slice, or those of the authors' code: without the outer slices, and dilated by a
    square if no kernel is given."""
    html: bool = False
    """Also write `page.html`, one file that shows slices, overlays and scores in a browser."""


@dataclass(frozen=True)
class ModelConfig:
    """A network of the Recurrent 3D-DenseUNet family; the defaults are the public Keras code's network (`keras`)."""

    name: str = "keras"
    """What the network is called in tables and checkpoints."""
    architecture: Literal["unet", "lungnet"] = "unet"
    """Encoder, bottleneck and decoder, or a stack of dilated convolutions at full resolution."""
    widths: tuple[int, ...] = (32, 64, 128)
    """Features of the encoder's levels, finest first, which the decoder mirrors; or of the dilated layers."""
    kernel_depth: int = 3
    """Slices that a 3x3 kernel spans; 1 makes a 2-D network, run on each slice by itself."""
    dense: bool = True
    """A block's input also goes to its second convolution (the pseudo-dense block)."""
    block_output: Literal["concatenate", "last"] = "concatenate"
    """What a block hands on: its input and its last layer, or its last layer only."""
    whole_skips: int = 1
    """At this many of the coarsest levels the decoder gets all that the encoder's block hands on; above them, the
    block's last layer only."""
    dropout: float = 0.1
    """Chance that a whole channel is dropped in the encoder."""
    dropout_after: Literal["pooling", "convolution"] = "pooling"
    """Where the encoder drops channels."""
    pooling: Literal["spatial", "spatio-temporal"] = "spatial"
    """Whether pooling and upsampling keep the depth or halve and double it too."""
    upsampling: Literal["transposed", "nearest"] = "transposed"
    """A learned transposed convolution, or repetition."""
    decoder: Literal["upsample-first", "block-first"] = "upsample-first"
    """A decoder level upsamples, joins the skip and then runs its block, or runs its block before both."""
    bottleneck: Literal["convlstm", "bidirectional", "convgru", "block", "none"] = "convlstm"
    """What stands between encoder and decoder: ConvLSTM layers (in one direction or both), ConvGRU layers, a block."""
    recurrent_layers: int = 3
    """Recurrent layers in the bottleneck."""
    recurrent_width: int = 256
    """Features of each recurrent layer (in each direction), or of the bottleneck's block."""
    recurrent_norm: bool = True
    """Every recurrent layer is followed by a normalisation."""
    gate: Literal["hard_sigmoid", "sigmoid"] = "hard_sigmoid"
    """Recurrent gate activation: Keras 2's clip(0.2x + 0.5, 0, 1), as the authors trained, or Keras 3's."""
    norm: Literal["batch", "group"] = "batch"
    """Normalisation after every convolution."""
    norm_groups: int = 8
    """Groups of channels in group normalisation."""
    norm_momentum: float = 0.99
    """How much of the running statistics stays in a step of batch normalisation."""
    norm_epsilon: float = 1e-3
    """Added to the variance."""
    dilations: tuple[int, ...] = ()
    """Dilation in plane of each layer of a `lungnet`."""
    fusion_widths: tuple[int, ...] = ()
    """Features of the 3x3x3 convolutions that join a `lungnet`'s slices; none in a 2-D network."""
    patch_depth: int = 8
    """Slices in a training patch and in a window of prediction. The network itself takes any depth."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the network computes in; its parameters stay float32, and so do its logits."""
    remat: bool = False
    """Recompute each block's inside in the backward pass: less memory for about a third more arithmetic."""

    def __post_init__(self) -> None:
        # JSON brings tuples back as lists, which could not be hashed.
        for name in ("widths", "dilations", "fusion_widths"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
