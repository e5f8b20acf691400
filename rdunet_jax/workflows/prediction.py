"""From a trained network to masks on the CT's own grid: shared by training, evaluation and segmentation."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np
from jaxtyping import Bool, Float32, Shaped

from data_pipeline.dicom.volume import CTVolume
from data_pipeline.export.lesions import slice_thickness_mm
from data_pipeline.loading import Dataset, PatientExample
from data_pipeline.preprocessing.intensity import holds_hounsfield, normalise, stored_dtype
from data_pipeline.preprocessing.patient import prepare_image
from data_pipeline.settings import VoxelSize
from rdunet_jax.config import ImageSize, InferenceConfig, PostprocessingConfig
from rdunet_jax.errors import InputError, RunError
from rdunet_jax.inference.postprocessing import CTGrid, CTPrediction, postprocess_on_ct
from rdunet_jax.inference.sliding_window import (
    Predictor,
    SlidingWindow,
    flipped_predictor,
    mean_predictor,
    network_predictor,
)
from rdunet_jax.options import PostprocessingOverrides, PredictionOverrides
from rdunet_jax.runs.chosen_postprocessing import ChosenPostprocessing
from rdunet_jax.runs.model_file import load_run_or_model
from rdunet_jax.runs.workdir import Ensemble, RunConfig, TrainedNetwork


def sliding_window(network: TrainedNetwork | Ensemble) -> SlidingWindow:
    """The evaluator of a trained network, or of the mean of several; it takes `network.variables`.

    Raises:
        RunError: the stride is larger than a window.
    """
    config, predictors = network.config, [predictor_of(one.config, one.model) for one in network.members]
    predictor = mean_predictor(predictors) if isinstance(network, Ensemble) else predictors[0]
    return _window(config, predictor, config.inference.window_batch)


def make_window(run: RunConfig, model: nn.Module, batch: int) -> SlidingWindow:
    """The evaluator with a run's stride, weights and flips, of `batch` windows in one call.

    Raises:
        RunError: the stride is larger than a window.
    """
    return _window(run, predictor_of(run, model), batch)


def predictor_of(run: RunConfig, model: nn.Module) -> Predictor:
    """The predictor of a run's network: stored grey values of a window to probabilities, with its flips."""
    predictor = network_predictor(model, partial(normalise, intensity=run.intensity))
    return flipped_predictor(predictor) if run.inference.flip else predictor


def _window(run: RunConfig, predictor: Predictor, batch: int) -> SlidingWindow:
    inference, depth = run.inference, run.model.patch_depth
    if inference.stride > depth:
        raise RunError(f"--stride {inference.stride}: leaves slices out; give at most {depth}, the slices of a window")
    return SlidingWindow(
        predictor,
        depth=depth,
        batch=batch,
        stride=inference.stride,
        weights=inference.window_weights,
    )


def as_runs(workdir: Path | Sequence[Path]) -> tuple[Path, ...]:
    """One run's folder or several as a tuple.

    Raises:
        RunError: there is none, or one is named twice.
    """
    workdirs = (workdir,) if isinstance(workdir, Path) else tuple(workdir)
    if len({one.resolve() for one in workdirs}) < max(len(workdirs), 1):
        raise RunError("--workdir: name each run once, and at least one")
    return workdirs


def load_network(workdir: Path | Sequence[Path], overrides: PredictionOverrides) -> TrainedNetwork | Ensemble:
    """The trained network of a run, or the mean of several, which predicts with the windows that `overrides` sets.

    Args:
        workdir: folders of runs, or model files.

    Raises:
        InputError: there is no run, it has no checkpoint yet, or a value is out of range; or runs differ in grey
            values, size, depth or windows.
    """
    workdirs, networks = as_runs(workdir), []
    for one in workdirs:
        network = load_run_or_model(one)
        inference = overrides.prediction_of(network.config.inference)
        networks.append(replace(network, config=replace(network.config, inference=inference)))
    if len(networks) == 1:
        return networks[0]
    _require_equal(workdirs, [_of_prediction(one.config) for one in networks])
    return Ensemble(tuple(networks))


