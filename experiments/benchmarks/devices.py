"""Training throughput and losses for different numbers of devices.

    python -m experiments.benchmarks.devices

Each number of devices trains in its own process: the same network, batches and steps, with the batch split over the
devices. On a machine without GPUs JAX simulates devices on the CPU, and the output says so: simulated devices share the
cores, so their throughput shows the cost of splitting, not the gain of more devices. The losses must agree for all
numbers of devices. Costs about 3 minutes on 2 cores.
"""

if not __package__:
    raise SystemExit("error: run this in the checkout as: python -m experiments.benchmarks.devices")

import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass

import numpy as np

from experiments.benchmarks.case import unchanged
from experiments.benchmarks.race import ROOT
from experiments.benchmarks.timing import machine_in_words, versions_in_words
from experiments.common import script


@dataclass(frozen=True)
class Settings:
    devices: tuple[int, ...] = (1, 2, 4)
    """Numbers of devices to try."""
    batch_size: int = 4
    """Patches in a step; every number of devices must divide it."""
    image_size: int = 64
    """Rows and columns of a patch."""
    steps: int = 15
    """Steps for each number of devices; the first three are not timed."""
    model: str = "tiny"
    """Name of the network."""


def train(settings: Settings, count: int) -> dict[str, object]:
    """Trains on `count` devices in this process; returns losses, seconds of each timed step, and kind of device."""
    import time
    from dataclasses import replace

    import jax

    from rdunet_jax.config import RECIPES
    from rdunet_jax.networks.models import create_model, model_config
    from rdunet_jax.parallel import make_mesh, replicate, split_batch
    from rdunet_jax.training.step import create_state, train_step

    recipe = replace(RECIPES["paper"], batch_size=settings.batch_size)
    size, rng = settings.image_size, np.random.default_rng(0)
    mesh = make_mesh(recipe.batch_size)
    if mesh.size != count:
        raise SystemExit(f"error: a batch of {recipe.batch_size} is split over {mesh.size} devices instead of {count}")
    config = replace(model_config(settings.model), dropout=0.1)
    state = replicate(create_state(create_model(config), recipe, (8, size, size)), mesh)
    losses, seconds = [], []
    for step in range(settings.steps):
        image = rng.random((recipe.batch_size, 8, size, size, 1), np.float32)
        batch = split_batch({"image": image, "mask": (image > 0.7).astype(np.uint8)}, mesh)
        started = time.perf_counter()
        state, metrics = train_step(state, batch, recipe, unchanged, mesh)
        losses.append(float(metrics["loss"]))
        if step >= 3:
            seconds.append(time.perf_counter() - started)
    return {"losses": losses, "seconds": seconds, "kind": jax.devices()[0].device_kind}


def main(settings: Settings) -> None:
    if count := os.environ.get("RDUNET_BENCHMARK_DEVICES"):
        print(json.dumps(train(settings, int(count))))
        return
    console, results = script.make_console(), {}
    for count in settings.devices:
        variables = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count}"}
        done = subprocess.run(
            [sys.executable, "-m", "experiments.benchmarks.devices", *sys.argv[1:]],
            env=os.environ | variables | {"RDUNET_BENCHMARK_DEVICES": str(count)},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        results[count] = json.loads(done.stdout.splitlines()[-1])
    kind = next(iter(results.values()))["kind"]
    console.print(f"devices: {'SIMULATED on one CPU' if kind == 'cpu' else kind}")
    console.print(f"{machine_in_words()}, {versions_in_words('jax', 'flax')}")
    first = results[settings.devices[0]]
    for count, result in results.items():
        throughput = settings.batch_size / statistics.median(result["seconds"])
        difference = np.abs(np.subtract(result["losses"], first["losses"])).max()
        console.print(
            f"{count} devices: {throughput:.2f} patches/s (median of {len(result['seconds'])} steps), "
            f"loss differs by at most {difference:.1e}"
        )


if __name__ == "__main__":
    script.run(main, __doc__)
