"""Damaged files of a run and a data set: refused in one line, or a warning and the right result."""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from tests.torture.world import World, run

KINDS = ("empty", "half", "one bit", "noise", "absent")
UNUSED = ("history.png", "report.md", "report.json", "split.json", "events.out", "overview.png")
"""For people: a command neither reads them nor could be misled by them."""


def damaged_file(path: Path, kind: str, generator: random.Random) -> bytes | None:
    """The damaged content of a file; None removes it."""
    whole = path.read_bytes()
    if kind == "absent":
        return None
    if kind == "empty" or not whole:
        return b""
    if kind == "half":
        return whole[: len(whole) // 2]
    if kind == "noise":
        return generator.randbytes(len(whole))
    content = bytearray(whole)
    content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
    return bytes(content)


def cases(world: World) -> list[tuple[str, str]]:
    """Every file of the data set and of the run with every kind of damage."""
    files = [path for folder in (world.data, world.workdir) for path in sorted(folder.rglob("*")) if path.is_file()]
    names = [str(path.relative_to(world.root)) for path in files if path.suffix != ".lock"]
    return [(name, kind) for name in names for kind in KINDS]


def damage(chosen: list[tuple[str, str]], seed: int, root: Path, source: Path) -> Iterator[tuple[str, str]]:
    """Damages one file after the other in a copy of the world; yields (case, what is wrong, or empty)."""
    whole = World(root, source)
    expected, losses = whole.summary(), whole.losses()
    for name, kind in chosen:
        generator = random.Random(f"{seed} {name} {kind}")
        copy = World(root.with_name(f"{root.name}-copy"), source)
        shutil.rmtree(copy.root, ignore_errors=True)
        shutil.copytree(root, copy.root)
        content = damaged_file(copy.root / name, kind, generator)
        if content is None:
            (copy.root / name).unlink()
        else:
            (copy.root / name).write_bytes(content)
        yield f"{name}, {kind}", "; ".join(_wrong(copy, name, kind, expected, losses))
        shutil.rmtree(copy.root, ignore_errors=True)


def _wrong(copy: World, name: str, kind: str, expected: dict[str, object], losses: list[str]) -> Iterator[str]:
    """What is wrong with the commands that read the file."""
    in_evaluation = "/evaluation/" in name
    if not in_evaluation:
        shutil.rmtree(copy.workdir / "evaluation", ignore_errors=True)  # else stored probabilities hide the damage
    ended = run(copy.evaluate(), copy.log)
    if ended.crashed:
        yield f"evaluate crashed ({ended.status}): {ended.err[-300:]}"
    elif ended.status == 2 and not ended.is_one_line:
        yield f"evaluate refused in more than one line: {ended.err[-300:]}"
    elif ended.status == 0 and copy.summary() != expected and not ended.warned:
        yield "evaluate gave other scores without a warning"
    if name.startswith("run/") and not in_evaluation:
        ended = run([*copy.train(), "--steps", "12"], copy.log)
        if ended.crashed:
            yield f"train crashed ({ended.status}): {ended.err[-300:]}"
        elif ended.status == 2 and not ended.is_one_line:
            yield f"train refused in more than one line: {ended.err[-300:]}"
        elif ended.status == 0 and copy.losses() != losses and not ended.warned:
            yield "train went on to other losses without a warning"
