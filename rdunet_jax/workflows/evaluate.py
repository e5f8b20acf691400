"""`rdunet evaluate`."""

import csv
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32
from rich.console import Console

from data_pipeline.loading import Dataset, PatientExample
from rdunet_jax.config import EvaluateOptions, Protocol, SplitName
from rdunet_jax.files import atomic_path, write_whole
from rdunet_jax.inference.postprocessing import to_ct_grid
from rdunet_jax.page.write import Page, PagePatient
from rdunet_jax.progress import progress_bar
from rdunet_jax.runs.workdir import load_trained
from rdunet_jax.scoring.intervals import mean_interval
from rdunet_jax.scoring.protocols import (
    PatientScores,
    ProtocolScores,
    Summary,
    score_patient,
    score_protocol,
    summarise_protocol,
)
from rdunet_jax.scoring.slices import SliceScores, score_slices, summarise
from rdunet_jax.workflows.display import number, print_table
from rdunet_jax.workflows.prediction import ct_prediction, in_words
from rdunet_jax.workflows.stored_probabilities import store_probabilities

_DEFAULTS = EvaluateOptions()


def evaluation_folder(workdir: Path, split: SplitName, protocol: Protocol) -> Path:
    """The folder of a run that holds the scores of a split by a protocol."""
    return workdir / "evaluation" / (split if protocol == "paper" else f"{split}-{protocol}")


@dataclass(frozen=True)
class ScoredPatient:
    """One patient's scores: of its slices by a protocol, and as a whole."""

    name: str
    protocol: ProtocolScores
    whole: PatientScores


def evaluate_network(data: Dataset, workdir: Path, console: Console, options: EvaluateOptions = _DEFAULTS) -> Summary:
    """Scores the patients of a split and writes the scores into the run; returns the summary.

    One patient is in memory at a time.

    Raises:
        InputError: there is no run, no patient to score, or data set and network do not match.
    """
    network = load_trained(workdir)
    if options.kernel is None and options.protocol == "authors_code":
        options = replace(options, kernel="square")
    postprocessing = options.applied_to(network.config.inference)
    stored = store_probabilities(data, workdir, options.split, network, console)
    page = Page() if options.html else None
    scored: list[ScoredPatient] = []
    with progress_bar(console) as progress:
        count = data.patient_count(options.split)
        for example in progress.track(data.patients(options.split), count, description="scoring"):
            probabilities = stored[example]
            prediction, on_ct = ct_prediction(probabilities, example.ct_mask.shape, postprocessing)
            # NaN exceeds no threshold, so it would pass for a scan without tumour
            held = prediction if np.isfinite(probabilities).all() else None
            pair = (held, example.ct_mask, example.spacing_mm)
            scored.append(ScoredPatient(example.name, score_protocol(*pair, options.protocol), score_patient(*pair)))
            if page is not None:
                page.add(_on_page(example, prediction, on_ct, score_slices(held, example.ct_mask)))
    summary = summarise_protocol([one.protocol for one in scored], options.protocol)
    summary |= _in_3d([one.whole for one in scored])
    folder = evaluation_folder(workdir, options.split, options.protocol)
    files = ["summary.json", "slices.csv", "patients.csv"]
    if page is not None:
        title = f"Scores, {options.split} patients"
        page.write(folder / "page.html", title, {"All patients": [summary]}, [in_words(postprocessing)])
        files.append("page.html")
    settings = {
        "split": options.split,
        "protocol": options.protocol,
        "step": network.step,
        "best": network.is_best,
        **asdict(postprocessing),
    }
    _write_scores(folder, settings | summary, scored)
    _print_slice_scores(console, scored)
    _print_summary(console, summary, options.protocol)
    which = "best" if network.is_best else "latest"
    console.print(f"network of step {network.step} ({which}), {in_words(postprocessing)}")
    console.print(f"scores: {folder} ({', '.join(files)})", markup=False)
    return summary


