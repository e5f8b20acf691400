"""The commands as a user meets them: the whole road on tiny phantoms, and one clear line for every mistake."""

import csv
import importlib.metadata
import io
import json
import re
import subprocess
import sys
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from data_pipeline.dicom.discovery import discover
from data_pipeline.errors import InputError
from data_pipeline.preprocessing.intensity import normalise
from rdunet_jax.cli import main as cli
from rdunet_jax.config import RECIPES, AugmentConfig, InferenceConfig, ModelConfig, TrainConfig
from rdunet_jax.networks.models import MODELS, create_model, model_config
from rdunet_jax.runs.workdir import RunConfig
from rdunet_jax.training.checkpointing import Checkpoints
from rdunet_jax.training.step import create_state, train_step
from rdunet_jax.workflows import demo
from tests.rdunet_jax.command import one_line

DUMMY = Path(__file__).resolve().parents[3] / "data_pipeline" / "nsclc_radiomics" / "dummy_data"
TINY = ("--model", "tiny", "--widths", "4", "4", "4", "--recurrent-width", "4", "--batch-size", "1")

pytestmark = pytest.mark.usefixtures("optax_promotion", "home")


def test_every_command_in_order(rdunet, tmp_path: Path) -> None:
    data, work, output = tmp_path / "data", tmp_path / "work", tmp_path / "segmentation"
    status, out, _ = rdunet("prepare", DUMMY, "--data-dir", data, "--image-size", 16, "--keep-ids", "--workers", 1)
    assert status == 0
    assert "PHANTOM-001" in out and str(data) in out

    train = ("train", "--data-dir", data, "--workdir", work, *TINY, "--epochs", 2)
    status, out, _ = rdunet(*train)
    assert status == 0 and str(work) in out
    with (work / "history.csv").open(newline="") as file:
        epochs = list(csv.DictReader(file))
    assert len(epochs) == 2

    # the same command again has nothing to do; a longer one goes on; another network is refused
    assert rdunet(*train)[0] == 0
    assert rdunet(*train[:-1], 3)[0] == 0
    with (work / "history.csv").open(newline="") as file:
        assert list(csv.DictReader(file))[:2] == epochs
    one_line(rdunet(*train, "--learning-rate", 0.5), "train.learning_rate")

    status, out, _ = rdunet("evaluate", "--data-dir", data, "--workdir", work, "--threshold", 0.0)
    assert status == 0
    summary = json.loads((work / "evaluation" / "test" / "summary.json").read_text())
    with (work / "evaluation" / "test" / "slices.csv").open(newline="") as file:
        slices = list(csv.DictReader(file))
    # above 0 everything is tumour: Dice follows from the areas alone
    truth = np.array([int(row["truth_pixels"]) for row in slices])
    dice = 2 * truth / (truth + 32 * 32)
    assert [float(row["dice"]) for row in slices] == pytest.approx(dice.tolist())
    assert summary["mean_dice_tumour_slices"] == pytest.approx(dice[truth > 0].mean())
    assert summary["false_positive_slices"] == (truth == 0).sum()

    with (work / "evaluation" / "test" / "patients.csv").open(newline="") as file:
        patients = list(csv.DictReader(file))
    assert float(patients[0]["dice"]) == pytest.approx(2 * truth.sum() / (truth.sum() + len(truth) * 32 * 32))
    assert int(patients[0]["lesions_missed"]) == 0
    status, out, _ = rdunet("evaluate", "--data-dir", data, "--workdir", work, "--protocol", "authors_code")
    assert status == 0 and "dilated by a square" in out
    assert (work / "evaluation" / "test-authors_code" / "summary.json").exists()

    evaluations = work / "evaluation"
    status, out, _ = rdunet("compare", evaluations / "test", evaluations / "test")
    assert status == 0 and "Dice" in out and "n = 1" in out
    one_line(rdunet("compare", evaluations / "test", work), str(work / "summary.json"))

    manifest = (work / "manifest.json").read_text()
    sessions = json.loads(manifest)["sessions"]
    assert [session["outcome"] for session in sessions] == ["finished"] * 3
    assert len(json.loads(manifest)["dataset"]["dataset_sha256"]) == 64
    assert str(tmp_path) not in manifest

    status, out, _ = rdunet("segment", DUMMY / "PHANTOM-002", "--workdir", work, "--output", output)
    assert status == 0 and str(output) in out
    assert nib.Nifti1Image.from_filename(output / "mask.nii.gz").shape == (32, 32, 10)
    assert (output / "overview.png").stat().st_size > 10_000
    status, _, _ = rdunet("segment", DUMMY, "--workdir", work, "--output", tmp_path / "several")
    folders = sorted(path.name for path in (tmp_path / "several").iterdir() if path.is_dir())
    assert len(folders) == 3 and not any("PHANTOM" in name for name in folders)


