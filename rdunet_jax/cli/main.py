"""The commands of `rdunet` and their arguments.

A command imports what it needs when it runs, so that `--help` answers quickly.
"""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from tyro.conf import OmitArgPrefixes, Positional, Suppress, UseAppendAction, arg

from data_pipeline.errors import InputError
from data_pipeline.registry import NameIn
from data_pipeline.settings import DatasetSettings, Intensity, PhantomLevel, PrepareOptions
from rdunet_jax import __version__
from rdunet_jax.config import (
    RECIPES,
    Gate,
    HostsConfig,
    ImageSize,
    InferenceConfig,
    ModelConfig,
    Recipe,
    TrackerName,
    TrainConfig,
)
from rdunet_jax.networks.named import KERAS, model_config
from rdunet_jax.options import EvaluateOptions, ExperimentOptions, ExportFormat, PluginOptions, SegmentOptions
from rdunet_jax.registry import MODELS
from rdunet_jax.workflows.start_up import deferred, mistakes_in_one_line, parse, prepare_jax, require_address_space

_SETTINGS, _OPTIONS, _INFERENCE, _HOSTS = DatasetSettings(), PrepareOptions(), InferenceConfig(), HostsConfig()
_EVALUATE, _SEGMENT, _PLUGINS = EvaluateOptions(), SegmentOptions(), PluginOptions()
ModelName = Annotated[str, NameIn(MODELS)]
_EXPERIMENT = ExperimentOptions()
Source = Annotated[Positional[Path], arg(metavar="SOURCE")]
# In a log file rich would take 80 columns, too few for the tables.
console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout and sys.stdout.isatty() else 120)


def prepare(
    source: Source,
    data_dir: Path,
    data_set: OmitArgPrefixes[DatasetSettings] = _SETTINGS,
    preparation: OmitArgPrefixes[PrepareOptions] = _OPTIONS,
    plugins: OmitArgPrefixes[PluginOptions] = _PLUGINS,
) -> None:
    """Make a data set from CTs with masks: every slice once, and the masks of whole patients.

    Args:
        source: Folder with the DICOM files of CTs and RTSTRUCTs or SEGs, in folders of any layout, or a zip file of it;
            folder with `imagesTr` and `labelsTr` (Decathlon, nnU-Net: NIfTI, NRRD, MetaImage); or a CSV table with the
            columns image, mask and patient.
        data_dir: Folder for the data set; one folder may hold several.
    """
    from rdunet_jax.workflows.prepare import prepare_source

    prepare_source(source, data_dir, data_set, console, preparation)


