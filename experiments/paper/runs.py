"""The networks behind the paper's tables. Each is trained and scored once, even if several tables need it.

Full size: the settings of the files beside this one, on a data set that `rdunet prepare` made. With `--smoke`: phantoms
of the size in `SMOKE`, networks with a quarter of the features (an eighth in the bottleneck), few steps, and a higher
learning rate.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import jax
from rich.console import Console
from rich.markup import escape

from data_pipeline.errors import InputError
from data_pipeline.loading import Dataset
from data_pipeline.settings import DatasetSettings
from experiments.common import script
from experiments.common.steps import phantom_dataset
from experiments.paper.numbers import Result
from rdunet_jax.config import ModelConfig, Protocol
from rdunet_jax.errors import RunError
from rdunet_jax.options import ExperimentOptions
from rdunet_jax.scoring.protocols import Summary
from rdunet_jax.workflows.experiment_file import Training, Variant, read_experiment
from rdunet_jax.workflows.experiment_plan import Plan
from rdunet_jax.workflows.train_and_score import read_summary

T = TypeVar("T")
PROTOCOLS: tuple[Protocol, ...] = ("paper", "authors_code")
FOLDER = Path(__file__).parent
"""Of the files of settings."""
SEED = 0


@dataclass(frozen=True)
class Smoke:
    """Sizes for two CPU cores. Networks are narrower too, see `narrow`."""

    patients: int = 20
    slices: tuple[int, int] = (20, 24)
    image_size: int = 32
    steps: int = 200
    learning_rate: float = 1e-2

    @property
    def dataset(self) -> DatasetSettings:
        """Of 20 phantoms 15 are for training, 1 for validation, 4 for testing."""
        return DatasetSettings("hu_window", self.image_size, test_share=1 / 5, validation_share=1 / 16)

    def training(self, training: Training) -> Training:
        """A narrow network, and few steps."""
        recipe = replace(
            training.recipe, learning_rate=self.learning_rate, epochs=1, steps_per_epoch=self.steps, validation="none"
        )
        # a window as in training: one program less to compile
        return Training(narrow(training.network), recipe, replace(training.inference, window_batch=1))


SMOKE = Smoke()


@dataclass(frozen=True)
class Settings:
    output: Path
    """Folder for runs, tables and figures. The same command again makes only what is missing."""
    data_dir: Path | None = None
    """Folder with a data set that `rdunet prepare` made, for full-size networks."""
    dataset: str | None = None
    """Name of the data set, if the folder holds several."""
    smoke: bool = False
    """Use phantoms and narrow networks at a small size instead; needs no data."""


@dataclass
class Experiments:
    """The runs of all tables, their data set, and what failed."""

    settings: Settings
    console: Console
    failures: dict[str, str] = field(default_factory=dict)
    """What failed: the error message."""
    _plans: dict[str, Plan] = field(default_factory=dict)
    _failed: set[Path] = field(default_factory=set)

    @cached_property
    def data(self) -> Dataset:
        """The data set; for a smoke run, one of phantoms, made at first use."""
        if self.settings.data_dir is not None:
            return Dataset(self.settings.data_dir, self.settings.dataset)
        folder = self.settings.output / "phantoms"
        return phantom_dataset(folder, SMOKE.dataset, SMOKE.patients, SMOKE.slices, self.console)

    def plan(self, table: str) -> Plan:
        """The runs of a table's file, by the name of the table."""
        if table not in self._plans:
            places = ExperimentOptions(self.data.folder, output=self.settings.output)
            experiment = read_experiment(FOLDER / f"{table}.toml", places)
            if self.settings.smoke:
                small = [replace(one, training=SMOKE.training(one.training)) for one in experiment.variants]
                experiment = replace(experiment, variants=tuple(small))
            self._plans[table] = Plan(experiment, self.data)
        return self._plans[table]

    def variants(self, table: str) -> dict[str, Variant]:
        """The variants of a table's file, by name."""
        return {one.name: one for one in self.plan(table).experiment.variants}

    def workdir(self, table: str, name: str) -> Path:
        """The run of a variant."""
        return self.plan(table).workdir(self.variants(table)[name].training, SEED, None)

    def summaries(self, table: str, name: str) -> dict[Protocol, Summary] | None:
        """A variant's scores on the test patients by both protocols, trained first if necessary; None if that fails."""
        workdir = self.workdir(table, name)
        if workdir in self._failed:
            return None
        found = self.attempt(name, lambda: self._summaries(table, name))
        if found is None:
            self._failed.add(workdir)
        return found

    def _summaries(self, table: str, name: str) -> dict[Protocol, Summary]:
        plan, variant = self.plan(table), self.variants(table)[name]
        (run,) = replace(plan, experiment=replace(plan.experiment, variants=(variant,))).runs()
        if not run.is_done:
            self.console.rule(name)
            try:
                plan.execute(run, self.console)
            finally:
                jax.clear_caches()  # the next network uses none of these programs
        summaries: dict[Protocol, Summary] = {}
        for protocol in PROTOCOLS:
            if summary := read_summary(plan.scores(variant, protocol, SEED, None)):
                summaries[protocol] = summary
        return summaries

    def attempt(self, what: str, work: Callable[[], T]) -> T | None:
        """The result of `work`; None if it fails: the error is printed and kept in `failures`."""
        try:
            return work()
        except Exception as error:
            expected = isinstance(error, InputError | RunError)
            if not expected:
                self.console.print_exception()
            self.failures[what] = str(error) if expected else f"{type(error).__name__}: {error}"
            self.console.print(f"[bold red]FAILED: {what}: {escape(self.failures[what])}[/bold red]")
            return None


def narrow(model: ModelConfig) -> ModelConfig:
    """A network for a smoke run: all layers, few features, and running statistics that follow a short training."""
    return replace(
        model,
        widths=tuple(width // 4 for width in model.widths),
        fusion_widths=tuple(width // 4 for width in model.fusion_widths),
        recurrent_width=model.recurrent_width // 8,
        norm_momentum=0.9,
        dropout=0.0,  # there are too few channels to drop any
    )


def make_alone(make: Callable[[Experiments], Result]) -> Callable[[Experiments], list[str]]:
    """The `main` of a script for one table or figure: makes, writes and prints it."""

    def main(experiments: Experiments) -> list[str]:
        result = make(experiments)
        result.write(experiments.settings.output)
        experiments.console.print(f"{result.title}\n{result.markdown()}", markup=False, soft_wrap=True)
        return list(result.missing)

    return main


def run_script(
    main: Callable[[Experiments], list[str]] | Mapping[str, Callable[[Experiments], list[str]]], description: str | None
) -> None:
    """Runs a script of this folder.

    Args:
        main: makes its results and returns the names of what is missing. Then the status is 1. Several by the names of
            their subcommands.
        description: for `--help`.
    """

    def starting(main: Callable[[Experiments], list[str]]) -> Callable[[Settings], None]:
        def start(settings: Settings) -> None:
            if settings.smoke == (settings.data_dir is not None):
                raise InputError("give either --data-dir, a data set of `rdunet prepare`, or --smoke, for phantoms")
            console = script.make_console()
            missing = main(Experiments(settings, console))
            if missing:
                console.print(f"INCOMPLETE, missing: {'; '.join(missing)}", style="bold red", markup=False)
                sys.exit(1)

        return start

    several = isinstance(main, Mapping)
    script.run({name: starting(one) for name, one in main.items()} if several else starting(main), description)
