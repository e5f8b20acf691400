"""Many CTs: `rdunet segment` by Apache Beam beside a plain loop over the command, and after kills.

    python -m experiments.benchmarks.many_cts --count 100 --kills 5

It makes phantom CTs and a network that was never trained, since the time does not depend on the weights. The loop
starts the command for each CT, as a shell script would. Then the command with Beam gets the folder of all CTs. With
`--kills` it is ended so often by SIGKILL and started again; the masks must be those of the loop, bit for bit.
"""

if not __package__:
    raise SystemExit("error: run this in the checkout as: python -m experiments.benchmarks.many_cts")

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from data_pipeline.errors import InputError
from data_pipeline.files import sha256_of
from data_pipeline.phantom.phantom import write_phantoms
from data_pipeline.ranges import Range, check_fields
from experiments.benchmarks.race import ROOT
from experiments.common.script import make_console, run
from rdunet_jax.config import InferenceConfig, TrainConfig
from rdunet_jax.networks.models import create_model, model_config
from rdunet_jax.runs.workdir import RunConfig
from rdunet_jax.training.checkpointing import Checkpoints
from rdunet_jax.training.step import create_state


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Raises:
        InputError: a value is out of its range.
    """

    count: Annotated[int, Range(2, 1000)] = 100
    """Phantom CTs."""
    matrix: Annotated[int, Range(64, 512)] = 128
    """Rows and columns of a CT."""
    image_size: Annotated[int, Range(16, 256, step=8)] = 32
    """Rows and columns of the network's images."""
    workers: Annotated[int, Range(1, 64)] = 2
    """Processes of Beam."""
    kills: Annotated[int, Range(0, 100)] = 0
    """How often the command with Beam is killed before it may end."""

    def __post_init__(self) -> None:
        check_fields(self)


def main(settings: Settings) -> None:
    """Prints seconds and their ratio, and whether the masks are equal."""
    with tempfile.TemporaryDirectory() as folder:
        found = measure(settings, Path(folder))
    make_console().print(json.dumps(found))


def measure(settings: Settings, folder: Path) -> dict[str, float | int | bool]:
    """Seconds of both ways, in a folder that is empty.

    Raises:
        InputError: a command failed, or the masks differ.
    """
    write_untrained(folder / "run", settings.image_size)
    patients = write_phantoms(folder / "in", count=settings.count, slices=(12, 16), matrix=settings.matrix)
    common = ("--workdir", folder / "run", "--keep-ids")
    segment(patients[0], *common, "--output", folder / "warm")  # compiles for both
    started = time.perf_counter()
    for patient in patients:
        segment(patient, *common, "--output", folder / "loop" / patient.name)
    loop = time.perf_counter() - started
    beam = ("runner=DirectRunner", f"direct_num_workers={settings.workers}", "direct_running_mode=multi_processing")
    together = (folder / "in", *common, "--beam", *beam, "--output")
    started = time.perf_counter()
    segment(*together, folder / "beam")
    seconds = time.perf_counter() - started
    expected = {path.parent.name: sha256_of(path) for path in (folder / "loop").glob("*/mask.nii.gz")}
    outputs = [folder / "beam"]
    if settings.kills:
        kill_and_finish([*together, folder / "killed"], settings.kills, seconds)
        outputs.append(folder / "killed")
    for output in outputs:
        masks = {path.parent.name.partition("-")[2]: sha256_of(path) for path in output.glob("*/mask.nii.gz")}
        if masks != expected:
            raise InputError(f"{output}: other masks than those of the loop")
    return {
        "cts": len(patients),
        "loop_s": round(loop, 1),
        "beam_s": round(seconds, 1),
        "ratio": round(seconds / loop, 3),
        "kills": settings.kills,
        "same_masks": True,
    }


def write_untrained(workdir: Path, image_size: int) -> None:
    """A run with a small network at its first weights."""
    network = model_config("tiny")
    config = RunConfig(network, TrainConfig(), InferenceConfig(), "hu_window", image_size)
    config.save(workdir)
    checkpoints = Checkpoints(workdir / "checkpoints")
    checkpoints.save(1, create_state(create_model(network), config.train, config.window_shape))
    checkpoints.close()


def command(*arguments: object) -> list[str]:
    """`rdunet segment` in a process of its own."""
    return [sys.executable, "-c", "from rdunet_jax.cli.main import main; main()", "segment", *map(str, arguments)]


def segment(*arguments: object) -> None:
    """Runs the command to its end.

    Raises:
        InputError: it failed.
    """
    done = subprocess.run(
        command(*arguments), env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise InputError(f"rdunet segment failed: {done.stderr[-500:]}")


def kill_and_finish(arguments: Sequence[object], kills: int, seconds: float) -> None:
    """Ends the command and its workers `kills` times at random moments, and then lets it run to its end."""
    chance = random.Random(0)
    for _ in range(kills):
        child = subprocess.Popen(
            command(*arguments),
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(chance.uniform(0.1, 0.6) * seconds)
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    segment(*arguments)


if __name__ == "__main__":
    run(main, __doc__)
