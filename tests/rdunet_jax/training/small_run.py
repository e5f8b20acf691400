"""A small training run in a process of its own, for tests that kill it, starve it or give it other devices.

    python small_run.py WORKDIR [key=value of TrainConfig ...]

Environment: PAUSE (seconds a batch), EPOCH (steps), FILE_LIMIT (bytes a file may have), COORDINATOR, PROCESSES and
PROCESS_ID. It writes the final parameters to WORKDIR/final.npz and the peak memory in KiB after every 50 steps to
WORKDIR/memory.txt.
"""

import ast
import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np

from rdunet_jax.config import HostsConfig, TrainConfig
from rdunet_jax.errors import InputError
from rdunet_jax.parallel import ends_with_the_others, initialize, is_first, local
from rdunet_jax.training.history import Validation
from rdunet_jax.training.loop import fit
from rdunet_jax.training.step import create_state


class Small(nn.Module):
    """Two convolutions with all that a real network has: batch normalisation and dropout."""

    @nn.compact
    def __call__(self, x, *, train: bool = False):
        x = nn.Conv(4, (1, 3, 3))(x)
        x = nn.BatchNorm(use_running_average=not train)(x)
        x = nn.Dropout(0.1, broadcast_dims=(1, 2, 3), deterministic=not train)(nn.relu(x))
        return nn.Conv(1, (1, 3, 3))(x)


def identity(x):
    return x


def main(workdir: Path, config: TrainConfig) -> None:
    if "FILE_LIMIT" in os.environ:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(os.environ["FILE_LIMIT"]),) * 2)
    if "COORDINATOR" in os.environ:
        number, count = (int(os.environ[name]) for name in ("PROCESS_ID", "PROCESSES"))
        initialize(HostsConfig(coordinator=os.environ["COORDINATOR"], processes=count, process_id=number))
    memory = []

    def batches(start: int) -> Iterator[dict[str, np.ndarray]]:
        while True:
            image = np.random.default_rng(start).random((config.batch_size, 8, 8, 8, 1), np.float32)
            yield {"image": image, "mask": (image > 0.7).astype(np.uint8)}
            start += 1
            if start % 50 == 0:
                memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
            time.sleep(float(os.environ.get("PAUSE", 0)))

    def validate(state, on_progress) -> Validation:
        dice = float(sum(np.abs(leaf).mean() for leaf in jax.tree.leaves(jax.device_get(state.params))) % 1)
        return Validation(dice, dice)

    with ends_with_the_others():
        state = fit(
            create_state(Small(), config, (8, 8, 8)),
            config,
            normalise=identity,
            batches=batches,
            steps_per_epoch=int(os.environ.get("EPOCH", 4)),
            validate=validate,
            workdir=workdir,
            log=print,
        )
    if is_first():
        leaves = jax.tree.leaves(jax.device_get(local(state)))
        np.savez(workdir / "final.npz", *leaves)
        (workdir / "memory.txt").write_text(" ".join(map(str, memory)))


if __name__ == "__main__":
    settings = dict(argument.split("=") for argument in sys.argv[2:])
    try:
        main(Path(sys.argv[1]), TrainConfig(**{name: ast.literal_eval(text) for name, text in settings.items()}))
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
