"""Training throughput against the number of devices, with the losses beside it.

    python -m experiments.benchmarks.devices

Each count trains in a process of its own: the same network, batches and steps, the batch split over the devices. Where
there are fewer GPUs than asked for, JAX simulates devices on the CPU, and the table says so: simulated devices share
the machine's cores, so their throughput shows what splitting costs, never what more devices bring. The losses must
agree whatever the count. Costs some 3 minutes on 2 cores.
"""

import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import tyro
from rich.console import Console


@dataclass(frozen=True)
class Settings:
    devices: tuple[int, ...] = (1, 2, 4)
    """Counts to try."""
    batch_size: int = 4
    """Patches of a step; every count must divide it."""
    image_size: int = 64
    """Rows and columns of a patch."""
    steps: int = 15
    """Steps of each; the first three are not timed."""
    model: str = "tiny"
    """Name of the network."""


def train(settings: Settings, count: int) -> dict[str, object]:
    """Trains on `count` devices of this process: losses, seconds of each timed step, kind of device."""
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
        raise SystemExit(f"error: a batch of {recipe.batch_size} is split over {mesh.size} devices, not {count}")
    config = replace(model_config(settings.model), dropout=0.1)
    state = replicate(create_state(create_model(config), recipe, (8, size, size)), mesh)
    losses, seconds = [], []
    for step in range(settings.steps):
        image = rng.random((recipe.batch_size, 8, size, size, 1), np.float32)
        batch = split_batch({"image": image, "mask": (image > 0.7).astype(np.uint8)}, mesh)
        started = time.perf_counter()
        state, metrics = train_step(state, batch, recipe, _as_it_is, mesh)
        losses.append(float(metrics["loss"]))
        if step >= 3:
            seconds.append(time.perf_counter() - started)
    return {"losses": losses, "seconds": seconds, "kind": jax.devices()[0].device_kind}


def _as_it_is(image):
    return image


def main(settings: Settings) -> None:
    if count := os.environ.get("RDUNET_BENCHMARK_DEVICES"):
        print(json.dumps(train(settings, int(count))))
        return
    console = Console(width=110)
    results = {}
    for count in settings.devices:
        variables = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count}"}
        done = subprocess.run(
            [sys.executable, *sys.argv],
            env=os.environ | variables | {"RDUNET_BENCHMARK_DEVICES": str(count)},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        results[count] = json.loads(done.stdout.splitlines()[-1])
    kind = next(iter(results.values()))["kind"]
    what = f"SIMULATED on {os.cpu_count()} cores of one CPU" if kind == "cpu" else kind
    console.print(f"devices: {what}; {platform.machine()}, Python {platform.python_version()}")
    first = results[settings.devices[0]]
    for count, result in results.items():
        throughput = settings.batch_size / np.median(result["seconds"])
        difference = np.abs(np.subtract(result["losses"], first["losses"])).max()
        console.print(
            f"{count} devices: {throughput:.2f} patches/s (median of {len(result['seconds'])} steps), "
            f"loss differs by at most {difference:.1e}"
        )


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
