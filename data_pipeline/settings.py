"""What a dataset is made of. Imports nothing that takes time: `rdunet --help` needs these names and no arrays."""

from dataclasses import dataclass
from typing import Literal

Intensity = Literal["slice_minmax", "hu_window"]
PatchSelection = Literal["tumour_run", "any_tumour", "all"]
FillRule = Literal["pixel_center", "rt_utils", "dcmrtstruct2nii", "authors_code"]

DEFAULT_ROI = r"gtv[-_ ]?1"
"""The primary tumour of NSCLC-Radiomics: `GTV-1`, `gtv1`, `GTV_1 `, `GTV 1`; not `GTV-10`, not `gtv_nr_7`."""
TEST_SHARE = 40 / 300
"""The VIP Cup's share of test patients (paper, Table 2)."""
VALIDATION_SHARE = 0.1
"""Share of the training patients held out for validation (paper, section 3.3)."""


@dataclass(frozen=True)
class DatasetSettings:
    """What a dataset is made of; the defaults are the paper's Keras code's."""

    intensity: Intensity = "slice_minmax"
    """Gray conversion: `slice_minmax` (8 bits, each slice scaled from its own minimum to its own maximum) or
    `hu_window` (-1000..400 HU)."""
    image_size: int = 256
    """Rows and columns of a slice, in pixels."""
    selection: PatchSelection = "tumour_run"
    """Training patches: the run of tumour slices, any patch with tumour, or all."""
    fill_rule: FillRule = "pixel_center"
    """Which voxels belong to a contour: those with their center inside (`pixel_center`), or the rule of other code, to
    compare with its masks: `rt_utils`, `dcmrtstruct2nii`, or `authors_code` (the paper's Keras code)."""
    roi: str = DEFAULT_ROI
    """Regular expression that the whole name of the tumour's ROI matches, whatever its case."""
    seed: int = 0
    """Seeds the split of the patients."""
    test_share: float = TEST_SHARE
    """Share of the patients held out for testing; at least one of three or more."""
    validation_share: float = VALIDATION_SHARE
    """Share of the remaining patients held out for validation; at least one of three or more."""

    @property
    def name(self) -> str:
        """Names the dataset's folder, e.g. `slice_minmax_256`."""
        parts = [self.intensity, str(self.image_size)]
        if self.selection != "tumour_run":
            parts.append(self.selection)
        if self.fill_rule != "pixel_center":
            parts.append(self.fill_rule)
        return "_".join(parts)
