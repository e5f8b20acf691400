"""From a trained network to masks on the CT's own grid: shared by training, evaluation and segmentation."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np
from jaxtyping import Bool, Float32

from data_pipeline.loading import PatientExample
from data_pipeline.preprocessing.intensity import normalise
from rdunet_jax.config import InferenceConfig, PostprocessingConfig, PostprocessingOverrides, PredictionOverrides
from rdunet_jax.errors import RunError
from rdunet_jax.inference.postprocessing import postprocess_on_ct
from rdunet_jax.inference.sliding_window import SlidingWindow, flipped_predictor, network_predictor
from rdunet_jax.runs.chosen_postprocessing import ChosenPostprocessing
from rdunet_jax.runs.workdir import RunConfig, TrainedNetwork, load_trained


def sliding_window(network: TrainedNetwork) -> SlidingWindow:
    """The evaluator of a trained network.

    Raises:
        RunError: the stride is larger than a window.
    """
    return make_window(network.config, network.model, network.config.inference.window_batch)


def make_window(run: RunConfig, model: nn.Module, batch: int) -> SlidingWindow:
    """The evaluator with a run's stride, weights and flips, of `batch` windows in one call.

    Raises:
        RunError: the stride is larger than a window.
    """
    inference, depth = run.inference, run.model.patch_depth
    if inference.stride > depth:
        raise RunError(f"--stride {inference.stride}: leaves slices out; give at most {depth}, the slices of a window")
    predictor = network_predictor(model, partial(normalise, intensity=run.intensity))
    if inference.flip:
        predictor = flipped_predictor(predictor)
    return SlidingWindow(
        predictor,
        depth=depth,
        batch=batch,
        stride=inference.stride,
        weights=inference.window_weights,
    )


def load_network(workdir: Path, overrides: PredictionOverrides) -> TrainedNetwork:
    """The trained network of a run, which predicts with the windows that `overrides` sets.

    Raises:
        RunError: there is no run, it has no checkpoint yet, or a value is out of range.
    """
    network = load_trained(workdir)
    inference = overrides.prediction_of(network.config.inference)
    return replace(network, config=replace(network.config, inference=inference))


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


def in_words(postprocessing: PostprocessingConfig, windows: InferenceConfig) -> str:
    """Post-processing as reports and pages state it, and what of the windows differs from the paper's."""
    parts = [
        f"threshold {postprocessing.threshold}, dilated by a {postprocessing.kernel} of "
        f"{postprocessing.dilation_diameter} pixels"
    ]
    if windows.stride > 1:
        parts.append(f"windows at a stride of {windows.stride} slices")
    if windows.window_weights != "uniform":
        parts.append(f"{windows.window_weights} window weights")
    if windows.flip:
        parts.append("averaged with the mirror image")
    return ", ".join(parts)
