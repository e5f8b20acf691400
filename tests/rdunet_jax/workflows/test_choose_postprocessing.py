"""What choose-postprocessing scores, against the whole volume and SciPy."""

import numpy as np
import pytest
from scipy import ndimage

from rdunet_jax.config import PostprocessingConfig
from rdunet_jax.inference.postprocessing import (
    _resize_block,
    dilate,
    disk_kernel,
    postprocess,
    threshold_of,
    to_ct_grid,
)
from rdunet_jax.scoring.slices import score_slices
from rdunet_jax.workflows.choose_postprocessing import CHOICES, DILATIONS, distance_to, score_choices


def blobs(seed: int, depth: int = 9, size: int = 24) -> np.ndarray:
    """Probabilities with a few bright spots, at the borders too."""
    rng = np.random.default_rng(seed)
    spots = (rng.random((depth, size, size)) > 0.997) * rng.uniform(20, 40)
    return np.clip(ndimage.gaussian_filter(spots, 1.0), 0, 1).astype(np.float32)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("shape", [(60, 70), (200, 204), (300, 90)])
def test_choices_are_scored_as_on_the_whole_ct(seed: int, shape: tuple[int, int]) -> None:
    probabilities = blobs(seed)
    truth = np.zeros((len(probabilities), *shape), bool)
    truth[2:6, 20:40, 30:50] = True
    on_ct = to_ct_grid(probabilities, *shape)
    for choice, scores in zip(CHOICES, score_choices(probabilities, truth), strict=True):
        footprint = disk_kernel(choice.dilation_diameter)
        footprint = np.ones_like(footprint) if choice.kernel == "square" else footprint
        mask = on_ct > threshold_of(choice.threshold, probabilities)
        expected = score_slices(ndimage.binary_dilation(mask, footprint[np.newaxis]), truth)
        for name in ("truth_pixels", "predicted_pixels", "overlap_pixels"):
            np.testing.assert_array_equal(getattr(scores, name), getattr(expected, name), err_msg=str(choice))


def test_nothing_predicted_is_scored() -> None:
    truth = np.zeros((3, 40, 40), bool)
    truth[1, 5:9, 5:9] = True
    for scores in score_choices(np.zeros((3, 8, 8), np.float32), truth):
        assert scores.truth_pixels.tolist() == [0, 16, 0] and not scores.predicted_pixels.any()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_distances_hold_the_dilations_of_every_diameter(seed: int) -> None:
    mask = np.random.default_rng(seed).random((5, 30, 41)) > 0.98
    mask[2] = False
    for kernel, diameter in DILATIONS:
        expected = postprocess(mask.astype(np.float32), PostprocessingConfig(0.5, diameter, kernel))
        np.testing.assert_array_equal(distance_to(mask, kernel) <= diameter // 2, expected)


def test_nothing_is_compiled_for_a_patient_of_another_length() -> None:
    before = dilate._cache_size(), _resize_block._cache_size()
    for depth in (4, 9, 30):
        score_choices(blobs(depth, depth), np.zeros((depth, 90, 80), bool))
    assert (dilate._cache_size(), _resize_block._cache_size()) == (before[0], before[1] + 1)
