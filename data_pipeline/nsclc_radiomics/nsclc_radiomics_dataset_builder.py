"""TFDS builder: DICOM folders in, whole patients and 8-slice patches out. Runs without TensorFlow.

Every part of the split comes twice: `train`, `validation` and `test` hold one example a patch, `train_patients`,
`validation_patients` and `test_patients` one example a whole patient. A part without patients is left out, since TFDS
refuses empty splits.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from rich.progress import Progress

from data_pipeline.dicom.discovery import CTSeries, discover
from data_pipeline.errors import InputError
from data_pipeline.nsclc_radiomics.report import write_report
from data_pipeline.nsclc_radiomics.staging import (
    Example,
    Job,
    patches,
    stage_in_beam,
    stage_in_processes,
    whole_patient,
    without_path,
)
from data_pipeline.preprocessing.intensity import stored_dtype
from data_pipeline.privacy import load_key, pseudonym
from data_pipeline.settings import INTENSITIES, DatasetSettings
from data_pipeline.splits import Split, read_split, split_patients, split_sha256, vip_cup_parts, write_split

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

    Args:
        settings: where given, they name the config and also say how patients are split and which ROI is the tumour.
        workers: processes that read headers and patients (default: one a core).
        keep_ids: patients keep their Patient IDs instead of getting keyed pseudonyms.
        key_file: the pseudonyms' key (default: `privacy.DEFAULT_KEY_FILE`).
        index: file that remembers the DICOM headers for the next run.
        split_file: a frozen split; drawn and written there if there is no such file.
        beam_options: of an Apache Beam pipeline that reads and writes the patients; None for processes of this machine.
        progress: shows bars in it.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Put the DICOM files, in any layout, into one folder and name it as manual_dir."
    BUILDER_CONFIGS = [
        NsclcRadiomicsConfig.of(DatasetSettings(intensity=intensity, image_size=size))
        for intensity in INTENSITIES
        for size in (256, 512)
    ]

    def __init__(
        self,
        *,
        settings: DatasetSettings | None = None,
        workers: int | None = None,
        keep_ids: bool = False,
        key_file: Path | None = None,
        index: Path | None = None,
        split_file: Path | None = None,
        beam_options: Sequence[str] | None = None,
        progress: Progress | None = None,
        **kwargs: Any,
    ):
        self._workers = workers or os.cpu_count() or 1
        self._keep_ids = keep_ids
        self._key_file = key_file
        self._index = index
        self._split_file = split_file
        self._beam_options = beam_options
        self._progress = progress
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
            # Still in the folder that TFDS renames when all is done: a finished data set has its report.
            write_report(dict(self.info.metadata or {}), Path(self.data_dir))
        finally:
            shutil.rmtree(self._staging, ignore_errors=True)

    @property
    def _staging(self) -> Path:
        """Where patients' arrays lie between reading and writing: in the folder that TFDS renames when all is done."""
        return Path(self.data_dir) / ".staging"

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        settings = self._settings
        source = Path(dl_manager.manual_dir)
        found = discover(source, index=self._index, workers=self._workers, progress=self._progress)
        self._staging.mkdir()
        jobs = self._jobs(found.series)
        patients, rejected = self._read(jobs)
        rejected += [{"patient": None, "reason": one.reason} for one in found.rejected]
        if not patients:
            reasons = [str(r.get("error", r["reason"])) for r in rejected]
            raise InputError(
                reasons[0]
                if len(reasons) == 1
                else f"{source}: none of {len(reasons)} patients can be used: {reasons[0]}"
            )
        for entry in rejected:
            entry.pop("error", None)
        taken = [job for job in jobs if job.name in patients]
        split, left_out = self._split(jobs, taken)
        write_split(split, Path(self.data_dir) / "split.json")
        rejected += [
            {"patient": job.name, "reason": "not one of the VIP Cup's 300 patients, whose split is used"}
            for job in taken
            if job.person in left_out
        ]
        parts = {part: [job for job in taken if job.person in names] for part, names in split.items()}
        patients = {job.name: patients[job.name] for jobs_of in parts.values() for job in jobs_of}
        metadata = self.info.metadata
        assert metadata is not None  # given in _info
        metadata.update(
            settings=vars(settings),
            splits={part: [job.name for job in jobs_of] for part, jobs_of in parts.items()},
            split_sha256=split_sha256(split),
            patients=dict(sorted(patients.items())),
            rejected=rejected,
            ignored=found.ignored,
            identities_kept=self._keep_ids,
            dataset_sha256=_dataset_sha256(parts, patients),
        )
        generators = {}
        for part, jobs_of in parts.items():
            if any(patients[job.name]["patches"] for job in jobs_of):
                generators[part] = self._examples(patches, jobs_of)
            if jobs_of:
                generators[f"{part}_patients"] = self._examples(whole_patient, jobs_of)
        return generators

    def _log_download_bytes(self) -> None:
        """Nothing is downloaded, and `rdunet prepare` says itself where the data set lies."""

    def _log_download_done(self) -> None:
        """As above."""

    def _generate_examples(self) -> Iterator[Example]:
        raise NotImplementedError("_split_generators hands out the generators itself")

    def _jobs(self, series: Sequence[CTSeries]) -> list[Job]:
        """A job a CT, in the order of names; a person with several CTs keeps them apart."""
        key = b"" if self._keep_ids else load_key(self._key_file)
        persons = [one.patient_id if self._keep_ids else pseudonym(one.patient_id, key) for one in series]
        named = []
        for place, (person, ct) in enumerate(zip(persons, series, strict=True)):
            twins = persons[:place].count(person)
            named.append((f"{person}.ct{twins + 1}" if twins else person, person, ct))
        if len({name for name, *_ in named}) < len(named):
            raise InputError("a Patient ID ends like our names of a person's further CTs (.ct2); leave --keep-ids out")
        named.sort(key=lambda one: one[0])
        return [Job(number, *one) for number, one in enumerate(named)]

    def _read(self, jobs: Sequence[Job]) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
        """Reads every CT once into the staging folder; returns (records by name, rejections)."""
        if self._beam_options is not None:
            results = stage_in_beam(jobs, self._settings, self._staging, self._beam_options)
        else:
            results = stage_in_processes(jobs, self._settings, self._staging, self._workers, self._progress)
        told = list(zip(jobs, results, strict=True))
        rejected = [
            {"patient": job.name, "reason": without_path(error), "error": error}
            for job, (record, error) in told
            if record is None
        ]
        return {job.name: record for job, (record, _) in told if record is not None}, rejected

    def _split(self, jobs: Sequence[Job], taken: Sequence[Job]) -> tuple[Split, set[str]]:
        """The split by person, and who stays out of it: all beyond the VIP Cup's 300 where those are all there."""
        settings, persons = self._settings, {job.person for job in taken}
        if self._split_file is not None and self._split_file.exists():
            return read_split(self._split_file, persons), set()
        cup = vip_cup_parts({job.series.patient_id: job.person for job in jobs})
        trains, tests = cup or (persons, None)
        inside = persons & (trains | (tests or set()))
        split = split_patients(inside, settings.seed, settings.test_share, settings.validation_share, tests)
        if self._split_file is not None:
            write_split(split, self._split_file)
        return split, persons - inside

    def _examples(self, make: Callable[[Job, Path], Iterator[Example]], jobs: Sequence[Job]) -> Any:
        """What TFDS takes for a split: an iterator, or a Beam transform."""
        if self._beam_options is None:
            return chain.from_iterable(make(job, self._staging) for job in jobs)
        import apache_beam as beam  # pyright: ignore[reportMissingImports]

        return beam.Create(list(jobs)) | beam.Reshuffle() | beam.FlatMap(make, self._staging)


def _dataset_sha256(parts: dict[str, list[Job]], patients: dict[str, dict[str, Any]]) -> str:
    """One hash of all examples and of how they are split."""
    lines = [f"{part} {job.name} {patients[job.name]['examples_sha256']}\n" for part in parts for job in parts[part]]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
