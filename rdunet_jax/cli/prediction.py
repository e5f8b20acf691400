"""From a trained network to masks on the CT's own grid: shared by training, evaluation and segmentation."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
from jaxtyping import Bool, Float32

from data_pipeline.grid import place_on_canvas
from data_pipeline.intensity import normalise
from rdunet_jax.config import InferenceConfig
from rdunet_jax.errors import RunError
from rdunet_jax.inference import SlidingWindow, network_predictor
from rdunet_jax.postprocessing import Canvas, postprocess_on_canvas
from rdunet_jax.workdir import TrainedNetwork


def sliding_window(network: TrainedNetwork) -> SlidingWindow:
    """The evaluator of a trained network."""
    run = network.config
    predictor = network_predictor(network.model, partial(normalise, intensity=run.intensity))
    return SlidingWindow(predictor, depth=run.model.patch_depth, batch=run.inference.window_batch)


def inference_of(network: TrainedNetwork, threshold: float | None, dilation_diameter: int | None) -> InferenceConfig:
    """The run's post-processing, with what the user set instead."""
    chosen = {"threshold": threshold, "dilation_diameter": dilation_diameter}
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


def overall_progress(
    on_progress: Callable[[int, int], None], patient: int, patients: int
) -> Callable[[int, int], None]:
    """Progress in windows of one patient, told as progress of all patients, as if all had as many windows."""
    return lambda done, total: on_progress(patient * total + done, patients * total)


def in_words(inference: InferenceConfig) -> str:
    return f"threshold {inference.threshold}, dilated by a {inference.kernel} of {inference.dilation_diameter} pixels"