def _of_prediction(run: RunConfig) -> dict[str, object]:
    """What the runs of an ensemble must have in common to see the same windows."""
    windows = {name: getattr(run.inference, name) for name in ("stride", "window_weights", "flip")}
    seen = {"intensity": run.intensity, "image_size": run.image_size, "spacing": run.spacing}
    return {**seen, "patch_depth": run.model.patch_depth, **windows}


def _require_equal(workdirs: Sequence[Path], settings: Sequence[Mapping[str, object]]) -> None:
    """Raises RunError naming the first setting in which two runs differ."""
    for workdir, other in zip(workdirs[1:], settings[1:], strict=True):
        for name, value in settings[0].items():
            if other[name] != value:
                flag = f"--{name.replace('_', '-')}"
                of_data = name in ("intensity", "image_size", "spacing", "patch_depth")
                advice = "name other runs" if of_data else f"give {flag}"
                raise RunError(
                    f"{workdirs[0]} and {workdir}: cannot be averaged, because {name} is {value} in one and "
                    f"{other[name]} in the other; {advice}"
                )


def postprocessing_of(
    workdir: Path | Sequence[Path], network: TrainedNetwork | Ensemble, overrides: PostprocessingOverrides
) -> PostprocessingConfig:
    """The run's own post-processing, or the one that was chosen for it, with what `overrides` sets instead.

    Raises:
        InputError: none was chosen, the choice is damaged or of another checkpoint, a value is out of range, or several
            runs differ.
    """
    workdirs, each = as_runs(workdir), []
    for one, member in zip(workdirs, network.members, strict=True):
        own: PostprocessingConfig = member.config.inference
        if overrides.chosen_postprocessing:
            own = _chosen_for(one, member)
        each.append(overrides.applied_to(own))
    _require_equal(workdirs, [asdict(one) for one in each])
    return each[0]


def _chosen_for(workdir: Path, network: TrainedNetwork) -> PostprocessingConfig:
    if not workdir.is_file():
        return ChosenPostprocessing.load(workdir, network.weights_sha256).postprocessing
    if network.chosen is None:
        raise RunError("holds no chosen post-processing; leave --chosen-postprocessing out", path=workdir)
    return network.chosen


def ct_mask(
    probabilities: Float32[np.ndarray, "slices rows columns"],
    example: PatientExample,
    postprocessing: PostprocessingConfig,
) -> Bool[np.ndarray, "depth height width"]:
    """Probabilities on the network's grid to a mask on the CT's."""
    return postprocess_on_ct(probabilities, ct_grid_of(example), postprocessing).mask


def ct_grid_of(example: PatientExample) -> CTGrid:
    """The grid of a data set's patient. Volumes are those of evenly spaced slices: the data set holds one spacing."""
    depth, height, width = example.ct_mask.shape
    between_slices, *pixel_mm = example.spacing_mm
    hounsfield = example.image if example.image.dtype == stored_dtype("hu_window") else None
    pixels = (pixel_mm[0], pixel_mm[1])
    return CTGrid(height, width, pixels, np.full(depth, between_slices), hounsfield, example.voxel_mm)


def ct_grid_of_volume(
    volume: CTVolume, image_size: ImageSize, with_hounsfield: bool, voxel_mm: VoxelSize | None = None
) -> CTGrid:
    """The grid of a CT; the thickness of each slice is its own, unless the CT is resampled, as evenly spaced slices.

    Args:
        image_size: rows and columns of the network's grid, for the Hounsfield units.
        with_hounsfield: whether the lungs are to be found.
        voxel_mm: size of the voxels to which the CT is resampled, if it is.
    """
    between_slices, rows_mm, columns_mm = volume.geometry.spacing_mm
    thickness = slice_thickness_mm(volume.geometry)
    return CTGrid(
        *volume.hounsfield.shape[1:],
        pixel_mm=(rows_mm, columns_mm),
        slice_mm=thickness if voxel_mm is None else np.full_like(thickness, between_slices),
        hounsfield=prepare_image(volume, "hu_window", image_size, voxel_mm) if with_hounsfield else None,
        voxel_mm=voxel_mm,
    )


