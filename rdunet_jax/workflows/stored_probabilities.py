"""Probabilities of whole patients, stored one by one: an evaluation that was stopped goes on with the next patient."""

import hashlib
import json
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float32
from rich.console import Console

from data_pipeline.errors import InputError
from data_pipeline.files import atomic_path
from data_pipeline.loading import Dataset, PatientExample
from rdunet_jax.progress import progress_bar
from rdunet_jax.runs.workdir import TrainedNetwork, load_trained
from rdunet_jax.workflows.prediction import predict_patients, sliding_window


@dataclass(frozen=True)
class Shard:
    """The patients first, first + of, first + 2 of ... of a split."""

    first: int
    of: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Reads I/N, counted from 1: 2/4 is the second of four.

        Raises:
            InputError: it is not that.
        """
        number, _, count = text.partition("/")
        if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
            raise InputError(f"--shard {text}: must be I/N with I from 1 to N, such as 2/4")
        return cls(int(number) - 1, int(count))


ALL = Shard(0, 1)


class StoredProbabilities:
    """`evaluation/SPLIT/probabilities/step-STEP-HASH/NAME.npy`: mean probabilities on the network's grid, float32.

    The hash is of weights, settings and data set, so no other network's probabilities are taken for this one's. It is
    not of the code: who changes how the network predicts removes the folder.
    """

    def __init__(self, data: Dataset, workdir: Path, split: str, network: TrainedNetwork):
        digest = hashlib.sha256(json.dumps([asdict(network.config), data.dataset_sha256]).encode())
        for path, leaf in jax.tree_util.tree_leaves_with_path(network.variables):
            digest.update(jax.tree_util.keystr(path).encode())
            digest.update(np.ascontiguousarray(leaf).tobytes())
        name = f"step-{network.step}-{digest.hexdigest()[:16]}"
        self.folder = workdir / "evaluation" / split / "probabilities" / name

    def load(self, example: PatientExample) -> Float32[np.ndarray, "depth size size"] | None:
        """A patient's probabilities; None if there are none, or none that can be read."""
        try:
            stored = np.load(self._path(example), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return stored if stored.shape == example.image.shape and stored.dtype == np.float32 else None

    def __getitem__(self, example: PatientExample) -> Float32[np.ndarray, "depth size size"]:
        """Raises InputError if they were removed since they were stored."""
        probabilities = self.load(example)
        if probabilities is None:
            raise InputError(f"{self.folder}: no probabilities of {example.name} any more; run the same command again")
        return probabilities

    def save(self, example: PatientExample, probabilities: Float32[np.ndarray, "depth size size"]) -> None:
        with atomic_path(self._path(example)) as path:
            np.save(path, probabilities)

    def _path(self, example: PatientExample) -> Path:
        return self.folder / f"{example.name}.npy"


def store_probabilities(
    data: Dataset, workdir: Path, split: str, network: TrainedNetwork, console: Console, shard: Shard = ALL
) -> StoredProbabilities:
    """Predicts those patients of a split, or of a shard of it, whose probabilities are not stored yet.

    Raises:
        InputError: the split has no patients, or the network was trained on other gray values or sizes.
    """
    trained_on, held = (network.config.intensity, network.config.image_size), (data.intensity, data.image_size)
    if trained_on != held:
        raise InputError(
            f"{data.folder}: holds {held[0]} gray values at {held[1]} pixels, the network in {workdir} was trained on "
            f"{trained_on[0]} at {trained_on[1]}; choose another --dataset or --workdir"
        )
    stored = StoredProbabilities(data, workdir, split, network)
    examples = islice(data.patients(split), shard.first, None, shard.of)
    count = len(range(shard.first, data.patient_count(split), shard.of))
    with progress_bar(console) as progress:
        bar = progress.add_task("predicting", total=None)
        predicted = predict_patients(
            examples,
            count,
            sliding_window(network),
            network.variables,
            lambda done, total: progress.update(bar, completed=done, total=total),
            skip=lambda example: stored.load(example) is not None,
        )
        for example, probabilities in predicted:
            stored.save(example, probabilities)
    return stored


def store_shard(data: Dataset, workdir: Path, split: str, shard: Shard, console: Console) -> None:
    """Predicts the patients of a shard and scores none."""
    stored = store_probabilities(data, workdir, split, load_trained(workdir), console, shard)
    console.print(f"probabilities: {stored.folder}; the same command without --shard scores them", markup=False)
