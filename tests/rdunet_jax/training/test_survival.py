"""Training that is killed, starved, or spread over devices and processes, each run in a process of its own."""

import csv
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from rdunet_jax.config import TrainConfig
from rdunet_jax.training.step import create_state
from rdunet_jax.training.stored_steps import restore_best
from tests.rdunet_jax.training.small_run import Small

SCRIPT = Path(__file__).with_name("small_run.py")
AUGMENTED = "augmentation=('authors_code',)"
KILLS = 6
"""`make torture` has more."""
RECIPE = ("epochs=6", "learning_rate=0.01", "ema=0.9", "accumulate=2", "clip_norm=1.0", AUGMENTED)


_STARTED: list[subprocess.Popen] = []


@pytest.fixture(autouse=True)
def none_is_left_running() -> Iterator[None]:
    """A test that fails ends its processes, so that they disturb no other test."""
    yield
    while _STARTED:
        with _STARTED.pop() as process:
            process.kill()


def start(workdir: Path, *settings: str, devices: int = 1, **environment: object) -> subprocess.Popen:
    workdir.mkdir(exist_ok=True)
    variables = {name: str(value) for name, value in environment.items()}
    flags = f"--xla_force_host_platform_device_count={devices}"
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), str(workdir), *settings],
        env=os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(SCRIPT.parents[3])} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    _STARTED.append(process)
    return process


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def final(workdir: Path) -> list[np.ndarray]:
    with np.load(workdir / "final.npz") as arrays:
        return [arrays[name] for name in arrays.files]


def losses(workdir: Path) -> list[float]:
    with (workdir / "steps.csv").open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def steps_made(workdir: Path) -> int:
    path = workdir / "steps.csv"
    return path.read_text().count("\n") - 1 if path.exists() else 0


def assert_same(one: list[np.ndarray], other: list[np.ndarray]) -> None:
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("whole")
    finish(start(workdir, *RECIPE))
    return workdir


@pytest.mark.slow
def test_killed_again_and_again_ends_bit_equal(whole: Path, tmp_path: Path) -> None:
    """The moments are random in the run's life after its first step: steps, validations, checkpoint writes."""
    draw, kills, inside_a_write = random.Random(0), 0, 0
    workdir = tmp_path / "killed"
    while kills < KILLS:
        process = start(workdir, *RECIPE, PAUSE=0.1)
        before = steps_made(workdir)
        while process.poll() is None and steps_made(workdir) == before:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.8))
        if process.poll() is not None:  # it was done before the kill: from the start again
            finish(process)
            assert_same(final(workdir), final(whole))
            shutil.rmtree(workdir)
            continue
        process.kill()
        process.communicate()
        kills += 1
        inside_a_write += any("tmp" in path.name for path in (workdir / "checkpoints").glob("*"))
    finish(start(workdir, *RECIPE))
    assert_same(final(workdir), final(whole))
    assert losses(workdir) == losses(whole)
    print(f"{inside_a_write} of {kills} kills left a checkpoint half written")


