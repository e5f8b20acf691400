"""`rdunet choose-postprocessing`: threshold, kernel and diameter, chosen on validation patients alone."""

from collections import defaultdict
from functools import partial
from itertools import product
from pathlib import Path
from typing import get_args

import numpy as np
from jaxtyping import Bool, Float32
from rich.console import Console
from scipy import ndimage

from data_pipeline.loading import Dataset
from rdunet_jax.config import Kernel, PostprocessingConfig, Threshold
from rdunet_jax.errors import RunError
from rdunet_jax.inference.postprocessing import threshold_of, to_ct_grid
from rdunet_jax.progress import progress_bar
from rdunet_jax.runs.chosen_postprocessing import FILE, ChosenPostprocessing
from rdunet_jax.runs.workdir import load_trained
from rdunet_jax.scoring.labels import LABELS
from rdunet_jax.scoring.slices import SliceScores, score_slices, summarise
from rdunet_jax.workflows.display import number, plural, print_table, write_csv
from rdunet_jax.workflows.seen import SeenPatients
from rdunet_jax.workflows.stored_probabilities import listed, store_probabilities

THRESHOLDS: tuple[Threshold, ...] = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, "histogram")
DILATIONS: tuple[tuple[Kernel, int], ...] = (("disk", 1), *product(("disk", "square"), (3, 5, 7, 9)))
CHOICES = tuple(
    PostprocessingConfig(threshold, diameter, kernel)
    for threshold, (kernel, diameter) in product(THRESHOLDS, DILATIONS)
)
COLUMNS = ("mean_dice_marked_slices", "mean_dice_tumour_slices", "false_positive_slices", "false_negative_slices")
_LOWEST = min(t for t in THRESHOLDS if isinstance(t, float))
_REACH = max(diameter for _, diameter in DILATIONS)


def choose(data: Dataset, workdir: Path, console: Console, allow_seen: bool = False) -> PostprocessingConfig:
    """Scores every choice from one prediction of each validation patient; returns the best and stores it in the run.

    The best has the highest mean Dice over the slices with tumour or prediction, the number that training watches; of
    equals it is the first of `CHOICES`. `histogram` picks a threshold for each patient: `histogram_threshold`.

    Args:
        allow_seen: whether validation patients may be used that the network was trained on. That it was selected on
            them is as it should be.

    Raises:
        InputError: the data set has no validation patients, one of them was trained on, or its prediction fails.
    """
    network = load_trained(workdir)
    seen = SeenPatients.of(data, workdir, "validation")
    if not allow_seen:
        seen.refuse(workdir, "trained")
    stored = store_probabilities(data, workdir, "validation", network, console)
    if stored.failures:
        raise RunError(f"{plural(len(stored.failures), 'validation patient')} failed: {listed(stored.failures)}")
    scores: dict[PostprocessingConfig, list[SliceScores]] = defaultdict(list)
    names = []
    with progress_bar(console) as progress:
        count = data.patient_count("validation")
        for example in progress.track(data.patients("validation"), count, description="scoring"):
            names.append(example.name)
            for choice, one in zip(CHOICES, score_choices(stored[example], example.ct_mask), strict=True):
                scores[choice].append(one)
    summaries = {choice: summarise(patients) for choice, patients in scores.items()}
    ranked = sorted(summaries, key=lambda choice: -(summaries[choice][COLUMNS[0]] or 0.0))
    best = ranked[0]
    path = workdir / "evaluation" / "validation" / "postprocessing.csv"
    settings = ("threshold", "kernel", "dilation_diameter")
    write_csv(
        path,
        [
            {name: getattr(choice, name) for name in settings} | {name: summary[name] for name in COLUMNS}
            for choice, summary in summaries.items()
        ],
    )
    ChosenPostprocessing(best, network.step, data.dataset_sha256, tuple(names)).save(workdir)
    rows = [
        (*(str(getattr(choice, name)) for name in settings), *(number(summaries[choice][name]) for name in COLUMNS[:2]))
        for choice in ranked[:10]
    ]
    header = ("threshold", "kernel", "diameter", *(LABELS[name] for name in COLUMNS[:2]))
    print_table(console, f"Best of {len(summaries)} on {plural(len(names), 'validation patient')}", header, rows)
    if "trained" in seen.uses.values():
        console.print("\n".join(seen.notes()), markup=False)
    console.print("The scores above are of the patients that the choice was made on: evaluate it on test patients.")
    console.print(f"all: {path}", markup=False)
    console.print(f"chosen: {as_flags(best)}", markup=False)
    console.print(f"stored: {workdir / FILE}; `--chosen-postprocessing` of evaluate and segment uses it", markup=False)
    return best


def as_flags(choice: PostprocessingConfig) -> str:
    """A choice as flags of `evaluate` and `segment`."""
    return f"--threshold {choice.threshold} --kernel {choice.kernel} --dilation-diameter {choice.dilation_diameter}"


def score_choices(
    probabilities: Float32[np.ndarray, "depth size size"], truth: Bool[np.ndarray, "depth height width"]
) -> list[SliceScores]:
    """A patient's slices scored by each of `CHOICES`.

    Args:
        truth: on the CT's own grid.
    """
    on_ct = to_ct_grid(probabilities, *truth.shape[1:])
    # A mask can only be where something is above the lowest threshold, and as far as a kernel reaches.
    box = _box(on_ct > _LOWEST, _REACH)
    truth_pixels = truth.sum(axis=(1, 2), dtype=np.int64)
    scores = []
    for threshold in THRESHOLDS:
        mask = on_ct[box] > threshold_of(threshold, probabilities)
        distances = {kernel: distance_to(mask, kernel) for kernel in get_args(Kernel)}
        for kernel, diameter in DILATIONS:
            inside = score_slices(distances[kernel] <= diameter // 2, truth[box])
            predicted, overlap = np.zeros_like(truth_pixels), np.zeros_like(truth_pixels)
            predicted[box[0]], overlap[box[0]] = inside.predicted_pixels, inside.overlap_pixels
            scores.append(SliceScores(truth_pixels, predicted, overlap))
    return scores


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
    """The smallest box around a mask, widened in plane; of an empty mask, one voxel."""
    found = ndimage.find_objects(mask.astype(np.int8))
    depth, *plane = found[0] if found else (slice(0, 1),) * 3
    return (depth, *(slice(max(side.start - margin, 0), side.stop + margin) for side in plane))
