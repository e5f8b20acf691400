"""The table of `--lungs-only` on contours: a made CT, and the real patients where they are."""

from pathlib import Path

import numpy as np
import pytest

from data_pipeline.dicom.discovery import discover
from data_pipeline.errors import InputError
from experiments.studies.lung_restriction import HEADER, Settings, deepest_core, main, measure


def test_the_deepest_core_is_that_of_a_box() -> None:
    mask, near = np.zeros((9, 9, 9), bool), np.zeros((9, 9, 9), bool)
    mask[1:8, 1:8, 1:8] = True  # depths of 1 to 4 voxels
    near[:, :, 6:] = True  # depths up to 2 of 4
    assert deepest_core(mask, near, (1.0, 1.0, 1.0)) == "25%"  # deeper than 1, and nothing there is deeper than 2
    assert deepest_core(mask, np.ones_like(mask), (1.0, 1.0, 1.0)) == "90%"
    assert deepest_core(mask, np.zeros_like(mask), (1.0, 1.0, 1.0)) == "none"


def test_a_folder_without_contours_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        main(Settings((tmp_path,), tmp_path / "out"))


@pytest.mark.slow
def test_no_voxel_of_a_real_tumour_is_cut(real_patients: Path) -> None:
    for folder in ("lung1_001", "ibsi1_lung_ct"):
        (series,) = discover(real_patients / folder).series
        row = dict(zip(HEADER[1:], measure(series, "gtv-1", 128), strict=True))
        assert row["voxels cut"] == row["components cut"] == "0" and row["deepest core kept"] not in ("none", "0%")
