"""`rdunet train --init-from`: what a run begins with, what it records, and which sources are refused."""

import json
import shutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline.loading import Dataset
from rdunet_jax.cli import main as cli
from rdunet_jax.config import InferenceConfig, TrainConfig
from rdunet_jax.networks.keras_files import write_keras_file
from rdunet_jax.networks.keras_weights import load_keras_network, to_keras
from rdunet_jax.networks.models import create_model, model_config
from rdunet_jax.runs.training_data import DataIdentity, TrainingData
from rdunet_jax.runs.workdir import RunConfig, load_trained
from rdunet_jax.training.checkpointing import Checkpoints
from rdunet_jax.training.step import create_state
from rdunet_jax.workflows import train as workflow
from tests.rdunet_jax.command import Result, run_command

DUMMY = Path(__file__).resolve().parents[3] / "data_pipeline" / "nsclc_radiomics" / "dummy_data"
SIZES = {"widths": (4, 4), "recurrent_width": 4, "recurrent_layers": 1}
NETWORK = model_config("keras", **SIZES)
FLAGS = ("--widths", 4, 4, "--recurrent-width", 4, "--recurrent-layers", 1, "--batch-size", 1, "--steps", 1,
         "--validation", "patches")  # fmt: skip

pytestmark = pytest.mark.usefixtures("optax_promotion")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dummy patients as a data set, one in each part."""
    folder = tmp_path_factory.mktemp("init")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["rdunet", "prepare", str(DUMMY), "--data-dir", str(folder), "--image-size", "16",
                                    "--keep-ids", "--workers", "1"])  # fmt: skip
        cli.main()
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with weights from a seed of its own, as if trained on a patient of another data set."""
    workdir = tmp_path_factory.mktemp("source") / "pretrained"
    run = RunConfig(NETWORK, TrainConfig(seed=7), InferenceConfig(), "slice_minmax", 16)
    run.save(workdir)
    with jax.numpy_dtype_promotion("standard"):
        state = create_state(create_model(NETWORK), run.train, (8, 16, 16))
    checkpoints = Checkpoints(workdir / "checkpoints")
    checkpoints.save(5, state.replace(batch_stats=jax.tree.map(lambda leaf: leaf + 0.25, state.batch_stats)))
    checkpoints.close()
    TrainingData((DataIdentity("other", "d" * 64, "a" * 64),), ("P-1",), ("P-2",)).save(workdir)
    return workdir


