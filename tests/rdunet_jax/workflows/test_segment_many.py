"""`rdunet segment` of many CTs: by Apache Beam beside one after the other, killed and started again."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.phantom.phantom import write_phantoms
from rdunet_jax.config import InferenceConfig, TrainConfig
from rdunet_jax.networks.models import create_model, model_config
from rdunet_jax.runs.workdir import RunConfig
from rdunet_jax.training.checkpointing import Checkpoints
from rdunet_jax.training.step import create_state
from rdunet_jax.workflows import segment
from tests.rdunet_jax.cli.test_segment import UNEVEN, positions, write_ct
from tests.rdunet_jax.command import Command, one_line

ROOT = Path(__file__).resolve().parents[3]
BEAM = ("--beam", "runner=DirectRunner", "direct_num_workers=2", "direct_running_mode=multi_processing")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of an untrained network, at whose threshold some voxels are tumour."""
    folder = tmp_path_factory.mktemp("run") / "run"
    network = model_config("tiny", widths=(2, 2), recurrent_width=2, recurrent_layers=1)
    run = RunConfig(network, TrainConfig(), InferenceConfig(threshold=0.5, dilation_diameter=1), "hu_window", 32)
    run.save(folder)
    checkpoints = Checkpoints(folder / "checkpoints")
    checkpoints.save(1, create_state(create_model(network), run.train, (8, 32, 32)))
    checkpoints.close()
    return folder


def files(output: Path) -> dict[str, bytes]:
    """All files by name, but for hidden ones, which a killed process may leave."""
    found = sorted(path for path in output.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(output)): path.read_bytes() for path in found}


def count_segmented(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The CTs that are segmented from here on."""
    done, original = [], segment.segment_ct

    def counted(series: Any, *arguments: Any) -> None:
        done.append(series)
        original(series, *arguments)

    monkeypatch.setattr(segment, "segment_ct", counted)
    return done


@pytest.mark.slow
def test_what_is_done_is_not_done_again(
    rdunet: Command, workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    for patient in (1, 2, 3):
        write_ct(source / str(patient), patient)
    command = ("segment", source, "--workdir", workdir, "--output", output)
    done = count_segmented(monkeypatch)
    assert "3 CTs: 3 segmented\n" in rdunet(*command).out and len(done) == 3
    before = files(output)
    result = rdunet(*command)
    assert "3 CTs: 3 segmented (3 by an earlier command)" in result.out and len(done) == 3
    assert files(output) == before

    first, second, third = sorted(path for path in output.iterdir() if path.is_dir())
    (first / "mask.nii.gz").unlink()
    (second / "report.json").write_text("{")
    (third / "overview.png").write_bytes(b"damaged")
    assert "3 CTs: 3 segmented\n" in rdunet(*command).out and len(done) == 6
    assert files(output) == before
    write_ct(source / "2", 2, positions=positions(UNEVEN))  # another CT under the same name
    result = rdunet(*command)
    assert "3 CTs: 3 segmented (2 by an earlier command)" in result.out and len(done) == 7
    for flags in (("--threshold", 0.4), ("--threshold", 0.4, "--probabilities")):
        assert "earlier command" not in rdunet(*command, *flags).out
    assert len(done) == 13


def test_a_ct_that_failed_is_tried_again_and_keeps_no_earlier_mask(
    rdunet: Command, workdir: Path, tmp_path: Path
) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    for patient in (1, 2):
        write_ct(source / str(patient), patient)
    command = ("segment", source, "--workdir", workdir, "--output", output)
    assert rdunet(*command).status == 0
    damaged = next((source / "2").iterdir())
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-100])
    result = rdunet(*command)
    assert result.status == 1 and "2 CTs: 1 segmented (1 by an earlier command), 1 failed" in result.out
    assert [name.rpartition("/")[2] for name in files(output) if name.startswith("002")] == ["report.json"]
    damaged.write_bytes(whole)
    assert "2 CTs: 2 segmented (1 by an earlier command)" in rdunet(*command).out


def test_beam_without_its_package_or_runner_is_one_line(
    rdunet: Command, workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for patient in (1, 2):
        write_ct(tmp_path / "in" / str(patient), patient)
    command = ("segment", tmp_path / "in", "--workdir", workdir, "--output", tmp_path / "out", "--beam")
    monkeypatch.setitem(sys.modules, "apache_beam.options.pipeline_options", None)
    one_line(rdunet(*command, "runner=DirectRunner"), "Apache Beam is not installed")


def command_line(*arguments: object) -> list[str]:
    return [sys.executable, "-c", "from rdunet_jax.cli.main import main; main()", *map(str, arguments)]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of a command in a process of its own."""
    return os.environ | {"HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}


def reports(output: Path) -> int:
    return len(list(output.glob("*/report.json")))


@pytest.mark.slow  # Beam starts processes and a service of its own
def test_beam_makes_the_same_files_also_when_killed(workdir: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    """Seven phantoms and a damaged one. `SIGKILL` five times, then the same command ends with the same bytes."""
    pytest.importorskip("apache_beam")
    source = tmp_path / "in"
    damaged = write_phantoms(source, count=8, seed=0, slices=(12, 14), matrix=128)[4]
    for path in damaged.rglob("*.dcm"):
        path.write_bytes(path.read_bytes()[:-500])

    def command(output: Path, *flags: str) -> list[str]:
        return command_line("segment", source, "--workdir", workdir, "--output", output, "--keep-ids", *flags)

    plain = subprocess.run(command(tmp_path / "plain"), env=environment, capture_output=True, text=True, check=False)
    assert plain.returncode == 1 and "8 CTs: 7 segmented, 1 failed" in plain.stdout, plain.stdout + plain.stderr
    output, chance, killed = tmp_path / "beam", random.Random(0), 0
    for number in range(5):
        child = subprocess.Popen(
            command(output, *BEAM), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        if number % 2:  # at any moment, such as while Beam starts
            time.sleep(chance.uniform(1, 8))
        else:  # while CTs are segmented
            before = reports(output)
            while child.poll() is None and reports(output) == before:
                time.sleep(0.05)
            time.sleep(chance.uniform(0, 0.3))
        os.killpg(child.pid, signal.SIGKILL)
        killed += child.wait() == -signal.SIGKILL
    print(f"{killed} kills, {reports(output)} of 8 reports")
    assert killed >= 3
    last = subprocess.run(command(output, *BEAM), env=environment, capture_output=True, text=True, check=False)
    assert last.returncode == 1 and "8 CTs: 7 segmented" in last.stdout, last.stdout + last.stderr
    assert files(output) == files(tmp_path / "plain")
