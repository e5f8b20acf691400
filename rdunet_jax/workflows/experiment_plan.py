"""The folders of an experiment's networks and scores, and what is done of them.

Each network has a folder `runs/NETWORK-DIGEST/seed-SEED` of the output. The digest is of all its settings, of the
weights that it begins with and of the data set: so variants that differ in scoring alone share a network, as do files
with the same output, and a setting that changes begins a new run.
"""

import hashlib
import json
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from rich.console import Console

from data_pipeline.loading import Dataset
from data_pipeline.privacy import safe_name
from rdunet_jax.config import ModelConfig, Protocol
from rdunet_jax.options import EvaluateOptions
from rdunet_jax.runs.initial_weights import Source
from rdunet_jax.runs.plugins import plugins_of
from rdunet_jax.runs.workdir import RunConfig
from rdunet_jax.workflows.evaluate import evaluation_folder
from rdunet_jax.workflows.experiment_file import Experiment, Training, Variant
from rdunet_jax.workflows.pool import pool_folds
from rdunet_jax.workflows.train_and_score import read_summary, train_and_score

QUIET = Console(quiet=True)


@dataclass(frozen=True)
class Run:
    """One network to train and score."""

    training: Training
    seed: int
    fold: int | None
    workdir: Path
    label: str
    """For messages: the first variant that uses it, its seed and fold."""
    scorings: tuple[tuple[Path, EvaluateOptions], ...]

    @property
    def is_done(self) -> bool:
        """Whether it is trained, and scored in every way."""
        return all(read_summary(folder) is not None for folder, _ in self.scorings)


@dataclass(frozen=True)
class Plan:
    """The folders of an experiment's runs and scores, on its data set."""

    experiment: Experiment
    data: Dataset

    @cached_property
    def folds(self) -> tuple[int | None, ...]:
        """The folds to hold out; None alone for the data set's own split.

        Raises:
            InputError: the data set has no such fold.
        """
        folds = self.experiment.folds
        if folds is None:
            return (None,)
        for fold in (0,) if folds == "all" else folds:
            self.data_of(fold)  # raises where there is no such fold
        return tuple(range(len(self.data.folds_sha256))) if folds == "all" else folds

    def data_of(self, fold: int | None) -> Dataset:
        """The data set with a fold held out, or with its own split."""
        return Dataset(self.experiment.data_dir, self.experiment.dataset, fold) if fold is not None else self.data

    def folder(self, training: Training) -> Path:
        """The folder of a training's runs."""
        data = [self.data.dataset_sha256, self.data.split_sha256, self.data.folds_sha256]
        plugins = [one.sha256 for one in plugins_of(training.network, training.recipe, self.data.intensity)]
        settings = changed_fields(training)
        if training.init_from is not None:
            settings["init_from"] = _sha256_of_source(training.init_from, training.network)
        content = json.dumps([settings, data, plugins], sort_keys=True, default=str)
        digest = hashlib.sha256(content.encode()).hexdigest()[:12]
        return self.experiment.output / "runs" / f"{safe_name(training.network.name)}-{digest}"

    def workdir(self, training: Training, seed: int, fold: int | None) -> Path:
        """The folder of one run."""
        return self.folder(training) / (f"seed-{seed}" if fold is None else f"seed-{seed}-fold-{fold}")

    def scores(self, variant: Variant, protocol: Protocol, seed: int, fold: int | None) -> Path:
        """The folder of one run's scores."""
        workdir = self.workdir(variant.training, seed, fold)
        return _scores_folder(workdir, replace(variant.scoring, protocol=protocol))

    def pooled(self, variant: Variant, protocol: Protocol, seed: int) -> Path:
        """The folder of the scores of all folds together."""
        folds = "-".join(map(str, self.folds))
        workdir = self.folder(variant.training) / f"seed-{seed}-pooled-{safe_name(folds)}"
        return _scores_folder(workdir, replace(variant.scoring, protocol=protocol))

    def runs(self) -> list[Run]:
        """Every run once, in the order of the file; those of the first seed first."""
        scorings: dict[Path, dict[Path, EvaluateOptions]] = {}
        first: dict[Path, tuple[Training, int, int | None, str]] = {}
        for seed in self.experiment.seeds:
            for variant in self.experiment.variants:
                for fold in self.folds:
                    workdir = self.workdir(variant.training, seed, fold)
                    label = f"{variant.name}, seed {seed}{'' if fold is None else f', fold {fold}'}"
                    first.setdefault(workdir, (variant.training, seed, fold, label))
                    for protocol in self.experiment.protocols:
                        folder = self.scores(variant, protocol, seed, fold)
                        options = replace(variant.scoring, protocol=protocol)
                        scorings.setdefault(workdir, {})[folder] = options
        return [
            Run(training, seed, fold, workdir, label, tuple(scorings[workdir].items()))
            for workdir, (training, seed, fold, label) in first.items()
        ]

    def execute(self, run: Run, console: Console) -> None:
        """Does of a run what is not done yet.

        Raises:
            InputError: as `train_and_score`.
        """
        data, training = self.data_of(run.fold), run.training
        config = RunConfig(
            model=training.network,
            train=replace(training.recipe, seed=run.seed),
            inference=training.inference,
            intensity=data.intensity,
            image_size=data.image_size,
        )
        scorings, trackers = dict(run.scorings), self.experiment.trackers
        train_and_score(data, run.workdir, config, console, scorings, training.init_from, trackers)

    def pool(self) -> None:
        """Pools the folds of every seed that is complete, unless that is done."""
        for variant in self.experiment.variants if self.experiment.folds is not None else ():
            for protocol in self.experiment.protocols:
                for seed in self.experiment.seeds:
                    folders = [self.scores(variant, protocol, seed, fold) for fold in self.folds]
                    pooled = self.pooled(variant, protocol, seed)
                    if read_summary(pooled) is None and all(read_summary(folder) for folder in folders):
                        pool_folds(folders, pooled, QUIET, some=True)


def _scores_folder(workdir: Path, options: EvaluateOptions) -> Path:
    """`evaluation/test` and so on; with a digest of what the options set beside split and protocol."""
    folder = evaluation_folder(workdir, options.split, options.protocol)
    changed = changed_fields(replace(options, split="test", protocol="paper", html=False))
    if not changed:
        return folder
    return folder.with_name(f"{folder.name}-{hashlib.sha256(json.dumps(changed).encode()).hexdigest()[:8]}")


@lru_cache
def _sha256_of_source(init_from: Path, network: ModelConfig) -> str:
    """SHA-256 of the weights that a training begins with: its path would not show that they have changed."""
    return Source.load(init_from, network).sha256


def changed_fields(settings: Any) -> dict[str, Any]:
    """The fields of a dataclass that differ from their defaults, so that a digest of them outlives a new field."""
    changed = {}
    for one in fields(settings):
        value = getattr(settings, one.name)
        if is_dataclass(value):
            value = changed_fields(value)
            if value:
                changed[one.name] = value
        elif value != one.default:
            changed[one.name] = value
    return changed
