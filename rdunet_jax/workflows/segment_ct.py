"""One CT of `rdunet segment`: its mask on its own grid, a report and a picture."""

import errno
import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32
from rich.console import Console
from rich.text import Text

from data_pipeline.dicom.volume import CTVolume
from data_pipeline.errors import InputError
from data_pipeline.export.lesions import measure_lesions, volume_ml
from data_pipeline.export.masks import MASK_FILES, find_obstacle, write_mask
from data_pipeline.export.nifti import write_probabilities
from data_pipeline.export.overview import write_overview
from data_pipeline.files import sha256_of
from data_pipeline.formats.scans import Scan, read_scan
from data_pipeline.formats.truth import shown_masks
from data_pipeline.preprocessing.patient import inputs_sha256, prepare_image
from data_pipeline.privacy import one_line
from data_pipeline.settings import MaskFormat
from rdunet_jax.config import PostprocessingConfig
from rdunet_jax.inference.sliding_window import SlidingWindow
from rdunet_jax.options import SegmentOptions
from rdunet_jax.page.write import Page, PagePatient
from rdunet_jax.progress import progress_bar
from rdunet_jax.runs.workdir import Ensemble, TrainedNetwork
from rdunet_jax.workflows.display import plural
from rdunet_jax.workflows.prediction import (
    ct_grid_of_volume,
    in_words,
    load_network,
    postprocessing_of,
    predict_ct,
    run_facts,
    sliding_window,
)
from rdunet_jax.workflows.segment_many import Job
from rdunet_jax.workflows.segment_patients import RunPatients
from rdunet_jax.workflows.segment_report import (
    REPORT,
    SOFTWARE,
    CTFacts,
    CTReport,
    NetworkFacts,
    is_of_another,
    lesion_table,
    reason_of,
)

PICTURE, PAGE, PROBABILITIES = "overview.png", "page.html", "probabilities.nii.gz"
OUTPUTS = {*MASK_FILES.values(), PROBABILITIES, PICTURE, PAGE}
"""Names of all files of a CT beside its report."""
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_SEEN_IN_WORDS = {
    "trained": "the network was trained on this patient: its mask does not show the quality for new patients",
    "selected": "the network or its post-processing was chosen on this patient: its mask may be better than usual",
}


