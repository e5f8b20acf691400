"""`rdunet evaluate`."""

import csv
import json
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32
from rich.console import Console

from data_pipeline.files import atomic_path
from data_pipeline.loading import Dataset, PatientExample
from data_pipeline.preprocessing.network_grid import from_network_grid
from rdunet_jax.inference.postprocessing import Kernel, Threshold
from rdunet_jax.page.write import PagePatient, write_page
from rdunet_jax.progress import progress_bar
from rdunet_jax.runs.workdir import load_trained
from rdunet_jax.scoring.intervals import mean_interval
from rdunet_jax.scoring.protocols import (
    PatientScores,
    Protocol,
    ProtocolScores,
    Summary,
    score_patient,
    score_protocol,
    summarise_protocol,
)
from rdunet_jax.scoring.slices import SliceScores, score_slices, summarise
from rdunet_jax.workflows.display import number, print_table
from rdunet_jax.workflows.prediction import ct_prediction, in_words, inference_of
from rdunet_jax.workflows.stored_probabilities import store_probabilities


def evaluation_folder(workdir: Path, split: str, protocol: Protocol) -> Path:
    """Where the scores of a split by a protocol lie."""
    return workdir / "evaluation" / (split if protocol == "paper" else f"{split}-{protocol}")


def evaluate_network(
    data: Dataset,
    workdir: Path,
    split: str,
    threshold: Threshold | None,
    dilation_diameter: int | None,
    console: Console,
    html: bool = False,
    protocol: Protocol = "paper",
    kernel: Kernel | None = None,
) -> Summary:
    """Scores the patients of a split; returns the summary.

    Args:
        kernel: the protocol's if None: under `authors_code` a square, else the run's.
    """
    network = load_trained(workdir)
    if kernel is None and protocol == "authors_code":
        kernel = "square"
    inference = inference_of(network, threshold, dilation_diameter, kernel)
    stored = store_probabilities(data, workdir, split, network, console)
    scores: dict[str, ProtocolScores] = {}
    whole: dict[str, PatientScores] = {}
    summaries: list[Summary] = []

    def scored() -> Iterator[PagePatient]:
        """Predicts and scores a patient after the other; the summary of all is there when the last is done."""
        with progress_bar(console) as progress:
            for example in progress.track(data.patients(split), data.patient_count(split), description="scoring"):
                probabilities = stored[example]
                prediction, on_ct = ct_prediction(probabilities, example.ct_mask.shape, inference)
                # NaN is above no threshold, so it would pass for a scan without tumour
                held = prediction if np.isfinite(probabilities).all() else None
                pair = (held, example.ct_mask, example.spacing_mm)
                scores[example.name] = score_protocol(*pair, protocol)
                whole[example.name] = score_patient(*pair)
                if html:
                    yield _on_page(example, prediction, on_ct, score_slices(held, example.ct_mask))
        summaries.append(summarise_protocol(list(scores.values()), protocol) | _in_3d(whole))

    folder = evaluation_folder(workdir, split, protocol)
    if html:
        tables = {"All patients": summaries}
        write_page(folder / "page.html", f"Scores, {split} patients", scored(), tables, [in_words(inference)])
    else:
        deque(scored(), maxlen=0)
    (summary,) = summaries
    with atomic_path(folder / "slices.csv") as path:
        _write_slices(path, scores)
    with atomic_path(folder / "patients.csv") as path, path.open("w", newline="") as file:
        rows = [{"patient": name, **patient.row()} for name, patient in whole.items()]
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    settings = {
        "split": split,
        "protocol": protocol,
        "step": network.step,
        "best": network.is_best,
        **asdict(inference),
    }
    with atomic_path(folder / "summary.json") as path:
        path.write_text(json.dumps(settings | summary, indent=1) + "\n")
    _tell_scores(console, {name: one.slices for name, one in scores.items()})
    _tell_summary(console, summary, protocol)
    which = "best" if network.is_best else "latest"
    console.print(f"network of step {network.step} ({which}), {in_words(inference)}")
    if summary["missing_patients"]:
        console.print(f"{summary['missing_patients']} patients without a finite prediction, scored as failures")
    files = ("summary.json", "slices.csv", "patients.csv", *(["page.html"] if html else []))
    console.print(f"scores: {folder} ({', '.join(files)})", markup=False)
    return summary


