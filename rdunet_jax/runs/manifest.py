"""`manifest.json`: what a run was made with and from, session by session."""

import importlib.metadata
import json
import platform
import resource
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax

from rdunet_jax.files import write_whole
from rdunet_jax.parallel import is_first

PACKAGES = ("rdunet-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


@contextmanager
def recorded_session(workdir: Path, config: dict[str, Any], dataset: dict[str, Any]) -> Iterator[None]:
    """Writes the manifest when a session of a run begins, and again, with how it went, when it ends.

    A session that was killed has no end. Names of machines, users and folders are left out.

    Args:
        config: all settings.
        dataset: what identifies the data, its hash among it.
    """
    path = workdir / "manifest.json"
    started = time.monotonic()
    session: dict[str, Any] = {
        "started": _now(),
        **environment(),
        "processes": jax.process_count(),
        "ended": None,
    }
    before = json.loads(path.read_text())["sessions"] if path.exists() else []

    def write() -> None:
        if is_first():
            manifest = {"config": config, "dataset": dataset, "sessions": [*before, session]}
            write_whole(path, json.dumps(manifest, indent=1) + "\n")

    write()
    outcome = "finished"
    try:
        yield
    except BaseException as error:
        outcome = type(error).__name__
        raise
    finally:
        device_memory = jax.local_devices()[0].memory_stats() or {}
        session |= {
            "ended": _now(),
            "outcome": outcome,
            "wall_seconds": round(time.monotonic() - started, 1),
            "peak_host_memory_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3),  # from KiB
            "peak_device_memory_gib": round(device_memory.get("peak_bytes_in_use", 0) / 2**30, 3) or None,
        }
        write()


def environment() -> dict[str, Any]:
    """Code, versions and kind of machine, without anything that names it."""
    return {
        "code_revision": code_revision(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "devices": [device.device_kind for device in jax.devices()],
    }


def code_revision() -> str | None:
    """The commit of the code, with `+` if files were changed since; None where it is not in a repository of its own."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        commit, changed = (
            subprocess.run(["git", "-C", root, *command], capture_output=True, text=True, check=True).stdout.strip()
            for command in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if changed else "")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
