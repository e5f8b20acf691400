"""Kills, damage and hostile input by the hundred: what survives, as one table.

    python -m tests.torture --output build/torture      # `make torture`; under 20 minutes on 2 cores

Every random choice comes from --seed, which the table names. A row counts what was tried and what survived, and lists
the cases that did not.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path

import tyro

from data_pipeline.files import write_whole

ROOT = Path(__file__).resolve().parents[2]
DUMMY = ROOT / "data_pipeline" / "nsclc_radiomics" / "dummy_data"
PROCESSES = 2
HOSTILE = ("tests/rdunet_jax/networks/test_keras_hostile.py", "tests/data_pipeline/dicom/test_bombs.py")
SURROUNDINGS = ("tests/rdunet_jax/workflows/test_start_up.py",)


@dataclass
class Row:
    """One kind of fault."""

    fault: str
    tried: int = 0
    survived: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Settings:
    """What is tried, and how often."""

    output: Path = Path("build/torture")
    """Folder for the table and for the world that is damaged; it is emptied first."""
    seed: int = 0
    """Seeds the moments of the kills and the places of the damage."""
    kills: int = 20
    """Kills of each of the six commands."""
    damaged: int | None = None
    """Damaged files of the run and the data set (default: every file with every kind of damage)."""
    dicom: int = 2000
    """Mutated DICOM files."""
    only: tuple[str, ...] = ()
    """Parts to run: kills, damage, dicom, hostile, surroundings (default: all)."""


def main(settings: Settings) -> int:
    """Runs the parts, prints and writes the table; returns 1 if anything did not survive."""
    shutil.rmtree(settings.output, ignore_errors=True)
    settings.output.mkdir(parents=True)
    os.environ |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XDG_CACHE_HOME": str(settings.output.resolve() / "cache")}
    parts: dict[str, Callable[[Settings], list[Row]]] = {
        "kills": kills,
        "damage": damage,
        "dicom": dicom,
        "hostile": lambda _: [tests("hostile input", HOSTILE)],
        "surroundings": lambda _: [tests("surroundings", SURROUNDINGS)],
    }
    rows = []
    for name, part in parts.items():
        if not settings.only or name in settings.only:
            rows += part(settings)
            for row in rows[-1:]:
                print(f"{row.fault}: {row.survived} of {row.tried} in {row.seconds:.0f} s", flush=True)
    write_whole(settings.output / "torture.json", json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    table = markdown(rows, settings.seed)
    write_whole(settings.output / "torture.md", table)
    print(table)
    return int(any(row.failures for row in rows))


def markdown(rows: list[Row], seed: int) -> str:
    """The table, and under it each case that did not survive."""
    lines = [f"Seed {seed}.", "", "| fault | tried | survived | seconds |", "|---|--:|--:|--:|"]
    lines += [f"| {row.fault} | {row.tried} | {row.survived} | {row.seconds:.0f} |" for row in rows]
    failures = [f"- {row.fault}: {case}" for row in rows for case in row.failures]
    return "\n".join([*lines, *([""] if failures else []), *failures]) + "\n"


def kills(settings: Settings) -> list[Row]:
    """Kills of six commands, in two processes."""
    from tests.torture.kills import COMMANDS

    world = _make_world(settings)
    jobs = []
    for number, command in enumerate(COMMANDS):
        copy = world.with_name(f"world-{command}")
        shutil.copytree(world, copy)
        jobs.append((command, settings.kills, settings.seed + number, copy))
    with _pool() as pool:
        return list(pool.map(_kill, jobs))


def _kill(job: tuple[str, int, int, Path]) -> Row:
    from tests.torture.kills import kill

    started = time.monotonic()
    command, count, seed, root = job
    hit, failures = kill(command, count, seed, root, DUMMY)
    return Row(f"kill -9 of `{command}`", hit, hit - len(failures), time.monotonic() - started, failures)


def damage(settings: Settings) -> list[Row]:
    """Damaged files of a run and a data set, in two processes."""
    import random

    from tests.torture.damage import cases
    from tests.torture.world import World

    world = _make_world(settings)
    chosen = cases(World(world, DUMMY))
    random.Random(settings.seed).shuffle(chosen)
    chosen = chosen[: settings.damaged]
    jobs = []
    for number in range(PROCESSES):
        copy = world.with_name(f"world-{number}")
        shutil.copytree(world, copy)
        jobs.append((chosen[number::PROCESSES], settings.seed, copy))
    started = time.monotonic()
    with _pool() as pool:
        results = [one for part in pool.map(_damage, jobs) for one in part]
    rows = {folder: Row(f"damaged file of the {name}") for folder, name in (("run", "run"), ("data", "data set"))}
    for case, wrong in results:
        row = rows[case.partition("/")[0]]
        row.tried += 1
        row.survived += not wrong
        row.failures += [f"{case}: {wrong}"] if wrong else []
    for row in rows.values():
        row.seconds = (time.monotonic() - started) * row.tried / max(len(results), 1)
    return list(rows.values())


def _damage(job: tuple[list[tuple[str, str]], int, Path]) -> list[tuple[str, str]]:
    from tests.torture.damage import damage

    chosen, seed, root = job
    return list(damage(chosen, seed, root, DUMMY))


def dicom(settings: Settings) -> list[Row]:
    """Mutated CT and RTSTRUCT files, in a process of their own."""
    started = time.monotonic()
    arguments = [str(settings.output / "dicom"), str(settings.seed), str(settings.dicom)]
    command = [sys.executable, "-m", "tests.data_pipeline.dicom.fuzz_dicom", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    row = Row("mutated DICOM file", settings.dicom, seconds=time.monotonic() - started)
    if done.returncode:
        row.failures = [f"the process ended with {done.returncode}: {done.stderr[-300:]}"]
        return [row]
    result = json.loads(done.stdout)
    row.survived, row.failures = sum(result["fates"].values()), result["failures"]
    return [row]


def tests(fault: str, files: tuple[str, ...]) -> Row:
    """The tests of some files, each one case."""
    started = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-q", "--numprocesses", str(PROCESSES), *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error)", done.stdout)}
    failures = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return Row(fault, sum(counts.values()), counts.get("passed", 0), time.monotonic() - started, failures)


def _make_world(settings: Settings) -> Path:
    """The undamaged world, made once: data set, run, evaluation, masks, and weights to import."""
    root = settings.output / "world"
    if not root.exists():
        with _pool() as pool:
            pool.submit(_make, root).result()
    return root


def _make(root: Path) -> None:
    from tests.torture.world import World

    root.mkdir()
    World(root, DUMMY).make()


def _pool() -> ProcessPoolExecutor:
    """Fresh processes, of which each forks its commands: this one may hold threads."""
    return ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn"))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