def _on_page(
    example: PatientExample,
    prediction: Bool[np.ndarray, "depth height width"],
    probabilities: Float32[np.ndarray, "depth height width"],
    scores: SliceScores,
) -> PagePatient:
    """A patient as the page shows it; its image has the network's resolution, for the data set holds no other."""
    image = from_network_grid(example.image.astype(np.float32), *example.ct_mask.shape[1:])
    summary = summarise([scores])
    shown = ("tumour_slices", "mean_dice_tumour_slices", "false_positive_slices", "false_negative_slices")
    return PagePatient(
        name=example.name,
        image=np.rint(image).astype(example.image.dtype),
        spacing_mm=example.spacing_mm,
        prediction=prediction,
        probabilities=probabilities,
        truth=example.ct_mask,
        scores=_readable({name: summary[name] for name in shown}),
    )


def _readable(scores: dict[str, float | int | None]) -> dict[str, float | int | None]:
    """Scores under names to read."""
    return {name.replace("_", " "): value for name, value in scores.items()}


def _in_3d(whole: dict[str, PatientScores]) -> Summary:
    """Means over patients, each scored as a whole, and a 95% interval of the Dice."""
    rows = [patient.row() for patient in whole.values()]
    summary: Summary = {}
    for name in ("dice", "iou", "mean_surface_distance_mm", "hd95_mm", "volume_error_mm3"):
        values = [value for row in rows if (value := row[name]) is not None]
        summary[f"mean_volumetric_{name}"] = float(np.mean(values)) if values else None
    low, high = mean_interval(np.array([patient.dice for patient in whole.values()]))
    summary["mean_volumetric_dice_low"], summary["mean_volumetric_dice_high"] = (
        None if np.isnan(bound) else bound for bound in (low, high)
    )
    summary["patients_without_surface_distance"] = sum(row["hd95_mm"] is None for row in rows)
    for name in ("lesions", "lesions_missed", "lesions_false_positive"):
        summary[name] = sum(int(row[name] or 0) for row in rows)
    return summary


def _write_slices(path: Path, scores: dict[str, ProtocolScores]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("patient", "slice", "dice", "truth_pixels", "predicted_pixels", "overlap_pixels"))
        for name, patient in scores.items():
            s = patient.slices
            rows = zip(s.dice.tolist(), s.truth_pixels, s.predicted_pixels, s.overlap_pixels, strict=True)
            writer.writerows((name, number, *row) for number, row in enumerate(rows, patient.first))


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


def _tell_summary(console: Console, summary: Summary, protocol: Protocol) -> None:
    """What a protocol and the scores in 3-D say of all patients."""
    if protocol == "authors_code":
        console.print(
            f"keras protocol: mean Dice of a patient {number(summary['mean_patient_dice'])} "
            f"(median {number(summary['median_patient_dice'])}), mean surface distance "
            f"{number(summary['mean_surface_distance_mm'])} mm, HD95 {number(summary['mean_hd95_mm'])} mm over "
            f"{summary['slices_with_surface_distance']} slices"
        )
    console.print(
        f"in 3-D: mean Dice {number(summary['mean_volumetric_dice'])} "
        f"(95% {number(summary['mean_volumetric_dice_low'])} to {number(summary['mean_volumetric_dice_high'])}), "
        f"mean surface distance {number(summary['mean_volumetric_mean_surface_distance_mm'])} mm, "
        f"HD95 {number(summary['mean_volumetric_hd95_mm'])} mm; {summary['lesions_missed']} of {summary['lesions']} "
        f"lesions missed, {summary['lesions_false_positive']} false positive"
    )