def test_a_recipe_is_where_the_settings_start_from(rdunet, monkeypatch, tmp_path: Path) -> None:
    seen = []
    monkeypatch.setattr("data_pipeline.loading.Dataset", lambda *arguments: None)
    monkeypatch.setattr("rdunet_jax.workflows.train.train_network", lambda *arguments: seen.append(arguments[3]))
    train = ("train", "--data-dir", tmp_path, "--workdir", tmp_path)
    for more in (
        (),
        ("--recipe", "authors_code"),
        ("--recipe", "authors_code", "--early-stopping", 4, "--rotation", 9),
        ("--recipe", "rdunet", "--epochs", 3),
    ):
        assert rdunet(*train, *more)[0] == 0
    paper, keras, changed, ours = seen
    assert paper == RECIPES["paper"] and len(paper.augmentation) == 8
    assert keras == RECIPES["authors_code"] and keras.early_stopping == 15
    assert changed == replace(keras, early_stopping=4, augment=AugmentConfig(rotation=9))
    assert ours == replace(RECIPES["rdunet"], epochs=3) and ours.selection == "any_tumour" and ours.schedule == "cosine"


def test_every_field_of_a_network_is_an_option(rdunet, monkeypatch, tmp_path: Path) -> None:
    seen = []
    monkeypatch.setattr("data_pipeline.loading.Dataset", lambda *arguments: None)
    monkeypatch.setattr("rdunet_jax.workflows.train.train_network", lambda *arguments: seen.append(arguments[2]))
    train = ("train", "--data-dir", tmp_path, "--workdir", tmp_path)
    changed = ("--bottleneck", "convgru", "--norm", "group", "--no-recurrent-norm", "--widths", 8, 16, "--name", "mine")
    for more in ((), ("--model", "tiny"), ("--model=tiny", *changed)):
        assert rdunet(*train, *more)[0] == 0
    different = {"bottleneck": "convgru", "norm": "group", "recurrent_norm": False, "widths": (8, 16), "name": "mine"}
    assert seen == [MODELS["keras"], MODELS["tiny"], replace(MODELS["tiny"], **different)]
    _, out, _ = rdunet("train", "--model", "tiny", "--help")
    flags = set(re.findall(r"--([a-z-]+)", out))
    assert flags >= {field.name.replace("_", "-") for part in (ModelConfig, TrainConfig) for field in fields(part)} - {
        "augment"
    }
    assert "(default: 8 16 32)" in out  # of the network that was named


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_mistakes_in_the_command_line_are_one_line(encoding: str, rdunet, tmp_path: Path, monkeypatch) -> None:
    """The same line whatever tyro draws the frame of its message with."""
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    train = ("train", "--data-dir", tmp_path, "--workdir", tmp_path)
    for arguments, says in (
        ((), "error: Expected one of {prepare, train"),
        (("trian",), "error: Unrecognized options: trian; Available subcommands: prepare, train"),
        (train[:1], "error: Missing from rdunet train: --data-dir PATH, --workdir PATH; see --help"),
        ((*train, "--epochs", 0), "error: epochs is 0, but must be a whole number, from 1 to 1000000000; see --help"),
        ((*train, "--epochs", "many"), "error: --epochs must have the form INT; see --help"),
        ((*train, "--widths", 8, "x"), "error: --widths must have the form [INT [INT ...]]; see --help"),
        ((*train, "--early-stopping", "x"), "error: --early-stopping must have the form {None}|INT; see --help"),
        ((*train, "--lossy", 1), "error: Unrecognized options: --lossy, 1; Perhaps you meant: --loss STR; see --help"),
        ((*train, "--norm", "layer"), "'--norm'. Expected one of ('batch', 'group'); see --help"),
        ((*train, "--recipe", "mine"), "Expected one of ('paper', 'authors_code', 'plain', 'rdunet'); see --help"),
        ((*train, "--model", "mine"), "no network is called 'mine'; choose one of keras, paper"),
    ):
        one_line(rdunet(*arguments), says)
    sys.stdout.seek(0)
    assert sys.stdout.read() == ""


def test_version(rdunet) -> None:
    assert rdunet("--version") == (0, f"rdunet {importlib.metadata.version('rdunet-jax')}\n", "")


def spoil_nothing(source: Path) -> None:
    (source / "readme.txt").write_text("nothing here")


def spoil_rtstructs(source: Path) -> None:
    copy(source, with_rtstruct=False)


def copy(source: Path, with_rtstruct: bool) -> None:
    for patient in discover(DUMMY / "PHANTOM-001").series:
        for path in (*patient.files, *(patient.rtstructs if with_rtstruct else ())):
            (source / path.name).write_bytes(path.read_bytes())


