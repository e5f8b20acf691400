"""Kills, damage and hostile input by the hundred: what survives, as one table.

    python -m tests.torture --output build/torture      # `make torture`

Every random choice comes from --seed, which the table names. A row counts what was tried and what survived, and lists
the cases that did not.
"""

import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import tyro

from data_pipeline.files import write_whole
from tests.torture import parts
from tests.torture.parts import Row, Settings

EVERY: dict[str, Callable[[Settings], list[Row]]] = {
    "world": parts.world,
    "kills": parts.kills,
    "damage": parts.damage,
    "bits": parts.bits,
    "readers": parts.readers,
    "dicom": parts.dicom,
    "hostile": parts.hostile,
    "surroundings": parts.surroundings,
}


@dataclass
class Part:
    """Rows of one part, and its cost in seconds."""

    name: str
    rows: list[Row]
    wall: float
    cpu: float
    """Of all its processes: on a machine that others use too, the wall time says little."""


def main(settings: Settings) -> int:
    """Runs the parts, prints and writes the table; returns 1 if anything did not survive."""
    output = settings.output.resolve()
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    # Programs are small here, and compiled once for all processes.
    os.environ |= {
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_COMPILATION_CACHE_DIR": str(output / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    done: list[Part] = []
    for name, part in EVERY.items():
        if settings.only and name not in settings.only:
            continue
        wall, cpu = time.monotonic(), _cpu_seconds()
        rows = part(settings)
        done.append(Part(name, rows, time.monotonic() - wall, _cpu_seconds() - cpu))
        print(markdown(done[-1:], settings.seed), flush=True)
    write_whole(output / "torture.json", json.dumps([asdict(part) for part in done], indent=1) + "\n")
    write_whole(output / "torture.md", markdown(done, settings.seed))
    print(markdown(done, settings.seed))
    return int(any(row.failures for part in done for row in part.rows))


def markdown(done: Sequence[Part], seed: int) -> str:
    """The table of faults, the cost of each part, and each case that did not survive."""
    rows = [(part.name, row) for part in done for row in part.rows]
    lines = ["| fault | tried | survived | part |", "|---|--:|--:|---|"]
    lines += [f"| {row.fault} | {row.tried} | {row.survived} | `{name}` |" for name, row in rows]
    spent = [f"{part.name} {part.wall:.0f} s ({part.cpu:.0f} s)" for part in done]
    total = f"{sum(part.wall for part in done):.0f} s ({sum(part.cpu for part in done):.0f} s)"
    lines += ["", f"Seed {seed}. Wall time (processor time): {', '.join(spent)}; {total} in all."]
    failures = [f"- {row.fault}: {case}" for _, row in rows for case in row.failures]
    return "\n".join([*lines, *([""] if failures else []), *failures]) + "\n"


def _cpu_seconds() -> float:
    """Processor time of all processes that this one has started and waited for, and of theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
