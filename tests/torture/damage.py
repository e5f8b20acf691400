"""Damaged files: a command that reads one refuses it in one line, or warns and gives the right result."""

import json
import random
import shutil
import zlib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from tests.torture.world import World, run

KINDS = ("empty", "half", "one bit", "absent", "folder")
Case = tuple[str, str]
"""A file's path below the world's root, and the kind of damage."""

READERS = (
    ("data/*/report.*", ("evaluate",)),
    ("data/*/split.json", ("evaluate",)),
    ("data/*-test*", ("evaluate",)),
    ("data/*-validation*", ("choose-postprocessing", "train on")),
    ("data/*-train*", ("train on",)),
    ("data/*", ("evaluate", "train on")),
    ("run/evaluation/test/probabilities/*", ("evaluate",)),
    ("run/evaluation/test/slices.csv", ("evaluate",)),
    ("run/evaluation/test/*", ("compare", "evaluate")),
    ("run/evaluation/validation/*", ("choose-postprocessing",)),
    ("run/postprocessing.json", ("evaluate", "segment", "choose-postprocessing")),
    ("run/checkpoints/*", ("evaluate", "segment", "choose-postprocessing", "train on")),
    ("run/config.json", ("evaluate", "train on", "segment", "choose-postprocessing")),
    ("run/training_data.json", ("evaluate", "train on", "segment")),
    ("run/*", ("train on",)),
    ("key", ("prepare", "segment")),
    ("split.json", ("prepare",)),
    ("cache/*", ("prepare",)),
    ("masks/*", ("segment",)),
    ("tiny.weights.h5", ("import-weights",)),
    ("*", ()),
)
"""The commands that read a file, or write over it; the first pattern that fits counts."""


def damaged_content(whole: bytes, kind: str, generator: random.Random) -> bytes:
    """The damaged content of a file."""
    if kind == "empty" or not whole:
        return b""
    if kind == "half":
        return whole[: len(whole) // 2]
    content = bytearray(whole)
    content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
    return bytes(content)


def spoil(path: Path, kind: str, generator: random.Random) -> None:
    """Damages a file in place."""
    whole = path.read_bytes()
    path.unlink()
    if kind == "folder":
        path.mkdir()
        (path / "something").write_bytes(b"else")
    elif kind != "absent":
        path.write_bytes(damaged_content(whole, kind, generator))


def readers(name: str) -> tuple[str, ...]:
    """The commands that read a file."""
    return next(commands for pattern, commands in READERS if fnmatch(name, pattern))


def reader(case: Case) -> str:
    """The command that is tried with a damaged file: each of its readers in turn, over the files and the kinds."""
    name, kind = case
    every = readers(name)
    return every[(zlib.crc32(name.encode()) + KINDS.index(kind)) % len(every)]


def cases(world: World) -> list[Case]:
    """Every file of the world that a command reads, with every kind of damage."""
    files = sorted(path for path in world.root.rglob("*") if path.is_file())
    names = [str(path.relative_to(world.root)) for path in files if path.suffix not in (".lock", ".out", ".err")]
    return [(name, kind) for name in names if readers(name) for kind in KINDS]


class Damage:
    """Damages one file after the other in a copy of a world.

    Args:
        root: of the world, which is left as it is.
        source: its DICOM files.
        seed: of the places of the damage.
    """

    def __init__(self, root: Path, source: Path, seed: int):
        self._root, self._source, self._seed = root, source, seed
        self._copy = World(root.with_name(f"{root.name}-copy"), source)
        self._expected: dict[str, object] = {}

    def try_all(self, chosen: list[Case]) -> Iterator[tuple[Case, str]]:
        """Yields each case with what is wrong; empty where nothing is."""
        for name, kind in chosen:
            command = reader((name, kind))
            self._start(command, name)
            spoil(self._copy.root / name, kind, random.Random(f"{self._seed} {name} {kind}"))
            fault = self._fault(command)
            yield (name, kind), f"{command} {fault}" if fault else ""
        shutil.rmtree(self._copy.root, ignore_errors=True)

    def _start(self, command: str, name: str) -> None:
        """A fresh copy; without results of the command that would hide the damage."""
        shutil.rmtree(self._copy.root, ignore_errors=True)
        shutil.copytree(self._root, self._copy.root)
        if command == "import-weights":
            shutil.rmtree(self._copy.imported)
        if command not in self._expected:
            ended = run(self._copy.command(command), self._copy.log)
            assert ended.status == 0, (command, ended)
            self._expected[command] = self._copy.result(command, ended)
            self._start(command, name)
        elif not name.startswith("run/evaluation"):
            for folder in self._copy.workdir.glob("evaluation/*/probabilities"):
                shutil.rmtree(folder)

    def _fault(self, command: str) -> str | None:
        ended = run(self._copy.command(command), self._copy.log)
        if ended.crashed:
            return f"crashed ({ended.status}): {ended.err[-300:]}"
        if ended.status == 2:
            return None if ended.refused else f"refused in more than one line: {ended.err[-300:]}"
        if ended.named_a_failure:
            return None
        try:
            is_right = self._copy.result(command, ended) == self._expected[command]
        except (OSError, json.JSONDecodeError) as error:
            return f"ended well without its result ({error})"
        return None if is_right or ended.warned else "gave another result without a warning"
