"""`rdunet segment`: masks of new CTs on their own grid, with a report and a picture of each."""

import errno
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Float64
from rich.console import Console
from rich.text import Text

from data_pipeline.contours.mask import mask_from_contours
from data_pipeline.contours.rtstruct import read_contours
from data_pipeline.dicom.archive import opened_source
from data_pipeline.dicom.discovery import CTSeries, discover
from data_pipeline.dicom.volume import CTVolume, read_chest_ct
from data_pipeline.errors import InputError
from data_pipeline.export.lesions import measure_lesions, volume_ml
from data_pipeline.export.masks import MASK_FILES, find_obstacle, write_mask
from data_pipeline.export.overview import write_overview
from data_pipeline.preprocessing.patient import prepare_image
from data_pipeline.privacy import one_line
from data_pipeline.settings import DEFAULT_ROI, MaskFormat
from rdunet_jax.config import PostprocessingConfig, SegmentOptions
from rdunet_jax.inference.sliding_window import SlidingWindow
from rdunet_jax.page.write import Page, PagePatient
from rdunet_jax.progress import progress_bar
from rdunet_jax.runs.workdir import TrainedNetwork
from rdunet_jax.workflows.display import plural, write_csv
from rdunet_jax.workflows.prediction import (
    ct_prediction,
    in_words,
    load_network,
    postprocessing_of,
    sliding_window,
)
from rdunet_jax.workflows.segment_patients import RunPatients, load_key_of, names_of
from rdunet_jax.workflows.segment_report import REPORT, TABLE, CTFacts, CTReport, NetworkFacts, SourceReport, reason_of

PICTURE, PAGE = "overview.png", "page.html"
_DEFAULTS = SegmentOptions()
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_SEEN_IN_WORDS = {
    "trained": "the network was trained on this patient: its mask does not show the quality for new patients",
    "selected": "the network or its post-processing was chosen on this patient: its mask may be better than usual",
}


@dataclass(frozen=True)
class _Session:
    """What the CTs of one command share."""

    network: TrainedNetwork
    window: SlidingWindow
    postprocessing: PostprocessingConfig
    options: SegmentOptions
    source: SourceReport
    console: Console

    def say(self, text: str) -> None:
        """Prints a line. Nothing in it is read as markup or as a control code."""
        self.console.print(Text(one_line(text)))


@dataclass(frozen=True)
class _Prediction:
    mask: Bool[np.ndarray, "depth height width"]
    probabilities: Float32[np.ndarray, "depth height width"]
    truth: Bool[np.ndarray, "depth height width"] | None
    """The mask of the CT's own contours, if it has any."""


def segment_source(
    source: Path, workdir: Path, output: Path, console: Console, options: SegmentOptions = _DEFAULTS
) -> int:
    """Segments every CT in a folder, one at a time; returns how many failed or are incomplete.

    One CT is written into `output`, several into a folder each, with `report.csv` for all of them. A CT that fails is
    reported, and the others are still segmented. The volume of one CT is in host memory as a whole, with its mask and
    probabilities; memory on the device does not depend on its length.

    Args:
        source: folder with the DICOM files, or a zip file of it.
        workdir: folder of the run whose best network is used.
        output: folder for masks, pictures and reports.
        console: for the progress bar and the results.
        options: formats, post-processing, identities.

    Raises:
        InputError: there is no network or no CT, none of the CTs can be segmented, or the disk is full.
    """
    network = load_network(workdir, options)
    postprocessing = postprocessing_of(workdir, network, options)
    patients = RunPatients.of(workdir, network, options)
    with opened_source(source) as folder:
        found = discover(folder)
        about_source = SourceReport.of(found, folder, options.keep_ids)
        session = _Session(network, sliding_window(network), postprocessing, options, about_source, console)
        for line in about_source.lines():
            session.say(line)
        reports = _segment_all(found.series, patients, session, source, output)
    failed = [report.failure for report in reports if report.failure]
    if len(failed) == len(reports):
        raise InputError(f"none of its {len(failed)} CT series can be segmented: {failed[0]}", path=source)
    return sum(report.status != "segmented" for report in reports)


