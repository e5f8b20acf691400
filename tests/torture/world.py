"""A small world to damage: phantom patients, a data set, a trained run and its evaluation, all made by the commands.

A command runs in a fork of this process, which has imported everything but computed nothing, so that a case costs the
command's own work and no import, and a crash or a kill ends the fork alone.
"""

import contextlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rdunet_jax.cli import main as cli
from rdunet_jax.networks.keras_files import write_keras_file
from rdunet_jax.networks.keras_weights import to_keras
from rdunet_jax.runs.workdir import load_trained
from tests.torture import preload  # noqa: F401  imports what the commands would import one by one

TINY = ("--model", "tiny", "--widths", "4", "4", "4", "--recurrent-width", "4", "--batch-size", "1")
SECONDS = 120
"""No command of this world takes as long: one that does hangs."""


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit status (negative: the signal that killed it), and what it printed."""

    status: int
    out: str
    err: str

    @property
    def is_one_line(self) -> bool:
        """Whether it refused in one line of plain words: status 2, and nothing else on standard error."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        return self.status == 2 and len(lines) >= 1 and lines[-1].startswith("error: ") and not self.crashed

    @property
    def crashed(self) -> bool:
        return "Traceback" in self.err + self.out or self.status not in (0, 1, 2, 130)

    @property
    def warned(self) -> bool:
        words = (self.err + self.out).lower()
        return any(word in words for word in ("warning", "damaged", "cannot be read", "checksum", "again"))


def begin(work: list[str] | Callable[[], object], log: Path) -> int:
    """Starts a command, or a function, in a fork; returns its process id. Output goes to `log`.out and `log`.err."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.setsid()
        with log.with_suffix(".out").open("w") as out, log.with_suffix(".err").open("w") as err:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
            cli.console.file = sys.stdout
            try:
                if isinstance(work, list):
                    sys.argv = ["rdunet", *work]
                    cli.main()
                else:
                    work()
                status = 0
            except SystemExit as end:
                status = end.code if isinstance(end.code, int) else 1
            except BaseException:
                traceback.print_exc()
            with contextlib.suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
    finally:
        os._exit(status)


def wait(child: int, log: Path, seconds: float = SECONDS) -> Ended:
    """Waits for a command; one that takes longer is killed and counts as crashed."""
    until = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() > until:
            os.killpg(child, signal.SIGKILL)
        time.sleep(0.02)
    texts = [log.with_suffix(ending).read_text(errors="replace") for ending in (".out", ".err")]
    return Ended(os.waitstatus_to_exitcode(status), *texts)


def run(work: list[str] | Callable[[], object], log: Path) -> Ended:
    """A command, or a function, from beginning to end."""
    return wait(begin(work, log), log)


class World:
    """The folders of the world and the commands that fill them.

    Args:
        root: an empty folder, or the copy of another world's.
    """

    def __init__(self, root: Path, source: Path):
        self.root, self.source = root, source
        self.data, self.workdir, self.masks = root / "data", root / "run", root / "masks"
        self.weights, self.log = root / "tiny.weights.h5", root / "log"

    def prepare(self) -> list[str]:
        size = ("--image-size", "16", "--keep-ids", "--workers", "1")
        return ["prepare", str(self.source), "--data-dir", str(self.data), *size]

    def train(self) -> list[str]:
        steps = ("--steps", "12", "--steps-per-epoch", "4", "--recipe", "plain", "--threshold", "0.3")
        return ["train", "--data-dir", str(self.data), "--workdir", str(self.workdir), *TINY, *steps]

    def evaluate(self) -> list[str]:
        return ["evaluate", "--data-dir", str(self.data), "--workdir", str(self.workdir)]

    def choose(self) -> list[str]:
        return ["choose-postprocessing", "--data-dir", str(self.data), "--workdir", str(self.workdir)]

    def segment(self) -> list[str]:
        one = sorted(path for path in self.source.iterdir() if path.is_dir())[0]
        return ["segment", str(one), "--workdir", str(self.workdir), "--output", str(self.masks)]

    def make(self) -> None:
        """Prepares, trains and evaluates.

        Raises:
            AssertionError: a command fails.
        """
        works = (self.prepare(), self.train(), self.evaluate(), self.choose(), self.segment(), self.write_weights)
        for work in works:
            ended = run(work, self.log)
            assert ended.status == 0, (work, ended)

    def write_weights(self) -> None:
        """The run's weights as a Keras file, for `import-weights`."""
        network = load_trained(self.workdir)
        write_keras_file(self.weights, to_keras(network.variables, network.config.model))

    def summary(self) -> dict[str, object]:
        return json.loads((self.workdir / "evaluation" / "test" / "summary.json").read_text(encoding="utf-8"))

    def losses(self) -> list[str]:
        """Step, loss and Dice of every training step; not the seconds, which differ."""
        lines = (self.workdir / "steps.csv").read_text(encoding="utf-8").splitlines()
        return [line.rpartition(",")[0] for line in lines]

    def data_hash(self) -> str:
        (report,) = self.data.glob("nsclc_radiomics/*/[0-9]*/report.json")
        return json.loads(report.read_text(encoding="utf-8"))["dataset_sha256"]
