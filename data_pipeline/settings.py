"""What a data set is made of, and how. Imports nothing that takes time: `rdunet --help` needs these names."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from data_pipeline.ranges import Pattern, Range, check_fields
from data_pipeline.registry import NameIn, Registry

INTENSITIES: Registry[Callable[[Any], Any]] = Registry(
    "intensity", "data_pipeline.preprocessing.intensity", ("slice_minmax", "hu_window")
)
"""Grey conversions by name: stored grey values (..., depth, height, width), NumPy or JAX, also traced, to the float32
that the network sees. The stored values are Hounsfield units, int16, but those of `slice_minmax`."""
Intensity = Annotated[str, NameIn(INTENSITIES)]
PatchSelection = Literal["tumour_run", "any_tumour", "all"]
PATCH_SELECTIONS: tuple[PatchSelection, ...] = get_args(PatchSelection)
FillRule = Literal["pixel_centre", "rt_utils", "dcmrtstruct2nii", "authors_code"]
SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)
PhantomLevel = Literal["easy", "realistic"]
"""Of a phantom patient: tumours of 20 to 50 mm in the lungs; or nodules from 5 mm, masses, cavities and look-alikes."""
MaskFormat = Literal["nifti", "seg", "rtstruct", "sr"]
"""File formats of masks: NIfTI, DICOM Segmentation, RT Structure Set; of their measures: DICOM structured report."""

MaskSource = Literal["RTSTRUCT", "SEG", "labels"]
"""What a patient's mask was made from: contours, a DICOM Segmentation, or a label file."""

NETWORK_WINDOW_HU = (-1000.0, 400.0)
"""Hounsfield units that become 0 and 1 in `hu_window`."""
DEFAULT_ROI = r"gtv[-_ ]?1"
"""The primary tumour of NSCLC-Radiomics: `GTV-1`, `gtv1`, `GTV_1 `, `GTV 1`; not `GTV-10`, not `gtv_nr_7`."""
TEST_SHARE = 40 / 300
"""The VIP Cup's share of test patients (paper, Table 2)."""
VALIDATION_SHARE = 0.1
"""Share of the training patients held out for validation (paper, section 3.3)."""
Share = Annotated[float, Range(0, 1, below=True)]
FoldCount = Annotated[int, Range(2, 100)]
PatchDepth = Annotated[int, Range(1, 512)]
VoxelEdge = Annotated[float, Range(0.1, 20)]
VoxelSize = tuple[VoxelEdge, VoxelEdge, VoxelEdge]
"""Between rows, between columns, between slices, mm."""
GridSize = Annotated[int, Range(16, 1024, step=8)]
"""Multiples of 8 (the networks halve a slice up to three times), and no larger than any CT needs."""
GridShape = GridSize | tuple[GridSize, GridSize]
"""Of a slice on the network's grid: the side of a square, or rows and columns."""

PREDICTION_COLOUR, REFERENCE_COLOUR = "#e69f00", "#56b4e9"
"""Orange and sky blue, which people with any common colour blindness can tell apart (Okabe and Ito, 2008). Used in
every picture, page and DICOM export."""


