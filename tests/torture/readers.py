"""Commands that read a run while it trains and saves a checkpoint at every step: they must change nothing in it."""

import hashlib
import os
import shutil
import signal
import time
from functools import partial
from pathlib import Path

import jax
import numpy as np

from rdunet_jax.networks.models import create_model
from rdunet_jax.runs.workdir import RunConfig
from rdunet_jax.training.step import create_state
from rdunet_jax.training.stored_steps import read_state, stored_steps
from tests.torture.world import TINY, World, begin, run, wait

COMMANDS = ("segment", "evaluate", "choose-postprocessing")


def read_beside(root: Path, count: int, source: Path) -> list[str]:
    """Runs `count` commands beside a training, then the same training alone; returns what went wrong.

    The training is stopped by SIGINT after the last command, and the one alone makes as many steps: their last
    checkpoints must hold the same weights, bit for bit.
    """
    read, alone = (World(Path(shutil.copytree(root, root.with_name(f"world-{name}"))), source) for name in ("r", "a"))
    for world in (read, alone):
        shutil.rmtree(world.workdir)
    training = read.log.with_name("training")
    child = begin(_train(read, 10_000), training)
    until = time.monotonic() + 100
    while not list(read.workdir.glob("checkpoints/*/checksums.json")) and time.monotonic() < until:
        time.sleep(0.1)
    failures = []
    for number in range(count):
        command = COMMANDS[number % len(COMMANDS)]
        arguments = [one for one in read.command(command) if one != "--chosen-postprocessing"]
        ended = run(arguments, read.log)
        if ended.status or ended.crashed:
            failures.append(f"{command}, number {number}: {ended.status}, {ended.err[-300:]}")
    os.kill(child, signal.SIGINT)
    ended = wait(child, training)
    if ended.status != 130:
        return [*failures, f"the training ended with {ended.status}: {ended.err[-300:]}"]
    steps = stored_steps(read.workdir / "checkpoints")[-1].step
    ended = run(_train(alone, steps), alone.log)
    if ended.status or _latest(read.workdir) != _latest(alone.workdir):
        failures.append(f"the weights of step {steps} differ from those of a training alone: {ended}")
    return failures


def _train(world: World, steps: int) -> list[str]:
    """A training whose every step is an epoch, with a validation and a checkpoint."""
    folders = ["--data-dir", str(world.data), "--workdir", str(world.workdir)]
    return ["train", *folders, "--recipe", "plain", *TINY, "--steps-per-epoch", "1", "--epochs", str(steps)]


def _latest(workdir: Path) -> str:
    """SHA-256 of the weights in the latest checkpoint."""
    config = RunConfig.load(workdir)
    like = jax.eval_shape(partial(create_state, create_model(config.model), config.train, config.window_shape))
    state = read_state(stored_steps(workdir / "checkpoints")[-1].path, like)
    leaves = jax.tree.leaves(state.variables)
    return hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in leaves)).hexdigest()
