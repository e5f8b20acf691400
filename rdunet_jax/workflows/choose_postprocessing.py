"""`rdunet choose-postprocessing`: every step of post-processing, chosen on validation patients alone."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import get_args

import numpy as np
from jaxtyping import Bool, Float32, Int64
from rich.console import Console
from scipy import ndimage

from data_pipeline.loading import Dataset, PatientExample
from data_pipeline.preprocessing.intensity import holds_hounsfield
from rdunet_jax.config import Kernel, PostprocessingConfig, Threshold
from rdunet_jax.errors import RunError
from rdunet_jax.inference.components import Components, count_per_slice, fill_holes
from rdunet_jax.inference.postprocessing import near_lungs_on_ct, threshold_of
from rdunet_jax.progress import progress_bar
from rdunet_jax.runs.chosen_postprocessing import FILE, ChosenPostprocessing
from rdunet_jax.runs.workdir import load_trained
from rdunet_jax.scoring.labels import LABELS
from rdunet_jax.scoring.slices import SliceScores, score_slices, summarise
from rdunet_jax.workflows.display import number, plural, print_table, write_csv
from rdunet_jax.workflows.prediction import ct_grid_of
from rdunet_jax.workflows.seen import SeenPatients
from rdunet_jax.workflows.stored_probabilities import StoredProbabilities, listed, store_probabilities

THRESHOLDS: tuple[Threshold, ...] = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, "histogram")
DILATIONS: tuple[tuple[Kernel, int], ...] = (("disk", 1), *product(("disk", "square"), (3, 5, 7, 9)))
CHOICES = tuple(
    PostprocessingConfig(threshold, diameter, kernel)
    for threshold, (kernel, diameter) in product(THRESHOLDS, DILATIONS)
)
SMALLEST_ML = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0)
COLUMNS = ("mean_dice_marked_slices", "mean_dice_tumour_slices", "false_positive_slices", "false_negative_slices")
_SETTINGS = tuple(field.name for field in fields(PostprocessingConfig))
_LOWEST = min(t for t in THRESHOLDS if isinstance(t, float))
_REACH = max(diameter for _, diameter in DILATIONS)

Scores = dict[PostprocessingConfig, list[SliceScores]]
Probabilities = Float32[np.ndarray, "slices rows columns"]


def choose(data: Dataset, workdir: Path, console: Console, allow_seen: bool = False) -> PostprocessingConfig:
    """Scores choices from one prediction of each validation patient; returns the best and stores it in the run.

    In two stages: every threshold with every dilation (`CHOICES`); then, for each threshold with its best dilation, all
    `cleanings`. The best has the highest mean Dice over the slices with tumour or prediction, the number that training
    watches; of equals it is the first, where the paper's steps alone come first. `histogram` picks a threshold for each
    patient: `histogram_threshold`. The restriction to the lungs is among the choices where the data set holds
    Hounsfield units.

    Args:
        allow_seen: whether validation patients may be used that the network was trained on. That it was selected on
            them is as it should be.

    Raises:
        InputError: the data set has no validation patients, one of them was trained on, or its prediction fails.
    """
    network = load_trained(workdir)
    seen = SeenPatients.of(data, [workdir], "validation")
    if not allow_seen:
        seen.refuse([workdir], "trained")
    stored = store_probabilities(data, workdir, "validation", network, console)
    if stored.failures:
        raise RunError(f"{plural(len(stored.failures), 'validation patient')} failed: {listed(stored.failures)}")
    with_lungs = holds_hounsfield(data.intensity)

    def dilations(probabilities: Probabilities, example: PatientExample) -> list[SliceScores]:
        return score_choices(probabilities, ct_grid_of(example).values(probabilities), example.ct_mask)

    scores = _score_all(data, stored, CHOICES, dilations, console)
    ranked = _ranked(scores)
    bases = [next(choice for choice in ranked if choice.threshold == threshold) for threshold in THRESHOLDS]
    cleaned = [choice for base in bases for choice in cleanings(base, with_lungs)]
    scores |= _score_all(data, stored, cleaned, partial(score_cleanings, bases, with_lungs), console)
    best = _ranked(scores)[0]
    names = data.patient_names("validation")
    path = workdir / "evaluation" / "validation" / "postprocessing.csv"
    _report(scores, len(names), path, console)
    ChosenPostprocessing(best, network.step, network.weights_sha256, data.dataset_sha256, tuple(names)).save(workdir)
    if not with_lungs:
        console.print(
            f"--lungs-only is not among the choices: the data set holds {data.intensity} grey values, and it needs "
            "Hounsfield units"
        )
    if "trained" in seen.uses.values():
        console.print("\n".join(seen.notes()), markup=False)
    console.print("The scores above are of the patients that the choice was made on: evaluate it on test patients.")
    console.print(f"all: {path}", markup=False)
    console.print(f"chosen: {as_flags(best)}", markup=False)
    console.print(f"stored: {workdir / FILE}; `--chosen-postprocessing` of evaluate and segment uses it", markup=False)
    return best


def cleanings(base: PostprocessingConfig, with_lungs: bool) -> list[PostprocessingConfig]:
    """A choice of threshold and dilation with every further step or none, itself first.

    Args:
        with_lungs: whether the restriction to the lungs is among the steps.
    """
    sizes = [(smallest, False) for smallest in SMALLEST_ML] + [(0.0, True)]
    return [
        replace(base, fill_holes=fill, lungs_only=lungs, min_component_ml=smallest, largest_component=largest)
        for lungs, fill, (smallest, largest) in product((False, True) if with_lungs else (False,), (False, True), sizes)
    ]


def as_flags(choice: PostprocessingConfig) -> str:
    """A choice as flags of `evaluate` and `segment`."""
    flags = f"--threshold {choice.threshold} --kernel {choice.kernel} --dilation-diameter {choice.dilation_diameter}"
    smallest = f" --min-component-ml {choice.min_component_ml:g}" if choice.min_component_ml else ""
    switches = ("fill_holes", "lungs_only", "largest_component")
    return flags + smallest + "".join(f" --{name.replace('_', '-')}" for name in switches if getattr(choice, name))


def _score_all(
    data: Dataset,
    stored: StoredProbabilities,
    choices: Sequence[PostprocessingConfig],
    score: Callable[[Probabilities, PatientExample], list[SliceScores]],
    console: Console,
) -> Scores:
    """The scores of the validation patients by each choice."""
    scores: Scores = defaultdict(list)
    with progress_bar(console) as progress:
        count = data.patient_count("validation")
        for example in progress.track(data.patients("validation"), count, description="scoring"):
            for choice, one in zip(choices, score(stored[example], example), strict=True):
                scores[choice].append(one)
    return scores


def _ranked(scores: Scores) -> list[PostprocessingConfig]:
    """The choices, best first; equal ones in their order."""
    return sorted(scores, key=lambda choice: -(summarise(scores[choice])[COLUMNS[0]] or 0.0))


def _report(scores: Scores, patients: int, path: Path, console: Console) -> None:
    """Writes all choices as CSV and prints the best."""
    summaries = {choice: summarise(scores[choice]) for choice in scores}
    write_csv(
        path,
        [
            {name: getattr(choice, name) for name in _SETTINGS} | {name: summary[name] for name in COLUMNS}
            for choice, summary in summaries.items()
        ],
    )
    rows = [
        (
            *(str(getattr(choice, name)) for name in ("threshold", "kernel", "dilation_diameter")),
            *("yes" if getattr(choice, name) else "" for name in ("fill_holes", "lungs_only")),
            "largest" if choice.largest_component else f"{choice.min_component_ml:g} ml",
            *(number(summaries[choice][name]) for name in COLUMNS[:2]),
        )
        for choice in _ranked(scores)[:10]
    ]
    header = ("threshold", "kernel", "diameter", "holes filled", "lungs only", "components from")
    header += tuple(LABELS[name] for name in COLUMNS[:2])
    print_table(console, f"Best of {len(summaries)} on {plural(patients, 'validation patient')}", header, rows)


def score_choices(
    probabilities: Probabilities,
    on_ct: Float32[np.ndarray, "depth height width"],
    truth: Bool[np.ndarray, "depth height width"],
) -> list[SliceScores]:
    """A patient's slices scored by each of `CHOICES`.

    Args:
        on_ct: the probabilities on the CT's own grid.
        truth: on the CT's own grid.
    """
    box = _box(on_ct > _LOWEST, _REACH)
    truth_pixels = truth.sum(axis=(1, 2), dtype=np.int64)
    scores = []
    for threshold in THRESHOLDS:
        mask = on_ct[box] > threshold_of(threshold, probabilities)
        distances = {kernel: distance_to(mask, kernel) for kernel in get_args(Kernel)}
        for kernel, diameter in DILATIONS:
            inside = score_slices(distances[kernel] <= diameter // 2, truth[box])
            scores.append(_of_all_slices(truth_pixels, box, inside.predicted_pixels, inside.overlap_pixels))
    return scores


def score_cleanings(
    bases: Sequence[PostprocessingConfig], with_lungs: bool, probabilities: Probabilities, example: PatientExample
) -> list[SliceScores]:
    """A patient's slices scored by the `cleanings` of each base, one after the other.

    The voxels of each component are counted once, slice by slice; a choice is then a sum over the components it keeps.
    """
    ct, truth = ct_grid_of(example), example.ct_mask
    on_ct = ct.values(probabilities)
    box = _box(on_ct > _LOWEST, _REACH)
    truth_pixels = truth.sum(axis=(1, 2), dtype=np.int64)
    lungs = near_lungs_on_ct(ct) if with_lungs else None
    scores = []
    for base in bases:
        above = on_ct[box] > threshold_of(base.threshold, probabilities)
        mask = distance_to(above, base.kernel) <= base.dilation_diameter // 2
        counted = {}
        for fill in (False, True):
            filled = fill_holes(mask) if fill else mask
            found = Components.of(filled, ct.voxel_mm3[box[0]], None if lungs is None else lungs[box])
            count = len(found.volumes_ml)
            counted[fill] = (
                found,
                count_per_slice(found.labels, count),
                count_per_slice(found.labels, count, truth[box]),
            )
        for choice in cleanings(base, with_lungs):
            found, predicted, overlap = counted[choice.fill_holes]
            keep = found.kept(choice)
            scores.append(_of_all_slices(truth_pixels, box, predicted @ keep, overlap @ keep))
    return scores


def _of_all_slices(
    truth_pixels: Int64[np.ndarray, " depth"],
    box: tuple[slice, ...],
    predicted_in_box: Int64[np.ndarray, " slices"],
    overlap_in_box: Int64[np.ndarray, " slices"],
) -> SliceScores:
    """The scores of all slices of a patient, from the counts in a box outside of which nothing is predicted."""
    predicted, overlap = np.zeros_like(truth_pixels), np.zeros_like(truth_pixels)
    predicted[box[0]], overlap[box[0]] = predicted_in_box, overlap_in_box
    return SliceScores(truth_pixels, predicted, overlap)


def distance_to(
    mask: Bool[np.ndarray, "depth height width"], kernel: Kernel
) -> Float32[np.ndarray, "depth height width"]:
    """Distance in pixels to the mask, in plane: Euclidean for a disk, chessboard for a square; infinite without one.

    A dilation by a kernel of diameter d is where this is at most (d - 1) / 2. So one map holds all diameters.
    """
    transform = (
        ndimage.distance_transform_edt
        if kernel == "disk"
        else partial(ndimage.distance_transform_cdt, metric="chessboard")
    )
    distances = np.full(mask.shape, np.inf, np.float32)
    for index in np.flatnonzero(mask.any(axis=(1, 2))):
        distances[index] = transform(~mask[index])
    return distances


def _box(mask: Bool[np.ndarray, "depth height width"], margin: int) -> tuple[slice, ...]:
    """The smallest box around a mask, widened in plane; of an empty mask, one voxel.

    A mask can only be where something is above the lowest threshold, and as far as a kernel reaches.
    """
    found = ndimage.find_objects(mask.astype(np.int8))
    depth, *plane = found[0] if found else (slice(0, 1),) * 3
    return (depth, *(slice(max(side.start - margin, 0), side.stop + margin) for side in plane))
