"""Runs the contestants of `bench` in turn, each in its own process, while the others wait."""

import json
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from experiments.benchmarks.case import Case
from experiments.benchmarks.timing import in_words

ROOT = Path(__file__).resolve().parents[2]
NEEDS = {"keras-tensorflow": "tensorflow", "keras-jax": "keras", "torch": "torch"}


@dataclass
class Result:
    """Time and memory of one contestant."""

    first_seconds: float | None = None
    """Seconds of the first run, with compilation; not among `seconds`."""
    seconds: list[float] = field(default_factory=list)
    peak: int = 0
    """Peak resident memory of its process, in bytes."""
    versions: dict[str, str] = field(default_factory=dict)
    over: float | None = None
    """It was stopped after this many seconds."""

    @property
    def median(self) -> float | None:
        """Median of the seconds; a lower bound if it was stopped in a timed run; None if there is no timed run."""
        if self.over is not None:
            return None if self.first_seconds is None else self.over
        return statistics.median(self.seconds) if self.seconds else None

    def in_words(self) -> str:
        if self.over is not None:
            what = "compilation and first run" if self.first_seconds is None else "a run"
            return f"over {self.over:.0f} s ({what})"
        return in_words(self.seconds)


class Worker:
    """A contestant's process."""

    def __init__(self, name: str, case: Case, python: str = sys.executable, **variables: str) -> None:
        self.name, self.case, self.result = name, case, Result()
        self._log = (Path(case.folder) / f"{name}.log").open("w+")
        # The first run must compile: no cache is used unless `variables` name one.
        inherited = {key: value for key, value in os.environ.items() if key != "JAX_COMPILATION_CACHE_DIR"}
        threads = {name: str(case.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            [python, "-m", "experiments.benchmarks.contestants", name, json.dumps(asdict(case))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=inherited | threads | quiet | variables,
            cwd=ROOT,
        )

    def run(self, limit: float, counts: bool = True) -> None:
        """Runs the program once; stops the contestant if that takes more than `limit` seconds."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], limit)[0]:
            self.result.over = limit
            self._process.kill()
            return
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            raise SystemExit(f"error: {self.name} failed:\n{self._log.read()[-2000:]}")
        answer = json.loads(line)
        self.result.peak, self.result.versions = answer["peak"], answer["versions"]
        if counts:
            self.result.seconds.append(answer["seconds"])
        else:
            self.result.first_seconds = answer["seconds"]

    def output(self) -> np.ndarray:
        """The result of the last run."""
        return np.load(Path(self.case.folder) / f"{self.name}.npy")

    def end(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
            self._process.wait(60)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self._process.kill()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process.wait()
        self._log.close()


@contextmanager
def prepared(case: Case) -> Iterator[Case]:
    """Yields the case with a temporary folder that contains random weights."""
    with tempfile.TemporaryDirectory(prefix="rdunet-bench-") as folder:
        case = replace(case, folder=folder)
        Worker("weights", case).end()
        if not (Path(folder) / "weights.npz").exists():
            raise SystemExit(f"error: no weights were made:\n{(Path(folder) / 'weights.log').read_text()}")
        yield case


def present(names: Sequence[str], interpreters: dict[str, str], tell: Callable[[str], None]) -> list[str]:
    """The contestants whose framework is installed; `tell` is called with a line for each of the others."""
    found = []
    for name in names:
        needed, python = NEEDS.get(name, "numpy"), interpreters.get(name, sys.executable)
        search = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({needed!r}) is None)"
        if subprocess.run([python, "-c", search]).returncode == 0:
            found.append(name)
        else:
            tell(f"{name} is left out: {needed} is not installed")
    return found


def race(
    cases: dict[str, Case],
    rounds: int,
    limit: float,
    compare: Callable[[str, np.ndarray, np.ndarray, int], None],
    interpreters: dict[str, str],
    tell: Callable[[str], None],
    warm_up: bool = True,
) -> dict[str, Result]:
    """Runs every contestant `rounds` times, in turn, after one run that is not counted.

    Args:
        cases: what each contestant computes; results are compared with those of the first contestant.
        rounds: timed runs.
        limit: seconds after which a contestant is stopped.
        compare: called with (contestant, its result, the first one's result, number of the run from 0); raises if they
            differ.
        interpreters: Python of a contestant, if not this one.
        tell: prints a line.
        warm_up: the first run compiles and is reported separately.
    """
    workers: list[Worker] = []
    try:
        for number in range(rounds + warm_up):
            expected = None
            for index, (name, case) in enumerate(cases.items()):
                if not number:
                    workers.append(Worker(name, case, interpreters.get(name, sys.executable)))
                worker = workers[index]
                if worker.result.over is not None:
                    continue
                started = time.perf_counter()
                worker.run(limit, counts=bool(number) or not warm_up)
                tell(f"{name}, run {number}: {time.perf_counter() - started:.2f} s")
                if worker.result.over is not None:
                    continue
                if expected is None:
                    expected = worker.output()
                compare(name, worker.output(), expected, number)
    finally:
        for worker in workers:
            worker.end()
    return {worker.name: worker.result for worker in workers}
