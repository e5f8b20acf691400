"""`--spacing`: CTs resampled for the network, scores and masks on the CT's own grid."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (as its own documentation calls it)

from data_pipeline.loading import Dataset
from rdunet_jax.config import PostprocessingConfig
from rdunet_jax.workflows.prediction import ct_mask
from tests.data_pipeline.dicom_files import contour, write_rtstruct, write_series
from tests.data_pipeline.formats.volumes import SQUARE, chest, save, write_dicom
from tests.rdunet_jax.command import Command, one_line

NETWORK = ("--model", "tiny", "--widths", 2, 2, "--recurrent-width", 2, "--recurrent-layers", 1, "--intensity")
SPACING = ("--spacing", 0.9, 0.9, 2)


def write_source(folder: Path) -> None:
    """Three patients of different spacings, and one whose slices are uneven."""
    for number, spacing in enumerate([(3.0, 0.8, 0.7), (1.5, 1.1, 1.1), (5.0, 0.9, 0.9)], 1):
        write_dicom(folder / str(number), chest(seed=number), patient=number, spacing=spacing)
    positions = np.array([[-20, 30, z] for z in (0, 3, 6, 12, 15, 21, 24, 27, 30.0)])
    stored = (chest(seed=4) + 1024).astype(np.uint16)
    series = write_series(folder / "4" / "ct", stored=stored, patient=4, positions=positions)
    drawn = contour(series.points(3, SQUARE), series.uids[3])
    write_rtstruct(folder / "4" / "rs", {"GTV-1": [drawn]}, series, patient=4)


@pytest.mark.slow
def test_spacing_from_prepare_to_segment(rdunet: Command, tmp_path: Path, optax_promotion) -> None:
    write_source(tmp_path / "in")
    data, run = ("--data-dir", tmp_path / "data"), ("--workdir", tmp_path / "run")
    prepare = ("prepare", tmp_path / "in", *data, "--image-size", 32, "--workers", 1, "--keep-ids")
    result = rdunet(*prepare, *SPACING, "--intensity", "hu_window")
    assert result.status == 0, result.error
    assert "its slices are not evenly spaced" in result.out
    dataset = Dataset(tmp_path / "data")
    assert dataset.name == "hu_window_32_0.9x0.9x2mm" and dataset.voxel_mm == (0.9, 0.9, 2)
    depths = {}
    for part in ("train", "validation", "test"):
        (example,) = dataset.patients(part)
        depths[example.name] = len(example.image), len(example.ct_mask)
        assert example.image.shape[1:] == (32, 32) and example.ct_mask.shape == (9, 20, 22)
        settings = replace(PostprocessingConfig(), threshold=0.5, dilation_diameter=1)
        mask = ct_mask(example.mask.astype(np.float32), example, settings)
        assert 2 * (mask & example.ct_mask).sum() / (mask.sum() + example.ct_mask.sum()) > 0.7  # 18 or fewer rows
    assert depths == {"PATIENT-1": (14, 9), "PATIENT-2": (7, 9), "PATIENT-3": (22, 9)}
    train = ("train", *data, *run, *NETWORK[:-1], "--epochs", 1, "--batch-size", 1, "--patch-depth", 4)
    assert rdunet(*train).status == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["spacing"] == [0.9, 0.9, 2]
    for command in (
        ("choose-postprocessing", *data, *run),
        ("evaluate", *data, *run, "--html", "--lungs-only"),
    ):
        result = rdunet(*command)
        assert result.status == 0, result.error
    save(tmp_path / "new.nii.gz", chest(seed=7), axes="RAS", spacing=(4, 0.6, 0.6))
    for flags in ((), ("--lungs-only",)):
        result = rdunet(
            "segment", tmp_path / "new.nii.gz", *run, "--output", tmp_path / "out", "--threshold", 0, *flags
        )
        assert result.status == 0, result.error
    assert sitk.ReadImage(str(tmp_path / "out" / "mask.nii.gz")).GetSize() == (22, 20, 9)
    result = rdunet("segment", tmp_path / "in" / "4", *run, "--output", tmp_path / "uneven")
    one_line(result, "its slices are not evenly spaced")
    assert rdunet(*prepare, "--intensity", "hu_window").status == 0
    result = rdunet("evaluate", *data, *run, "--dataset", "hu_window_32")
    one_line(result, "at 32 pixels, the network in", "at 32 of 0.9 x 0.9 x 2 mm; choose another --dataset")


@pytest.mark.parametrize("spacing", [("0", "1", "1"), ("1", "1", "nan"), ("1", "1", "21")])
def test_spacings_out_of_range_are_refused(rdunet: Command, tmp_path: Path, spacing: tuple[str, ...]) -> None:
    one_line(rdunet("prepare", tmp_path, "--data-dir", tmp_path / "data", "--spacing", *spacing), "spacing")


def test_a_tumour_outside_the_field_is_noted(rdunet: Command, tmp_path: Path) -> None:
    write_dicom(tmp_path / "in", chest(seed=1))
    data = ("--data-dir", tmp_path / "data", "--image-size", 16, "--workers", 1)
    result = rdunet("prepare", tmp_path / "in", *data, "--spacing", 0.3, 0.3, 3)
    assert result.status == 0, result.error
    assert "of the tumour is outside the field of the network" in next(tmp_path.rglob("report.md")).read_text()
