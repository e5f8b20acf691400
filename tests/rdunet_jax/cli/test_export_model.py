"""`rdunet export-model`, and the commands that take what it writes: without the run, and without its data set."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jax
import nibabel as nib
import numpy as np
import pytest
import yaml

from data_pipeline.loading import Dataset
from rdunet_jax.checked_json import write_checked
from rdunet_jax.config import InferenceConfig
from rdunet_jax.networks.keras_weights import load_keras_weights
from rdunet_jax.runs.initial_weights import Source
from rdunet_jax.runs.model_file import load_model
from rdunet_jax.runs.tensor_file import MOST_BYTES
from rdunet_jax.runs.workdir import load_trained
from rdunet_jax.scoring.labels import LABELS
from rdunet_jax.workflows import model_source
from rdunet_jax.workflows.export_model import model_of_run
from tests.data_pipeline.dicom_files import write_series
from tests.rdunet_jax.command import Command, one_line
from tests.rdunet_jax.runs.model_files import CHOSEN, make_run

ROOT = Path(__file__).resolve().parents[3]
DUMMY = ROOT / "data_pipeline" / "nsclc_radiomics" / "dummy_data"
TISSUE = np.random.default_rng(0).integers(24, 1600, (9, 12, 10)).astype(np.uint16)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of a run that a test may remove."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def model(run: Path, tmp_path: Path, rdunet: Command) -> Path:
    path = tmp_path / "models" / "model.rdunet"
    assert rdunet("export-model", run, "--output", path).status == 0
    return path


@pytest.fixture
def segment(tmp_path: Path, rdunet: Command):
    """Segments a CT; returns the mask and the report."""
    write_series(tmp_path / "in", stored=TISSUE, patient=1)

    def run(*arguments: object) -> tuple[np.ndarray, dict]:
        output = tmp_path / "out"
        shutil.rmtree(output, ignore_errors=True)
        result = rdunet("segment", tmp_path / "in", "--output", output, *arguments)
        assert result.status == 0, result.error
        mask = np.asarray(nib.load(output / "mask.nii.gz").dataobj)  # pyright: ignore
        return mask, json.loads((output / "report.json").read_text())

    return run


@pytest.fixture
def server(model: Path) -> Iterator[str]:
    """Address of a server on this machine that offers the model file, well and badly."""
    content = model.read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name, size = self.path.partition("?")[0], len(content)
            if name in ("/away", "/outside"):
                self.send_response(302)
                self.send_header("Location", "file:///etc/passwd" if name == "/away" else "http://example.org/x")
                self.end_headers()
                return
            self.send_response(200 if name in ("/model.rdunet", "/cut", "/huge") else 404)
            self.send_header("Content-Length", str({"/cut": size + 1, "/huge": MOST_BYTES + 1}.get(name, size)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as offered:
        thread = threading.Thread(target=offered.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{offered.server_port}"
        offered.shutdown()
        thread.join()


@pytest.mark.slow
def test_masks_equal_those_of_the_run_which_is_gone(run: Path, model: Path, segment, server: str) -> None:
    flags = ((), ("--chosen-postprocessing",))
    masks = [segment("--workdir", run, *more)[0] for more in flags]
    weights = segment("--workdir", run)[1]["network"]["runs"][0]["weights_sha256"]
    assert [0 < mask.mean() < 1 for mask in masks] == [True, True], [mask.mean() for mask in masks]
    shutil.rmtree(run)
    for source in (model, f"{server}/model.rdunet#sha256={hashlib.sha256(model.read_bytes()).hexdigest()}"):
        report: dict = {}
        for mask, more in zip(masks, flags, strict=True):
            again, report = segment("--model", source, *more)
            np.testing.assert_array_equal(again, mask)
        assert report["seen_by_network"] == "unknown"
        assert report["network"]["runs"] == [{"run": "model", "step": 3, "best": False, "weights_sha256": weights}]


@pytest.mark.slow
def test_a_model_file_is_averaged_with_runs(run: Path, model: Path, tmp_path: Path, segment) -> None:
    other = make_run(tmp_path / "other", norm_momentum=0.8, gate="sigmoid")
    expected, _ = segment("--workdir", run, other)
    mask, report = segment("--workdir", other, "--model", model)
    np.testing.assert_array_equal(mask, expected)
    assert [one["run"] for one in report["network"]["runs"]] == ["other", "model"]


def test_what_cannot_be_downloaded_is_one_line(
    server: str, tmp_path: Path, rdunet: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()

    def refused(address: str, *parts: str) -> None:
        result = rdunet("segment", tmp_path / "in", "--model", address, "--output", tmp_path / "out")
        one_line(result, f"{address.partition('#')[0]}: ", *parts)

    refused(f"{server}/model.rdunet#sha256={'0' * 64}", "has the SHA-256 ", "not the one after #")
    refused(f"{server}/absent", "cannot be downloaded (Not Found); check the address")
    refused(f"{server}/cut", "the transfer ended early; start again")
    refused(f"{server}/huge", "larger than the 512 MiB of a model file")
    refused(f"{server}/away", "Redirection to url 'file:///etc/passwd' is not allowed")
    result = rdunet("segment", tmp_path / "in", "--model", f"{server}/outside", "--output", tmp_path / "out")
    one_line(result, "http://example.org/x: model files are downloaded by https alone")
    for address in (
        "http://example.org/m",
        "file:///etc/passwd",
        "ftp://127.0.0.1/m",
        "http://127.0.0.1.example.org/m",
    ):
        refused(address, "model files are downloaded by https alone; give such an address")
    refused("https://[::1", "cannot be downloaded")
    refused("http://127.0.0.1:9/model", "cannot be downloaded (")
    monkeypatch.setattr(model_source, "MOST_BYTES", 100)
    refused(f"{server}/model.rdunet", "larger than")
    monkeypatch.setattr(model_source, "MOST_SECONDS", -1)
    monkeypatch.setattr(model_source, "MOST_BYTES", MOST_BYTES)
    refused(f"{server}/model.rdunet", "not complete after")


def test_damage_is_one_line_that_names_the_file(model: Path, tmp_path: Path, rdunet: Command) -> None:
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    model.write_bytes(content)
    (tmp_path / "in").mkdir()
    for source in (model, ROOT / "README.md", tmp_path / "absent"):
        result = rdunet("segment", tmp_path / "in", "--model", source, "--output", tmp_path / "out")
        one_line(result, f"error: {source}: ")
    one_line(rdunet("segment", tmp_path / "in", "--output", tmp_path / "out"), "--workdir", "--model")
    result = rdunet("export-model", model, "--output", tmp_path / "again.rdunet")
    one_line(result, "damaged (its content does not fit its SHA-256)")


def test_the_card_and_the_folder_of_the_hub(run: Path, model: Path, tmp_path: Path, rdunet: Command) -> None:
    card = (model.parent / "model.md").read_text()
    assert hashlib.sha256(model.read_bytes()).hexdigest() in card and "Trained on 2 patients" in card
    assert "square of 3 pixels" in card and "CANARY" not in card
    text = ("--licence", "apache-2.0", "--intended-use", "Tests.\nOnly.")
    result = rdunet("export-model", run, "--to", "huggingface", "--output", tmp_path / "hub", *text)
    assert result.status == 0, result.error
    files = ["README.md", "config.json", "model.safetensors"]
    assert sorted(path.name for path in (tmp_path / "hub").iterdir()) == files
    readme = (tmp_path / "hub" / "README.md").read_text()
    front = yaml.safe_load(readme.split("---\n")[1])
    assert front["license"] == "apache-2.0" and front["library_name"] == "rdunet-jax"
    description = json.loads((tmp_path / "hub" / "config.json").read_text())
    assert description["intended_use"] == "Tests.\nOnly." and description["licence"] == "apache-2.0"
    again = tmp_path / "again.rdunet"
    assert rdunet("export-model", tmp_path / "hub" / "model.safetensors", "--output", again).status == 0
    assert again.read_bytes() == (tmp_path / "hub" / "model.safetensors").read_bytes()
    one_line(rdunet("export-model", run, "--to", "huggingface", "--output", tmp_path / "hub"), "not an empty folder")
    one_line(rdunet("export-model", run, "--output", tmp_path / "model.md"), "cannot end in .md")
    one_line(rdunet("export-model", run, "--output", tmp_path / "x", "--licence", ""), "licence is empty")


def test_keras_weights_come_back_bit_for_bit(run: Path, model: Path, tmp_path: Path, rdunet: Command) -> None:
    trained = load_trained(run)
    for name in ("weights.weights.h5", "weights.h5"):
        result = rdunet("export-model", model, "--to", "keras", "--output", tmp_path / name)
        assert result.status == 0 and "recurrent gates: hard_sigmoid" in result.out
        _, variables = load_keras_weights(tmp_path / name, trained.config.model, "hard_sigmoid")
        jax.tree.map(np.testing.assert_array_equal, variables, trained.variables)
    result = rdunet("export-model", model, "--to", "keras", "--output", tmp_path / "network.keras")
    one_line(result, f"{tmp_path / 'network.keras'}: ", "*.weights.h5 (Keras 3) or *.h5 (Keras 2)")
    one_line(rdunet("export-model", model, "--output", "."), "is a folder; name a file inside it")
    other = make_run(tmp_path / "other", bottleneck="convgru")
    one_line(rdunet("export-model", other, "--to", "keras", "--output", tmp_path / "w.h5"), "bottleneck=convgru")


def test_training_begins_with_a_model_file(run: Path, model: Path) -> None:
    network = load_trained(run).config.model
    of_run, of_file = Source.load(run, network), Source.load(model, network)
    assert (of_file.name, of_file.step, of_file.settings) == ("model.rdunet", 3, of_run.settings)
    assert of_file.sha256 == hashlib.sha256(model.read_bytes()).hexdigest()
    jax.tree.map(np.testing.assert_array_equal, of_file.variables, of_run.variables)
    assert of_file.training_data.data_sets[0] == of_run.training_data.data_sets[0]
    assert not of_file.training_data.is_complete  # it names no patient


@pytest.mark.slow
@pytest.mark.usefixtures("optax_promotion")
def test_scores_of_a_run_are_in_its_file_which_scores_the_same(run: Path, tmp_path: Path, rdunet: Command) -> None:
    data = tmp_path / "data"
    size = ("--intensity", "hu_window", "--image-size", 16, "--workers", 1, "--keep-ids")
    assert rdunet("prepare", DUMMY, "--data-dir", data, *size).status == 0
    assert rdunet("evaluate", "--data-dir", data, "--workdir", run).status == 0
    model = tmp_path / "model.rdunet"
    assert rdunet("export-model", run, "--output", model).status == 0
    summary = json.loads((run / "evaluation" / "test" / "summary.json").read_text())
    (evaluation,) = load_model(model).description.evaluations
    assert evaluation.dataset_sha256 == Dataset(data).dataset_sha256 and evaluation.split == "test"
    for name in ("mean_volumetric_dice", "mean_volumetric_dice_low", "lesions_missed", "mean_dice_all_slices"):
        assert evaluation.scores[name] == summary[name]
    front = yaml.safe_load((tmp_path / "model.md").read_text().split("---\n")[1])
    assert front["model-index"][0]["results"][0]["metrics"][0]["value"] == summary["mean_volumetric_dice"]
    one_line(rdunet("evaluate", "--data-dir", data, "--model", model), "--output: name a folder for the scores of a")
    result = rdunet("evaluate", "--data-dir", data, "--model", model, "--output", tmp_path / "scores")
    assert result.status == 0 and "It is not recorded which patients this network was trained on." in result.out
    own, again = (folder / "evaluation" / "test" / "slices.csv" for folder in (run, tmp_path / "scores"))
    assert own.read_bytes() == again.read_bytes()


@pytest.mark.usefixtures("optax_promotion")
def test_scores_of_other_weights_are_not_those_of_the_file(run: Path, tmp_path: Path) -> None:
    """The checkpoints of a run were removed and it was trained again: its step is the same, its scores are not."""
    summary = {name: None for name in (*LABELS, "protocol", "dataset_sha256")} | asdict(InferenceConfig())
    summary |= {"split": "test", "step": 3, "runs": [], "weights_sha256": "0" * 64}
    other = Path(shutil.copytree(run, tmp_path / "again"))
    write_checked(other / "evaluation" / "test" / "summary.json", summary)
    assert model_of_run(other).description.evaluations == ()


RESTRICTED = """
import sys
gone = sys.argv[1]
def audit(event, arguments):
    if event == "open" and gone in str(arguments[0]):
        raise AssertionError(arguments)
sys.addaudithook(audit)
from rdunet_jax.cli.main import main
sys.argv = ["rdunet", *sys.argv[2:]]
main()
"""


@pytest.mark.slow
def test_a_process_without_the_run_and_the_data_set(run: Path, model: Path, tmp_path: Path, segment) -> None:
    flags = ("--chosen-postprocessing", "--stride", "2", "--flip", "--threshold", "0.4")
    expected, _ = segment("--workdir", run, *flags)
    away = tmp_path / "elsewhere"
    away.mkdir()
    copy = Path(shutil.move(model, away / "network.rdunet"))
    shutil.rmtree(run)
    words = ["segment", tmp_path / "in", "--model", copy, "--output", away / "out", *flags]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HOME": str(away)}
    command = [sys.executable, "-c", RESTRICTED, str(run), *map(str, words)]
    done = subprocess.run(command, cwd=away, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    mask = np.asarray(nib.load(away / "out" / "mask.nii.gz").dataobj)  # pyright: ignore
    np.testing.assert_array_equal(mask, expected)
    assert re.search(rf"dilated by a {CHOSEN.kernel} of {CHOSEN.dilation_diameter} pixels", done.stdout)