def plane_shape(image_size: int | tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of an image size, which is one number for a square.

    >>> plane_shape(256), plane_shape((96, 128))
    ((256, 256), (96, 128))
    """
    return (image_size, image_size) if isinstance(image_size, int) else image_size


def image_size_of(shape: tuple[int, int]) -> int | tuple[int, int]:
    """The image size of so many rows and columns: one number for a square, so that equal sizes compare as equal.

    >>> image_size_of((256, 256)), image_size_of((96, 128))
    (256, (96, 128))
    """
    rows, columns = shape
    return rows if rows == columns else (rows, columns)


def size_in_words(image_size: int | tuple[int, int], times: str = " x ") -> str:
    """An image size as messages state it: `256`, or `96 x 128`, rows first.

    Args:
        times: between the two numbers.
    """
    return str(image_size) if isinstance(image_size, int) else times.join(map(str, image_size))


@dataclass(frozen=True)
class DatasetSettings:
    """What a data set is made of; the defaults are those of the paper's Keras code.

    Raises:
        InputError: a value is out of its range.
    """

    intensity: Intensity = "slice_minmax"
    """Grey conversion: `slice_minmax` (8 bits, each slice scaled from its own minimum to its own maximum),
    `hu_window` (-1000..400 HU), or one of a plugin."""
    image_size: GridShape = 256
    """Rows and columns of a slice, in pixels, such as 96 128, multiples of 8 from 16 to 1024; one number for a square
    (see `--spacing` for the size of the pixels)."""
    spacing: VoxelSize | None = None
    """Resample each CT to voxels of this size in mm: between rows, between columns, between slices, such as 1 1 3. The
    network then sees the middle of the CT, `--image-size` pixels (None: no resampling; the image size covers the
    whole slice, and with other rows than columns its pixels are not square)."""
    roi: Annotated[str, Pattern(r"(?s).*\S.*", "with the name of an ROI")] = DEFAULT_ROI
    """Name of the tumour's ROI, segment or label, or a regular expression for the whole name; case does not matter.
    Segments and labels also go by number. A single label that `dataset.json` names needs no --roi."""
    fill_rule: FillRule = "pixel_centre"
    """Which voxels belong to a contour: those with their centre inside (`pixel_centre`), or the rule of other code, to
    compare with its masks: `rt_utils`, `dcmrtstruct2nii`, or `authors_code` (the paper's Keras code)."""
    interpolate_gaps: bool = False
    """Fill slices without contour between the contoured slices of an ROI, by shape-based interpolation; they are
    counted in the report in any case."""
    seed: Annotated[int, Range(0, 2**32 - 1)] = 0
    """Random seed of the split of the patients."""
    test_share: Share = TEST_SHARE
    """Share of the patients held out for testing (0 up to, not including, 1); at least one of three or more."""
    validation_share: Share = VALIDATION_SHARE
    """Share of the remaining patients held out for validation (0 up to, not including, 1); at least one of three or
    more."""
    folds: FoldCount | None = None
    """Also divide all patients into so many folds for cross-validation, 2 to 100: `train --fold 0` holds out the first
    (None: no folds)."""

    def __post_init__(self) -> None:
        check_fields(self)
        object.__setattr__(self, "image_size", image_size_of(plane_shape(self.image_size)))

    @property
    def name(self) -> str:
        """Names the data set's folder, such as `slice_minmax_256` or `slice_minmax_96x128`."""
        parts = [self.intensity, size_in_words(self.image_size, "x")]
        parts += ["x".join(f"{mm:g}" for mm in self.spacing) + "mm"] if self.spacing else []
        parts += [self.fill_rule] if self.fill_rule != "pixel_centre" else []
        parts += ["interpolated"] if self.interpolate_gaps else []
        return "_".join(parts)


@dataclass(frozen=True)
class Sampling:
    """Which patches of a data set a network is trained on; the defaults are those of the paper's Keras code.

    Raises:
        InputError: a value is out of its range.
    """

    selection: PatchSelection = "tumour_run"
    """See `preprocessing.patches.patch_starts`."""
    depth: PatchDepth = 8
    """Slices in a patch."""
    tumour_free_share: Share | None = None
    """Share of the patches without tumour in a batch, taken from all slices of the split; the others are the selected
    patches with tumour. None: the selected patches, as often as they occur."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class PrepareOptions:
    """How a data set is made; nothing here changes its examples.

    Raises:
        InputError: a value is out of its range.
    """

    workers: Annotated[int, Range(1, 1024)] | None = None
    """Processes that read headers and patients, 1 to 1024 (None: one a core)."""
    keep_ids: bool = False
    """Keep the Patient IDs, for public data; otherwise patients get keyed pseudonyms. Reports and messages then also
    name files and ROIs."""
    key: Path | None = None
    """File with the secret key of the pseudonyms (None: ~/.config/rdunet/pseudonym.key, made at first use)."""
    split_file: Path | None = None
    """Frozen split of the patients; drawn and written there if there is no such file."""
    beam: tuple[str, ...] | None = None
    """Read and write by Apache Beam with these options of its pipeline, such as runner=FlinkRunner (needs the extra
    `beam`; all workers must see the source and the data set's folder)."""
    overwrite: bool = False
    """Replace a data set of the same name. The old one stays until the new one is complete."""

    def __post_init__(self) -> None:
        check_fields(self)
