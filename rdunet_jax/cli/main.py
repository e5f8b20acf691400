"""The commands of `rdunet` and their arguments.

A command imports what it needs when it runs, so that `--help` answers quickly.
"""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tyro
from rich.console import Console
from tyro.conf import OmitArgPrefixes, Positional, Suppress

from data_pipeline.errors import InputError
from data_pipeline.settings import DatasetSettings, Intensity, PrepareOptions
from rdunet_jax import __version__
from rdunet_jax.config import (
    RECIPES,
    EvaluateOptions,
    Gate,
    HostsConfig,
    InferenceConfig,
    ModelConfig,
    Recipe,
    SegmentOptions,
    TrainConfig,
)
from rdunet_jax.networks.named import KERAS, model_config
from rdunet_jax.workflows.start_up import deferred, mistakes_in_one_line, parse, prepare_jax

_SETTINGS, _OPTIONS, _INFERENCE, _HOSTS = DatasetSettings(), PrepareOptions(), InferenceConfig(), HostsConfig()
_EVALUATE, _SEGMENT = EvaluateOptions(), SegmentOptions()
# In a log file rich would take 80 columns, too few for the tables.
console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout and sys.stdout.isatty() else 120)


def prepare(
    source: Positional[Path],
    data_dir: Path,
    settings: OmitArgPrefixes[DatasetSettings] = _SETTINGS,
    options: OmitArgPrefixes[PrepareOptions] = _OPTIONS,
) -> None:
    """Make a data set of patches and whole patients from DICOM folders.

    Args:
        source: Folder with the DICOM files of CTs and RTSTRUCTs, in folders of any layout; or a zip file of it.
        data_dir: Folder for the data set; one folder may hold several.
    """
    from rdunet_jax.workflows.prepare import prepare_source

    prepare_source(source, data_dir, settings, console, options)


def train(
    data_dir: Path,
    workdir: Path,
    dataset: str | None = None,
    model: str = "keras",
    network: OmitArgPrefixes[ModelConfig] = KERAS,
    recipe: Recipe = "paper",
    settings: OmitArgPrefixes[TrainConfig] = RECIPES["paper"],
    inference: OmitArgPrefixes[InferenceConfig] = _INFERENCE,
    hosts: OmitArgPrefixes[HostsConfig] = _HOSTS,
    other_dataset: bool = False,
) -> None:
    """Train a network, or continue a run that was interrupted.

    One process uses all devices of its machine over which a batch can be split. On several machines, start every
    process with the same command and --distributed, or with --coordinator, --processes and --process-id.

    Args:
        data_dir: Folder with a data set that `rdunet prepare` made.
        workdir: Folder of the run. The same command again continues from its last checkpoint.
        dataset: Name of the data set, such as slice_minmax_256, where the folder holds several.
        model: Name of the network: one of those that `rdunet models` lists. Its settings are the defaults of the
            network options.
        recipe: Training recipe: the paper's, that of the authors' code, or the paper's without augmentation. Its
            settings are the defaults of the training options.
        other_dataset: Continue a run that was trained on another data set or split. Both are recorded in the run.
    """
    from data_pipeline.loading import Dataset
    from rdunet_jax.parallel import initialize
    from rdunet_jax.workflows.train import train_network

    if inference.threshold == "histogram":
        raise InputError("--threshold histogram: training needs a number; `evaluate` takes it on whole patients")
    initialize(hosts)
    train_network(Dataset(data_dir, dataset), workdir, network, settings, inference, console, other_dataset)


def evaluate(
    data_dir: Path,
    workdir: Path,
    dataset: str | None = None,
    options: OmitArgPrefixes[EvaluateOptions] = _EVALUATE,
    shard: str | None = None,
) -> None:
    """Score a trained network on whole patients, on the CT's own grid: slice by slice, in 3-D, and by lesions.

    Args:
        data_dir: Folder with a data set that `rdunet prepare` made.
        workdir: Folder of the run whose best network is scored.
        dataset: Name of the data set, where the folder holds several.
        shard: Share the prediction among processes: `2/4` predicts every fourth patient, from the second, and
            stores the probabilities. When all have ended, the same command without --shard scores them.
    """
    from data_pipeline.loading import Dataset
    from rdunet_jax.workflows.evaluate import evaluate_network
    from rdunet_jax.workflows.stored_probabilities import Shard, store_shard

    data = Dataset(data_dir, dataset)
    if shard is not None:
        store_shard(data, workdir, options, Shard.parse(shard), console)
        return
    evaluate_network(data, workdir, console, options)


def compare(one: Positional[Path], other: Positional[Path]) -> None:
    """Test whether two evaluations of the same patients differ, patient by patient.

    Args:
        one: Folder of an evaluation, such as run/evaluation/test.
        other: Folder of another evaluation, by the same protocol.
    """
    from rdunet_jax.workflows.compare import compare_evaluations

    compare_evaluations(one, other, console)


