"""`rdunet evaluate`: score the patients of a split, one at a time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32
from rich.console import Console

from data_pipeline.loading import Dataset, PatientExample
from data_pipeline.own_data import PatientData, as_dataset
from data_pipeline.privacy import one_line
from data_pipeline.settings import SplitName, plane_shape
from rdunet_jax.checked_json import write_checked
from rdunet_jax.config import PostprocessingConfig, Protocol
from rdunet_jax.errors import RunError
from rdunet_jax.files import atomic_files, sha256_of
from rdunet_jax.inference.postprocessing import postprocess_on_ct
from rdunet_jax.options import EvaluateOptions
from rdunet_jax.page.write import Page, PagePatient
from rdunet_jax.progress import progress_bar
from rdunet_jax.runs.workdir import Ensemble, TrainedNetwork
from rdunet_jax.scoring.labels import labelled
from rdunet_jax.scoring.patients import PatientScores, Summary, score_patient, summarise_patients
from rdunet_jax.scoring.protocols import ProtocolScores, score_protocol, summarise_protocol
from rdunet_jax.scoring.slices import SliceScores, summarise
from rdunet_jax.workflows.display import number, plural, print_table, write_csv
from rdunet_jax.workflows.model import Model
from rdunet_jax.workflows.prediction import (
    as_runs,
    ct_grid_of,
    in_words,
    load_network,
    postprocessing_of,
    require_hounsfield,
    run_facts,
    runs_in_words,
)
from rdunet_jax.workflows.seen import SeenPatients
from rdunet_jax.workflows.stored_probabilities import (
    StoredProbabilities,
    listed,
    readable_patients,
    reason,
    scores_folder,
    store_probabilities,
)

_DEFAULTS = EvaluateOptions()
_ON_THE_PAGE: dict[Protocol, tuple[str, ...]] = {
    "paper": (),
    "authors_code": ("The tables leave out the first and last 20% of a patient's slices; the strip shows all.",),
}


def evaluation_folder(workdir: Path, split: SplitName, protocol: Protocol) -> Path:
    """The folder of a run that holds the scores of a split by a protocol."""
    return workdir / "evaluation" / (split if protocol == "paper" else f"{split}-{protocol}")


@dataclass(frozen=True)
class ScoredPatient:
    """One patient's scores: of its slices by a protocol, and as a whole."""

    name: str
    protocol: ProtocolScores
    whole: PatientScores
    notes: tuple[str, ...] = ()
    """What post-processing removed."""


def evaluate_network(
    data: Dataset | PatientData,
    workdir: Path | Model | Sequence[Path],
    console: Console | None = None,
    options: EvaluateOptions = _DEFAULTS,
    output: Path | None = None,
    folder: Path | None = None,
) -> Summary:
    """Scores the patients of a split and writes the scores into the run; returns the summary.

    One patient is in host memory at a time, as a whole; memory on the device does not depend on the number of slices.

    Args:
        data: a prepared data set, or data of one's own.
        workdir: folder of the run, or what `load` made of it; or the folders of several runs, the mean of whose
            probabilities is scored.
        console: for progress and results (default: none are shown).
        output: folder for probabilities and scores, in place of the run's; needed for several.
        folder: for the scores alone (default: `evaluation_folder` of the output).

    Raises:
        InputError: there is no run, no patient to score, or data set and network do not match; the network has seen
            the patients before (see `EvaluateOptions.allow_seen`); or, after the scores of the others were written,
            a patient failed.
    """
    data, console = as_dataset(data), console or Console(quiet=True)
    workdirs = as_runs(workdir.path if isinstance(workdir, Model) else workdir)
    output = scores_folder(workdirs, output)
    network = load_network(workdirs, options)
    if options.kernel is None and options.protocol == "authors_code" and not options.chosen_postprocessing:
        options = replace(options, kernel="square")
    postprocessing = postprocessing_of(workdirs, network, options)
    require_hounsfield(data, postprocessing)
    seen = _seen_patients(data, workdirs, network, options)
    stored = store_probabilities(data, output, options.split, network, console)
    page = Page(max(plane_shape(data.image_size))) if options.html else None
    scored, failures = _score_all(data, stored, postprocessing, options, page, console)
    summary = summarise_protocol([one.protocol for one in scored], options.protocol)
    summary |= summarise_patients([one.whole for one in scored])
    doubts, notes = seen.notes(), _notes(network, postprocessing, scored, failures)
    folder = folder or evaluation_folder(output, options.split, options.protocol)
    settings = {
        **_settings(data, network, postprocessing, options),
        **seen.fields(),
        "failed_patients": sorted(failures),
        "postprocessing_notes": {one.name: list(one.notes) for one in scored if one.notes},
    }
    with atomic_files(folder) as unfinished:
        files = _write_scores(unfinished, settings | summary, scored, seen)
        if page is not None:
            title, tables = f"Scores, {options.split} patients", {"All patients": list(_as_rows(summary))}
            page.write(unfinished / "page.html", title, tables, [*doubts, *notes, *_ON_THE_PAGE[options.protocol]])
            files.append("page.html")
    _print_scores(console, scored, summary, options.protocol)
    for line in [*(f"warning: {doubt}" for doubt in doubts), *notes]:
        console.print(line, markup=False)
    console.print(f"scores: {folder} ({', '.join(files)})", markup=False)
    if failures:
        raise RunError(f"{folder}: {plural(len(failures), 'patient')} not in the scores: {listed(failures)}")
    return summary


