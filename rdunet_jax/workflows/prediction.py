"""From a trained network to masks on the CT's own grid: shared by training, evaluation and segmentation."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32

from data_pipeline.loading import PatientExample
from data_pipeline.preprocessing.intensity import normalise
from rdunet_jax.config import PostprocessingConfig, PostprocessingOverrides
from rdunet_jax.inference.postprocessing import postprocess_on_ct
from rdunet_jax.inference.sliding_window import SlidingWindow, network_predictor
from rdunet_jax.runs.chosen_postprocessing import ChosenPostprocessing
from rdunet_jax.runs.workdir import TrainedNetwork


def sliding_window(network: TrainedNetwork) -> SlidingWindow:
    """The evaluator of a trained network."""
    run = network.config
    predictor = network_predictor(network.model, partial(normalise, intensity=run.intensity))
    return SlidingWindow(predictor, depth=run.model.patch_depth, batch=run.inference.window_batch)


def postprocessing_of(
    workdir: Path, network: TrainedNetwork, overrides: PostprocessingOverrides
) -> PostprocessingConfig:
    """The run's own post-processing, or the one that was chosen for it, with what `overrides` sets instead.

    Raises:
        RunError: none was chosen, the choice is damaged or of another checkpoint, or a value is out of range.
    """
    own: PostprocessingConfig = network.config.inference
    if overrides.chosen_postprocessing:
        own = ChosenPostprocessing.load(workdir, network.step).postprocessing
    return overrides.applied_to(own)


def ct_mask(
    probabilities: Float32[np.ndarray, "depth size size"],
    shape: tuple[int, ...],
    postprocessing: PostprocessingConfig,
) -> Bool[np.ndarray, "depth height width"]:
    """Probabilities on the network's grid to a mask on the CT's, of (depth, height, width) `shape`."""
    return ct_prediction(probabilities, shape, postprocessing)[0]


def ct_prediction(
    probabilities: Float32[np.ndarray, "depth size size"],
    shape: tuple[int, ...],
    postprocessing: PostprocessingConfig,
) -> tuple[Bool[np.ndarray, "depth height width"], Float32[np.ndarray, "depth height width"]]:
    """The mask of `ct_mask`, and the probabilities on the CT's grid from which it was made."""
    _, height, width = shape
    return postprocess_on_ct(probabilities, height, width, postprocessing)


def predict_patients(
    examples: Iterable[PatientExample],
    count: int,
    window: SlidingWindow,
    variables: Any,
    on_progress: Callable[[int, int], None],
    skip: Callable[[PatientExample], bool] = lambda example: False,
    on_failure: Callable[[PatientExample, Exception], None] | None = None,
) -> Iterator[tuple[PatientExample, Float32[np.ndarray, "depth size size"]]]:
    """Patients and their mean probabilities on the network's grid, one at a time.

    The volume of one patient is in host memory as a whole; on the device memory does not depend on its length.

    Args:
        count: number of the examples.
        on_progress: called with windows done and windows in all, as if every patient had as many as the current one.
        skip: patients to leave out; the progress does not count them.
        on_failure: called with a patient whose prediction fails, which is then left out (default: the error is raised).
    """

    def report(patient: int, patients: int, windows: int, total: int) -> None:
        on_progress(patient * total + windows, patients * total)

    done = 0
    for example in examples:
        if skip(example):
            count -= 1
            continue
        try:
            probabilities = window(variables, example.image, partial(report, done, count))
        except Exception as error:  # XLA, as when memory is short, has no error of its own
            if on_failure is None:
                raise
            on_failure(example, error)
            continue
        yield example, probabilities
        done += 1


def in_words(postprocessing: PostprocessingConfig) -> str:
    """The post-processing as reports and pages state it."""
    return (
        f"threshold {postprocessing.threshold}, dilated by a {postprocessing.kernel} of "
        f"{postprocessing.dilation_diameter} pixels"
    )
