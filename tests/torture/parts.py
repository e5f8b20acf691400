"""The parts of the torture: each returns rows of the table. What is forked runs in processes that are spawned here."""

import json
import random
import re
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DUMMY = ROOT / "data_pipeline" / "nsclc_radiomics" / "dummy_data"
PROCESSES = 2
WAITERS = 3
"""Processes that kill commands, or damage files: a third of their time they copy and wait."""
HOSTILE = (
    "tests/rdunet_jax/networks/test_keras_hostile.py",
    "tests/data_pipeline/dicom/test_bombs.py",
    "tests/rdunet_jax/cli/test_hostile.py",
)
SURROUNDINGS = ("tests/rdunet_jax/workflows/test_start_up.py", "tests/rdunet_jax/cli/test_permissions.py")
KINDS_OF_FILE = (
    ("run/evaluation", "evaluation and stored probabilities"),
    ("run/", "run"),
    ("data/", "data set"),
    ("", "key, split, index, weights, mask"),
)


@dataclass
class Row:
    """One kind of fault."""

    fault: str
    tried: int = 0
    survived: int = 0
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
    """Damaged files (None: every file that a command reads, with every kind of damage)."""
    bits: int = 300
    """Flipped bits in checkpoints."""
    readers: int = 50
    """Commands that read a run beside its training."""
    dicom: int = 2000
    """Mutated DICOM files."""
    only: tuple[str, ...] = ()
    """Parts to run: world, kills, damage, bits, readers, dicom, hostile, surroundings (none: all)."""


def world(settings: Settings) -> list[Row]:
    """The undamaged world; no row of the table."""
    _make_world(settings)
    return []


def kills(settings: Settings) -> list[Row]:
    """Kills of six commands, in three processes."""
    from tests.torture.kills import COMMANDS

    world = _make_world(settings)
    jobs = []
    for number, command in enumerate(COMMANDS):
        copy = world.with_name(f"world-{command}")
        shutil.copytree(world, copy)
        jobs.append((command, settings.kills, settings.seed + number, copy))
    with _pool(WAITERS) as pool:
        return list(pool.map(_kill, jobs))


def _kill(job: tuple[str, int, int, Path]) -> Row:
    from tests.torture.kills import kill

    command, count, seed, root = job
    hit, failures = kill(command, count, seed, root, DUMMY)
    return Row(f"kill -9 of `{command}`", hit, hit - len(failures), failures)


def damage(settings: Settings) -> list[Row]:
    """Damaged files of all that commands write and read, in three processes."""
    from tests.torture.damage import cases
    from tests.torture.world import World

    world = _make_world(settings)
    chosen = cases(World(world, DUMMY))
    random.Random(settings.seed).shuffle(chosen)
    chosen = chosen[: settings.damaged]
    jobs = []
    for number in range(WAITERS):
        copy = world.with_name(f"world-{number}")
        shutil.copytree(world, copy)
        jobs.append((chosen[number::WAITERS], settings.seed, copy))
    with _pool(WAITERS) as pool:
        results = [one for part in pool.map(_damage, jobs) for one in part]
    rows = {start: Row(f"damaged file: {what}") for start, what in KINDS_OF_FILE}
    for (name, kind), wrong in results:
        row = rows[next(start for start in rows if name.startswith(start))]
        row.tried += 1
        row.survived += not wrong
        row.failures += [f"{name}, {kind}: {wrong}"] if wrong else []
    return [row for row in rows.values() if row.tried]


def _damage(job: tuple[list[tuple[str, str]], int, Path]) -> list[tuple[tuple[str, str], str]]:
    from tests.torture.damage import Damage

    chosen, seed, root = job
    return list(Damage(root, DUMMY, seed).try_all(chosen))


def bits(settings: Settings) -> list[Row]:
    """Flipped bits in checkpoints, in two processes of their own."""
    world = _make_world(settings)
    jobs = []
    for number, count in enumerate(_shares(settings.bits)):
        copy = world.with_name(f"world-bits-{number}")
        shutil.copytree(world, copy)
        jobs.append((copy, count, settings.seed + number))
    with _pool() as pool:
        failures = [one for part in pool.map(_bits, jobs) for one in part]
    return [Row("flipped bit in a checkpoint", settings.bits, settings.bits - len(failures), failures)]


def _bits(job: tuple[Path, int, int]) -> list[str]:
    from tests.torture.bits import flip_bits

    world, count, seed = job
    return flip_bits(world, count, seed, DUMMY)


def readers(settings: Settings) -> list[Row]:
    """Commands beside a training."""
    world = _make_world(settings)
    with _pool() as pool:
        failures = pool.submit(_readers, world, settings.readers).result()
    return [Row("reader beside a training", settings.readers, settings.readers - len(failures), failures)]


def _readers(world: Path, count: int) -> list[str]:
    from tests.torture.readers import read_beside

    return read_beside(world, count, DUMMY)


def dicom(settings: Settings) -> list[Row]:
    """Mutated CT and RTSTRUCT files, in two processes of their own."""
    running = []
    for number, count in enumerate(_shares(settings.dicom)):
        arguments = [str(settings.output / "dicom" / str(number)), str(settings.seed + number), str(count)]
        command = [sys.executable, "-m", "tests.data_pipeline.dicom.fuzz_dicom", *arguments]
        running.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    row = Row("mutated DICOM file", settings.dicom)
    for process in running:
        out, err = process.communicate()
        if process.returncode:
            row.failures.append(f"the process ended with {process.returncode}: {err[-300:]}")
            continue
        result = json.loads(out)
        row.survived += sum(result["fates"].values())
        row.failures += result["failures"]
    return [row]


def _shares(count: int) -> list[int]:
    """`count`, divided among the processes."""
    return [count // PROCESSES + (number < count % PROCESSES) for number in range(PROCESSES)]


def hostile(_: Settings) -> list[Row]:
    """The tests of hostile input."""
    return [_tests("hostile input", HOSTILE)]


def surroundings(_: Settings) -> list[Row]:
    """The tests of where a command runs."""
    return [_tests("surroundings", SURROUNDINGS)]


def _tests(fault: str, files: tuple[str, ...]) -> Row:
    """The tests of some files, each one case."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "", "--numprocesses", str(PROCESSES), *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error)", done.stdout)}
    failures = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if not counts:
        failures.append(done.stdout[-300:])
    return Row(fault, sum(counts.values()), counts.get("passed", 0), failures)


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


def _pool(processes: int = PROCESSES) -> ProcessPoolExecutor:
    """Fresh processes, of which each forks its commands: this one may hold threads."""
    return ProcessPoolExecutor(processes, mp_context=get_context("spawn"))