def _seen_patients(
    data: Dataset, workdirs: Sequence[Path], network: TrainedNetwork | Ensemble, options: EvaluateOptions
) -> SeenPatients:
    """Which of the split's patients the runs have seen.

    Raises:
        InputError: they have seen some, and the options do not allow it.
    """
    chosen_with = [one.weights_sha256 for one in network.members] if options.chosen_postprocessing else []
    seen = SeenPatients.of(data, workdirs, options.split, chosen_with)
    if not options.allow_seen:
        seen.refuse(workdirs, "trained", "selected")
    return seen


def _settings(
    data: Dataset, network: TrainedNetwork | Ensemble, postprocessing: PostprocessingConfig, options: EvaluateOptions
) -> dict[str, object]:
    """For `summary.json`: what was scored, and how."""
    return {
        "split": options.split,
        "protocol": options.protocol,
        "step": network.members[0].step if len(network.members) == 1 else None,
        "best": all(one.is_best for one in network.members),
        "weights_sha256": network.members[0].weights_sha256 if len(network.members) == 1 else None,
        "runs": run_facts(network) if len(network.members) > 1 else [],
        **asdict(network.config.inference),
        **asdict(postprocessing),
        "chosen_postprocessing": options.chosen_postprocessing,
        "dataset_sha256": data.dataset_sha256,
        "split_sha256": data.split_sha256,
        "fold": data.fold,
        "folds": data.folds_sha256,
    }


def _notes(
    network: TrainedNetwork | Ensemble,
    postprocessing: PostprocessingConfig,
    scored: Sequence[ScoredPatient],
    failures: Mapping[str, str],
) -> list[str]:
    """What a reader must know beside the scores, for the terminal and the page."""
    notes = [f"{runs_in_words(network)}, {in_words(postprocessing, network.config.inference)}."]
    notes += [f"{one_line(one.name)}: {note}." for one in scored for note in one.notes]
    if failures:
        notes.append(f"NOT IN THE SCORES: {plural(len(failures), 'patient')} that failed, {listed(failures)}.")
    return notes


def _score_all(
    data: Dataset,
    stored: StoredProbabilities,
    postprocessing: PostprocessingConfig,
    options: EvaluateOptions,
    page: Page | None,
    console: Console,
) -> tuple[list[ScoredPatient], dict[str, str]]:
    """Scores the patients one at a time; returns also those that failed, and why.

    Raises:
        RunError: all failed.
    """
    scored, failures = [], dict(stored.failures)
    names = [name for name in data.patient_names(options.split) if name not in failures]

    def report(name: str, error: Exception) -> None:
        failures[name] = reason(error)
        console.print(f"{one_line(name)}: left out, {reason(error)}", markup=False)

    with progress_bar(console) as progress:
        patients = readable_patients(data, options.split, names, report)
        for example in progress.track(patients, len(names), description="scoring"):
            try:
                scored.append(_score(example, stored[example], postprocessing, options.protocol, page))
            except Exception as error:  # one patient must not cost the scores of the others
                report(example.name, error)
    if not scored:
        raise RunError(f"{data.folder}: no patient of the split '{options.split}' was scored: {listed(failures)}")
    return scored, failures


def _score(
    example: PatientExample,
    probabilities: Float32[np.ndarray, "slices rows columns"],
    postprocessing: PostprocessingConfig,
    protocol: Protocol,
    page: Page | None,
) -> ScoredPatient:
    """Scores one patient, and puts it on the page if there is one."""
    prediction, on_ct, notes = postprocess_on_ct(probabilities, ct_grid_of(example), postprocessing)
    # NaN exceeds no threshold, so it would pass for a scan without tumour
    held = prediction if np.isfinite(probabilities).all() else None
    pair = (held, example.ct_mask, example.spacing_mm)
    scored = ScoredPatient(example.name, score_protocol(*pair, protocol), score_patient(*pair), notes)
    if page is not None:
        page.add(_on_page(example, prediction, on_ct, scored.protocol.slices))
    return scored