def _segment_all(
    every: Sequence[CTSeries], patients: RunPatients, session: _Session, source: Path, output: Path
) -> list[CTReport]:
    """Segments one CT after the other."""
    several = len(every) > 1
    key = load_key_of(session.options, required=several)
    names = names_of([one.patient_id for one in every], key, session.options.keep_ids)
    reports: dict[str, CTReport] = {}
    for number, series in enumerate(every, 1):
        report = CTReport(names[series.patient_id], source=session.source)
        report.seen_by_network = patients.seen(series.patient_id, key)
        folder = f"{number:03d}-{report.patient}" if several else ""
        reports[folder] = report
        if several:
            session.say(f"{number} of {len(every)}: {report.patient}")
        try:
            _segment(series, report, session, output / folder)
        except Exception as error:
            _take_failure(error, report, session, several)
            if not several:
                raise InputError(f"cannot be segmented: {report.failure}", path=source) from error
            report.write(output / folder)
    if several:
        write_csv(output / TABLE, [report.row(folder) for folder, report in reports.items()])
        session.say(f"table: {output / TABLE}")
    return list(reports.values())


def _take_failure(error: Exception, report: CTReport, session: _Session, several: bool) -> None:
    """Notes why a CT failed. Raises the error again where the next CT would fail too, or where it is a defect."""
    if isinstance(error, InputError):
        if _is_full_disk(error):
            raise error
        report.failure = reason_of(error, session.options.keep_ids)
    elif several:  # one CT must not stop the others; the error's own text may hold values from the file
        report.failure = f"unexpected {type(error).__name__}; segment this CT alone to see where"
    else:
        raise error
    if several:
        session.say(f"failed: {report.failure}")


def _is_full_disk(error: InputError) -> bool:
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in _FULL_DISK


def _segment(series: CTSeries, report: CTReport, session: _Session, folder: Path) -> None:
    """Reads, predicts and writes one CT, and fills its report."""
    volume = read_chest_ct(series)
    _describe(volume, series, report, session)
    formats: list[MaskFormat] = []
    for name in dict.fromkeys(session.options.format):
        obstacle = find_obstacle(name, volume.geometry, series.files)
        if obstacle is None:
            formats.append(name)
            continue
        _remove_earlier(folder / MASK_FILES[name])
        report.not_written[name] = reason_of(obstacle, session.options.keep_ids)
        session.say(f"note: {name} will not be written: {report.not_written[name]}")
    if not formats:
        report.warnings.append("no mask is written: none of the formats asked for can hold it (see --format)")
        session.say(f"note: {report.warnings[-1]}")
    prediction = _predict(volume, series, report, session)
    report.tumour_ml = round(volume_ml(prediction.mask, volume.geometry), 4)
    report.tumour_slices = int(prediction.mask.any(axis=(1, 2)).sum())
    report.lesions = measure_lesions(prediction.mask, volume.hounsfield, volume.geometry)
    failed = _write_files(prediction, volume, series, report, session, folder, formats)
    report.status = "incomplete" if failed else "segmented"
    report.write(folder)
    _say_results(report, session, folder)


def _describe(volume: CTVolume, series: CTSeries, report: CTReport, session: _Session) -> None:
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
        step=network.step,
        checkpoint="best" if network.is_best else "latest",
        postprocessing=session.postprocessing,
        stride=windows.stride,
        window_weights=windows.window_weights,
        flip=windows.flip,
    )
    report.warnings += [one_line(note) for note in volume.notes]
    if report.seen_by_network in _SEEN_IN_WORDS:
        report.warnings.append(_SEEN_IN_WORDS[report.seen_by_network])
    for warning in report.warnings:
        session.say(f"note: {warning}")


def _predict(volume: CTVolume, series: CTSeries, report: CTReport, session: _Session) -> _Prediction:
    config = session.network.config
    with progress_bar(session.console) as progress:
        bar = progress.add_task("segmenting", total=None)
        image = prepare_image(volume, config.intensity, config.image_size)
        probabilities = session.window(
            session.network.variables, image, lambda done, total: progress.update(bar, completed=done, total=total)
        )
    if not np.isfinite(probabilities).all():  # NaN exceeds no threshold, so it would pass for a CT without tumour
        raise InputError("the network's probabilities are not finite; use another run")
    mask, on_ct = ct_prediction(probabilities, volume.hounsfield.shape, session.postprocessing)
    return _Prediction(mask, on_ct, _contoured(series, volume, report, session.options.keep_ids))