def choose_postprocessing(data_dir: Path, workdir: Path, dataset: str | None = None, allow_seen: bool = False) -> None:
    """Find the threshold and dilation that score best on the validation patients.

    The choice is printed as flags for `evaluate` and `segment`, and stored in the run: --chosen-postprocessing uses it.

    Args:
        data_dir: Folder with a data set that `rdunet prepare` made.
        workdir: Folder of the run whose best network is used.
        dataset: Name of the data set, where the folder holds several.
        allow_seen: Also use validation patients that the network was trained on.
    """
    from data_pipeline.loading import Dataset
    from rdunet_jax.workflows.choose_postprocessing import choose

    choose(Dataset(data_dir, dataset), workdir, console, allow_seen)


def segment(
    source: Positional[Path], workdir: Path, output: Path, options: OmitArgPrefixes[SegmentOptions] = _SEGMENT
) -> None:
    """Segment CT series with a trained network: a mask on the CT's own grid, a picture and a report.

    The exit status is 0 if every CT was segmented, 1 if some failed or lack a file, 2 if none could be segmented.

    Args:
        source: Folder with the DICOM files of one CT or of several; or a zip file of it.
        workdir: Folder of the run whose best network is used.
        output: Folder for the mask, `overview.png` and `report.json`; each of several CTs gets a folder in it, and
            `report.csv` lists them.
    """
    from rdunet_jax.workflows.segment import segment_source

    if segment_source(source, workdir, output, console, options):
        sys.exit(1)


def models(name: Positional[str | None] = None, image_size: int = 256) -> None:
    """List the networks: parameters, arithmetic, memory, and the shapes of every stage.

    Args:
        name: One network, with the shapes of its stages as in the paper's Table 1 (default: all, a line each).
        image_size: Rows and columns of the patch, in pixels.
    """
    from rdunet_jax.workflows.list_models import show_models

    show_models(name, image_size, console)


def import_weights(
    file: Positional[Path],
    workdir: Path,
    model: str = "keras",
    network: OmitArgPrefixes[ModelConfig] = KERAS,
    intensity: Intensity = "slice_minmax",
    image_size: int = 256,
    inference: OmitArgPrefixes[InferenceConfig] = _INFERENCE,
    given_gate: Suppress[Gate | None] = None,
) -> None:
    """Make a run from the weights in a Keras file, for `evaluate` and `segment`.

    Args:
        file: Keras 3 `.keras` or `.weights.h5`, or Keras 2 `.h5` (whole model or weights alone). A file of weights
            alone does not say which activation the recurrent gates have: give --gate.
        workdir: Folder for the run; must not hold one yet.
        model: Name of the network: one of those that `rdunet models` lists. Its settings are the defaults of the
            network options.
        intensity: Gray conversion of the images that the network was trained on.
        image_size: Rows and columns of the images that the network was trained on, in pixels.
    """
    from rdunet_jax.runs.workdir import RunConfig
    from rdunet_jax.workflows.import_weights import import_weights as import_file

    run = RunConfig(network, TrainConfig(), inference, intensity, image_size)
    run = import_file(file, workdir, run, given_gate)
    console.print(f"run: {workdir} ({run.model.name}, gates {run.model.gate})", markup=False)


def sample_data(output: Path) -> None:
    """Bring four real patients (NSCLC, CC BY-NC 3.0, 26 MB) for trying things out.

    Args:
        output: Folder for the patients' DICOM files.
    """
    from data_pipeline.sample_data import LICENSE_NOTICE, fetch_sample_data

    folders = fetch_sample_data(output, console=console)
    console.print(LICENSE_NOTICE, markup=False)
    console.print(f"{len(folders)} patients: {output}", markup=False)


def demo(output: Path = Path("demo"), seed: int = 0) -> None:
    """Run all steps on phantom patients: DICOM, data set, training, evaluation, segmentation.

    Args:
        output: Folder for everything; must not exist yet or be empty.
        seed: Seeds the phantoms, the split and the training.
    """
    from rdunet_jax.workflows.demo import run_demo

    run_demo(output, console, seed)


COMMANDS = {
    "prepare": prepare,
    "train": train,
    "evaluate": evaluate,
    "choose-postprocessing": choose_postprocessing,
    "compare": compare,
    "segment": segment,
    "models": models,
    "import-weights": import_weights,
    "sample-data": sample_data,
    "demo": demo,
}


@dataclass(frozen=True)
class _First:
    """Options that are read first, because the defaults of the others depend on them."""

    recipe: Recipe = "paper"
    model: str = "keras"
    gate: Gate | None = None
    version: bool = False


def main() -> None:
    """Entry point: a user's mistake is one line on standard error and status 2, a stop by Ctrl-C status 130."""
    with mistakes_in_one_line("stopped; the same command again continues from the last checkpoint"):
        prepare_jax()
        first, _ = parse(partial(tyro.cli, _First, return_unknown_args=True, add_help=False))
        if first.version:
            print(f"rdunet {__version__}")
            return
        network = model_config(first.model)
        defaults = {
            "train": {"network": network, "settings": RECIPES[first.recipe]},
            "import-weights": {"network": network, "given_gate": first.gate},
        }
        commands = {name: deferred(command, **defaults.get(name, {})) for name, command in COMMANDS.items()}
        description = "Lung-tumour segmentation in CT. `rdunet --version` prints the version."
        run = parse(
            lambda: tyro.extras.subcommand_cli_from_dict(commands, prog="rdunet", description=description),
        )
        run()
