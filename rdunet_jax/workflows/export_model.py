"""`rdunet export-model`: a trained network for others, without the run's folder."""

import json
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from data_pipeline.preprocessing.intensity import stored_dtype
from data_pipeline.ranges import from_json
from rdunet_jax.checked_json import DamagedError, read_checked
from rdunet_jax.config import InferenceConfig
from rdunet_jax.errors import InputError, RunError
from rdunet_jax.files import atomic_files, atomic_folder, atomic_path, renamed_in_errors, write_whole
from rdunet_jax.inference.stablehlo import PLATFORMS, export_predictor
from rdunet_jax.networks.keras_files import write_keras_file
from rdunet_jax.networks.keras_weights import to_keras
from rdunet_jax.options import ExportFormat
from rdunet_jax.runs import chosen_postprocessing
from rdunet_jax.runs.chosen_postprocessing import ChosenPostprocessing
from rdunet_jax.runs.model_file import Evaluation, ModelFile, describe, load_model, save_model
from rdunet_jax.runs.training_data import TrainingData
from rdunet_jax.runs.workdir import TrainedNetwork, load_trained
from rdunet_jax.scoring.labels import LABELS
from rdunet_jax.workflows.model_card import model_card
from rdunet_jax.workflows.prediction import predictor_of

CARD = "README.md"


def export_model(
    source: Path,
    output: Path,
    form: ExportFormat,
    console: Console,
    licence: str | None = None,
    intended_use: str | None = None,
) -> None:
    """Writes the network of a run, or of a model file, in another form.

    Args:
        source: folder of the run, or a model file.
        output: the file to write; for `huggingface` and `stablehlo` a folder that does not exist yet or is empty.
        licence: of the weights, such as `apache-2.0` (default: `unknown`, or the model file's).
        intended_use: a sentence (default: research, or the model file's).

    Raises:
        InputError: there is no trained network, it has no such form, or the output cannot be written.
    """
    model = load_model(source) if source.is_file() else model_of_run(source)
    texts = {"licence": licence, "intended_use": intended_use}
    given = {name: text for name, text in texts.items() if text is not None}
    model = replace(model, description=replace(model.description, **given))
    write = {"rdunet": _write_file, "huggingface": _write_folder, "keras": _write_keras, "stablehlo": _write_stablehlo}
    for line in write[form](model, output):
        console.print(line, markup=False)


def model_of_run(workdir: Path) -> ModelFile:
    """What a model file holds of a run: its best network, and the scores that were made with it.

    Raises:
        RunError: there is no run, or a file of it is damaged.
    """
    network = load_trained(workdir)
    if (workdir / chosen_postprocessing.FILE).exists():
        chosen = ChosenPostprocessing.load(workdir, network.weights_sha256)
        network = replace(network, chosen=chosen.postprocessing)
    evaluations = tuple(_evaluations(workdir, network))
    return ModelFile(network, describe(network, TrainingData.load(workdir), evaluations))


def _evaluations(workdir: Path, network: TrainedNetwork) -> Iterator[Evaluation]:
    """The scores of this network alone."""
    for path in sorted((workdir / "evaluation").glob("*/summary.json")):
        try:
            summary = read_checked(path)
            if summary["weights_sha256"] == network.weights_sha256:
                yield _evaluation(summary)
        except (DamagedError, InputError, KeyError, TypeError, AttributeError) as error:
            raise RunError(
                f"cannot be read as scores ({error}); make it again with `rdunet evaluate`", path=path
            ) from error


def _evaluation(summary: dict[str, Any]) -> Evaluation:
    return Evaluation(
        split=summary["split"],
        protocol=summary["protocol"],
        dataset_sha256=summary["dataset_sha256"],
        patients_seen=summary["patients_trained_on"] + summary["patients_selected_on"],
        patients_failed=len(summary["failed_patients"]),
        prediction=from_json(InferenceConfig, {one.name: summary[one.name] for one in fields(InferenceConfig)}),
        scores={name: summary[name] for name in LABELS if name in summary},
    )


def _write_file(model: ModelFile, output: Path) -> list[str]:
    if not output.name:
        raise InputError("is a folder; name a file inside it", path=output)
    card = output.with_suffix(".md")
    if card == output:
        raise InputError("a model file cannot end in .md, which is its card's; name another file", path=output)
    with atomic_files(output.parent) as folder:
        sha256 = save_model(folder / output.name, model.network, model.description)
        write_whole(folder / card.name, model_card(model.description, output.stem, output.name, sha256))
    return [f"model: {output} (SHA-256 {sha256})", f"card: {card}"]


def _write_folder(model: ModelFile, output: Path) -> list[str]:
    """The layout of a repository on Hugging Face's hub."""
    with atomic_folder(output) as folder:
        sha256 = save_model(folder / "model.safetensors", model.network, model.description)
        write_whole(folder / "config.json", json.dumps(asdict(model.description), indent=1) + "\n")
        write_whole(folder / CARD, model_card(model.description, output.name, "model.safetensors", sha256))
    return [f"folder: {output} (README.md, config.json, model.safetensors); upload it as a model repository"]


def _write_keras(model: ModelFile, output: Path) -> list[str]:
    layers = to_keras(model.network.variables, model.network.config.model)
    with atomic_path(output) as path, renamed_in_errors(path, output):
        write_keras_file(path, layers)
    return [f"Keras weights: {output} (recurrent gates: {model.network.config.model.gate})"]


def _write_stablehlo(model: ModelFile, output: Path) -> list[str]:
    """A program for each platform; they take windows of any number."""
    network = model.network
    with atomic_folder(output) as folder:
        for platform in PLATFORMS:
            program = export_predictor(
                predictor_of(network.config, network.model),
                network.variables,
                jax.ShapeDtypeStruct(network.config.window_shape, stored_dtype(network.config.intensity)),
                platform,
            )
            write_whole(folder / f"{platform}.stablehlo", bytes(program.serialize()))
        write_whole(folder / "config.json", json.dumps(asdict(model.description), indent=1) + "\n")
    return [f"programs: {output} ({', '.join(f'{platform}.stablehlo' for platform in PLATFORMS)}, config.json)"]
