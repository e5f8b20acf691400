"""Kills at random moments: the same command again must end as if nothing had happened."""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.torture.world import TINY, World, begin, run, wait

COMMANDS = ("prepare", "train", "evaluate", "choose-postprocessing", "segment", "import-weights")


@dataclass(frozen=True)
class Victim:
    """A command to kill.

    Attributes:
        arguments: of the command.
        fresh: removes what the command makes, as its first run would find it.
        result: what the command has made, to be compared.
    """

    arguments: list[str]
    fresh: Callable[[], object]
    result: Callable[[], object]


def victim(command: str, world: World) -> Victim:
    """The command in a world that holds all it needs."""
    evaluation = world.workdir / "evaluation"

    def without(folder: Path) -> Callable[[], object]:
        return lambda: shutil.rmtree(folder, ignore_errors=True)

    def masks() -> object:
        import nibabel as nib

        return {path.name: np.asarray(nib.load(path).dataobj).tolist() for path in sorted(world.masks.glob("*.nii.gz"))}

    def imported() -> object:
        ended = run([*world.evaluate()[:-1], str(world.root / "imported")], world.log)
        return ended.status, (world.root / "imported" / "config.json").read_text(encoding="utf-8")

    importing = ["import-weights", str(world.weights), "--workdir", str(world.root / "imported")]
    importing += ["--image-size", "16", *TINY[:-2]]
    return {
        "prepare": lambda: Victim(world.prepare(), without(world.data), world.data_hash),
        "train": lambda: Victim(world.train(), without(world.workdir), world.losses),
        "evaluate": lambda: Victim(world.evaluate(), without(evaluation), world.summary),
        "choose-postprocessing": lambda: Victim(
            world.choose(),
            without(evaluation),
            lambda: (evaluation / "validation" / "postprocessing.csv").read_text(encoding="utf-8"),
        ),
        "segment": lambda: Victim(world.segment(), without(world.masks), masks),
        "import-weights": lambda: Victim(importing, without(world.root / "imported"), imported),
    }[command]()


def kill(command: str, count: int, seed: int, root: Path, source: Path) -> tuple[int, list[str]]:
    """Kills a command `count` times and runs it again after each; returns (kills that hit, failures)."""
    world = World(root, source)
    one = victim(command, world)
    one.fresh()
    started = time.monotonic()
    assert run(one.arguments, world.log).status == 0, f"{command} fails undisturbed"
    seconds = time.monotonic() - started
    expected = one.result()
    generator, hit, failures = random.Random(seed), 0, []
    while hit < count:
        one.fresh()
        child = begin(one.arguments, world.log)
        moment = generator.uniform(0, seconds)
        time.sleep(moment)
        try:
            os.killpg(child, signal.SIGKILL)
        except ProcessLookupError:
            os.kill(child, signal.SIGKILL)
        hit += wait(child, world.log).status == -signal.SIGKILL
        ended = run(one.arguments, world.log)
        if ended.status or one.result() != expected:
            failures.append(f"{command} killed after {moment:.2f} s: {ended.status}, {ended.err[-300:]}")
    return hit, failures
