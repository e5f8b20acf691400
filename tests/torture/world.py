"""A small world to damage: phantom patients, a data set, a trained run and its evaluation, all made by the commands.

A command runs in a fork of this process, which has imported everything but computed nothing, so that a case costs the
command's own work and no import, and a crash or a kill ends the fork alone.
"""

import contextlib
import os
import resource
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

TINY = (
    "--model",
    "tiny",
    "--widths",
    "4",
    "4",
    "--recurrent-width",
    "4",
    "--recurrent-layers",
    "1",
    "--batch-size",
    "1",
)
SECONDS = 120
"""Of processor time: no command of this world takes as long. One that waits for ten times as long hangs."""
MOST_MEMORY = 24 << 30
"""Address space of a command in bytes: damage must not make it ask for more."""


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit status (negative: the signal that killed it), and what it printed."""

    status: int
    out: str
    err: str

    @property
    def crashed(self) -> bool:
        """Whether it ended in another way than well, in one line (status 2), or with a part of its work (status 1)."""
        return "Traceback" in self.err + self.out or self.status not in (0, 1, 2)

    @property
    def refused(self) -> bool:
        """Whether it ended with status 2 and `error: ` on the last line; warnings may come before."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        return self.status == 2 and bool(lines) and lines[-1].startswith("error: ")

    @property
    def named_a_failure(self) -> bool:
        """Whether it ended with status 1 and said what of its work is missing."""
        return self.status == 1 and (bool(self.err.strip()) or " cannot be written: " in self.out)

    @property
    def warned(self) -> bool:
        """Whether it said that something was not as it should be."""
        return bool(self.err.strip()) or "warning: " in self.out or "left out, " in self.out


def begin(work: list[str] | Callable[[], object], log: Path) -> int:
    """Starts a command, or a function, in a fork; returns its process id. Output goes to `log`.out and `log`.err."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        os.environ["XDG_CACHE_HOME"] = str(log.parent / "cache")
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


def wait(child: int, log: Path, seconds: float = 10 * SECONDS) -> Ended:
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
    """The folders of the world, the commands that fill them, and what each command gives.

    Args:
        root: an empty folder, or the copy of another world's.
        source: folder of DICOM files.
    """

    def __init__(self, root: Path, source: Path):
        self.root, self.source = root, source
        self.data, self.workdir, self.masks = root / "data", root / "run", root / "masks"
        self.imported, self.scores = root / "imported", self.workdir / "evaluation" / "test"
        self.key, self.split, self.weights = root / "key", root / "split.json", root / "tiny.weights.h5"
        self.log = root / "log"
        self.patient = sorted(path for path in source.iterdir() if path.is_dir())[0]

    def command(self, name: str) -> list[str]:
        """The arguments of a command. `train` goes on for a step where the run has its 8 steps."""
        run_and_data = ["--data-dir", str(self.data), "--workdir", str(self.workdir)]
        sizes = ["--image-size", "16"]
        frozen = ["--workers", "1", "--key", str(self.key), "--split-file", str(self.split)]
        new = ["--workdir", str(self.workdir), "--output", str(self.masks)]
        network = [*TINY[:-2], "--gate", "hard_sigmoid"]
        train = ["--recipe", "plain", "--threshold", "0.3", "--steps-per-epoch", "4", *TINY]
        return {
            "prepare": ["prepare", str(self.source), "--data-dir", str(self.data), *sizes, *frozen, "--overwrite"],
            "train": ["train", *run_and_data, *train, "--steps", "8"],
            "train on": ["train", *run_and_data, *train, "--steps", "9"],
            "evaluate": ["evaluate", *run_and_data, "--chosen-postprocessing"],
            "choose-postprocessing": ["choose-postprocessing", *run_and_data],
            "compare": ["compare", str(self.scores), str(self.scores)],
            "segment": ["segment", str(self.patient), *new, "--chosen-postprocessing", "--key", str(self.key)],
            "import-weights": ["import-weights", str(self.weights), "--workdir", str(self.imported), *sizes, *network],
        }[name]

    def make(self) -> None:
        """Runs every command once.

        Raises:
            AssertionError: a command fails.
        """
        first = ("prepare", "train", "choose-postprocessing", "evaluate", "compare", "segment")
        for work in (*map(self.command, first), self.write_weights, self.command("import-weights")):
            ended = run(work, self.log)
            assert ended.status == 0, (work, ended)

    def write_weights(self) -> None:
        """The run's weights as a Keras file, for `import-weights`."""
        network = load_trained(self.workdir)
        write_keras_file(self.weights, to_keras(network.variables, network.config.model))

    def result(self, name: str, ended: Ended) -> object:
        """What a command has made or printed; equal for equal work."""
        if name == "prepare":
            return [path.read_bytes() for path in sorted(self.data.glob("nsclc_radiomics/*/*/metadata.json"))]
        if name in ("train", "train on"):  # not the seconds, which differ
            lines = (self.workdir / "steps.csv").read_text(encoding="utf-8").splitlines()
            return [line.rpartition(",")[0] for line in lines]
        if name == "evaluate":
            return [(self.scores / file).read_bytes() for file in ("summary.json", "patients.csv", "slices.csv")]
        if name == "choose-postprocessing":
            files = (self.workdir / "postprocessing.json", self.workdir / "evaluation/validation/postprocessing.csv")
            return [path.read_bytes() for path in files]
        if name == "compare":
            return ended.out
        if name == "segment":
            import nibabel as nib
            import numpy as np

            return np.asarray(nib.Nifti1Image.from_filename(self.masks / "mask.nii.gz").dataobj).tolist()
        # Orbax's own files hold times; the checksums of the weights are those of the run they came from.
        return (self.imported / "config.json").read_bytes(), run(self.print_weights, self.log).out

    def print_weights(self) -> None:
        """A digest of the weights that `import-weights` has made a run of."""
        import hashlib

        import jax
        import numpy as np

        leaves = jax.tree.leaves(load_trained(self.imported).variables)
        print(hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in leaves)).hexdigest())