def _on_page(
    example: PatientExample,
    prediction: Bool[np.ndarray, "depth height width"],
    probabilities: Float32[np.ndarray, "depth height width"],
    scores: SliceScores,
) -> PagePatient:
    """A patient as the page shows it; its image has the network's resolution, since the data set holds no other."""
    image = ct_grid_of(example).values(example.image)
    summary = summarise([scores])
    shown = ("mean_dice_tumour_slices", "tumour_slices", "false_positive_slices", "false_negative_slices")
    return PagePatient(
        name=example.name,
        image=np.rint(image).astype(example.image.dtype),
        spacing_mm=example.spacing_mm,
        prediction=prediction,
        probabilities=probabilities,
        truth=example.ct_mask,
        scores=labelled({name: summary[name] for name in shown}),
        sides=example.sides,
    )


def _as_rows(summary: Summary) -> Iterator[dict[str, float | int | str | None]]:
    """A row for each score, under its label."""
    for label, value in labelled(summary).items():
        yield {"Score": label, "Value": value}


def _write_scores(
    folder: Path, summary: Mapping[str, object], scored: list[ScoredPatient], seen: SeenPatients
) -> list[str]:
    """`slices.csv`, `patients.csv`, and `summary.json` with the SHA-256 of both; returns their names."""
    slices = []
    for one in scored:
        s = one.protocol.slices
        rows = zip(s.dice.tolist(), s.truth_pixels, s.predicted_pixels, s.overlap_pixels, strict=True)
        names = ("dice", "truth_pixels", "predicted_pixels", "overlap_pixels")
        for index, row in enumerate(rows, one.protocol.first):
            slices.append({"patient": one.name, "slice": index, **dict(zip(names, row, strict=True))})
    write_csv(folder / "slices.csv", slices)
    patients = [{"patient": one.name, **one.whole.row(), "seen": seen.uses.get(one.name, "")} for one in scored]
    write_csv(folder / "patients.csv", patients)
    write_summary(folder, summary)
    return ["summary.json", "slices.csv", "patients.csv"]


def write_summary(folder: Path, summary: Mapping[str, object]) -> None:
    """`summary.json`, with the checksums of the two tables beside it."""
    checksums = {name: sha256_of(folder / name) for name in ("slices.csv", "patients.csv")}
    write_checked(folder / "summary.json", {**summary, "files": checksums})


def _print_scores(console: Console, scored: list[ScoredPatient], summary: Summary, protocol: Protocol) -> None:
    """A row for each patient, then the means over all: of slices, by the protocol, and in 3-D."""
    header = ("patient", "slices", "tumour", "mean Dice, tumour", "median", "mean Dice, all", "FP slices", "FN slices")
    rows = []
    for patient in scored:
        one = summarise([patient.protocol.slices])
        dice = (one["mean_dice_tumour_slices"], one["median_dice_tumour_slices"], one["mean_dice_all_slices"])
        wrong = (one["false_positive_slices"], one["false_negative_slices"])
        counts = (str(one["slices"]), str(one["tumour_slices"]))
        rows.append((patient.name, *counts, *map(number, dice), *map(str, wrong)))
    print_table(console, "Slice-wise scores on the CT's own grid", header, rows)
    print_means(console, [patient.protocol.slices for patient in scored], summary, protocol)


def print_means(console: Console, slices: list[SliceScores], summary: Summary, protocol: Protocol) -> None:
    """Means over all patients: of slices, by the protocol, and in 3-D.

    Args:
        slices: of each patient.
    """
    every = summarise(slices)
    console.print(
        f"mean slice-wise Dice {number(every['mean_dice_tumour_slices'])} over {every['tumour_slices']} tumour slices, "
        f"{number(every['mean_dice_all_slices'])} over all {every['slices']}; "
        f"{every['false_positive_slices']} false positive slices, {every['false_negative_slices']} false negative"
    )
    if protocol == "authors_code":
        console.print(
            f"authors_code protocol: mean Dice of a patient {number(summary['mean_patient_dice'])} "
            f"(median {number(summary['median_patient_dice'])}), mean surface distance "
            f"{number(summary['mean_surface_distance_mm'])} mm, HD95 {number(summary['mean_hd95_mm'])} mm over "
            f"{summary['slices_with_surface_distance']} slices; "
            f"{summary['patients_without_dice']} patients without tumour in these slices left out"
        )
    low, high = (summary[f"mean_volumetric_dice_{end}"] for end in ("low", "high"))
    interval = "n = 1" if len(slices) == 1 else f"95% {number(low)} to {number(high)}, n = {len(slices)}"
    console.print(
        f"in 3-D: mean Dice {number(summary['mean_volumetric_dice'])} ({interval}), "
        f"mean surface distance {number(summary['mean_volumetric_mean_surface_distance_mm'])} mm, "
        f"HD95 {number(summary['mean_volumetric_hd95_mm'])} mm "
        f"({summary['patients_without_surface_distance']} patients without one left out); "
        f"{summary['lesions_missed']} of {summary['lesions']} lesions missed, "
        f"{summary['lesions_false_positive']} false positive"
    )
    if summary["missing_patients"]:
        console.print(f"{summary['missing_patients']} patients without a finite prediction, scored as failures")
