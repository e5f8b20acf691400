"""Probabilities of whole patients, stored one by one: a stopped evaluation continues with the next patient."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from rich.console import Console

from data_pipeline.loading import Dataset, PatientExample
from data_pipeline.privacy import one_line, safe_name, safe_names
from data_pipeline.settings import SplitName, VoxelSize, size_in_words
from rdunet_jax.checked_json import DamagedError
from rdunet_jax.errors import InputError, RunError
from rdunet_jax.files import atomic_path
from rdunet_jax.options import EvaluateOptions
from rdunet_jax.progress import progress_bar
from rdunet_jax.runs.workdir import Ensemble, RunConfig, TrainedNetwork
from rdunet_jax.workflows.display import plural
from rdunet_jax.workflows.prediction import as_runs, load_network, predict_patients, sliding_window
from rdunet_jax.workflows.seen import SeenPatients


@dataclass(frozen=True)
class Shard:
    """Every `of`-th patient of a split, from `first` on."""

    first: int
    of: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Reads I/N, counted from 1: 2/4 is the second of four.

        Raises:
            InputError: the text is no such pair of numbers.
        """
        number, _, count = text.partition("/")
        if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
            raise InputError(f"--shard {text}: must be I/N with I from 1 to N, such as 2/4")
        return cls(int(number) - 1, int(count))


ALL = Shard(0, 1)


class StoredProbabilities:
    """`evaluation/SPLIT/probabilities/step-STEP-HASH/NAME.npz`: mean probabilities on the network's grid, float32.

    For several runs the folder is called `mean-of-COUNT-HASH`. The hash is of weights, settings and data set, so no
    other network's probabilities are taken for these. It is not of the code: remove the folder after a change of how
    the network predicts. Each file holds a CRC-32 of its content (of the zip format), which is verified on reading.
    """

    def __init__(self, data: Dataset, workdir: Path, split: SplitName, network: TrainedNetwork | Ensemble):
        members = network.members
        networks = [[asdict(one.config), one.weights_sha256] for one in members]
        digest = hashlib.sha256(json.dumps([networks, data.dataset_sha256]).encode())
        which = f"step-{members[0].step}" if len(members) == 1 else f"mean-of-{len(members)}"
        name = f"{which}-{digest.hexdigest()[:16]}"
        self.folder = workdir / "evaluation" / split / "probabilities" / name
        self.failures: dict[str, str] = {}
        """Patients whose prediction failed, and why."""
        self._names = safe_names(data.patient_names(split))

    def load(self, example: PatientExample) -> Float32[np.ndarray, "depth rows columns"] | None:
        """A patient's probabilities; None if there are none.

        Raises:
            DamagedError: they are not what was stored.
        """
        path = self._path(example)
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                stored = arrays["probabilities"]
        except FileNotFoundError:
            return None
        except MemoryError:
            raise
        except Exception as error:  # zipfile and NumPy raise errors of many kinds at damaged bytes
            raise DamagedError(f"{path}: damaged ({type(error).__name__})") from error
        if not isinstance(stored, np.ndarray) or stored.shape != example.image.shape or stored.dtype != np.float32:
            raise DamagedError(f"{path}: not the probabilities of this patient")
        return stored

    def __getitem__(self, example: PatientExample) -> Float32[np.ndarray, "depth rows columns"]:
        """Raises InputError if they were removed or damaged since they were stored."""
        try:
            probabilities = self.load(example)
        except DamagedError:
            probabilities = None
        if probabilities is None:
            raise InputError(f"{self.folder}: lost the probabilities of {example.name}; run the same command again")
        return probabilities

    def save(self, example: PatientExample, probabilities: Float32[np.ndarray, "depth rows columns"]) -> None:
        """Writes a patient's probabilities, whole or not at all."""
        with atomic_path(self._path(example)) as path:
            np.savez(path, probabilities=probabilities)

    def _path(self, example: PatientExample) -> Path:
        return self.folder / f"{self._names.get(example.name) or safe_name(example.name)}.npz"


def require_same_images(data: Dataset, workdir: Path, run: RunConfig) -> None:
    """Raises InputError where a data set holds other grey values, sizes or voxels than a network was trained on."""
    trained_on, held = (run.intensity, run.image_size), (data.intensity, data.image_size)
    if trained_on != held or run.spacing != data.voxel_mm:
        raise InputError(
            f"{data.folder}: holds {held[0]} grey values at {size_in_words(held[1])} pixels{_at(data.voxel_mm)}, the "
            f"network in {workdir} was trained on {trained_on[0]} at {size_in_words(trained_on[1])}{_at(run.spacing)}; "
            "choose another --dataset or --workdir"
        )


