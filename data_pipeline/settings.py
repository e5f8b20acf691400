"""What a data set is made of, and how. Imports nothing that takes time: `rdunet --help` needs these names."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from data_pipeline.errors import InputError

Intensity = Literal["slice_minmax", "hu_window"]
INTENSITIES: tuple[Intensity, ...] = get_args(Intensity)
PatchSelection = Literal["tumour_run", "any_tumour", "all"]
PATCH_SELECTIONS: tuple[PatchSelection, ...] = get_args(PatchSelection)
FillRule = Literal["pixel_center", "rt_utils", "dcmrtstruct2nii", "authors_code"]
FILL_RULES: tuple[FillRule, ...] = get_args(FillRule)
SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)
MaskFormat = Literal["nifti", "seg", "rtstruct"]
"""File formats of masks: NIfTI, DICOM Segmentation, RT Structure Set."""

DEFAULT_ROI = r"gtv[-_ ]?1"
"""The primary tumour of NSCLC-Radiomics: `GTV-1`, `gtv1`, `GTV_1 `, `GTV 1`; not `GTV-10`, not `gtv_nr_7`."""
TEST_SHARE = 40 / 300
"""The VIP Cup's share of test patients (paper, Table 2)."""
VALIDATION_SHARE = 0.1
"""Share of the training patients held out for validation (paper, section 3.3)."""
IMAGE_SIZES = range(16, 1025, 8)
"""Multiples of 8 (the networks halve a slice up to three times), and no larger than any CT needs."""
MOST_WORKERS = 1024

PREDICTION_COLOR, REFERENCE_COLOR = "#e69f00", "#56b4e9"
"""Orange and sky blue, which people with any common color blindness can tell apart (Okabe and Ito, 2008). Used in every
picture, page and DICOM export."""


@dataclass(frozen=True)
class DatasetSettings:
    """What a data set is made of; the defaults are those of the paper's Keras code.

    Raises:
        InputError: a value is out of its range.
    """

    intensity: Intensity = "slice_minmax"
    """Gray conversion: `slice_minmax` (8 bits, each slice scaled from its own minimum to its own maximum) or
    `hu_window` (-1000..400 HU)."""
    image_size: int = 256
    """Rows and columns of a slice, in pixels: a multiple of 8 from 16 to 1024."""
    selection: PatchSelection = "tumour_run"
    """Training patches: the run of tumour slices, any patch with tumour, or all."""
    roi: str = DEFAULT_ROI
    """Regular expression for the whole name of the tumour's ROI, whatever its case."""
    fill_rule: FillRule = "pixel_center"
    """Which voxels belong to a contour: those with their center inside (`pixel_center`), or the rule of other code, to
    compare with its masks: `rt_utils`, `dcmrtstruct2nii`, or `authors_code` (the paper's Keras code)."""
    interpolate_gaps: bool = False
    """Fill slices without contour between the contoured slices of an ROI, by shape-based interpolation; they are
    counted in the report in any case."""
    seed: int = 0
    """Random seed of the split of the patients."""
    test_share: float = TEST_SHARE
    """Share of the patients held out for testing (0 up to, not including, 1); at least one of three or more."""
    validation_share: float = VALIDATION_SHARE
    """Share of the remaining patients held out for validation (0 up to, not including, 1); at least one of three or
    more."""

    def __post_init__(self) -> None:
        _check_choice("intensity", self.intensity, INTENSITIES)
        _check_choice("selection", self.selection, PATCH_SELECTIONS)
        _check_choice("fill-rule", self.fill_rule, FILL_RULES)
        _check_whole("image-size", self.image_size, IMAGE_SIZES, "a multiple of 8 from 16 to 1024")
        _check_whole("seed", self.seed, range(2**32), "a whole number from 0 to 4294967295")
        for name, share in (("test-share", self.test_share), ("validation-share", self.validation_share)):
            if not 0 <= share < 1:  # also true of NaN
                raise InputError(f"--{name} {share}: give a share from 0 up to, but not including, 1")
        try:
            re.compile(self.roi)
        except re.error as error:
            raise InputError(f"--roi {self.roi!r}: not a regular expression ({error})") from error
        if not self.roi.strip():
            raise InputError("--roi: is empty; give the name of the tumour's ROI, or a regular expression for it")

    @property
    def name(self) -> str:
        """Names the data set's folder, e.g. `slice_minmax_256`."""
        parts = [self.intensity, str(self.image_size)]
        parts += [self.selection] if self.selection != "tumour_run" else []
        parts += [self.fill_rule] if self.fill_rule != "pixel_center" else []
        parts += ["interpolated"] if self.interpolate_gaps else []
        return "_".join(parts)


@dataclass(frozen=True)
class PrepareOptions:
    """How a data set is made; nothing here changes its examples.

    Raises:
        InputError: a value is out of its range.
    """

    workers: int | None = None
    """Processes that read headers and patients, 1 to 1024 (default: one a core)."""
    keep_ids: bool = False
    """Keep the Patient IDs, for public data; otherwise patients get keyed pseudonyms. Reports and messages then also
    name files and ROIs."""
    key: Path | None = None
    """File with the secret key of the pseudonyms (default: ~/.config/rdunet/pseudonym.key, made at first use)."""
    split_file: Path | None = None
    """Frozen split of the patients; drawn and written there if there is no such file."""
    beam: tuple[str, ...] | None = None
    """Read and write by Apache Beam with these options of its pipeline, such as runner=FlinkRunner (needs the extra
    `beam`; all workers must see the source and the data set's folder)."""
    overwrite: bool = False
    """Replace a data set of the same name. The old one stays until the new one is complete."""

    def __post_init__(self) -> None:
        if self.workers is not None:
            _check_whole(
                "workers", self.workers, range(1, MOST_WORKERS + 1), f"a whole number from 1 to {MOST_WORKERS}"
            )


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"--{name} {value}: choose one of {', '.join(choices)}")


def _check_whole(name: str, value: int, allowed: range, words: str) -> None:
    if value not in allowed:
        raise InputError(f"--{name} {value}: give {words}")
