"""TFDS builder: DICOM folders in, whole patients and 8-slice patches out. Runs without TensorFlow.

Every part of the split comes twice: `train`, `validation` and `test` hold one example a patch, `train_patients`,
`validation_patients` and `test_patients` one example a whole patient. A part without patients is left out, since TFDS
refuses empty splits.
"""

import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_pipeline.discovery import Patient, discover
from data_pipeline.errors import InputError
from data_pipeline.intensity import stored_dtype
from data_pipeline.patches import PATCH_DEPTH, patch_starts
from data_pipeline.patient import prepare_patient
from data_pipeline.privacy import load_key, pseudonym
from data_pipeline.settings import DatasetSettings
from data_pipeline.splits import split_patients

DESCRIPTION = """
CT volumes and tumour masks of lung-cancer patients, on the network's grid: NSCLC-Radiomics (Aerts et al.), or any
folder of CT series with an RTSTRUCT that has the tumour's ROI.
"""


@dataclass
class NsclcRadiomicsConfig(tfds.core.BuilderConfig):
    """A builder config named after its settings."""

    settings: DatasetSettings = field(default_factory=DatasetSettings)

    @classmethod
    def of(cls, settings: DatasetSettings) -> "NsclcRadiomicsConfig":
        size = settings.image_size
        what = f"{settings.intensity} gray values, {size} x {size} pixels, {settings.selection} patches"
        return cls(name=settings.name, description=what, settings=settings)


class Builder(tfds.core.GeneratorBasedBuilder):
    """Builds from `manual_dir`, the folder of DICOM files.

    `settings`, where given, name the config and also say how patients are split and which ROI is the tumour.
    `on_patient(done, total)` is called whenever another patient has been read.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Put the DICOM files, in any layout, into one folder and name it as manual_dir."
    BUILDER_CONFIGS = [
        NsclcRadiomicsConfig.of(DatasetSettings(intensity=intensity, image_size=size))
        for intensity in ("keras", "hu_window")
        for size in (256, 512)
    ]

    def __init__(
        self,
        *,
        settings: DatasetSettings | None = None,
        workers: int | None = None,
        keep_ids: bool = False,
        key_file: Path | None = None,
        on_patient: Callable[[int, int], None] = lambda done, total: None,
        **kwargs: Any,
    ):
        self._workers = workers or os.cpu_count() or 1
        self._keep_ids = keep_ids
        self._key_file = key_file
        self._on_patient = on_patient
        if settings is not None:  # TFDS takes another object under a name it knows for a mistake
            kwargs["config"] = self.builder_configs.get(settings.name, NsclcRadiomicsConfig.of(settings))
        super().__init__(**kwargs)
        self._settings = settings or self._config.settings

    @property
    def _config(self) -> NsclcRadiomicsConfig:
        assert isinstance(self.builder_config, NsclcRadiomicsConfig)  # every one of BUILDER_CONFIGS is
        return self.builder_config

    def _info(self) -> tfds.core.DatasetInfo:
        settings = self._config.settings
        plane = (settings.image_size, settings.image_size)
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "patient": tfds.features.Text(doc="pseudonym, or the Patient ID where identities are kept"),
                    "start": tfds.features.Scalar(np.int32, doc="the patient's slice with which this example starts"),
                    "image": tfds.features.Tensor(
                        shape=(None, *plane), dtype=stored_dtype(settings.intensity), encoding="zlib"
                    ),
                    "mask": tfds.features.Tensor(shape=(None, *plane), dtype=np.uint8, encoding="zlib"),
                    "ct_mask": tfds.features.Tensor(
                        shape=(None, None, None),
                        dtype=np.uint8,
                        encoding="zlib",
                        doc="the mask on the CT's own grid, for scoring; of no slices in patches",
                    ),
                    "spacing_mm": tfds.features.Tensor(shape=(3,), dtype=np.float32, doc="slice, row, column"),
                }
            ),
            description=DESCRIPTION,
            supervised_keys=("image", "mask"),
            homepage="https://doi.org/10.7937/K9/TCIA.2015.PF0M9REI",
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,  # patients stay in the order of their names; the loader shuffles patches
        )

    def _download_and_prepare(self, *args: Any, **kwargs: Any) -> None:
        try:
            super()._download_and_prepare(*args, **kwargs)
        finally:
            shutil.rmtree(self._staging, ignore_errors=True)

    @property
    def _staging(self) -> Path:
        """Where patients' arrays lie between reading and writing: in the folder that TFDS renames when all is done."""
        return Path(self.data_dir) / ".staging"

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterable[tuple[str, dict[str, Any]]]]:
        settings = self._settings
        source = Path(dl_manager.manual_dir)
        found = discover(source)
        self._staging.mkdir()
        patients, rejected = self._read_patients(found.patients)
        rejected += [{"patient": None, "reason": _without_path(r.reason)} for r in found.rejected]
        if not patients:
            reasons = [str(r.get("error", r["reason"])) for r in rejected]
            raise InputError(
                reasons[0]
                if len(reasons) == 1
                else f"{source}: none of {len(reasons)} patients can be used: {reasons[0]}"
            )
        for entry in rejected:
            entry.pop("error", None)
        parts = split_patients(patients, settings.seed, settings.test_share, settings.validation_share)
        metadata = self.info.metadata
        assert metadata is not None  # given in _info
        metadata.update(
            settings=vars(settings), splits=parts, patients=patients, rejected=rejected, identities_kept=self._keep_ids
        )
        generators = {}
        for part, names in parts.items():
            if any(patients[name]["patches"] for name in names):
                generators[part] = _patches(names, self._staging)
            if names:
                generators[f"{part}_patients"] = _whole_patients(names, self._staging)
        return generators

    def _log_download_bytes(self) -> None:
        """Nothing is downloaded, and `rdunet prepare` says itself where the data set lies."""

    def _log_download_done(self) -> None:
        """As above."""

    def _generate_examples(self) -> Iterator[tuple[str, dict[str, Any]]]:
        raise NotImplementedError("_split_generators hands out the generators itself")

    def _read_patients(self, patients: tuple[Patient, ...]) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
        """Reads every patient once, in processes, into the staging folder; returns (records by name, rejections)."""
        settings = self._settings
        key = b"" if self._keep_ids else load_key(*filter(None, [self._key_file]))
        names = {p.ct.series_uid: p.patient_id if self._keep_ids else pseudonym(p.patient_id, key) for p in patients}
        taken: dict[str, dict[str, Any]] = {}
        rejected: list[dict[str, Any]] = []
        jobs: list[tuple[str, Patient, Path]] = []
        for patient in patients:
            name = names[patient.ct.series_uid]
            twins = sum(names[job.ct.series_uid] == name for _, job, _ in jobs)
            if twins:  # a patient with several CTs keeps them apart
                name = f"{name}-{twins + 1}"
            jobs.append((name, patient, self._staging / f"{name}.npz"))
        stage = partial(_stage, settings)
        workers = min(self._workers, len(jobs))
        with ExitStack() as stack:
            results = map(stage, jobs)
            if workers > 1:  # spawn: a fork of a process in which JAX's threads run may hang
                context = multiprocessing.get_context("spawn")
                results = stack.enter_context(ProcessPoolExecutor(workers, mp_context=context)).map(stage, jobs)
            for done, ((name, _, _), (record, error)) in enumerate(zip(jobs, results, strict=True), start=1):
                if record is None:
                    rejected.append({"patient": name, "reason": _without_path(error), "error": error})
                else:
                    taken[name] = record
                self._on_patient(done, len(jobs))
        return dict(sorted(taken.items())), sorted(rejected, key=lambda entry: entry["patient"])