def store_probabilities(
    data: Dataset,
    workdir: Path,
    split: SplitName,
    network: TrainedNetwork | Ensemble,
    console: Console,
    shard: Shard = ALL,
) -> StoredProbabilities:
    """Predicts those patients of a split, or of a shard of it, whose probabilities are not stored yet.

    Args:
        workdir: the folder to store them in, that of the run or another.

    A patient whose prediction fails is reported and left out: see `StoredProbabilities.failures`.

    Raises:
        InputError: the split has no patients, the network was trained on other grey values or sizes, or the disk is
            full.
    """
    require_same_images(data, workdir, network.config)
    names = data.patient_names(split)[shard.first :: shard.of]
    if not names:
        next(data.patients(split))  # raises an InputError that names the patients of the other splits
    stored = StoredProbabilities(data, workdir, split, network)

    def report(name: str, error: Exception) -> None:
        stored.failures[name] = reason(error)
        console.print(f"{one_line(name)}: left out, {reason(error)}", markup=False)

    def is_stored(example: PatientExample) -> bool:
        try:
            return stored.load(example) is not None
        except DamagedError as error:
            console.print(f"warning: {error}; predicted again", markup=False)
            return False

    with progress_bar(console) as progress:
        bar = progress.add_task("predicting", total=None)
        predicted = predict_patients(
            readable_patients(data, split, names, report),
            len(names),
            sliding_window(network),
            network.variables,
            lambda done, total: progress.update(bar, completed=done, total=total),
            skip=is_stored,
            on_failure=lambda example, error: report(example.name, error),
        )
        for example, probabilities in predicted:
            stored.save(example, probabilities)
    return stored


def _at(voxel_mm: VoxelSize | None) -> str:
    return "" if voxel_mm is None else f" of {' x '.join(f'{mm:g}' for mm in voxel_mm)} mm"


def readable_patients(
    data: Dataset, split: SplitName, names: Iterable[str], on_failure: Callable[[str, Exception], None]
) -> Iterator[PatientExample]:
    """The named patients of a split, one in memory at a time; those whose record is damaged are left out.

    Args:
        on_failure: called with the name of a patient that cannot be read, and the error.
    """
    places = {name: index for index, name in enumerate(data.patient_names(split))}
    for name in names:
        try:
            example = data.patient(split, places[name])
        except Exception as error:
            on_failure(name, error)
            continue
        yield example


def reason(error: Exception) -> str:
    """Why a patient failed, in one line."""
    lines = str(error).strip().splitlines()
    return one_line(lines[0] if lines else type(error).__name__)


def store_shard(
    data: Dataset,
    workdir: Path | Sequence[Path],
    options: EvaluateOptions,
    shard: Shard,
    console: Console,
    output: Path | None = None,
) -> None:
    """Predicts the patients of a shard and scores none.

    Args:
        workdir: folder of the run, or those of several, whose mean is stored.
        output: folder for the probabilities, in place of the run's.

    Raises:
        InputError: as `store_probabilities`; or patients of the split are not new to the network, or failed.
    """
    workdirs = as_runs(workdir)
    folder = scores_folder(workdirs, output)
    network = load_network(workdirs, options)
    if not options.allow_seen:
        SeenPatients.of(data, workdirs, options.split).refuse(workdirs, "trained", "selected")
    stored = store_probabilities(data, folder, options.split, network, console, shard)
    console.print(f"probabilities: {stored.folder}; the same command without --shard scores them", markup=False)
    if stored.failures:
        raise RunError(f"the prediction of {plural(len(stored.failures), 'patient')} failed: {listed(stored.failures)}")


def scores_folder(workdirs: Sequence[Path], output: Path | None) -> Path:
    """The folder that holds `evaluation/`: the run's, unless another is named.

    Raises:
        RunError: there are several runs, or a model file, and none is named.
    """
    if output is None and (len(workdirs) > 1 or workdirs[0].is_file()):
        several = "several runs" if len(workdirs) > 1 else "a model file"
        raise RunError(f"--output: name a folder for the scores of {several}")
    return output or workdirs[0]


def listed(failures: Mapping[str, str]) -> str:
    """The first failures, by name, in one line."""
    shown = [f"{one_line(name)} ({why})" for name, why in islice(failures.items(), 3)]
    return ", ".join(shown) + (" and others" if len(failures) > 3 else "")