def _on_page(
    example: PatientExample,
    prediction: Bool[np.ndarray, "depth height width"],
    probabilities: Float32[np.ndarray, "depth height width"],
    scores: SliceScores,
) -> PagePatient:
    """A patient as the page shows it; its image has the network's resolution, since the data set holds no other."""
    image = to_ct_grid(example.image, *example.ct_mask.shape[1:])
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


def _in_3d(whole: list[PatientScores]) -> Summary:
    """Means over patients, each scored as a whole, and a 95% interval of the Dice."""
    rows = [patient.row() for patient in whole]
    summary: Summary = {}
    for name in ("dice", "iou", "mean_surface_distance_mm", "hd95_mm", "volume_error_mm3"):
        values = [value for row in rows if (value := row[name]) is not None]
        summary[f"mean_volumetric_{name}"] = float(np.mean(values)) if values else None
    low, high = mean_interval(np.array([patient.dice for patient in whole]))
    summary["mean_volumetric_dice_low"], summary["mean_volumetric_dice_high"] = (
        None if np.isnan(bound) else bound for bound in (low, high)
    )
    summary["patients_without_surface_distance"] = sum(row["hd95_mm"] is None for row in rows)
    for name in ("lesions", "lesions_missed", "lesions_false_positive"):
        summary[name] = sum(int(row[name] or 0) for row in rows)
    return summary


def _write_scores(folder: Path, summary: Mapping[str, object], scored: list[ScoredPatient]) -> None:
    """`slices.csv`, `patients.csv`, and last `summary.json`, each whole or not at all."""
    with atomic_path(folder / "slices.csv") as path, path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("patient", "slice", "dice", "truth_pixels", "predicted_pixels", "overlap_pixels"))
        for one in scored:
            s = one.protocol.slices
            rows = zip(s.dice.tolist(), s.truth_pixels, s.predicted_pixels, s.overlap_pixels, strict=True)
            writer.writerows((one.name, number, *row) for number, row in enumerate(rows, one.protocol.first))
    with atomic_path(folder / "patients.csv") as path, path.open("w", newline="") as file:
        rows = [{"patient": one.name, **one.whole.row()} for one in scored]
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    write_whole(folder / "summary.json", json.dumps(summary, indent=1) + "\n")


def _print_slice_scores(console: Console, scored: list[ScoredPatient]) -> None:
    """A row for each patient, and the slices of all patients together in one line."""
    header = ("patient", "slices", "tumour", "mean Dice, tumour", "median", "mean Dice, all", "FP slices", "FN slices")
    rows = []
    for patient in scored:
        one = summarise([patient.protocol.slices])
        dice = (one["mean_dice_tumour_slices"], one["median_dice_tumour_slices"], one["mean_dice_all_slices"])
        wrong = (one["false_positive_slices"], one["false_negative_slices"])
        counts = (str(one["slices"]), str(one["tumour_slices"]))
        rows.append((patient.name, *counts, *map(number, dice), *map(str, wrong)))
    print_table(console, "Slice-wise scores on the CT's own grid", header, rows)
    every = summarise([patient.protocol.slices for patient in scored])
    console.print(
        f"mean slice-wise Dice {number(every['mean_dice_tumour_slices'])} over {every['tumour_slices']} tumour slices, "
        f"{number(every['mean_dice_all_slices'])} over all {every['slices']}; "
        f"{every['false_positive_slices']} false positive slices, {every['false_negative_slices']} false negative"
    )


def _print_summary(console: Console, summary: Summary, protocol: Protocol) -> None:
    """The means of the protocol and of the scores in 3-D."""
    if protocol == "authors_code":
        console.print(
            f"authors_code protocol: mean Dice of a patient {number(summary['mean_patient_dice'])} "
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
    if summary["missing_patients"]:
        console.print(f"{summary['missing_patients']} patients without a finite prediction, scored as failures")
