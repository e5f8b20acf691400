"""TFDS builder: CTs of any format in, 8-slice patches or single slices out. Runs without TensorFlow.

Every part of the split comes twice:

| examples        | `train`, `validation`, `test` | `train_patients`, `validation_patients`, `test_patients`      |
|-----------------|-------------------------------|----------------------------------------------------------------|
| 8-slice patches | one example a patch           | one example a whole patient                                    |
| single slices   | one example a slice           | one example a patient: its mask on the CT's grid, no slices    |

Patches are for users of TFDS. `rdunet prepare` stores single slices, each once; `data_pipeline.loading` cuts patches of
any depth from them. A part without patients is left out, since TFDS refuses empty splits.
"""

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from rich.progress import Progress

from data_pipeline.account import Account, FoldEntry, PatientEntry, Rejected
from data_pipeline.dicom.discovery import Rejection
from data_pipeline.errors import InputError
from data_pipeline.formats.scans import Scan, Scans, find_scans
from data_pipeline.nsclc_radiomics.copies import (
    check_copies,
    copies_of_persons,
    folds_with_copies,
    note_copies,
    split_with_copies,
)
from data_pipeline.nsclc_radiomics.report import rejections, write_report
from data_pipeline.nsclc_radiomics.staging import (
    Example,
    Fault,
    Job,
    ct_mask,
    patches,
    slices,
    stage_in_beam,
    stage_in_processes,
    whole_patient,
)
from data_pipeline.preprocessing.fingerprints import Fingerprint
from data_pipeline.preprocessing.intensity import stored_dtype
from data_pipeline.preprocessing.patches import patch_starts
from data_pipeline.privacy import load_key, one_line, pseudonym, safe_names
from data_pipeline.settings import INTENSITIES, DatasetSettings, PatchSelection, PrepareOptions, plane_shape
from data_pipeline.splits import Split, read_folds, read_split, split_sha256, vip_cup_parts, write_split

DESCRIPTION = """
CT volumes and tumour masks of lung-cancer patients, on the network's grid: NSCLC-Radiomics (Aerts et al.), or any
folder of CTs with masks of the tumour.
"""


@dataclass
class NsclcRadiomicsConfig(tfds.core.BuilderConfig):
    """A builder config named after its settings.

    Attributes:
        settings: what the data set is made of.
        selection: which 8-slice patches are the examples; None for single slices.
    """

    settings: DatasetSettings = field(default_factory=DatasetSettings)
    selection: PatchSelection | None = "tumour_run"

    @classmethod
    def of(cls, settings: DatasetSettings, selection: PatchSelection | None) -> "NsclcRadiomicsConfig":
        """Named such as `slice_minmax_256_patches` or `slice_minmax_256_patches_all`; of slices, `slice_minmax_256`."""
        (rows, columns), name, examples = plane_shape(settings.image_size), settings.name, "slices"
        if selection is not None:
            name += "_patches" if selection == "tumour_run" else f"_patches_{selection}"
            examples = f"{selection} patches"
        what = f"{settings.intensity} grey values, {rows} x {columns} pixels, {examples}"
        return cls(name=name, description=what, settings=settings, selection=selection)


