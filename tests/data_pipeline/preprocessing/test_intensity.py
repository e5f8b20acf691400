"""Grey conversion against the formulas."""

import jax
import numpy as np
import pytest

from data_pipeline.preprocessing.intensity import background, normalise, stored_dtype, to_grey
from data_pipeline.settings import INTENSITIES


def test_keras_scales_every_slice_to_8_bits_by_itself() -> None:
    volume = np.array([[[-1000, 0], [500, 1000]], [[0, 1], [2, 4]], [[7, 7], [7, 7]]], np.int16)
    grey = to_grey(volume, "slice_minmax")
    assert grey.dtype == np.uint8
    # (hu - min) / (max - min) * 255, rounded half to even; a constant slice is black
    assert grey.tolist() == [[[0, 128], [191, 255]], [[0, 64], [128, 255]], [[0, 0], [0, 0]]]


def test_keras_survives_the_whole_range_of_int16() -> None:
    volume = np.array([[[-32768, 32767]]], np.int16)
    assert to_grey(volume, "slice_minmax").tolist() == [[[0, 255]]]


def test_keras_divides_each_patch_by_its_own_maximum() -> None:
    patches = np.array([[[[0, 50]], [[100, 25]]], [[[0, 0]], [[0, 0]]]], np.uint8)
    assert normalise(patches, "slice_minmax").tolist() == [[[[0, 0.5]], [[1, 0.25]]], [[[0, 0]], [[0, 0]]]]


def test_hu_window_clips_to_the_lung_window() -> None:
    hounsfield = np.array([[[-3024, -1000, -300, 400, 3071]]], np.int16)
    assert to_grey(hounsfield, "hu_window") is hounsfield
    np.testing.assert_array_equal(normalise(hounsfield, "hu_window")[0, 0], np.float32([0, 0, 0.5, 1, 1]))


@pytest.mark.parametrize("intensity", INTENSITIES)
def test_numpy_and_jit_agree(intensity) -> None:
    rng = np.random.default_rng(0)
    patches = rng.integers(0, 255, (3, 8, 5, 4)).astype(stored_dtype(intensity))
    jitted = jax.jit(normalise, static_argnames="intensity")(patches, intensity)
    assert jitted.dtype == np.float32
    # 1e-7: a multiplication by the reciprocal instead of a division, 1 unit in the last place of values up to 1
    np.testing.assert_allclose(jitted, normalise(patches, intensity), atol=1.2e-7)


@pytest.mark.parametrize("intensity", INTENSITIES)
def test_the_background_is_what_air_is_stored_as(intensity) -> None:
    air_and_more = np.array([[[-1024, 0, 1000]]], np.int16)
    assert to_grey(air_and_more, intensity)[0, 0, 0] == background(intensity)