@pytest.fixture
def train(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Trains in this process; returns (status, what it printed, its errors)."""

    def run(*arguments: object) -> Result:
        words = ("train", "--data-dir", data, "--workdir", tmp_path / "run", *FLAGS, *arguments)
        result = run_command(monkeypatch, capsys, *words)
        assert result.error.count("\n") == (result.status != 0), result.error
        return result

    return run


@pytest.fixture
def first_state(monkeypatch: pytest.MonkeyPatch) -> list:
    """The state that training would begin with; nothing is trained."""
    states = []
    monkeypatch.setattr(workflow, "fit", lambda state, *_, **__: states.append(state))
    return states


def recorded(tmp_path: Path) -> dict:
    return json.loads((tmp_path / "run" / "manifest.json").read_text())["sessions"][-1]["initial_weights"]


def test_the_same_network_has_the_same_first_logits_bit_for_bit(train, source, first_state, tmp_path) -> None:
    status, out, _ = train("--init-from", source, "--learning-rate", 0.5, "--seed", 3)
    assert status == 0 and "initial weights of 21 of 21 layers from pretrained, step 5\n" in out
    trained, state = load_trained(source), first_state[0]
    patch = np.random.default_rng(0).random((1, 8, 16, 16, 1), np.float32)
    apply = jax.jit(create_model(NETWORK).apply)
    logits = [apply(one.variables, jnp.asarray(patch)) for one in (trained, state)]
    np.testing.assert_array_equal(*logits)
    assert np.ptp(logits[0]) > 0
    # optimizer, step and random key are those of a new run
    fresh = create_state(create_model(NETWORK), TrainConfig(learning_rate=0.5, seed=3), (8, 16, 16))
    for name in ("step", "key", "opt_state", "plateau"):
        jax.tree.map(np.testing.assert_array_equal, getattr(state, name), getattr(fresh, name))
    record = recorded(tmp_path)
    assert (record["source"], record["step"], record["sha256"]) == ("pretrained", 5, trained.weights_sha256)
    assert len(record["taken"]) == 21 and record["left_out"] == record["random"] == []
    assert str(source.parent) not in (tmp_path / "run" / "manifest.json").read_text()


def test_another_width_lists_what_was_left_out(train, source, first_state, tmp_path) -> None:
    status, out, _ = train("--init-from", source, "--widths", 4, 6, "--gate", "sigmoid")
    assert status == 0 and "settings of pretrained that differ: widths (4, 4) (here (4, 6)), gate hard_sigmoid" in out
    record, trained = recorded(tmp_path), load_trained(source)
    assert set(record["taken"]) & {"encoder_1/conv_1", "bottleneck/norm_1"} and "logits" in record["taken"]
    assert "encoder_2/conv_1" in record["left_out"] and record["left_out"] == record["random"]
    assert ", ".join(record["left_out"][:3]) in out and "more (manifest.json has all)" in out
    changed = model_config("keras", **(SIZES | {"widths": (4, 6)}), gate="sigmoid")
    fresh = create_state(create_model(changed), TrainConfig(), (8, 16, 16)).params
    params = first_state[0].params
    for name, origin in (("taken", trained.variables["params"]), ("random", fresh)):
        for layer in record[name]:
            block, *rest = layer.split("/")
            pairs = [one[block][rest[0]] if rest else one[block] for one in (params, origin)]
            jax.tree.map(np.testing.assert_array_equal, *pairs)


@pytest.mark.slow
def test_a_fine_tuned_run_trains_on_and_remembers_both_data_sets(train, source, data, tmp_path) -> None:
    begun = load_trained(source).variables["params"]["logits"]["kernel"]
    status, out, error = train("--init-from", source, "--ema", 0.5)
    assert status == 0 and "1 steps" in out, error
    after = load_trained(tmp_path / "run").variables["params"]["logits"]["kernel"]
    assert 0 < np.abs(after - begun).max() < 1e-3  # one step of Adam moves a weight by its rate, 1e-4
    used = TrainingData.load(tmp_path / "run")
    assert used is not None and used.is_complete
    assert used.seen({"P-1": "", "P-2": "", **Dataset(data).fingerprints("train")}) == {
        "P-1": "trained",
        "P-2": "selected",
        **dict.fromkeys(Dataset(data).patient_names("train"), "trained"),
    }
    assert [one.name for one in used.data_sets] == ["other", "slice_minmax_16"]
    # the same command goes on and does not begin again, whatever became of the source
    status, out, _ = train("--init-from", tmp_path / "removed", "--ema", 0.5, "--steps", 2)
    assert status == 0 and "--init-from is not used" in out and "going on from step 1 of 2" in out
    assert TrainingData.load(tmp_path / "run") == used and recorded(tmp_path) is None


def test_held_out_patients_that_the_source_has_seen_are_named_and_refused(
    train, source, first_state, data, tmp_path, monkeypatch, capsys
) -> None:
    (test_patient,) = Dataset(data).patient_names("test")
    seen = shutil.copytree(source, tmp_path / "seen")
    TrainingData((DataIdentity("other", "d" * 64, "a" * 64),), (test_patient,), ()).save(seen)
    status, out, _ = train("--init-from", seen)
    assert status == 0 and "NOT NEW PATIENTS: seen was trained on 1 of the 1 test ones" in out
    shutil.copytree(source / "checkpoints", tmp_path / "run" / "checkpoints")
    words = ("rdunet", "evaluate", "--data-dir", data, "--workdir", tmp_path / "run")
    monkeypatch.setattr(sys, "argv", [*map(str, words)])
    with pytest.raises(SystemExit):
        cli.main()
    assert "--allow-seen" in capsys.readouterr().err


@pytest.mark.parametrize("name, widths", [("keras.weights.h5", (4, 4)), ("keras.h5", (4, 8, 8))])
def test_a_keras_file_of_any_width_is_a_source(name, widths, train, first_state, tmp_path) -> None:
    theirs = model_config("keras", **(SIZES | {"widths": widths}))
    variables = create_state(create_model(theirs), TrainConfig(seed=9), (8, 16, 16)).variables
    write_keras_file(tmp_path / name, to_keras(variables, theirs))
    config, loaded = load_keras_network(tmp_path / name, NETWORK)
    assert config.widths == widths
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)
    status, out, _ = train("--init-from", tmp_path / name)
    assert status == 0 and f"it is not recorded which patients {name} was trained on" in out
    record, params = recorded(tmp_path), first_state[0].params
    assert record["source"] == name and len(record["sha256"]) == 64 and record["step"] is None
    assert ("21 of 21" in out) == (widths == (4, 4)) and "encoder_1/conv_2" in record["taken"]
    np.testing.assert_array_equal(
        params["encoder_1"]["conv_2"]["kernel"], variables["params"]["encoder_1"]["conv_2"]["kernel"]
    )
    used = TrainingData.load(tmp_path / "run")
    assert used is not None and not used.is_complete


def damage_checkpoint(source: Path) -> Path:
    for path in (source / "checkpoints").rglob("*"):
        if path.is_file() and path.name != "checksums.json":
            path.write_bytes(b"damaged")
    return source


def damage_training_data(source: Path) -> Path:
    path = source / "training_data.json"
    path.write_text(path.read_text().replace("P-1", "P-3"))
    return source


def damage_file(source: Path) -> Path:
    path = source.with_suffix(".weights.h5")
    path.write_bytes(b"\x89HDF\r\n\x1a\n and no more")
    return path


@pytest.mark.parametrize(
    "spoil, says",
    [
        (
            lambda source: source / "absent",
            "no such run or file; give --init-from a run's folder, a model file or a Keras file",
        ),
        (lambda source: source / "checkpoints", "no trained network here"),
        (damage_checkpoint, "cannot be read as a checkpoint"),
        (damage_training_data, "damaged"),
        (damage_file, "not a Keras file"),
    ],
)
def test_a_source_that_cannot_be_used_is_one_line(spoil, says, train, source, tmp_path) -> None:
    spoilt = spoil(shutil.copytree(source, tmp_path / "spoilt"))
    status, _, error = train("--init-from", spoilt)
    assert status == 2 and says in error and str(spoilt) in error
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_source_without_a_layer_that_fits_is_refused(train, source, tmp_path) -> None:
    status, _, error = train("--init-from", source, "--widths", 3, "--recurrent-width", 5)
    assert status == 2 and "--init-from pretrained: no layer has the name and the shapes" in error
    assert not (tmp_path / "run" / "config.json").exists()