def predict_ct(
    network: TrainedNetwork | Ensemble,
    window: SlidingWindow,
    image: Shaped[np.ndarray, "slices rows columns"],
    ct: CTGrid,
    postprocessing: PostprocessingConfig,
    on_windows: Callable[[int, int], None] = lambda done, total: None,
) -> CTPrediction:
    """Mask and probabilities of a CT on its own grid.

    Args:
        image: its stored grey values on the network's grid.
        on_windows: called with windows done and windows in all.

    Raises:
        InputError: the probabilities are not finite.
    """
    probabilities = window(network.variables, image, on_windows)
    if not np.isfinite(probabilities).all():  # NaN exceeds no threshold, so it would pass for a CT without tumour
        raise InputError("the network's probabilities are not finite; use another run")
    return postprocess_on_ct(probabilities, ct, postprocessing)


def require_hounsfield(data: Dataset, postprocessing: PostprocessingConfig) -> None:
    """Raises RunError where masks are to be restricted to the lungs and a data set does not hold Hounsfield units."""
    if postprocessing.lungs_only and not holds_hounsfield(data.intensity):
        raise RunError(
            f"{data.folder}: holds {data.intensity} grey values, and --lungs-only needs Hounsfield units; leave it "
            "out, or train on a data set of `rdunet prepare --intensity hu_window`"
        )


def predict_patients(
    examples: Iterable[PatientExample],
    count: int,
    window: SlidingWindow,
    variables: Any,
    on_progress: Callable[[int, int], None],
    skip: Callable[[PatientExample], bool] = lambda example: False,
    on_failure: Callable[[PatientExample, Exception], None] | None = None,
) -> Iterator[tuple[PatientExample, Float32[np.ndarray, "depth rows columns"]]]:
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


def runs_in_words(network: TrainedNetwork | Ensemble) -> str:
    """The checkpoints as reports and pages state them."""
    steps = [f"step {one.step} ({'best' if one.is_best else 'latest'})" for one in network.members]
    if len(steps) == 1:
        return f"Network of {steps[0]}"
    named = (f"{one.run}, {step}" for one, step in zip(network.members, steps, strict=True))
    return f"Mean of {len(steps)} networks: {'; '.join(named)}"


def run_facts(network: TrainedNetwork | Ensemble) -> list[dict[str, object]]:
    """Run, checkpoint and weights of each network, for reports."""
    return [
        {"run": one.run, "step": one.step, "best": one.is_best, "weights_sha256": one.weights_sha256}
        for one in network.members
    ]


def in_words(postprocessing: PostprocessingConfig, windows: InferenceConfig) -> str:
    """Post-processing as reports and pages state it, and what of the windows differs from the paper's."""
    parts = [
        f"threshold {postprocessing.threshold}, dilated by a {postprocessing.kernel} of "
        f"{postprocessing.dilation_diameter} pixels"
    ]
    if postprocessing.fill_holes:
        parts.append("holes filled in each slice")
    if postprocessing.lungs_only:
        parts.append("only components that touch the lungs")
    if postprocessing.min_component_ml:
        parts.append(f"no components below {postprocessing.min_component_ml:g} ml")
    if postprocessing.largest_component:
        parts.append("the largest component alone")
    if windows.stride > 1:
        parts.append(f"windows at a stride of {windows.stride} slices")
    if windows.window_weights != "uniform":
        parts.append(f"{windows.window_weights} window weights")
    if windows.flip:
        parts.append("averaged with the mirror image")
    return ", ".join(parts)
