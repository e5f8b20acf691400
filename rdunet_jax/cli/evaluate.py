"""`rdunet evaluate`."""

import csv
import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from data_pipeline.errors import InputError
from data_pipeline.files import atomic_path
from data_pipeline.loading import Dataset
from rdunet_jax.cli.display import number, print_table, progress_bar
from rdunet_jax.cli.prediction import ct_mask, in_words, inference_of, overall_progress, sliding_window
from rdunet_jax.metrics import SliceScores, score_slices, summarise
from rdunet_jax.workdir import load_trained


def evaluate_network(
    data: Dataset,
    workdir: Path,
    split: str,
    threshold: float | None,
    dilation_diameter: int | None,
    console: Console,
) -> dict[str, float | int | None]:
    """Scores the patients of a split; returns the summary."""
    network = load_trained(workdir)
    trained_on, held = (network.config.intensity, network.config.image_size), (data.intensity, data.image_size)
    if trained_on != held:
        raise InputError(
            f"{data.folder}: holds {held[0]} gray values at {held[1]} pixels, the network in {workdir} was trained on "
            f"{trained_on[0]} at {trained_on[1]}; choose another --dataset or --workdir"
        )
    inference = inference_of(network, threshold, dilation_diameter)
    window = sliding_window(network)
    scores: dict[str, SliceScores] = {}
    patients = data.patient_count(split)
    with progress_bar(console) as progress:
        bar = progress.add_task("evaluating", total=None)
        for index, example in enumerate(data.patients(split)):
            on_windows = overall_progress(
                lambda done, total: progress.update(bar, completed=done, total=total), index, patients
            )
            probabilities = window(network.variables, example.image, on_windows)
            prediction = ct_mask(probabilities, example.ct_mask.shape, inference)
            scores[example.name] = score_slices(prediction, example.ct_mask)
    summary = summarise(list(scores.values()))
    folder = workdir / "evaluation" / split
    with atomic_path(folder / "slices.csv") as path:
        _write_slices(path, scores)
    settings = {"split": split, "step": network.step, "best": network.is_best, **asdict(inference)}
    with atomic_path(folder / "summary.json") as path:
        path.write_text(json.dumps(settings | summary, indent=1) + "\n")
    _tell_scores(console, scores)
    which = "best" if network.is_best else "latest"
    console.print(f"network of step {network.step} ({which}), {in_words(inference)}")
    console.print(f"scores: {folder} (summary.json, slices.csv)", markup=False)
    return summary


def _write_slices(path: Path, scores: dict[str, SliceScores]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("patient", "slice", "dice", "truth_pixels", "predicted_pixels", "overlap_pixels"))
        for name, s in scores.items():
            rows = zip(s.dice.tolist(), s.truth_pixels, s.predicted_pixels, s.overlap_pixels, strict=True)
            writer.writerows((name, number, *row) for number, row in enumerate(rows))


def _tell_scores(console: Console, scores: dict[str, SliceScores]) -> None:
    """A row a patient, and all patients' slices together in one line."""
    header = ("patient", "slices", "tumour", "mean Dice, tumour", "median", "mean Dice, all", "FP slices", "FN slices")
    rows = []
    for name, patient_scores in scores.items():
        one = summarise([patient_scores])
        dice = (one["mean_dice_tumour_slices"], one["median_dice_tumour_slices"], one["mean_dice_all_slices"])
        wrong = (one["false_positive_slices"], one["false_negative_slices"])
        counts = (str(one["slices"]), str(one["tumour_slices"]))
        rows.append((name, *counts, *map(number, dice), *map(str, wrong)))
    print_table(console, "Slice-wise scores on the CT's own grid", header, rows)
    every = summarise(list(scores.values()))
    console.print(
        f"mean slice-wise Dice {number(every['mean_dice_tumour_slices'])} over {every['tumour_slices']} tumour slices, "
        f"{number(every['mean_dice_all_slices'])} over all {every['slices']}; "
        f"{every['false_positive_slices']} false positive slices, {every['false_negative_slices']} false negative"
    )