@dataclass(frozen=True)
class Session:
    """What the CTs of one command share."""

    network: TrainedNetwork | Ensemble
    window: SlidingWindow
    postprocessing: PostprocessingConfig
    options: SegmentOptions
    patients: RunPatients
    console: Console

    def new_report(self, job: Job) -> CTReport:
        """The report of a CT that is not segmented yet."""
        return CTReport(
            job.patient,
            seen_by_network=job.seen,
            settings_sha256=self.settings_sha256(job),
            source=job.source,
        )

    def settings_sha256(self, job: Job) -> str:
        """SHA-256 of what the files of a CT depend on besides the CT."""
        options = self.options
        facts = {
            "software": SOFTWARE,
            "runs": run_facts(self.network),
            "settings": [asdict(one.config) for one in self.network.members],
            "postprocessing": asdict(self.postprocessing),
            "files": [sorted(set(options.format)), options.probabilities, options.html, options.keep_ids],
            "patient": [job.patient, job.seen],
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()

    def say(self, text: str) -> None:
        """Prints a line. Nothing in it is read as markup or as a control code."""
        self.console.print(Text(one_line(text)))


@dataclass(frozen=True)
class _Prediction:
    mask: Bool[np.ndarray, "depth height width"]
    probabilities: Float32[np.ndarray, "depth height width"]
    truth: Bool[np.ndarray, "depth height width"] | None
    """The mask of the CT's own contours, if it has any."""


def open_session(workdirs: tuple[Path, ...], options: SegmentOptions, console: Console) -> Session:
    network = load_network(workdirs, options)
    postprocessing = postprocessing_of(workdirs, network, options)
    patients = RunPatients.of(workdirs, network, options)
    return Session(network, sliding_window(network), postprocessing, options, patients, console)


def is_full_disk(error: InputError) -> bool:
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in _FULL_DISK


def segment_ct(series: Scan, report: CTReport, session: Session, folder: Path) -> None:
    """Reads, predicts and writes one CT, and fills its report."""
    volume = read_scan(series)
    _describe(volume, series, report, session)
    possible = _possible_files(volume, series, report, session, folder)
    prediction = _predict(volume, series, report, session)
    report.tumour_ml = round(volume_ml(prediction.mask, volume.geometry), 4)
    report.tumour_slices = int(prediction.mask.any(axis=(1, 2)).sum())
    report.lesions = measure_lesions(prediction.mask, volume.hounsfield, volume.geometry)
    if is_of_another(folder, report):  # files of two CTs, or of two networks, must not mix
        for name in OUTPUTS:
            remove_earlier(folder / name)
    failed = _write_files(prediction, volume, series, report, session, folder, possible)
    report.status = "incomplete" if failed else "segmented"
    report.write(folder)
    _say_results(report, session, folder)


def _possible_files(volume: CTVolume, series: Scan, report: CTReport, session: Session, folder: Path) -> dict[str, str]:
    """Name of the file for each format asked for that can hold this CT; the report says why others cannot."""
    possible: dict[str, str] = {}
    masks = set(session.options.format) - {"sr"}
    wanted: dict[str, tuple[MaskFormat, str]] = {name: (name, MASK_FILES[name]) for name in session.options.format}
    if session.options.probabilities:
        wanted["probabilities"] = "nifti", PROBABILITIES
    for kind, (form, name) in wanted.items():
        obstacle = find_obstacle(form, volume.geometry, series.files)
        if obstacle is None:
            possible[kind] = name
            continue
        remove_earlier(folder / name)
        report.not_written[kind] = reason_of(obstacle, session.options.keep_ids)
        session.say(f"note: {kind} will not be written: {report.not_written[kind]}")
    if masks and not possible.keys() & masks:
        report.warnings.append("no mask is written: none of the formats asked for can hold it (see --format)")
        session.say(f"note: {report.warnings[-1]}")
    return possible


def _describe(volume: CTVolume, series: Scan, report: CTReport, session: Session) -> None:
    """What is known before the network runs."""
    network = session.network
    report.ct = CTFacts(
        len(series.files),
        *volume.geometry.shape,
        spacing_mm=volume.geometry.spacing_mm,
        hounsfield_range=(int(volume.hounsfield.min()), int(volume.hounsfield.max())),
    )
    windows = network.config.inference
    report.network = NetworkFacts(
        name=network.config.model.name,
        runs=run_facts(network),
        step=network.members[0].step if len(network.members) == 1 else None,
        checkpoint="best" if all(one.is_best for one in network.members) else "latest",
        postprocessing=session.postprocessing,
        stride=windows.stride,
        window_weights=windows.window_weights,
        flip=windows.flip,
    )
    report.inputs_sha256 = inputs_sha256((*series.files, *series.mask_files))
    report.warnings += [one_line(note) for note in volume.notes]
    if report.seen_by_network != "trained" and (use := session.patients.seen_slices(volume.hounsfield)):
        report.seen_by_network = use
    if report.seen_by_network in _SEEN_IN_WORDS:
        report.warnings.append(_SEEN_IN_WORDS[report.seen_by_network])
    for warning in report.warnings:
        session.say(f"note: {warning}")


def _predict(volume: CTVolume, series: Scan, report: CTReport, session: Session) -> _Prediction:
    config = session.network.config
    with progress_bar(session.console) as progress:
        bar = progress.add_task("segmenting", total=None)
        mask, on_ct, notes = predict_ct(
            session.network,
            session.window,
            prepare_image(volume, config.intensity, config.image_size, config.spacing),
            ct_grid_of_volume(volume, config.image_size, session.postprocessing.lungs_only, config.spacing),
            session.postprocessing,
            lambda done, total: progress.update(bar, completed=done, total=total),
        )
    report.warnings += notes
    for note in notes:
        session.say(f"note: {note}")
    return _Prediction(mask, on_ct, _contoured(series, volume, report, session.options.keep_ids))


def _contoured(
    series: Scan, volume: CTVolume, report: CTReport, keep_ids: bool
) -> Bool[np.ndarray, "depth height width"] | None:
    """The mask that comes with the CT, to draw beside the prediction; None if there is none that can be used."""
    for shown in shown_masks(series, volume.geometry):
        if isinstance(shown, np.ndarray):
            return shown
        kind, error = shown
        report.warnings.append(f"{kind} are not shown: {reason_of(error, keep_ids)}")
    return None


def _write_files(
    prediction: _Prediction,
    volume: CTVolume,
    series: Scan,
    report: CTReport,
    session: Session,
    folder: Path,
    possible: Mapping[str, str],
) -> list[InputError]:
    """Writes all files that it can; returns why others could not be written.

    Args:
        possible: what `_possible_files` gives.

    Raises:
        InputError: the disk is full.
    """
    geometry, arrays = volume.geometry, (prediction.mask, volume.hounsfield)
    writers: dict[str, tuple[str, Callable[[], None]]] = {
        form: (name, lambda form=form: write_mask(form, *arrays, geometry, series.files, folder))
        for form, name in MASK_FILES.items()
        if form in possible
    }
    if "probabilities" in possible:
        path = folder / PROBABILITIES
        writers["probabilities"] = PROBABILITIES, lambda: write_probabilities(prediction.probabilities, geometry, path)
    writers["picture"] = (
        PICTURE,
        lambda: write_overview(volume.hounsfield, geometry, folder / PICTURE, prediction.mask, prediction.truth),
    )
    if session.options.html:
        writers["page"] = PAGE, lambda: _write_page(prediction, volume, report, session, folder / PAGE)
    failed = []
    for kind, (name, write) in writers.items():
        try:
            write()
            report.files_sha256[name] = sha256_of(folder / name)
            report.files[kind] = name
        except InputError as error:
            failed.append(error)
            remove_earlier(folder / name)
            report.not_written[kind] = reason_of(error, session.options.keep_ids)
            session.say(f"{kind} cannot be written: {report.not_written[kind]}")
    if full := [error for error in failed if is_full_disk(error)]:
        raise full[0]
    return failed


def remove_earlier(path: Path) -> None:
    """A file of an earlier command must not pass for the one that this command could not write."""
    with suppress(OSError):
        path.unlink()


def _write_page(prediction: _Prediction, volume: CTVolume, report: CTReport, session: Session, path: Path) -> None:
    scores: dict[str, str | int | float] = {"Tumour (ml)": f"{report.tumour_ml:.1f}", "Lesions": len(report.lesions)}
    if prediction.truth is not None:
        overlap, voxels = (prediction.mask & prediction.truth).sum(), prediction.mask.sum() + prediction.truth.sum()
        scores = {"Dice in 3-D": float(2 * overlap / voxels)} | scores  # the CT's own mask is never empty
    page = Page()
    page.add(
        PagePatient(
            name=report.patient,
            image=volume.hounsfield,
            spacing_mm=volume.geometry.spacing_mm,
            prediction=prediction.mask,
            probabilities=prediction.probabilities,
            truth=prediction.truth,
            scores=scores,
            sides=volume.geometry.sides,
        )
    )
    notes = [in_words(session.postprocessing, session.network.config.inference), *report.warnings]
    tables = {"Lesions": lesion_table(report.lesions)} if report.lesions else {}
    page.write(path, "Segmented CT", tables, [f"{note[:1].upper()}{note[1:]}." for note in notes])


def _say_results(report: CTReport, session: Session, folder: Path) -> None:
    assert report.ct is not None  # described before it was segmented
    settings = in_words(session.postprocessing, session.network.config.inference)
    session.say(
        f"tumour: {report.tumour_ml:.1f} ml on {report.tumour_slices} of {report.ct.slices} slices, "
        f"{plural(len(report.lesions), 'lesion')} ({settings})"
    )
    for kind, name in (report.files | {"report": REPORT}).items():
        session.say(f"{kind}: {folder / name}")