class Builder(tfds.core.GeneratorBasedBuilder):
    """Builds from a folder of DICOM or volume files.

    Args:
        source: the folder (default: TFDS' `manual_dir`).
        settings: where given, they name the config and also say how patients are split and which ROI is the tumour.
        selection: which patches are the examples, or None for single slices; with `settings`.
        options: workers, identities, frozen split, Beam.
        index: file that remembers the DICOM headers for the next run.
        progress: shows bars in it.

    Attributes:
        account: what the data set says about itself; None until its patients are read.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Put the DICOM files, in any layout, into one folder and name it as manual_dir."
    BUILDER_CONFIGS = [
        NsclcRadiomicsConfig.of(DatasetSettings(intensity=intensity, image_size=size), selection)
        for selection in ("tumour_run", None)
        for intensity in INTENSITIES
        for size in (256, 512)
    ]

    def __init__(
        self,
        *,
        source: Path | None = None,
        settings: DatasetSettings | None = None,
        selection: PatchSelection | None = "tumour_run",
        options: PrepareOptions | None = None,
        index: Path | None = None,
        progress: Progress | None = None,
        **kwargs: Any,
    ):
        self._source = source
        self._options = options or PrepareOptions()
        self._index = index
        self._progress = progress
        self.account: Account | None = None
        if settings is not None:  # TFDS refuses another object under one of its names
            config = NsclcRadiomicsConfig.of(settings, selection)
            kwargs["config"] = self.builder_configs.get(config.name, config)
        super().__init__(**kwargs)
        self._settings = settings or self._config.settings

    @property
    def _workers(self) -> int:
        return self._options.workers or os.cpu_count() or 1

    @property
    def _config(self) -> NsclcRadiomicsConfig:
        assert isinstance(self.builder_config, NsclcRadiomicsConfig)  # every one of BUILDER_CONFIGS is
        return self.builder_config

    def _info(self) -> tfds.core.DatasetInfo:
        settings = self._config.settings
        plane = plane_shape(settings.image_size)
        info = self.dataset_info_from_configs(
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
                        doc="the mask on the CT's own grid, for scoring; of no slices in patches and slices",
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
        # It would ask Google's bucket for statistics of this data set, and leave an empty folder in TMPDIR.
        info.initialize_from_bucket = lambda: None
        return info

    def _download_and_prepare(self, *args: Any, **kwargs: Any) -> None:
        try:
            super()._download_and_prepare(*args, **kwargs)
            # Still in the folder that TFDS renames when all is done: a finished data set has its report.
            assert self.account is not None  # set by _split_generators
            write_report(self.account, Path(self.data_dir))
        finally:
            shutil.rmtree(self._staging, ignore_errors=True)

    @property
    def _staging(self) -> Path:
        """For patients' arrays between reading and writing: in the folder that TFDS renames when all is done."""
        return Path(self.data_dir) / ".staging"

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        source = self._source or Path(dl_manager.manual_dir)
        found = self._discover(source)
        self._staging.mkdir()
        jobs = self._jobs(found.series)
        entries, fingerprints, rejected = self._read(jobs, source)
        rejected += [self._rejected_file(one, source) for one in found.rejected]
        taken = [job for job in jobs if job.name in entries]
        if not taken:
            raise InputError(self._none_usable(source, len(jobs), rejected))
        copies = copies_of_persons(taken, fingerprints)
        entries = note_copies(entries, taken, fingerprints, copies)
        split, folds = self._split(jobs, taken, copies)
        write_split(split, Path(self.data_dir) / "split.json", folds)
        left_out = {job.person for job in taken} - {name for names in split.values() for name in names}
        reason = "not one of the VIP Cup's 300 patients, whose split is used, or a copy of one of its test patients"
        rejected += [Rejected(job.name, reason) for job in taken if job.person in left_out]
        parts = {part: [job for job in taken if job.person in names] for part, names in split.items()}
        kept = {job.name: entries[job.name] for jobs_of in parts.values() for job in jobs_of}
        self.account = Account(
            settings=self._settings,
            splits={part: [job.name for job in jobs_of] for part, jobs_of in parts.items()},
            split_sha256=split_sha256(split),
            patients=dict(sorted(kept.items())),
            rejected=rejected,
            ignored=found.ignored,
            identities_kept=self._options.keep_ids,
            dataset_sha256=_dataset_sha256(parts, kept),
            selection=self._config.selection,
            copies=copies,
            folds=[
                FoldEntry(
                    {part: [job.name for job in taken if job.person in names] for part, names in fold.items()},
                    split_sha256(fold),
                )
                for fold in folds
            ],
        )
        metadata = self.info.metadata
        assert metadata is not None  # given in _info
        metadata.update(self.account.to_json())
        return self._generators(parts, kept)

    def _generators(self, parts: dict[str, list[Job]], entries: dict[str, PatientEntry]) -> dict[str, Any]:
        """What TFDS takes for each split that has examples."""
        selection, generators = self._config.selection, {}
        for part, jobs in parts.items():
            if jobs and selection is None:
                generators[part] = self._examples(slices, jobs)
                generators[f"{part}_patients"] = self._examples(ct_mask, jobs)
            elif jobs and selection is not None:
                if any(len(patch_starts(entries[job.name].holds_tumour, selection)) for job in jobs):
                    generators[part] = self._examples(partial(patches, selection=selection), jobs)
                generators[f"{part}_patients"] = self._examples(whole_patient, jobs)
        return generators

    def _discover(self, source: Path) -> Scans:
        try:
            return find_scans(source, index=self._index, workers=self._workers, progress=self._progress)
        except InputError as error:
            if self._options.keep_ids:
                raise
            raise InputError(error.reason, path=source) from error

    def _log_download_bytes(self) -> None:
        """Nothing is downloaded, and `rdunet prepare` prints the folder."""

    def _log_download_done(self) -> None:
        """As above."""

    def _generate_examples(self) -> Iterator[Example]:
        raise NotImplementedError("_split_generators hands out the generators itself")

    def _jobs(self, series: Sequence[Scan]) -> list[Job]:
        """A job for each CT, in the order of names; a person with several CTs keeps them apart."""
        if self._options.keep_ids:
            names = safe_names(one.patient_id for one in series)  # they name files later
        else:
            key = load_key(self._options.key)
            names = {one.patient_id: pseudonym(one.patient_id, key) for one in series}
        seen: Counter[str] = Counter()
        named = []
        for one in series:
            person = names[one.patient_id]
            seen[person] += 1
            named.append((person if seen[person] == 1 else f"{person}.ct{seen[person]}", person, one))
        if len({name for name, *_ in named}) < len(named):
            raise InputError("a Patient ID ends like our names of a person's further CTs (.ct2); omit --keep-ids")
        named.sort(key=lambda one: one[0])
        return [Job(number, *one) for number, one in enumerate(named)]

    def _read(
        self, jobs: Sequence[Job], source: Path
    ) -> tuple[dict[str, PatientEntry], dict[str, Fingerprint], list[Rejected]]:
        """Reads every CT once into the staging folder; returns entries and fingerprints by name, and rejections."""
        if self._options.beam is not None:
            results = stage_in_beam(jobs, self._settings, self._staging, self._options.beam)
        else:
            results = stage_in_processes(jobs, self._settings, self._staging, self._workers, self._progress)
        entries, fingerprints, rejected = {}, {}, []
        for job, result in zip(jobs, results, strict=True):
            if result.entry is not None:
                entries[job.name] = result.entry
            if result.fingerprint is not None:
                fingerprints[job.name] = result.fingerprint
            if result.fault is not None:
                rejected.append(self._rejected(job.name, result.fault, source))
        return entries, fingerprints, rejected

    def _rejected_file(self, rejection: Rejection, source: Path) -> Rejected:
        return self._rejected(None, Fault(rejection.reason, str(rejection.what)), source)

    def _rejected(self, name: str | None, fault: Fault, source: Path) -> Rejected:
        """Without names of files and text from them, unless identities are kept."""
        if not self._options.keep_ids:
            return Rejected(name, fault.reason)
        file = None if fault.path is None else one_line(os.path.relpath(fault.path, source))
        return Rejected(name, fault.reason, file, one_line(fault.quoted))

    def _none_usable(self, source: Path, count: int, rejected: Sequence[Rejected]) -> str:
        lines = rejections(rejected)
        shown = "; ".join(text for text, *_ in lines[:3])
        more = f" (and {len(lines) - 3} other reasons)" if len(lines) > 3 else ""
        hint = "" if self._options.keep_ids else "; --keep-ids shows names of files and ROIs"
        return f"{source}: none of its {count} CT series can be used: {shown}{more}{hint}"

    def _split(
        self, jobs: Sequence[Job], taken: Sequence[Job], copies: Sequence[Sequence[str]]
    ) -> tuple[Split, list[Split]]:
        """The split by person, and the folds of the same persons if any are asked for.

        Where the VIP Cup's 300 patients are all there, the others are in neither. Copies of one person under several
        IDs are drawn as one.
        """
        settings, persons = self._settings, {job.person for job in taken}
        frozen = self._options.split_file
        if frozen is not None and frozen.exists():
            split = read_split(frozen, persons)
            folds = [] if settings.folds is None else read_folds(frozen, persons, settings.folds)
            for one in (split, *folds):
                check_copies(one, copies, frozen)
            return split, folds
        cup = vip_cup_parts({job.series.patient_id: job.person for job in jobs})
        trains, tests = cup or (persons, None)
        split = split_with_copies(persons & (trains | (tests or set())), tests, copies, settings)
        folds = folds_with_copies({name for names in split.values() for name in names}, copies, settings)
        if frozen is not None:
            write_split(split, frozen, folds)
        return split, folds

    def _examples(self, make: Callable[[Job, Path], Iterator[Example]], jobs: Sequence[Job]) -> Any:
        """What TFDS takes for a split: an iterator, or a Beam transform."""
        if self._options.beam is None:
            return chain.from_iterable(make(job, self._staging) for job in jobs)
        import apache_beam as beam  # pyright: ignore[reportMissingImports]

        return beam.Create(list(jobs)) | beam.Reshuffle() | beam.FlatMap(make, self._staging)


def _dataset_sha256(parts: dict[str, list[Job]], entries: dict[str, PatientEntry]) -> str:
    """One hash of all examples and of how they are split."""
    lines = [f"{part} {job.name} {entries[job.name].examples_sha256}\n" for part in parts for job in parts[part]]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
