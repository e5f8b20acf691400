"""`rdunet choose-postprocessing`: threshold, kernel and diameter, chosen on validation patients alone."""

import csv
from collections import defaultdict
from itertools import product
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from rich.console import Console
from scipy import ndimage

from data_pipeline.files import atomic_path
from data_pipeline.loading import Dataset
from rdunet_jax.config import Kernel, PostprocessingConfig, Threshold
from rdunet_jax.inference.postprocessing import postprocess, threshold_of, to_ct_grid
from rdunet_jax.progress import progress_bar
from rdunet_jax.runs.workdir import load_trained
from rdunet_jax.scoring.slices import SliceScores, score_slices, summarise
from rdunet_jax.workflows.display import number, print_table
from rdunet_jax.workflows.stored_probabilities import store_probabilities

THRESHOLDS: tuple[Threshold, ...] = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, "histogram")
DILATIONS: tuple[tuple[Kernel, int], ...] = (("disk", 1), *product(("disk", "square"), (3, 5, 7, 9)))
COLUMNS = ("mean_dice_marked_slices", "mean_dice_tumour_slices", "false_positive_slices", "false_negative_slices")

Choice = tuple[Threshold, Kernel, int]


def choose(data: Dataset, workdir: Path, console: Console) -> Choice:
    """Scores every choice from one prediction of each validation patient; returns the best.

    The best has the highest mean Dice over the slices that hold tumour or prediction, the number that training watches;
    of equals it is the first of the table. `histogram` picks a threshold for each patient: `histogram_threshold`.

    Raises:
        InputError: the data set holds no validation patients.
    """
    network = load_trained(workdir)
    stored = store_probabilities(data, workdir, "validation", network, console)
    scores: dict[Choice, list[SliceScores]] = defaultdict(list)
    with progress_bar(console) as progress:
        bar = progress.add_task("scoring", total=data.patient_count("validation"))
        for example in data.patients("validation"):
            probabilities = stored[example]
            on_ct = to_ct_grid(probabilities, *example.ct_mask.shape[1:])
            # Only where something is above the lowest threshold, and as far as a kernel reaches, can there be a mask.
            box = _box(on_ct > min(t for t in THRESHOLDS if isinstance(t, float)), margin=max(d for _, d in DILATIONS))
            for threshold, (kernel, diameter) in product(THRESHOLDS, DILATIONS):
                settings = PostprocessingConfig(threshold_of(threshold, probabilities), diameter, kernel)
                prediction = np.zeros(on_ct.shape, bool)
                prediction[box] = postprocess(on_ct[box], settings)
                scores[threshold, kernel, diameter].append(score_slices(prediction, example.ct_mask))
            progress.advance(bar)
    summaries = {choice: summarise(patients) for choice, patients in scores.items()}
    best = max(summaries, key=lambda choice: summaries[choice][COLUMNS[0]] or 0.0)
    path = workdir / "evaluation" / "validation" / "postprocessing.csv"
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("threshold", "kernel", "dilation_diameter", *COLUMNS))
        writer.writerows((*choice, *(summary[name] for name in COLUMNS)) for choice, summary in summaries.items())
    ranked = sorted(summaries, key=lambda choice: -(summaries[choice][COLUMNS[0]] or 0.0))[:10]
    rows = [(*map(str, choice), *(number(summaries[choice][name]) for name in COLUMNS[:2])) for choice in ranked]
    header = ("threshold", "kernel", "diameter", "mean Dice, marked", "mean Dice, tumour")
    print_table(console, f"Best of {len(summaries)}, validation patients", header, rows)
    console.print(f"all: {path}", markup=False)
    return best


def _box(mask: Bool[np.ndarray, "depth height width"], margin: int) -> tuple[slice, ...]:
    """The smallest box around a mask, widened in plane; of an empty mask, one voxel."""
    found = ndimage.find_objects(mask.astype(np.int8))
    depth, *plane = found[0] if found else (slice(0, 1),) * 3
    return (depth, *(slice(max(side.start - margin, 0), side.stop + margin) for side in plane))
