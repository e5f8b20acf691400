"""Kills at random moments: the same command again must end as if nothing had happened."""

import os
import random
import shutil
import signal
import time
from pathlib import Path

from tests.torture.world import World, begin, run, wait

COMMANDS = ("prepare", "train", "evaluate", "choose-postprocessing", "segment", "import-weights")


def start_afresh(world: World, command: str) -> None:
    """Removes what the command makes, as its first run would find it."""
    made = {
        "prepare": (world.data, world.split),
        "train": (world.workdir,),
        "evaluate": (world.scores,),
        "choose-postprocessing": (world.workdir / "evaluation" / "validation", world.workdir / "postprocessing.json"),
        "segment": (world.masks,),
        "import-weights": (world.imported,),
    }[command]
    for path in made:
        shutil.rmtree(path, ignore_errors=True)
        if path.is_file():
            path.unlink()


def kill(command: str, count: int, seed: int, root: Path, source: Path) -> tuple[int, list[str]]:
    """Kills a command `count` times and runs it again after each; returns (kills that hit, failures)."""
    world = World(root, source)
    arguments = world.command(command)
    start_afresh(world, command)
    started = time.monotonic()
    ended = run(arguments, world.log)
    seconds = time.monotonic() - started
    assert ended.status == 0, f"{command} fails undisturbed: {ended}"
    expected = world.result(command, ended)
    generator, hit, failures = random.Random(seed), 0, []
    while hit < count:
        start_afresh(world, command)
        child = begin(arguments, world.log)
        moment = generator.uniform(0, seconds)
        time.sleep(moment)
        try:
            os.killpg(child, signal.SIGKILL)
        except ProcessLookupError:
            os.kill(child, signal.SIGKILL)
        hit += wait(child, world.log).status == -signal.SIGKILL
        ended = run(arguments, world.log)
        # `import-weights` that was complete when it was killed does not write over its run.
        well = ended.status == 0 or (command == "import-weights" and "already holds a run" in ended.err)
        if not well or world.result(command, ended) != expected:
            failures.append(f"{command} killed after {moment:.2f} s: {ended.status}, {ended.err[-300:]}")
    return hit, failures
