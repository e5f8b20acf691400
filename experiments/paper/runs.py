"""The networks behind the paper's tables. Each is trained and scored once, even if several tables need it.

Full size: the paper's recipe, networks at full width, a data set that `rdunet prepare` made. With `--smoke`: phantoms
of the size in `SMOKE`, networks with a quarter of the features (an eighth in the bottleneck), and a higher learning
rate.
"""

import sys
from collections.abc import Callable
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
from experiments.common.steps import phantom_dataset, train_and_score
from experiments.paper.numbers import DICE_AND_SLICES, PROPOSED, Cells, Result, Row, Table
from rdunet_jax.config import PAPER_AUGMENTATION, RECIPES, InferenceConfig, ModelConfig, Protocol, TrainConfig
from rdunet_jax.errors import RunError
from rdunet_jax.networks.models import model_config
from rdunet_jax.runs.workdir import RunConfig
from rdunet_jax.scoring.protocols import Summary

T = TypeVar("T")
PAPER = RECIPES["paper"]
PROTOCOLS: tuple[Protocol, ...] = ("paper", "authors_code")

RUNS: dict[str, tuple[str, TrainConfig]] = {
    PROPOSED: ("paper", PAPER),
    "2D-UNet": ("2d-unet", PAPER),
    "2D-LungNet": ("2d-lungnet", PAPER),
    "3D-LungNet": ("3d-lungnet", PAPER),
    "3D-UNet": ("3d-unet", PAPER),
    "3D-DenseUNet": ("3d-denseunet", PAPER),
    "3D-DenseUNet with recurrent block": ("3d-denseunet-recurrent", PAPER),
    **{
        f"Tversky {alpha}": ("paper", replace(PAPER, loss="tversky", tversky_alpha=alpha))
        for alpha in (0.1, 0.3, 0.5, 0.7, 0.9)
    },
    "focal": ("paper", replace(PAPER, loss="focal")),
    "IoU": ("paper", replace(PAPER, loss="iou")),
    "no augmentation": ("paper", replace(PAPER, augmentation=())),
    **{f"{name} alone": ("paper", replace(PAPER, augmentation=(name,))) for name in PAPER_AUGMENTATION},
    "authors_code augmentation": ("paper", replace(PAPER, augmentation=("authors_code",))),
}
"""Name: network and recipe."""


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
    """Runs by name, their data set, and what failed."""

    settings: Settings
    console: Console
    failures: dict[str, str] = field(default_factory=dict)
    """What failed: the error message."""

    @cached_property
    def data(self) -> Dataset:
        """The data set; for a smoke run, one of phantoms, made at first use."""
        if self.settings.data_dir is not None:
            return Dataset(self.settings.data_dir, self.settings.dataset)
        folder = self.settings.output / "phantoms"
        return phantom_dataset(folder, SMOKE.dataset, SMOKE.patients, SMOKE.slices, self.console)

    def workdir(self, name: str) -> Path:
        return self.settings.output / "runs" / name.lower().replace(" ", "-")

    def config(self, name: str) -> RunConfig:
        """All settings of a run."""
        network, recipe = RUNS[name]
        model, inference = model_config(network), InferenceConfig()
        if self.settings.smoke:
            model = narrow(model)
            recipe = replace(
                recipe, learning_rate=SMOKE.learning_rate, epochs=1, steps_per_epoch=SMOKE.steps, validation="none"
            )
            inference = replace(inference, window_batch=1)  # as in training: one program less to compile
        return RunConfig(model, recipe, inference, self.data.intensity, self.data.image_size)

    def summaries(self, name: str) -> dict[Protocol, Summary] | None:
        """Scores of a run on the test patients by both protocols, trained first if necessary; None if that fails."""
        if name in self.failures:
            return None
        return self.attempt(name, lambda: self._summaries(name))

    def _summaries(self, name: str) -> dict[Protocol, Summary]:
        self.console.rule(name)
        try:
            return train_and_score(self.data, self.workdir(name), self.config(name), self.console, PROTOCOLS)
        finally:
            jax.clear_caches()  # the next network uses none of these programs

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


CONVENTIONS: dict[Protocol, str] = {"paper": "tumour slices", "authors_code": "Keras code"}
"""How a protocol averages the Dice, as the tables name it."""


def cells_of(summary: Summary | None, protocol: Protocol) -> Cells:
    """The cells of `DICE_AND_SLICES`; of a run that failed, all empty."""
    if summary is None:
        return (None,) * len(DICE_AND_SLICES)
    over = {"paper": "dice_tumour_slices", "authors_code": "patient_dice"}[protocol]
    return tuple(
        summary[n] for n in (f"mean_{over}", f"median_{over}", "false_positive_slices", "false_negative_slices")
    )


def table_of_runs(
    experiments: Experiments,
    name: str,
    title: str,
    reading: str,
    published: dict[str, Cells],
    measures: tuple[str, ...],
    shared: dict[str, str] | None = None,
) -> Table:
    """A table with two rows for each run, one for each protocol.

    Args:
        published: label of a row, which is the name of a run, to the paper's cells.
        measures: the first of `DICE_AND_SLICES`.
        shared: name of the run, for labels that differ from it.
    """
    rows = []
    for label, cells in published.items():
        summaries = experiments.summaries((shared or {}).get(label, label))
        for protocol in PROTOCOLS:
            ours = cells_of((summaries or {}).get(protocol), protocol)[: len(measures)]
            rows.append(Row((label, CONVENTIONS[protocol]), cells, ours))
    return Table(name, title, reading, ("name", "Dice over"), measures, rows)


def make_alone(make: Callable[[Experiments], Result]) -> Callable[[Experiments], list[str]]:
    """The `main` of a script for one table or figure: makes, writes and prints it."""

    def main(experiments: Experiments) -> list[str]:
        result = make(experiments)
        result.write(experiments.settings.output)
        experiments.console.print(f"{result.title}\n{result.markdown()}", markup=False, soft_wrap=True)
        return list(result.missing)

    return main


def run_script(main: Callable[[Experiments], list[str]], description: str | None) -> None:
    """Runs a script of this folder.

    Args:
        main: makes its results and returns the names of what is missing. Then the status is 1.
        description: for `--help`.
    """

    def start(settings: Settings) -> None:
        if settings.smoke == (settings.data_dir is not None):
            raise InputError("give either --data-dir, a data set made by `rdunet prepare`, or --smoke, for phantoms")
        console = script.make_console()
        missing = main(Experiments(settings, console))
        if missing:
            console.print(f"INCOMPLETE, missing: {'; '.join(missing)}", style="bold red", markup=False)
            sys.exit(1)

    script.run(start, description)
