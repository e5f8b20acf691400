"""Images with more columns than rows, from `prepare` to a mask on the CT's own grid: the two are never exchanged."""

import json
import shutil
from pathlib import Path

import jax.export
import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage
from skimage.transform import resize, resize_local_mean

from data_pipeline.loading import Dataset
from rdunet_jax.config import PostprocessingConfig
from rdunet_jax.workflows.prediction import ct_mask
from tests.data_pipeline.dicom_files import contour, write_rtstruct, write_series
from tests.rdunet_jax.command import Command, one_line
from tests.rdunet_jax.runs.model_files import make_run

SHAPE, CANVAS, MARGINS = (9, 300, 420), 512, ((0, 0), (106, 106), (46, 46))
SPACING = (3.0, 0.5, 0.25)
CORNERS = ((100, 230), (100, 290), (220, 290), (220, 230))
"""Of a tumour, rows and columns: higher than wide, to the right of the middle."""
NETWORK = ("--model", "tiny", "--widths", 2, 2, "--recurrent-width", 2, "--recurrent-layers", 1, "--patch-depth", 4)

pytestmark = pytest.mark.slow


def chest(seed: int) -> np.ndarray:
    """Smooth noise of -1000..400 HU, with the tumour and some air around it."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=SHAPE), (0, 9, 15))
    hounsfield = np.rint(-1000 + 1400 * (noise - noise.min()) / np.ptp(noise)).astype(np.int16)
    hounsfield[3:6, 100:220, 230:290] = 60 + seed
    hounsfield[:, :20] = -1000
    return hounsfield


def write_ct(folder: Path, seed: int, with_rtstruct: bool = True) -> np.ndarray:
    hounsfield = chest(seed)
    stored = (hounsfield + 1024).astype(np.uint16)
    series = write_series(folder / "ct", stored=stored, patient=seed, spacing=SPACING)
    if with_rtstruct:
        corners = np.array(CORNERS) - seed / 100  # equal contours would make two patients one person
        drawn = [contour(series.points(index, corners), series.uids[index]) for index in (3, 4, 5)]
        write_rtstruct(folder / "rs", {"GTV-1": drawn}, series, patient=seed)
    return hounsfield


def on_canvas(hounsfield: np.ndarray) -> np.ndarray:
    """The means of 16 rows by 8 columns of the canvas, to 32 x 64; whole numbers, so nothing is rounded differently."""
    canvas = np.pad(hounsfield, MARGINS, constant_values=-1024)
    return np.rint(canvas.reshape(9, 32, 16, 64, 8).mean(axis=(2, 4))).astype(np.int16)


def from_canvas(probabilities: np.ndarray) -> np.ndarray:
    large = [resize(plane, (CANVAS, CANVAS), order=1, mode="edge", anti_aliasing=False) for plane in probabilities]
    return np.stack(large)[:, 106:406, 46:466]


def interpolated(values: np.ndarray, size: tuple[int, int], ratios: tuple[float, float], outside: float) -> np.ndarray:
    """Slices at `size` places around their middle, `ratios` pixels apart; `outside` beyond the edges of the pixels."""
    _, height, width = values.shape
    row, column = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in size), indexing="ij")
    row, column = row * ratios[0] + (height - 1) / 2, column * ratios[1] + (width - 1) / 2
    beyond = (row < -0.5) | (row > height - 0.5) | (column < -0.5) | (column > width - 0.5)
    planes = [ndimage.map_coordinates(one.astype(float), [row, column], order=1, mode="nearest") for one in values]
    return np.where(beyond, outside, np.stack(planes))


@pytest.mark.parametrize("voxel_mm", [None, (5.0, 2.0, 3.0)])
def test_segment_is_the_exported_program_between_two_resizings(
    voxel_mm: tuple[float, float, float] | None, tmp_path: Path, rdunet: Command
) -> None:
    """Voxels of 5 x 2 mm are 10 rows and 8 columns of the CT, and reach beyond it."""
    hounsfield = write_ct(tmp_path / "in", 1, with_rtstruct=False)
    run = make_run(tmp_path / "run", image_size=(32, 64), spacing=voxel_mm)
    program, output = tmp_path / "program", tmp_path / "out"
    for source, *form in ((run, "rdunet", tmp_path / "m.rdunet"), (tmp_path / "m.rdunet", "stablehlo", program)):
        assert rdunet("export-model", source, "--to", form[0], "--output", form[1]).status == 0
    result = rdunet("segment", tmp_path / "in", "--model", tmp_path / "m.rdunet", "--output", output, "--probabilities")
    assert result.status == 0, result.error
    assert "32 x 64 pixels" in (tmp_path / "m.md").read_text()

    grid = on_canvas(hounsfield)
    if voxel_mm is not None:
        grid = np.rint(interpolated(hounsfield, (32, 64), (10, 8), -1024)).astype(np.int16)
    exported = jax.export.deserialize(bytearray((program / "cpu.stablehlo").read_bytes()))
    first, second = np.asarray(exported.call(np.stack([grid[:8], grid[1:]])))
    mean = np.concatenate([first[:1], (first[1:] + second[:-1]) / 2, second[-1:]])
    expected = from_canvas(mean) if voxel_mm is None else interpolated(mean, SHAPE[1:], (1 / 10, 1 / 8), 0)
    assert np.ptp(expected) > 0.5
    written, mask = (
        np.asarray(nib.Nifti1Image.from_filename(output / name).dataobj).T
        for name in ("probabilities.nii.gz", "mask.nii.gz")
    )
    # XLA may fuse sums in another order (1e-6), and ratios are rounded in float32 (see `test_postprocessing`).
    np.testing.assert_allclose(written, expected, atol=5e-6, rtol=0)
    np.testing.assert_array_equal(mask, written > 0.5)  # the run dilates nothing


@pytest.mark.usefixtures("optax_promotion")
def test_from_prepare_to_scores(rdunet: Command, tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        write_ct(tmp_path / "in" / str(seed), seed)
    data, run = ("--data-dir", tmp_path / "data"), ("--workdir", tmp_path / "run")

    def succeeds(*arguments: object) -> str:
        result = rdunet(*arguments)
        assert result.status == 0, result.error
        return result.out

    def prepare(*size: int, folder: Path = tmp_path / "data") -> None:
        flags = ("--workers", 1, "--keep-ids", "--intensity", "hu_window")
        succeeds("prepare", tmp_path / "in", "--data-dir", folder, *flags, "--image-size", *size)

    prepare(24, 40)
    dataset = Dataset(tmp_path / "data")
    assert (dataset.name, dataset.image_size) == ("hu_window_24x40", (24, 40))
    assert json.loads((dataset.folder / "report.json").read_text())["settings"]["image_size"] == [24, 40]
    for split in ("train", "validation", "test"):
        (example,) = dataset.patients(split)
        canvas = np.pad(example.ct_mask, MARGINS).astype(np.float32)
        share = np.stack([resize_local_mean(plane, (24, 40)) for plane in canvas])
        np.testing.assert_array_equal(example.mask, share >= 0.5 - 1e-4)  # the rule of `mask_to_network_grid`
        settings = PostprocessingConfig(threshold=0.5, dilation_diameter=1)
        mask = ct_mask(example.mask.astype(np.float32), example, settings)
        # a border of at most half a pixel of 21 x 13 around 120 x 60
        assert 2 * (mask & example.ct_mask).sum() / (mask.sum() + example.ct_mask.sum()) > 0.85

    for epochs in (1, 2):  # the second goes on, so it compares its settings with the stored ones
        succeeds("train", *data, *run, *NETWORK, "--epochs", epochs, "--batch-size", 1, "--augmentation", "rotation")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["image_size"] == [24, 40]
    succeeds("choose-postprocessing", *data, *run)
    succeeds("evaluate", *data, *run, "--html", "--lungs-only")
    succeeds("export-model", tmp_path / "run", "--output", tmp_path / "m.rdunet")
    scores = ("evaluate", *data, "--model", tmp_path / "m.rdunet", "--output", tmp_path / "scores", "--lungs-only")
    succeeds(*scores)
    files = [folder / "evaluation" / "test" / "slices.csv" for folder in (tmp_path / "run", tmp_path / "scores")]
    assert files[0].read_bytes() == files[1].read_bytes()
    other = make_run(tmp_path / "other", image_size=(40, 24))
    one_line(
        rdunet("evaluate", *data, "--workdir", other),
        "holds hu_window grey values at 24 x 40 pixels",
        "at 40 x 24;",
    )
    shutil.rmtree(tmp_path / "data")

    prepare(32, 32)
    prepare(32, folder=tmp_path / "square")
    two, one = (Dataset(tmp_path / folder) for folder in ("data", "square"))
    assert (two.name, two.image_size, two.dataset_sha256) == (one.name, 32, one.dataset_sha256)
