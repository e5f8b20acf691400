"""`rdunet segment`."""

from pathlib import Path
from typing import Literal

import numpy as np
from rich.console import Console

from data_pipeline.contours.mask import mask_from_contours
from data_pipeline.contours.rtstruct import read_contours
from data_pipeline.dicom.discovery import CTSeries, discover
from data_pipeline.dicom.volume import CTVolume, read_volume
from data_pipeline.errors import InputError
from data_pipeline.export.dicom import write_rtstruct, write_seg
from data_pipeline.export.nifti import write_nifti
from data_pipeline.export.overview import write_overview
from data_pipeline.preprocessing.patient import prepare_image
from data_pipeline.privacy import load_key, pseudonym
from data_pipeline.settings import DEFAULT_ROI
from rdunet_jax.config import PostprocessingConfig, PostprocessingOverrides
from rdunet_jax.inference.sliding_window import SlidingWindow
from rdunet_jax.page.write import Page, PagePatient
from rdunet_jax.progress import progress_bar
from rdunet_jax.runs.workdir import TrainedNetwork, load_trained
from rdunet_jax.workflows.prediction import ct_prediction, in_words, sliding_window

Format = Literal["nifti", "seg", "rtstruct"]
FILES: dict[Format, str] = {"nifti": "mask.nii.gz", "seg": "seg.dcm", "rtstruct": "rtstruct.dcm"}
_RUNS_OWN = PostprocessingOverrides()


def segment_source(
    source: Path,
    workdir: Path,
    output: Path,
    console: Console,
    *,
    formats: tuple[Format, ...] = ("nifti",),
    overrides: PostprocessingOverrides = _RUNS_OWN,
    keep_ids: bool = False,
    key: Path | None = None,
    html: bool = False,
) -> None:
    """Segments every CT found; one that cannot be used is told and left out, unless it is the only one."""
    network = load_trained(workdir)
    postprocessing = overrides.applied_to(network.config.inference)
    window = sliding_window(network)
    patients = discover(source).series
    secret = b"" if keep_ids or len(patients) == 1 else load_key(*filter(None, [key]))
    failures: list[InputError] = []
    for number, patient in enumerate(patients, 1):
        folder = output
        if len(patients) > 1:
            name = patient.patient_id if keep_ids else pseudonym(patient.patient_id, secret)
            folder = output / f"{number:03d}-{name}"
        try:
            _segment_patient(patient, network, postprocessing, window, folder, formats, html, console)
        except InputError as error:
            failures.append(error)
            console.print(f"left out: {error}", markup=False)
    if len(failures) == len(patients):
        raise failures[0]


def _segment_patient(
    patient: CTSeries,
    network: TrainedNetwork,
    postprocessing: PostprocessingConfig,
    window: SlidingWindow,
    folder: Path,
    formats: tuple[Format, ...],
    html: bool,
    console: Console,
) -> None:
    volume = read_volume(patient)
    with progress_bar(console) as progress:
        bar = progress.add_task("segmenting", total=None)
        image = prepare_image(volume, network.config.intensity, network.config.image_size)
        probabilities = window(
            network.variables, image, lambda done, total: progress.update(bar, completed=done, total=total)
        )
    prediction, on_ct = ct_prediction(probabilities, volume.hounsfield.shape, postprocessing)
    _write(prediction, volume, patient, folder, formats)
    truth = _contoured(patient, volume)
    write_overview(volume.hounsfield, volume.geometry, folder / "overview.png", prediction, truth)
    if html:
        page = Page()
        page.add(
            PagePatient(
                name="patient",  # the page may be passed on
                image=volume.hounsfield,
                spacing_mm=volume.geometry.spacing_mm,
                prediction=prediction,
                probabilities=on_ct,
                truth=truth,
            )
        )
        page.write(folder / "page.html", "Segmented CT", {}, [in_words(postprocessing)])
    millilitres = prediction.sum() * volume.geometry.voxel_volume_mm3 / 1000
    held = int(prediction.any(axis=(1, 2)).sum())
    console.print(f"tumour: {millilitres:.1f} ml on {held} of {len(prediction)} slices ({in_words(postprocessing)})")
    for name in formats:
        console.print(f"mask:    {folder / FILES[name]}", markup=False)
    console.print(f"picture: {folder / 'overview.png'}", markup=False)
    if html:
        console.print(f"page:    {folder / 'page.html'}", markup=False)


def _write(mask: np.ndarray, volume: CTVolume, patient: CTSeries, folder: Path, formats: tuple[Format, ...]) -> None:
    """The mask in each format; what a format cannot say is told after the others are written."""
    refused: list[InputError] = []
    for name in formats:
        try:
            if name == "nifti":
                write_nifti(mask, volume.geometry, folder / FILES[name])
            else:
                write = write_seg if name == "seg" else write_rtstruct
                write(mask, volume.geometry, patient.files, folder / FILES[name])
        except InputError as error:
            refused.append(error)
    if refused:
        raise refused[0]


def _contoured(patient: CTSeries, volume: CTVolume) -> np.ndarray | None:
    """The mask of the CT's own contours, to draw beside the prediction where there are any."""
    for path in patient.rtstructs:
        try:
            mask, _ = mask_from_contours(read_contours(path, DEFAULT_ROI), volume.geometry)
        except InputError:  # no such ROI: the picture does without
            continue
        return mask
    return None
