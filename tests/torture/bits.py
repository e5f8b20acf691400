"""Flipped bits in checkpoints: none may give other weights without a warning."""

import hashlib
import logging
import random
from pathlib import Path

import jax
import numpy as np

from rdunet_jax.errors import InputError
from rdunet_jax.runs.workdir import load_trained
from rdunet_jax.training import stored_steps
from tests.torture.world import World


def flip_bits(root: Path, count: int, seed: int, source: Path) -> list[str]:
    """Flips one bit after the other in the files of a run's checkpoints, and restores; returns what went wrong."""
    stored_steps._PAUSE_SECONDS = 0  # no training is beside it
    warnings = _Warnings()
    logging.getLogger("rdunet_jax").addHandler(warnings)
    workdir = World(root, source).workdir
    files = sorted(path for path in (workdir / "checkpoints").rglob("*") if path.is_file() and path.stat().st_size)
    expected, draw, failures = digest(workdir), random.Random(seed), []
    for _ in range(count):
        path = draw.choice(files)
        whole = path.read_bytes()
        at = draw.randrange(8 * len(whole))
        flipped = bytearray(whole)
        flipped[at // 8] ^= 1 << at % 8
        path.write_bytes(flipped)
        warnings.count = 0
        try:
            found: object = digest(workdir)
        except InputError:
            found = expected  # refused in one line
        except Exception as error:
            found = error
        if found != expected and not (warnings.count and isinstance(found, str)):
            failures.append(f"bit {at} of {path.relative_to(workdir)}: {found}")
        path.write_bytes(whole)
    return failures


def digest(workdir: Path) -> str:
    """SHA-256 of the weights that a run is used with."""
    leaves = jax.tree.leaves(load_trained(workdir).variables)
    return hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in leaves)).hexdigest()


class _Warnings(logging.Handler):
    """Counts warnings."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += record.levelno >= logging.WARNING