def _contoured(
    series: CTSeries, volume: CTVolume, report: CTReport, keep_ids: bool
) -> Bool[np.ndarray, "depth height width"] | None:
    """The mask of the CT's own contours, to draw beside the prediction; None if there are none that can be used."""
    for path in series.rtstructs:
        try:
            mask, _ = mask_from_contours(read_contours(path, DEFAULT_ROI), volume.geometry)
        except InputError as error:
            report.warnings.append(f"contours of an RTSTRUCT are not shown: {reason_of(error, keep_ids)}")
        else:
            return mask
    return None


def _write_files(
    prediction: _Prediction,
    volume: CTVolume,
    series: CTSeries,
    report: CTReport,
    session: _Session,
    folder: Path,
    formats: list[MaskFormat],
) -> list[InputError]:
    """Writes all files that it can; returns why others could not be written.

    Raises:
        InputError: the disk is full.
    """
    writers: dict[str, tuple[str, Callable[[], None]]] = {
        name: (
            MASK_FILES[name],
            lambda name=name: write_mask(name, prediction.mask, volume.geometry, series.files, folder),
        )
        for name in formats
    }
    writers["picture"] = (
        PICTURE,
        lambda: write_overview(volume.hounsfield, volume.geometry, folder / PICTURE, prediction.mask, prediction.truth),
    )
    if session.options.html:
        writers["page"] = PAGE, lambda: _write_page(prediction, volume, report, session, folder / PAGE)
    failed = []
    for kind, (name, write) in writers.items():
        try:
            write()
            report.files[kind] = name
        except InputError as error:
            failed.append(error)
            _remove_earlier(folder / name)
            report.not_written[kind] = reason_of(error, session.options.keep_ids)
            session.say(f"{kind} cannot be written: {report.not_written[kind]}")
    if full := [error for error in failed if _is_full_disk(error)]:
        raise full[0]
    return failed


def _remove_earlier(path: Path) -> None:
    """A file of an earlier command must not pass for the one that this command could not write."""
    with suppress(OSError):
        path.unlink()


def _write_page(prediction: _Prediction, volume: CTVolume, report: CTReport, session: _Session, path: Path) -> None:
    page = Page()
    page.add(
        PagePatient(
            name="patient",  # the page may be passed on
            image=volume.hounsfield,
            spacing_mm=volume.geometry.spacing_mm,
            prediction=prediction.mask,
            probabilities=prediction.probabilities,
            truth=prediction.truth,
            sides=_sides(volume.geometry.row_cosine),
        )
    )
    notes = [in_words(session.postprocessing, session.network.config.inference), *report.warnings]
    page.write(path, "Segmented CT", {}, [f"{note[:1].upper()}{note[1:]}." for note in notes])


def _sides(row_cosine: Float64[np.ndarray, "3"]) -> tuple[str, str]:
    """Letters for the left and the right edge of a slice, of the body axis that its rows are nearest to (DICOM's LPS
    axes: x grows to the patient's left, y to the back, z to the head)."""
    axis = int(np.abs(row_cosine).argmax())
    left, right = ("RL", "AP", "FH")[axis]
    return (left, right) if row_cosine[axis] > 0 else (right, left)


def _say_results(report: CTReport, session: _Session, folder: Path) -> None:
    assert report.ct is not None  # described before it was segmented
    settings = in_words(session.postprocessing, session.network.config.inference)
    session.say(
        f"tumour: {report.tumour_ml:.1f} ml on {report.tumour_slices} of {report.ct.slices} slices, "
        f"{plural(len(report.lesions), 'lesion')} ({settings})"
    )
    for kind, name in (report.files | {"report": REPORT}).items():
        session.say(f"{kind}: {folder / name}")
