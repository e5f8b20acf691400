"""The networks behind the paper's tables, each trained and scored once, whichever tables name it.

Not smoke: the paper's recipe, the networks at full width, a data set that `rdunet prepare` made. Smoke: phantoms at
`SMOKE`'s size, networks with a quarter of the features (an eighth in the bottleneck) and a higher rate.
"""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import jax
import tyro
from rich.console import Console
from rich.markup import escape

from data_pipeline.errors import InputError
from data_pipeline.loading import Dataset
from data_pipeline.settings import DatasetSettings
from experiments.paper.numbers import DICE_AND_SLICES, PROPOSED, Cells, Result, Row, Table
from rdunet_jax.config import (
    PAPER_AUGMENTATION,
    RECIPES,
    EvaluateOptions,
    InferenceConfig,
    ModelConfig,
    Protocol,
    TrainConfig,
)
from rdunet_jax.errors import RunError
from rdunet_jax.networks.models import model_config
from rdunet_jax.runs.workdir import RunConfig
from rdunet_jax.scoring.protocols import Summary
from rdunet_jax.workflows.demo import show_phantoms_written
from rdunet_jax.workflows.evaluate import evaluate_network, evaluation_folder
from rdunet_jax.workflows.prepare import prepare_source
from rdunet_jax.workflows.start_up import mistakes_in_one_line, prepare_jax
from rdunet_jax.workflows.train import train_network

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
    """Sizes that two cores bear: what differs from the paper's besides the width of the networks."""

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
    """Folder for runs, tables and figures. The same command again goes on with what is not there yet."""
    data_dir: Path | None = None
    """Folder with a data set that `rdunet prepare` made, for the paper's own sizes."""
    dataset: str | None = None
    """Name of the data set, where the folder holds several."""
    smoke: bool = False
    """Phantoms and narrow networks at a small size instead; needs no data."""


@dataclass
class Experiments:
    """Runs by name, their data set, and what failed."""

    settings: Settings
    console: Console
    failures: dict[str, str] = field(default_factory=dict)
    """What failed, and how."""

    @cached_property
    def data(self) -> Dataset:
        """The data set; for a smoke run its phantoms are made if need be."""
        if self.settings.data_dir is not None:
            return Dataset(self.settings.data_dir, self.settings.dataset)
        dicom, data_dir = self.settings.output / "phantoms" / "dicom", self.settings.output / "phantoms" / "data"
        try:
            return Dataset(data_dir)
        except InputError:
            shutil.rmtree(dicom, ignore_errors=True)  # what a killed session had begun
        show_phantoms_written(dicom, SMOKE.patients, SMOKE.slices, self.console)
        prepare_source(dicom, data_dir, SMOKE.dataset, self.console, keep_ids=True)
        return Dataset(data_dir)

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
        """A run's scores on the test patients by both protocols; it is trained if need be. None if that fails."""
        if name in self.failures:
            return None
        return self.attempt(name, lambda: self._summaries(name))

    def _summaries(self, name: str) -> dict[Protocol, Summary]:
        workdir, run = self.workdir(name), self.config(name)
        self._require_same(workdir, run)
        paths: dict[Protocol, Path] = {p: evaluation_folder(workdir, "test", p) / "summary.json" for p in PROTOCOLS}
        if not all(path.exists() for path in paths.values()):
            self.console.rule(name)
            train_network(self.data, workdir, run.model, run.train, run.inference, self.console)
            for protocol in PROTOCOLS:
                evaluate_network(self.data, workdir, self.console, EvaluateOptions(protocol=protocol))
            jax.clear_caches()  # the next network shares no program with this one
        return {protocol: json.loads(path.read_text()) for protocol, path in paths.items()}

    def _require_same(self, workdir: Path, run: RunConfig) -> None:
        """A run that is there must be of these settings and of this data set: nothing else is taken for it."""
        if not (workdir / "manifest.json").exists():
            return
        run.start(workdir)
        trained_on = json.loads((workdir / "manifest.json").read_text())["dataset"]["dataset_sha256"]
        if trained_on != self.data.account["dataset_sha256"]:
            raise RunError(f"{workdir}: holds a run on another data set ({trained_on[:16]}…); use another --output")

    def attempt(self, what: str, work: Callable[[], T]) -> T | None:
        """The work's result; None if it fails, which is told at once and kept in `failures`."""
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
    """A network for a smoke run: all its layers, few features, and statistics that follow a short training."""
    return replace(
        model,
        widths=tuple(width // 4 for width in model.widths),
        fusion_widths=tuple(width // 4 for width in model.fusion_widths),
        recurrent_width=model.recurrent_width // 8,
        norm_momentum=0.9,
        dropout=0.0,  # so few channels have none to drop
    )


CONVENTIONS: dict[Protocol, str] = {"paper": "tumour slices", "authors_code": "Keras code"}
"""How a protocol's Dice is averaged, in a table's words."""


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
    """A table with two rows a run, one a protocol.

    Args:
        published: label of a row, which is the name of a run, to the paper's cells.
        measures: the first of `DICE_AND_SLICES`.
        shared: the labels that go by another name among the runs.
    """
    rows = []
    for label, cells in published.items():
        summaries = experiments.summaries((shared or {}).get(label, label))
        for protocol in PROTOCOLS:
            ours = cells_of((summaries or {}).get(protocol), protocol)[: len(measures)]
            rows.append(Row((label, CONVENTIONS[protocol]), cells, ours))
    return Table(name, title, reading, ("name", "Dice over"), measures, rows)


def make_alone(make: Callable[[Experiments], Result]) -> Callable[[Experiments], list[str]]:
    """What a script of one table or figure does: makes, writes and shows it."""

    def main(experiments: Experiments) -> list[str]:
        result = make(experiments)
        result.write(experiments.settings.output)
        experiments.console.print(f"{result.title}\n{result.markdown()}", markup=False, soft_wrap=True)
        return list(result.missing)

    return main


def run_script(main: Callable[[Experiments], list[str]], description: str | None) -> None:
    """Runs a script: status 1 if what `main` makes lacks something, which it returns; status 2 for bad input."""
    settings = tyro.cli(Settings, description=description)
    prepare_jax()
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 120)
    with mistakes_in_one_line("stopped; the same command again goes on where it was"):
        if settings.smoke == (settings.data_dir is not None):
            raise InputError("name either --data-dir, with a data set by `rdunet prepare`, or --smoke, for phantoms")
        missing = main(Experiments(settings, console))
    if missing:
        console.print(f"INCOMPLETE, without: {'; '.join(missing)}", style="bold red", markup=False)
        sys.exit(1)
