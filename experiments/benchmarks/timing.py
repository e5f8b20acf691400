"""Timing of programs in turn, and the machine that a figure was measured on."""

import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def take_turns(
    programs: Mapping[str, Callable[[], object]],
    rounds: int,
    wait: Callable[[object], object] = lambda result: result,
) -> dict[str, list[float]]:
    """Seconds of programs in this process: `rounds` runs of each, in turn, because the speed of a machine drifts.

    The first round is not counted: it compiles and fills caches.

    Args:
        wait: called with each result before the clock stops, such as `jax.block_until_ready`.
    """
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(rounds + 1):
        for name, program in programs.items():
            started = time.perf_counter()
            wait(program())
            if number:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def in_words(seconds: Sequence[float]) -> str:
    """Median and range of the seconds of several runs."""
    return f"{statistics.median(seconds):.3f} s ({min(seconds):.3f}..{max(seconds):.3f})"


def machine() -> dict[str, str | int]:
    """The machine of this process: CPU, its widest vectors, cores, system, Python, and an `id` for tables.

    The vectors belong to the id because virtual machines hide the model of the CPU, and TensorFlow chooses its
    convolutions by them.
    """
    info = Path("/proc/cpuinfo")  # Linux only
    lines = [line.partition(":") for line in info.read_text().splitlines()] if info.exists() else []
    fields = {name.strip(): value.strip() for name, _, value in lines}
    cpu, cores = fields.get("model name", platform.processor()), os.cpu_count() or 0
    flags = fields.get("flags", "").split()
    vectors = next((name for flag, name in (("avx512f", "AVX-512"), ("avx2", "AVX2")) if flag in flags), "")
    named = re.sub(r"\((R|TM)\)|\b(CPU|Processor)\b", "", cpu)
    words = f"{named} {vectors.replace('-', '')} {cores} cores"
    return {
        "id": re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-"),
        "cpu": cpu,
        "vectors": vectors,
        "cores": cores,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def machine_in_words() -> str:
    """The machine in one line, for the output of a benchmark."""
    found = machine()
    cpu = " ".join(filter(None, (str(found["cpu"]), str(found["vectors"]))))
    return f"machine {found['id']}: {cpu}, {found['cores']} cores, {found['system']}, Python {found['python']}"


def versions(*packages: str) -> dict[str, str]:
    """Versions of those packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def versions_in_words(*packages: str) -> str:
    """Versions of those packages that are installed, in one line."""
    return ", ".join(f"{name} {number}" for name, number in versions(*packages).items())