@pytest.mark.parametrize("spoil", [spoil_nothing, spoil_rtstructs])
@pytest.mark.parametrize("keep_ids", [(), ("--keep-ids",)])
def test_unusable_sources(spoil, keep_ids, rdunet, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    spoil(source)
    one_line(rdunet("prepare", source, "--data-dir", tmp_path / "data", "--workers", 1, *keep_ids), str(source))
    assert not (tmp_path / "data").exists()


def test_mistakes_are_one_line(rdunet, tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    for arguments in (
        ("prepare", nothing, "--data-dir", tmp_path / "data"),
        ("train", "--data-dir", nothing, "--workdir", tmp_path / "work"),
        ("evaluate", "--data-dir", nothing, "--workdir", tmp_path / "work"),
        ("segment", DUMMY, "--workdir", nothing, "--output", tmp_path / "out"),
    ):
        one_line(rdunet(*arguments), str(nothing))
    for seed in (-1, 2**32):
        one_line(rdunet("demo", "--output", tmp_path / "out", "--seed", seed), f"seed is {seed}")
    assert not (tmp_path / "work").exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", [None, *cli.COMMANDS])
def test_every_command_has_help(command, rdunet) -> None:
    status, out, _ = rdunet(*filter(None, [command]), "--help")
    assert status == 0
    assert "rdunet" in out


def run_python(code: str, cwd: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


ABSENT = "import sys; print([name for name in ('tensorflow', 'keras', 'torch') if name in sys.modules])"


def test_importing_brings_no_tensorflow_and_no_keras(tmp_path: Path) -> None:
    assert run_python(f"import rdunet_jax, data_pipeline, rdunet_jax.cli.main; {ABSENT}", tmp_path) == "[]\n"


@pytest.mark.slow
@pytest.mark.full_size
def test_the_demo_brings_no_tensorflow_and_no_keras(tmp_path: Path) -> None:
    """The demo itself, made small: fewer and thinner phantoms, two steps, a coarse grid."""
    code = f"""
if __name__ == "__main__":
    from dataclasses import replace
    from pathlib import Path
    from rdunet_jax.cli import main
    from rdunet_jax.workflows import demo
    demo.PATIENTS, demo.SLICES = 3, (12, 12)
    demo.DATASET = replace(demo.DATASET, image_size=16)
    demo.RECIPE = replace(demo.RECIPE, steps=2, tumour_free_share=None)  # thin CTs have tumour everywhere
    demo.run_demo(Path("out"), main.console)
    {ABSENT}
"""
    out = run_python(code, tmp_path)
    assert out.endswith("[]\n")
    assert "mean slice-wise Dice" in out
    assert (tmp_path / "out" / "segmentation" / "overview.png").exists()


@pytest.mark.parametrize("level", ["easy", "realistic"])
def test_the_demo_writes_phantoms_of_the_level(level: str, rdunet, tmp_path: Path, monkeypatch) -> None:
    def stop(*_) -> None:
        raise InputError("enough")

    monkeypatch.setattr(demo, "PATIENTS", 1)
    monkeypatch.setattr(demo, "SLICES", (8, 8))
    monkeypatch.setattr(demo, "prepare_source", stop)
    status, out, errors = rdunet("demo", "--output", tmp_path / "demo", "--level", level)
    assert (status, errors) == (2, "error: enough\n") and f"(level {level})" in out
    truth = json.loads((tmp_path / "demo" / "dicom" / "PHANTOM-001" / "truth.json").read_text())
    assert truth["level"] == level and bool(truth["lookalikes"]) == (level == "realistic")


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_network_trains_and_segments(name: str, dtype, rdunet, tmp_path: Path) -> None:
    """One step of the real training step and `rdunet segment` on a phantom, for every named network."""
    narrow = {"widths": (4, 4), "recurrent_width": 4, "recurrent_layers": 1}
    if MODELS[name].architecture == "lungnet":
        narrow = {"widths": (4, 4), "dilations": (1, 3), "fusion_widths": (4, 4) if MODELS[name].fusion_widths else ()}
    network = model_config(name, dtype=dtype, **narrow)
    run = RunConfig(network, TrainConfig(), InferenceConfig(threshold=0.0), "hu_window", 32)
    run.save(tmp_path)
    state = create_state(create_model(network), run.train, (8, 32, 32))
    image = np.random.default_rng(0).integers(-1000, 400, (2, 8, 32, 32, 1)).astype(np.int16)
    batch = {"image": image, "mask": (image > 0).astype(np.uint8)}
    state, metrics = train_step(state, batch, run.train, partial(normalise, intensity="hu_window"))
    assert np.isfinite(float(metrics["loss"]))
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(1, state)
    checkpoints.close()
    status, _, error = rdunet("segment", DUMMY / "PHANTOM-001", "--workdir", tmp_path, "--output", tmp_path / "out")
    assert status == 0, error
    # probabilities lie above a threshold of 0, so the whole scan is predicted
    assert nib.Nifti1Image.from_filename(tmp_path / "out" / "mask.nii.gz").get_fdata().all()
