"""Evaluation that is killed, shared among processes, or finds probabilities it must not use."""

import hashlib
import io
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from data_pipeline.errors import InputError
from data_pipeline.loading import Dataset
from data_pipeline.settings import DatasetSettings, PrepareOptions
from rdunet_jax.checked_json import DamagedError
from rdunet_jax.config import InferenceConfig, TrainConfig
from rdunet_jax.networks.models import create_model, model_config
from rdunet_jax.runs.workdir import RunConfig, load_trained
from rdunet_jax.training.checkpointing import Checkpoints
from rdunet_jax.training.step import create_state
from rdunet_jax.workflows.evaluate import evaluate_network
from rdunet_jax.workflows.prepare import prepare_source
from rdunet_jax.workflows.stored_probabilities import Shard, StoredProbabilities, store_probabilities

ROOT = Path(__file__).resolve().parents[3]
DUMMY = ROOT / "data_pipeline" / "nsclc_radiomics" / "dummy_data"
FILES = ("summary.json", "slices.csv", "patients.csv")
QUIET = Console(quiet=True)

pytestmark = pytest.mark.usefixtures("optax_promotion")


def save_run(workdir: Path, seed: int) -> None:
    """A run whose checkpoint holds a network as it was initialised."""
    network = model_config("tiny", widths=(4, 4, 4), recurrent_width=4)
    run = RunConfig(network, TrainConfig(seed=seed), InferenceConfig(threshold=0.5), "hu_window", 16)
    run.save(workdir)
    checkpoints = Checkpoints(workdir / "checkpoints")
    checkpoints.save(1, create_state(create_model(network), run.train, (8, 16, 16)))
    checkpoints.close()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    settings = DatasetSettings(intensity="hu_window", image_size=16, test_share=0.67, validation_share=0)
    prepare_source(DUMMY, folder, settings, QUIET, PrepareOptions(workers=1, keep_ids=True))
    assert Dataset(folder).patient_count("test") == 2
    return folder


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    save_run(tmp_path / "run", seed=0)
    return tmp_path / "run"


