"""What choose-postprocessing scores, against the whole volume and SciPy; what it chooses, through the command."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tyro
from scipy import ndimage

from data_pipeline.loading import PatientExample
from rdunet_jax.config import PostprocessingConfig
from rdunet_jax.inference.postprocessing import (
    _resize_block,
    clean,
    dilate,
    disk_kernel,
    threshold_and_dilate,
    threshold_of,
    to_ct_grid,
)
from rdunet_jax.options import PostprocessingOverrides
from rdunet_jax.scoring.slices import score_slices
from rdunet_jax.workflows.choose_postprocessing import (
    CHOICES,
    DILATIONS,
    as_flags,
    cleanings,
    distance_to,
    score_choices,
    score_cleanings,
)
from rdunet_jax.workflows.prediction import ct_grid_of


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
    for choice, scores in zip(CHOICES, score_choices(probabilities, on_ct, truth), strict=True):
        footprint = disk_kernel(choice.dilation_diameter)
        footprint = np.ones_like(footprint) if choice.kernel == "square" else footprint
        mask = on_ct > threshold_of(choice.threshold, probabilities)
        expected = score_slices(ndimage.binary_dilation(mask, footprint[np.newaxis]), truth)
        for name in ("truth_pixels", "predicted_pixels", "overlap_pixels"):
            np.testing.assert_array_equal(getattr(scores, name), getattr(expected, name), err_msg=str(choice))


def example_with_lungs(probabilities: np.ndarray, shape: tuple[int, int]) -> PatientExample:
    """A patient whose left half is lung, on the grid of the probabilities; 512 pixels are the canvas."""
    image = np.full(probabilities.shape, 40, np.int16)
    image[:, 2:-2, 2 : len(image[0]) // 2] = -850
    truth = np.zeros((len(image), *shape), bool)
    truth[2:6, 20:40, 30:50] = True
    return PatientExample("one", image, probabilities > 0.5, truth, (2.5, 0.9, 0.8))


BASES = (PostprocessingConfig(0.3, 1), PostprocessingConfig(0.5, 7, "square"), PostprocessingConfig("histogram", 9))


@pytest.mark.full_size
def test_cleanings_are_scored_as_on_the_whole_ct() -> None:
    probabilities = blobs(3, depth=5, size=32)
    ring = np.hypot(*np.mgrid[-16:16, -16:16]) // 2 == 3
    probabilities[3, ring] = 0.95
    example = example_with_lungs(probabilities, (512, 512))
    ct, on_ct = ct_grid_of(example), to_ct_grid(probabilities, 512, 512)
    scores = iter(score_cleanings(BASES, True, probabilities, example))
    seen = set()
    for base in BASES:
        dilated = threshold_and_dilate(on_ct, replace(base, threshold=threshold_of(base.threshold, probabilities)))
        choices = cleanings(base, with_lungs=True)
        assert choices[0] == base and len(set(choices)) == 28  # of equals the paper's steps alone
        assert set(cleanings(base, with_lungs=False)) == {choice for choice in choices if not choice.lungs_only}
        for choice in choices:
            mask, _ = clean(dilated, ct, choice)
            one, expected = next(scores), score_slices(mask, example.ct_mask)
            for name in ("truth_pixels", "predicted_pixels", "overlap_pixels"):
                np.testing.assert_array_equal(getattr(one, name), getattr(expected, name), err_msg=str(choice))
            seen.add(tuple(one.predicted_pixels))
    assert len(seen) > 12  # the steps matter here
    assert next(scores, None) is None


def test_flags_are_those_of_the_commands() -> None:
    base = PostprocessingConfig(0.4, 3, "square")
    assert as_flags(base) == "--threshold 0.4 --kernel square --dilation-diameter 3"
    for choice in cleanings(base, with_lungs=True):
        flags = as_flags(choice).split()
        parsed = tyro.cli(PostprocessingOverrides, args=flags).applied_to(PostprocessingConfig())
        assert parsed == choice


def test_nothing_predicted_is_scored() -> None:
    truth = np.zeros((3, 40, 40), bool)
    truth[1, 5:9, 5:9] = True
    for scores in score_choices(np.zeros((3, 8, 8), np.float32), np.zeros(truth.shape, np.float32), truth):
        assert scores.truth_pixels.tolist() == [0, 16, 0] and not scores.predicted_pixels.any()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_distances_hold_the_dilations_of_every_diameter(seed: int) -> None:
    mask = np.random.default_rng(seed).random((5, 30, 41)) > 0.98
    mask[2] = False
    for kernel, diameter in DILATIONS:
        expected = threshold_and_dilate(mask.astype(np.float32), PostprocessingConfig(0.5, diameter, kernel))
        np.testing.assert_array_equal(distance_to(mask, kernel) <= diameter // 2, expected)


def compiled(function: Any) -> int:
    """Number of programs that a jitted function was compiled to."""
    return function._cache_size()


def test_nothing_is_compiled_for_a_patient_of_another_length() -> None:
    before = compiled(dilate), compiled(_resize_block)
    for depth in (4, 9, 30):
        probabilities = blobs(depth, depth)
        score_choices(probabilities, to_ct_grid(probabilities, 90, 80), np.zeros((depth, 90, 80), bool))
    assert (compiled(dilate), compiled(_resize_block)) == (before[0], before[1] + 1)
