"""From a trained network to masks on the CT's own grid: shared by training, evaluation and segmentation."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32

from data_pipeline.loading import PatientExample
from data_pipeline.preprocessing.intensity import normalise
from data_pipeline.preprocessing.network_grid import place_on_canvas
from rdunet_jax.config import InferenceConfig
from rdunet_jax.errors import RunError
from rdunet_jax.inference.postprocessing import Canvas, Kernel, Threshold, postprocess_on_canvas
from rdunet_jax.inference.sliding_window import SlidingWindow, network_predictor
from rdunet_jax.runs.workdir import TrainedNetwork


def sliding_window(network: TrainedNetwork) -> SlidingWindow:
    """The evaluator of a trained network."""
    run = network.config
    predictor = network_predictor(network.model, partial(normalise, intensity=run.intensity))
    return SlidingWindow(predictor, depth=run.model.patch_depth, batch=run.inference.window_batch)


def inference_of(
    network: TrainedNetwork, threshold: Threshold | None, dilation_diameter: int | None, kernel: Kernel | None = None
) -> InferenceConfig:
    """The run's post-processing, with what the user set instead."""
    chosen = {"threshold": threshold, "dilation_diameter": dilation_diameter, "kernel": kernel}
    try:
        return replace(network.config.inference, **{name: value for name, value in chosen.items() if value is not None})
    except ValueError as error:
        raise RunError(str(error)) from error


def ct_mask(
    probabilities: Float32[np.ndarray, "depth size size"], shape: tuple[int, ...], inference: InferenceConfig
) -> Bool[np.ndarray, "depth height width"]:
    """Probabilities on the network's grid to a mask on the CT's, of (depth, height, width) `shape`."""
    return ct_prediction(probabilities, shape, inference)[0]


def ct_prediction(
    probabilities: Float32[np.ndarray, "depth size size"], shape: tuple[int, ...], inference: InferenceConfig
) -> tuple[Bool[np.ndarray, "depth height width"], Float32[np.ndarray, "depth height width"]]:
    """The mask of `ct_mask`, and the probabilities on the CT's grid that it was cut from."""
    height, width = shape[1:]
    canvas = Canvas(*place_on_canvas(height, width), height, width)
    settings = (inference.threshold, inference.dilation_diameter, inference.kernel)
    return postprocess_on_canvas(probabilities, canvas, *settings)


def predict_patients(
    examples: Iterable[PatientExample],
    count: int,
    window: SlidingWindow,
    variables: Any,
    on_progress: Callable[[int, int], None],
    skip: Callable[[PatientExample], bool] = lambda example: False,
) -> Iterator[tuple[PatientExample, Float32[np.ndarray, "depth size size"]]]:
    """Patients and their mean probabilities on the network's grid, one after the other.

    Args:
        count: number of the examples.
        on_progress: called with windows done and windows in all, as if every patient had as many as the present one.
        skip: patients that are left out; they do not count in what is told.
    """

    def tell(patient: int, patients: int, windows: int, total: int) -> None:
        on_progress(patient * total + windows, patients * total)

    done = 0
    for example in examples:
        if skip(example):
            count -= 1
            continue
        yield example, window(variables, example.image, partial(tell, done, count))
        done += 1


def in_words(inference: InferenceConfig) -> str:
    return f"threshold {inference.threshold}, dilated by a {inference.kernel} of {inference.dilation_diameter} pixels"
