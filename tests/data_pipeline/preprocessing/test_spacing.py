"""Resampling to a voxel size, against SimpleITK's, and back."""

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (as its own documentation calls it)
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.errors import InputError
from data_pipeline.preprocessing.spacing import Resampling

EDGES = st.tuples(*[st.floats(0.4, 6).map(lambda mm: round(mm, 3))] * 3)
SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))
SHAPES = st.tuples(st.integers(2, 12), st.integers(2, 30), st.integers(2, 30))


def by_simpleitk(values: np.ndarray, spacing: tuple, shape: tuple, edges: tuple, outside: float) -> np.ndarray:
    """Linear resampling between two grids (slices, rows, columns) whose middles coincide at 0."""

    def place(image, size, mm) -> None:
        image.SetSpacing([float(one) for one in mm[::-1]])
        image.SetOrigin([-(n - 1) / 2 * float(one) for n, one in zip(size[::-1], mm[::-1], strict=True)])

    source = sitk.GetImageFromArray(values.astype(np.float64))
    target = sitk.Image([int(n) for n in shape[::-1]], sitk.sitkFloat64)
    place(source, values.shape, spacing)
    place(target, shape, edges)
    return sitk.GetArrayFromImage(sitk.Resample(source, target, sitk.Transform(), sitk.sitkLinear, outside))


@given(shape=SHAPES, spacing=EDGES, size=SIZES, voxel=EDGES, seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_linear_interpolation_is_that_of_simpleitk(shape, spacing, size, voxel, seed) -> None:
    values = np.random.default_rng(seed).integers(-1000, 1000, shape).astype(np.int16)
    resampling = Resampling.of(shape, spacing, size, voxel)
    got = resampling.image(values, -1024)
    edges = (voxel[2], voxel[0], voxel[1])
    assert got.shape[1:] == size and len(got) == max(1, round(shape[0] * spacing[0] / voxel[2]))
    expected = by_simpleitk(values, spacing, got.shape, edges, -1024)
    # ITK's border is at the outermost half voxel too, where rounding may put a voxel on either side.
    rows, columns = resampling.filled
    inner = np.zeros(got.shape, bool)
    inner[:, rows, columns] = True
    outside = (expected == -1024) != (got == -1024)
    assert outside.mean() < 0.35
    agree = ~outside & inner & (expected != -1024)
    # 32 bits on values of 1000 over three axes, and the rounding to whole HU
    assert np.abs(got[agree] - expected[agree]).max(initial=0) <= 0.51
    assert (got[~inner] == -1024).all()


def test_the_same_voxel_size_is_the_identity() -> None:
    values = np.random.default_rng(0).integers(-1000, 1000, (5, 8, 10)).astype(np.int16)
    resampling = Resampling.of(values.shape, (3.0, 0.8, 0.7), (8, 10), (0.8, 0.7, 3.0))
    np.testing.assert_array_equal(resampling.image(values, -1024), values)
    np.testing.assert_array_equal(resampling.mask(values > 0), values > 0)
    np.testing.assert_array_equal(resampling.to_ct(values), values)
    assert resampling.filled == (slice(0, 8), slice(0, 10)) and resampling.lost(values > 0) == 0


def test_a_field_that_is_larger_or_smaller_is_padded_or_cut_in_the_middle() -> None:
    values = np.arange(4 * 6 * 8, dtype=np.int16).reshape(4, 6, 8)
    resampling = Resampling.of(values.shape, (2.0, 1.0, 1.0), (10, 4), (1.0, 1.0, 2.0))
    grid = resampling.image(values, -1024)
    np.testing.assert_array_equal(grid[:, 2:8], values[:, :, 2:6])
    assert (grid[:, :2] == -1024).all() and (grid[:, 8:] == -1024).all()
    assert resampling.filled == (slice(2, 8), slice(0, 4))
    back = resampling.to_ct(grid)
    np.testing.assert_array_equal(back[:, :, 2:6], values[:, :, 2:6])
    assert (back[:, :, :2] == 0).all() and (back[:, :, 6:] == 0).all()
    mask = np.zeros(values.shape, bool)
    mask[1, 2, 1:4] = True
    assert resampling.lost(mask) == pytest.approx(1 / 3)


@pytest.mark.parametrize("voxel", [(1.0, 1.0, 3.0), (1.5, 1.5, 3.0), (0.6, 0.9, 1.25), (2.0, 2.0, 5.0)])
def test_a_ball_keeps_its_volume_and_comes_back(voxel: tuple) -> None:
    spacing, shape = (2.5, 0.8, 0.8), (32, 90, 90)
    middle = [(n - 1) / 2 for n in shape]
    grid = np.indices(shape).transpose(1, 2, 3, 0)
    ball = np.linalg.norm((grid - middle) * spacing, axis=-1) <= 22
    resampling = Resampling.of(shape, spacing, (160, 160), voxel)
    mask = resampling.mask(ball)
    volume, expected = mask.sum() * np.prod(voxel), 4 / 3 * np.pi * 22**3
    assert abs(volume / expected - 1) < 0.05  # a layer of half a voxel of 5 mm around a radius of 22 mm, both signs
    back = resampling.to_ct(mask.astype(np.float32)) >= 0.5
    assert 2 * (back & ball).sum() / (back.sum() + ball.sum()) > 0.93  # the same, as Dice


def test_a_thin_tumour_keeps_the_voxels_that_it_fills_most() -> None:
    mask = np.zeros((6, 40, 40), bool)
    mask[3, 20, 18:22] = True
    resampling = Resampling.of(mask.shape, (3.0, 1.0, 1.0), (20, 20), (2.0, 2.0, 3.0))
    assert 0 < resampling.mask(mask).sum() < 4
    corner = np.zeros_like(mask)
    corner[3, 0, 0] = True
    with pytest.raises(InputError, match="outside the field of --image-size"):
        Resampling.of(mask.shape, (3.0, 1.0, 1.0), (8, 8), (1.0, 1.0, 3.0)).mask(corner)


def test_a_tumour_of_little_of_a_voxel_never_fills_the_grid() -> None:
    """It fills 0.00004 of the voxel nearest to it, less than the tolerance for rounding."""
    mask = np.zeros((2, 65, 65), bool)
    mask[1, 43, 32] = True  # the grid's rows are at 32 - 10.00004, 32 and 32 + 10.00004
    grid = Resampling.of(mask.shape, (1.0, 1.0, 1.0), (3, 3), (10.00004, 10.00004, 1.0)).mask(mask)
    assert np.argwhere(grid).tolist() == [[1, 2, 1]]