@pytest.mark.slow
def test_killed_inside_a_checkpoint_write_ends_bit_equal(whole: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "killed"
    process = start(workdir, *RECIPE)
    deadline = time.monotonic() + 120
    while not any("tmp" in path.name for path in workdir.glob("checkpoints/*")):
        assert time.monotonic() < deadline and process.poll() is None
    process.kill()
    process.communicate()
    finish(start(workdir, *RECIPE))
    assert_same(final(workdir), final(whole))


@pytest.mark.slow
def test_sigterm_saves_and_exits_within_thirty_seconds(whole: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "preempted"
    process = start(workdir, *RECIPE, PAUSE=0.2)
    while steps_made(workdir) < 6:
        time.sleep(0.05)
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert time.monotonic() - asked < 30
    assert process.returncode == 130
    assert str(steps_made(workdir)) in {path.name for path in (workdir / "checkpoints").iterdir()}
    finish(start(workdir, *RECIPE))
    assert_same(final(workdir), final(whole))


@pytest.mark.slow
def test_devices_and_processes_share_a_batch(tmp_path: Path) -> None:
    """One batch of 4 on 1, 2 and 4 devices and in 2 processes: the same losses; float32 sums in another order, and
    20 steps of Adam on them, differ by less than 1e-5."""
    recipe = ("epochs=5", "batch_size=4", "augmentation=('authors_code', 'rotation')")
    for devices in (1, 2, 4):
        finish(start(tmp_path / str(devices), *recipe, devices=devices))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    hosts = [
        start(tmp_path / "hosts", *recipe, devices=1, COORDINATOR=address, PROCESSES=2, PROCESS_ID=number)
        for number in range(2)
    ]
    for host in hosts:
        finish(host)
    alone = losses(tmp_path / "1")
    assert len(alone) == 20
    for name in ("2", "4", "hosts"):
        np.testing.assert_allclose(losses(tmp_path / name), alone, atol=1e-5)


@pytest.mark.slow
def test_a_checkpoint_of_four_devices_goes_on_with_one(tmp_path: Path) -> None:
    recipe = ("learning_rate=0.01", "batch_size=4")
    finish(start(tmp_path / "run", "epochs=3", *recipe, devices=4))
    finish(start(tmp_path / "run", "epochs=5", *recipe, devices=1))
    finish(start(tmp_path / "alone", "epochs=5", *recipe, devices=1))
    # float32 sums in another order, as above
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(tmp_path / "alone"), atol=1e-5)


@pytest.mark.slow
def test_several_machines_cannot_split_an_odd_batch(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    hosts = [
        start(tmp_path, "batch_size=3", COORDINATOR=address, PROCESSES=2, PROCESS_ID=number) for number in range(2)
    ]
    for host in hosts:
        output, _ = host.communicate(timeout=120)
        assert host.returncode == 1
        assert "error: a batch of 3 cannot be split over 2 devices" in output


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_of_two_processes_one_killed_ends_the_other_in_one_line(killed: int, tmp_path: Path) -> None:
    recipe = ("epochs=3", "batch_size=4", "learning_rate=0.01")

    def start_both(**environment: object) -> list[subprocess.Popen]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        common = {"COORDINATOR": address, "PROCESSES": 2, "TF_CPP_MIN_LOG_LEVEL": 3, **environment}
        return [start(tmp_path / "run", *recipe, **common, PROCESS_ID=number) for number in range(2)]

    hosts = start_both(PAUSE=0.2)
    while steps_made(tmp_path / "run") < 5:
        assert all(host.poll() is None for host in hosts)
        time.sleep(0.05)
    hosts[killed].kill()
    output, _ = hosts[1 - killed].communicate(timeout=55)  # JAX ends it by an abort after 60 s
    hosts[killed].communicate()
    assert hosts[1 - killed].returncode == 2
    assert "Traceback" not in output
    last = output.splitlines()[-1]
    assert last.startswith("error: another process of the run has ended") and "start the same command" in last
    for host in start_both():
        finish(host)
    finish(start(tmp_path / "alone", *recipe, devices=2))
    # float32 sums in another order, as above
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(tmp_path / "alone"), atol=1e-5)


@pytest.mark.slow
def test_readers_beside_a_training_change_nothing(tmp_path: Path) -> None:
    """The training saves after every step; readers restore its best checkpoint all the time."""
    recipe = ("epochs=40", "learning_rate=0.01")
    finish(start(tmp_path / "alone", *recipe, EPOCH=1))
    like = jax.eval_shape(lambda: create_state(Small(), TrainConfig(), (8, 8, 8)))
    process = start(tmp_path / "read", *recipe, EPOCH=1, PAUSE=0.2)
    reads = 0
    while process.poll() is None:
        if restore_best(tmp_path / "read" / "checkpoints", like) is not None:
            reads += 1
    finish(process)
    assert reads >= 20
    assert_same(final(tmp_path / "read"), final(tmp_path / "alone"))


@pytest.mark.slow
def test_a_full_disk_is_told_and_the_checkpoint_before_serves(tmp_path: Path) -> None:
    """A limit on the size of a file stands in for the full disk: the same calls fail."""
    recipe = ("learning_rate=0.01",)
    finish(start(tmp_path / "run", "epochs=2", *recipe))
    process = start(tmp_path / "run", "epochs=4", *recipe, FILE_LIMIT=600)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "make room" in output.splitlines()[-1]
    assert "Traceback" not in output
    finish(start(tmp_path / "run", "epochs=4", *recipe))
    finish(start(tmp_path / "alone", "epochs=4", *recipe))
    assert_same(final(tmp_path / "run"), final(tmp_path / "alone"))


@pytest.mark.slow
def test_memory_does_not_grow_over_two_hundred_steps(tmp_path: Path) -> None:
    finish(start(tmp_path, "epochs=1", EPOCH=310))
    # Peaks in KiB after 100 and 300 steps of one epoch; 1%: rows of the history, and the allocator
    peaks = [int(peak) for peak in (tmp_path / "memory.txt").read_text().split()]
    assert peaks[5] < 1.01 * peaks[1], peaks