def evaluate_in_a_process(data: Path, workdir: Path, *more: str, pause: float = 0) -> subprocess.Popen:
    """`rdunet evaluate`, which waits for `pause` seconds after every patient that is predicted."""
    code = f"""
import sys, time
from rdunet_jax.cli import main
from rdunet_jax.workflows import stored_probabilities as stored
save = stored.StoredProbabilities.save
stored.StoredProbabilities.save = lambda *arguments: (save(*arguments), time.sleep({pause}))
sys.argv = ["rdunet", "evaluate", "--data-dir", {str(data)!r}, "--workdir", {str(workdir)!r}, *{list(more)}]
main.main()
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment |= {"JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "compiled")}
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen) -> None:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output


def hashes(workdir: Path) -> list[str]:
    return [hashlib.sha256((workdir / "evaluation" / "test" / name).read_bytes()).hexdigest() for name in FILES]


def stored_files(workdir: Path) -> list[Path]:
    return sorted(workdir.glob("evaluation/test/probabilities/*/[!.]*.npz"))


@pytest.mark.slow
def test_killed_between_patients_it_ends_byte_equal(data: Path, workdir: Path, tmp_path: Path) -> None:
    save_run(tmp_path / "whole", seed=0)
    finish(evaluate_in_a_process(data, tmp_path / "whole"))
    process = evaluate_in_a_process(data, workdir, pause=60)
    deadline = time.monotonic() + 200
    while not stored_files(workdir):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()  # SIGKILL
    process.communicate()
    (first,) = stored_files(workdir)
    written = first.stat().st_mtime_ns
    assert not (workdir / "evaluation" / "test" / "summary.json").exists()
    finish(evaluate_in_a_process(data, workdir))
    assert first.stat().st_mtime_ns == written  # used, not predicted again
    assert hashes(workdir) == hashes(tmp_path / "whole")


def test_shards_share_the_patients(data: Path, workdir: Path) -> None:
    network = load_trained(workdir)
    for number in (1, 2):
        store_probabilities(Dataset(data), workdir, "test", network, QUIET, Shard.parse(f"{number}/2"))
        assert len(stored_files(workdir)) == number
    written = [path.stat().st_mtime_ns for path in stored_files(workdir)]
    evaluate_network(Dataset(data), workdir, QUIET)
    assert [path.stat().st_mtime_ns for path in stored_files(workdir)] == written


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "1/2/3", "a/b", "-1/2"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--shard"):
        Shard.parse(text)


@pytest.mark.parametrize("spoil", ["cut", "empty", "other shape", "other dtype", "pickle", "another patient's"])
def test_a_file_that_cannot_be_used_is_made_again(spoil: str, data: Path, workdir: Path) -> None:
    network = load_trained(workdir)
    example = next(Dataset(data).patients("test"))
    stored = store_probabilities(Dataset(data), workdir, "test", network, QUIET)
    path, expected = stored.folder / f"{example.name}.npz", stored[example]
    spoiled = {"other shape": expected[1:], "other dtype": expected.astype(float), "pickle": np.array([{}], object)}
    if spoil in spoiled:
        np.savez(path, probabilities=spoiled[spoil])
    elif spoil == "another patient's":
        np.savez(path, other=expected)
    else:
        path.write_bytes(path.read_bytes()[:-7] if spoil == "cut" else b"")
    with pytest.raises(DamagedError, match=r"damaged|not the probabilities"):
        stored.load(example)
    shown = io.StringIO()
    again = store_probabilities(Dataset(data), workdir, "test", network, Console(file=shown, width=500))
    np.testing.assert_array_equal(again[example], expected)
    assert shown.getvalue().count("warning: ") == 1 and str(path) in shown.getvalue()


def test_no_flipped_bit_gives_other_probabilities(data: Path, workdir: Path) -> None:
    """A bit of every byte of the zip's headers, and 200 of the rest."""
    network = load_trained(workdir)
    example = next(Dataset(data).patients("test"))
    stored = store_probabilities(Dataset(data), workdir, "test", network, QUIET)
    path, expected = stored.folder / f"{example.name}.npz", stored[example]
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    headers = np.array([*range(200), *range(len(whole) - 140, len(whole))])
    places = [*(8 * headers + rng.integers(0, 8, len(headers))), *rng.integers(0, 8 * len(whole), 200)]
    refused = 0
    for place in places:
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << int(place % 8)
        path.write_bytes(damaged)
        try:
            np.testing.assert_array_equal(stored.load(example), expected)  # a flag or date that changes nothing
        except DamagedError:
            refused += 1
    assert refused > 0.5 * len(places)


def test_names_of_files_stay_inside_the_run(data: Path, workdir: Path) -> None:
    stored = StoredProbabilities(Dataset(data), workdir, "test", load_trained(workdir))
    example = next(Dataset(data).patients("test"))
    for name in ("x/../../../../../ESCAPED", str(workdir / "ESCAPED"), "..", "", "CON", "a\nb"):
        hostile = replace(example, name=name)
        stored.save(hostile, example.image.astype(np.float32))
        assert stored.load(hostile) is not None
    assert not list(workdir.parent.rglob("*ESCAPED")) or all(
        path.parent == stored.folder for path in workdir.parent.rglob("*ESCAPED*")
    )
    assert len(list(stored.folder.iterdir())) == 6


def test_another_network_of_the_same_step_has_probabilities_of_its_own(
    data: Path, workdir: Path, tmp_path: Path
) -> None:
    store_probabilities(Dataset(data), workdir, "test", load_trained(workdir), QUIET)
    save_run(tmp_path / "other", seed=1)
    other = StoredProbabilities(Dataset(data), workdir, "test", load_trained(tmp_path / "other"))
    assert all(other.load(example) is None for example in Dataset(data).patients("test"))