def train(
    data_dir: Path,
    workdir: Path,
    dataset: str | None = None,
    model: ModelName = "keras",
    network: OmitArgPrefixes[ModelConfig] = KERAS,
    recipe: Recipe = "paper",
    training: OmitArgPrefixes[TrainConfig] = RECIPES["paper"],
    inference: OmitArgPrefixes[InferenceConfig] = _INFERENCE,
    hosts: OmitArgPrefixes[HostsConfig] = _HOSTS,
    other_dataset: bool = False,
    init_from: Path | None = None,
    fold: int | None = None,
    plugins: OmitArgPrefixes[PluginOptions] = _PLUGINS,
    tracker: tuple[TrackerName, ...] = (),
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
        recipe: Training recipe: the paper's, that of the authors' code, the paper's without augmentation (`plain`), or
            our own (`rdunet`). Its settings are the defaults of the training options.
        other_dataset: Continue a run that was trained on another data set or split. Both are recorded in the run.
        init_from: Begin with the weights of another network, as far as its layers have the same names and shapes: the
            folder of a run (its best network), a model file of `export-model`, or a Keras file (`.keras`,
            `.weights.h5`, `.h5`). What was taken and what was left out is recorded in the run, and so are the patients
            that the network was trained on. A run that continues does not use it.
        fold: Hold out this fold of the data set, from 0; the data set was made with `prepare --folds`. `evaluate`
            scores its patients, and `pool` those of all folds together.
        tracker: Also write what is measured for MLflow or Weights & Biases, into the run's folder (TensorBoard's files
            are there in any case).
    """
    from data_pipeline.loading import Dataset
    from rdunet_jax.parallel import initialize
    from rdunet_jax.workflows.train import train_network

    initialize(hosts)
    data = Dataset(data_dir, dataset, fold)
    train_network(data, workdir, network, training, inference, console, other_dataset, init_from, tracker)


def evaluate(
    data_dir: Path,
    workdir: tuple[Path, ...] = (),
    dataset: str | None = None,
    scoring: OmitArgPrefixes[EvaluateOptions] = _EVALUATE,
    shard: str | None = None,
    output: Path | None = None,
    model: str | None = None,
    plugins: OmitArgPrefixes[PluginOptions] = _PLUGINS,
) -> None:
    """Score a trained network on whole patients, on the CT's own grid: slice by slice, in 3-D, and by lesions.

    Args:
        data_dir: Folder with a data set that `rdunet prepare` made.
        workdir: Folder of the run whose best network is scored; or folders of several runs, the mean of whose
            probabilities is scored.
        dataset: Name of the data set, where the folder holds several.
        shard: Share the prediction among processes: `2/4` predicts every fourth patient, from the second, and
            stores the probabilities. When all have ended, the same command without --shard scores them.
        output: Folder for the scores, needed for several runs and for a model file (None: the run's).
        model: Path or https address of a model file of `export-model`, in place of a run or as one more network.
    """
    from rdunet_jax.workflows.evaluate import evaluate_network
    from rdunet_jax.workflows.model_source import networks_of
    from rdunet_jax.workflows.seen import data_of_runs
    from rdunet_jax.workflows.stored_probabilities import Shard, store_shard

    with networks_of(workdir, model) as networks:
        data = data_of_runs(data_dir, dataset, networks)
        if shard is not None:
            store_shard(data, networks, scoring, Shard.parse(shard), console, output)
            return
        evaluate_network(data, networks, console, scoring, output)


def compare(
    one: Annotated[Positional[Path], arg(metavar="ONE")], other: Annotated[Positional[Path], arg(metavar="OTHER")]
) -> None:
    """Test whether two evaluations of the same patients differ, patient by patient.

    Args:
        one: Folder of an evaluation, such as run/evaluation/test.
        other: Folder of another evaluation, by the same protocol.
    """
    from rdunet_jax.workflows.compare import compare_evaluations

    compare_evaluations(one, other, console)


def pool(folders: Annotated[Positional[tuple[Path, ...]], arg(metavar="EVALUATION ...")], output: Path) -> None:
    """Score the held-out patients of all folds together: each patient once, by the network that was not trained on it.

    Args:
        folders: Folders of the evaluations of all folds, such as run0/evaluation/test run1/evaluation/test.
        output: Folder for `summary.json`, `patients.csv` and `slices.csv`.
    """
    from rdunet_jax.workflows.pool import pool_folds

    pool_folds(folders, output, console)


def choose_postprocessing(
    data_dir: Path,
    workdir: Path,
    dataset: str | None = None,
    allow_seen: bool = False,
    plugins: OmitArgPrefixes[PluginOptions] = _PLUGINS,
) -> None:
    """Find the post-processing that scores best on the validation patients: threshold, dilation, holes, components.

    The choice is printed as flags for `evaluate` and `segment`, and stored in the run: --chosen-postprocessing uses it.

    Args:
        data_dir: Folder with a data set that `rdunet prepare` made.
        workdir: Folder of the run whose best network is used.
        dataset: Name of the data set, where the folder holds several.
        allow_seen: Also use validation patients that the network was trained on.
    """
    from rdunet_jax.workflows.choose_postprocessing import choose
    from rdunet_jax.workflows.seen import data_of_runs

    choose(data_of_runs(data_dir, dataset, [workdir]), workdir, console, allow_seen)


def segment(
    output: Path,
    workdir: tuple[Path, ...] = (),
    model: str | None = None,
    source: Annotated[Positional[Path | None], arg(metavar="SOURCE")] = None,
    segmentation: OmitArgPrefixes[SegmentOptions] = _SEGMENT,
    plugins: OmitArgPrefixes[PluginOptions] = _PLUGINS,
) -> None:
    """Segment CT series with a trained network: a mask on the CT's own grid, a picture and a report.

    The exit status is 0 if every CT was segmented, 1 if some failed or lack a file, 2 if none could be segmented.

    Args:
        workdir: Folder of the run whose best network is used; or folders of several runs, whose probabilities are
            averaged.
        model: Path or https address of a model file of `export-model`, in place of a run or as one more network. An
            address may end in `#sha256=` and the file's SHA-256, which is compared then.
        output: Folder for the mask, `overview.png` and `report.json`; each of several CTs gets a folder in it, and
            `report.csv` lists them.
        source: Folder with the DICOM files of one CT or of several, or a zip file of it; volume files (NIfTI, NRRD,
            MetaImage), one or a folder of them; or what `prepare` takes.
    """
    from rdunet_jax.workflows.model_source import networks_of
    from rdunet_jax.workflows.segment import segment_source

    if source is None:  # a SOURCE behind --workdir reads as one of its folders
        if len(workdir) < (2 if model is None else 1):
            raise InputError("Missing from rdunet segment: SOURCE; see --help")
        *runs, source = workdir
        workdir = tuple(runs)
    with networks_of(workdir, model) as networks:
        failed = segment_source(source, networks, output, console, segmentation)
    if failed:
        sys.exit(1)


def run_experiment(
    file: Annotated[Positional[Path], arg(metavar="FILE")],
    experiment: OmitArgPrefixes[ExperimentOptions] = _EXPERIMENT,
    plugins: OmitArgPrefixes[PluginOptions] = _PLUGINS,
) -> None:
    """Train and score the variants of an experiment's file, and compare them in one table.

    Only what is not done yet is run. Stopped or killed, the same command continues.

    Args:
        file: TOML file with settings, seeds, folds, and variants by name or as a grid.
    """
    from rdunet_jax.workflows.run_experiment import run_experiment as run_file

    run_file(file, experiment, console, plugins.plugin)


def models(
    names: Annotated[Positional[tuple[str, ...]], arg(metavar="[NAME ...]")] = (),
    image_size: Annotated[tuple[int | str, ...], arg(metavar="INT|{INT INT}")] = (256,),
    measure: bool = False,
    diff: tuple[str, str] | None = None,
    plugins: OmitArgPrefixes[PluginOptions] = _PLUGINS,
) -> None:
    """Compare networks: parameters, arithmetic, memory, receptive field, time, and the shapes of every stage.

    Args:
        names: Networks, folders of runs or model files; of a single one also the shapes of its stages, as in the
            paper's Table 1 (None: all networks by name, a line each).
        image_size: Rows and columns of the patch, in pixels, such as 96 128; one number for a square.
        measure: Also time a forward pass and a training step of one patch on this machine. Each network is compiled
            for it, which takes up to some minutes.
        diff: Two networks, runs or model files: show the settings and the layers in which they differ.
    """
    from rdunet_jax.workflows.list_models import show_models
    from rdunet_jax.workflows.model_differences import show_differences

    if diff is not None:
        show_differences(*diff, console)
        return
    size: Any = tuple(word for word in image_size if isinstance(word, int))
    # A NAME behind --image-size reads as one of its words.
    behind = tuple(word for word in image_size if isinstance(word, str))
    show_models((*names, *behind), size[0] if len(size) == 1 else size, console, measure)


def import_weights(
    file: Annotated[Positional[Path], arg(metavar="FILE")],
    workdir: Path,
    model: ModelName = "keras",
    network: OmitArgPrefixes[ModelConfig] = KERAS,
    intensity: Intensity = "slice_minmax",
    image_size: ImageSize = 256,
    inference: OmitArgPrefixes[InferenceConfig] = _INFERENCE,
    given_gate: Suppress[Gate | None] = None,
    plugins: OmitArgPrefixes[PluginOptions] = _PLUGINS,
) -> None:
    """Make a run from the weights in a Keras file, for `evaluate` and `segment`.

    Args:
        file: Keras 3 `.keras` or `.weights.h5`, or Keras 2 `.h5` (whole model or weights alone). A file of weights
            alone does not say which activation the recurrent gates have: give --gate.
        workdir: Folder for the run; must not hold one yet.
        model: Name of the network: one of those that `rdunet models` lists. Its settings are the defaults of the
            network options.
        intensity: Grey conversion of the images that the network was trained on.
        image_size: Rows and columns of the images that the network was trained on, in pixels, such as 96 128; one
            number for a square.
    """
    from rdunet_jax.runs.workdir import RunConfig
    from rdunet_jax.workflows.import_weights import import_weights as import_file

    run = RunConfig(network, TrainConfig(), inference, intensity, image_size)
    run = import_file(file, workdir, run, given_gate)
    console.print(f"run: {workdir} ({run.model.name}, gates {run.model.gate})", markup=False)


def export_model(
    run: Annotated[Positional[Path], arg(metavar="RUN")],
    output: Path,
    to: ExportFormat = "rdunet",
    licence: str | None = None,
    intended_use: str | None = None,
    plugins: OmitArgPrefixes[PluginOptions] = _PLUGINS,
) -> None:
    """Write a trained network for others: one file with its weights, settings and scores, or another form of it.

    No form names a patient of the training data. Nothing is uploaded.

    Args:
        run: Folder of the run whose best network is written; or a model file.
        output: File to write; a folder for `huggingface` and `stablehlo`.
        to: `rdunet`: a model file for `segment --model`, `evaluate --model` and `train --init-from`, and its card in
            Markdown. `huggingface`: the folder of a model repository. `keras`: weights for Keras 3 (`*.weights.h5`) or
            Keras 2 (`*.h5`). `stablehlo`: programs for CPU and CUDA with the weights in them, which need JAX alone.
        licence: Licence of the weights, such as apache-2.0 (None: unknown).
        intended_use: What the network may be used for, in a sentence (None: research).
    """
    from rdunet_jax.workflows.export_model import export_model as export

    export(run, output, to, console, licence, intended_use)


def sample_data(output: Path) -> None:
    """Bring four real patients (NSCLC, CC BY-NC 3.0, 26 MB) for trying things out.

    Args:
        output: Folder for the patients' DICOM files.
    """
    from data_pipeline.sample_data import LICENCE_NOTICE, fetch_sample_data

    folders = fetch_sample_data(output, console=console)
    console.print(LICENCE_NOTICE, markup=False)
    console.print(f"{len(folders)} patients: {output}", markup=False)


def demo(output: Path = Path("demo"), seed: int = 0, level: PhantomLevel = "easy") -> None:
    """Run all steps on phantom patients: DICOM, data set, training, evaluation, segmentation.

    Args:
        output: Folder for everything; must not exist yet or be empty.
        seed: Seeds the phantoms, the split and the training.
        level: Phantoms: `easy` (tumours of 20 to 50 mm in the lungs) or `realistic` (nodules from 5 mm, masses at
            hilum, mediastinum, diaphragm and chest wall, cavities, look-alikes).
    """
    from rdunet_jax.workflows.demo import run_demo

    run_demo(output, console, seed, level)


COMMANDS = {
    "prepare": prepare,
    "train": train,
    "evaluate": evaluate,
    "choose-postprocessing": choose_postprocessing,
    "compare": compare,
    "pool": pool,
    "segment": segment,
    "run": run_experiment,
    "models": models,
    "import-weights": import_weights,
    "export-model": export_model,
    "sample-data": sample_data,
    "demo": demo,
}


@dataclass(frozen=True)
class _First:
    """Options that are read first, because the defaults of the others depend on them."""

    recipe: Recipe = "paper"
    model: str = "keras"
    gate: Gate | None = None
    selection: str | None = None
    plugin: UseAppendAction[tuple[str, ...]] = ()
    version: bool = False


def main() -> None:
    """Entry point: a user's mistake is one line on standard error and status 2, a stop by Ctrl-C status 130."""
    goes_on = "the same command again continues from the last checkpoint"
    with mistakes_in_one_line(f"stopped; {'remove its folder' if sys.argv[1:2] == ['demo'] else goes_on}"):
        prepare_jax()
        first, _ = parse(partial(tyro.cli, _First, return_unknown_args=True, add_help=False))
        if first.version:
            print(f"rdunet {__version__}")
            return
        if first.selection is not None and sys.argv[1] == "prepare":
            raise InputError(
                "--selection: a data set holds all slices; choose the patches in training: rdunet train --data-dir "
                f"DATA --workdir RUN --selection {first.selection}"
            )
        for plugin in first.plugin:  # before the names that they register are choices and defaults
            from rdunet_jax.runs.plugins import load_plugin

            load_plugin(plugin)
        takes_name = sys.argv[1:] and sys.argv[1] in ("train", "import-weights")  # other commands take a model file
        network = model_config(first.model) if takes_name else KERAS
        defaults = {
            "train": {"network": network, "training": RECIPES[first.recipe]},
            "import-weights": {"network": network, "given_gate": first.gate},
        }
        commands = {name: deferred(command, **defaults.get(name, {})) for name, command in COMMANDS.items()}
        description = "Lung-tumour segmentation in CT. `rdunet --version` prints the version."
        run = parse(
            lambda: tyro.extras.subcommand_cli_from_dict(commands, prog="rdunet", description=description),
        )
        require_address_space(sys.argv[1])
        run()
