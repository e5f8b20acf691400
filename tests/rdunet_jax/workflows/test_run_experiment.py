"""`rdunet run` by the command, in processes of its own: killed, shared, and its table computed again."""

import csv
import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from data_pipeline.phantom.phantom import write_phantoms
from data_pipeline.settings import DatasetSettings, PrepareOptions
from rdunet_jax.workflows.prepare import prepare_source

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[3]
RUNS = 12
FILE = """
seeds = [0, 1, 2]
folds = "all"
baseline = "bce"

[settings]
model = "tiny"
widths = [4]
recurrent_width = 4
batch_size = 1
learning_rate = 0.05
recipe = "plain"
steps_per_epoch = 16
epochs = 1
validation = "none"
threshold = 0.1
dilation_diameter = 1

[variants]
bce = {}
dice = { loss = "dice" }
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight phantoms in two folds."""
    folder = tmp_path_factory.mktemp("experiment")
    write_phantoms(folder / "dicom", count=8, seed=0, slices=(10, 11), matrix=64)
    settings = DatasetSettings("hu_window", image_size=16, folds=2)
    prepare_source(folder / "dicom", folder / "data", settings, Console(quiet=True), PrepareOptions(1, keep_ids=True))
    (folder / "experiment.toml").write_text(FILE)
    return folder


def start(data: Path, output: Path, *more: object) -> subprocess.Popen:
    words = ["run", data / "experiment.toml", "--data-dir", data / "data", "--output", output, *more]
    environment = {
        "PYTHONPATH": str(ROOT),
        "JAX_COMPILATION_CACHE_DIR": str(data / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.Popen(
        [sys.executable, "-c", "from rdunet_jax.cli.main import main; main()", *map(str, words)],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen, status: int = 0) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == status, output
    return output


def steps_made(output: Path) -> int:
    return sum(path.read_text().count("\n") for path in output.glob("runs/*/*/steps.csv"))


def kill_after(process: subprocess.Popen, output: Path, steps: int, pause: float) -> None:
    deadline = time.monotonic() + 120
    while steps_made(output) < steps:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.01)
    time.sleep(pause)
    process.send_signal(signal.SIGKILL)  # the command alone: its processes must notice
    process.communicate()


def table(path: Path, *without: str) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [{name: cell for name, cell in row.items() if name not in without} for row in csv.DictReader(file)]


def test_killed_three_times_it_makes_the_same_table(data: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    out = finish(start(data, whole))
    assert f"2 variants, {RUNS} runs, 0 done, {RUNS} to do" in out
    draw = random.Random(0)
    for number, jobs in enumerate((1, 2, 1), 1):
        process = start(data, killed, "--jobs", jobs)
        kill_after(process, killed, 50 * number, draw.uniform(0, 0.5))
        assert not (killed / "table.csv").exists()
    out = finish(start(data, killed, "--jobs", 2))
    assert f"{RUNS} runs, 0 done" not in out
    assert table(killed / "table.csv", "seconds") == table(whole / "table.csv", "seconds")
    assert (killed / "patients.csv").read_bytes() == (whole / "patients.csv").read_bytes()
    assert f"{RUNS} done, 0 to do" in finish(start(data, killed))
    check_the_table(whole)


def check_the_table(output: Path) -> None:
    """Against SciPy, NumPy and the patients' scores that were written."""
    rows = {row["variant"]: row for row in table(output / "table.csv")}
    scores: dict[str, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in table(output / "patients.csv"):
        scores[row["variant"]][row["patient"]][int(row["seed"])] = float(row["dice"])
    means = {}
    for name, row in rows.items():
        dice = np.array([[of_seed[seed] for seed in (0, 1, 2)] for of_seed in scores[name].values()])
        assert dice.shape == (8, 3)  # every patient is held out once by each seed
        assert (row["patients"], row["seeds"]) == ("8", "3")
        of_seeds = dice.mean(axis=0)
        assert float(row["dice_mean"]) == pytest.approx(of_seeds.mean(), abs=1e-12)
        assert float(row["dice_sd"]) == pytest.approx(of_seeds.std(ddof=1), abs=1e-12)
        means[name] = dict(zip(scores[name], dice.mean(axis=1), strict=True))
    assert rows["bce"]["p_value"] == rows["bce"]["dice_difference"] == ""
    difference = np.array([means["dice"][name] - means["bce"][name] for name in means["bce"]])
    assert np.abs(difference).max() > 0.01  # the test has something to test
    assert float(rows["dice"]["p_value"]) == stats.wilcoxon(difference)[1]
    assert float(rows["dice"]["dice_difference"]) == pytest.approx(difference.mean(), abs=1e-12)
    assert int(rows["bce"]["parameters"]) == int(rows["dice"]["parameters"]) > 1000
    assert all(float(row["seconds"]) > 0 for row in rows.values())
    assert (output / "table.png").read_bytes().startswith(b"\x89PNG")
    assert "| dice |" in (output / "table.md").read_text()


def test_shards_share_the_runs_and_a_failure_stops_no_other(data: Path, tmp_path: Path) -> None:
    few = ("--seeds", 0, "--override", "epochs=1", "steps_per_epoch=1")
    out = finish(start(data, tmp_path, *few, "--shard", "1/2"))
    assert "4 runs, 0 done, 2 to do" in out and "2 runs of other shards not done yet" in out
    assert [row["seeds"] for row in table(tmp_path / "table.csv")] == ["0", "0"]  # the folds are not complete
    (data / "experiment.toml").write_text(FILE + "deep = { patch_depth = 64 }\n")
    out = finish(start(data, tmp_path, *few), status=2)
    assert "6 runs, 2 done, 4 to do" in out and "not done yet" not in out
    assert out.splitlines()[-1].startswith(f"error: {data / 'experiment.toml'}: 2 runs failed: deep, seed 0, fold 0 (")
    assert "0 training patches" in out.splitlines()[-1]
    assert [row["seeds"] for row in table(tmp_path / "table.csv")] == ["1", "1", "0"]