def _without_path(message: str) -> str:
    """The message without the path it starts with, whose folders are often named after the patient."""
    path, colon, reason = message.partition(": ")
    return reason if colon and os.sep in path else message


def _stage(settings: DatasetSettings, job: tuple[str, Patient, Path]) -> tuple[dict[str, Any] | None, str]:
    """One patient, perhaps in a worker process: (record, ""), or (None, why not)."""
    _, patient, path = job
    try:
        prepared = prepare_patient(patient, settings)
    except InputError as error:
        return None, str(error)
    tumour_slices = np.asarray(prepared.mask.any(axis=(1, 2)))
    starts = patch_starts(tumour_slices, settings.selection)
    np.savez(
        path,
        image=prepared.image,
        mask=prepared.mask,
        ct_mask=prepared.ct_mask,
        spacing_mm=prepared.spacing_mm,
        starts=starts,
    )
    return prepared.record | {"patches": len(starts)}, ""


def _example(
    name: str, start: int, image: np.ndarray, mask: np.ndarray, ct_mask: np.ndarray, spacing_mm: np.ndarray
) -> dict[str, Any]:
    return {
        "patient": name,
        "start": start,
        "image": image,
        "mask": mask.astype(np.uint8),
        "ct_mask": ct_mask.astype(np.uint8),
        "spacing_mm": spacing_mm.astype(np.float32),
    }


def _whole_patients(names: list[str], staging: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in names:
        with np.load(staging / f"{name}.npz") as staged:
            arrays = {key: staged[key] for key in ("image", "mask", "ct_mask", "spacing_mm")}
        yield name, _example(name, 0, **arrays)


def _patches(names: list[str], staging: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in names:
        with np.load(staging / f"{name}.npz") as staged:
            image, mask, spacing_mm, starts = (staged[key] for key in ("image", "mask", "spacing_mm", "starts"))
        for start in starts.tolist():
            slices = slice(start, start + PATCH_DEPTH)
            yield (
                f"{name}/{start:04d}",
                _example(name, start, image[slices], mask[slices], np.zeros((0, 0, 0)), spacing_mm),
            )
