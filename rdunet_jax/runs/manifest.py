"""`manifest.json`: what a run was made with and from, session by session."""

import importlib.metadata
import logging
import platform
import resource
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax

from rdunet_jax.checked_json import DamagedError, read_checked, write_checked
from rdunet_jax.parallel import is_first
from rdunet_jax.runs.training_data import DataIdentity

_LOG = logging.getLogger(__name__)
FILE = "manifest.json"
PACKAGES = ("rdunet-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


@dataclass(frozen=True)
class Environment:
    """Code, versions and kind of machine, without the names of machine, user and folders."""

    code_revision: str | None
    packages: dict[str, str]
    python: str
    system: str
    devices: list[str]


@dataclass
class Session:
    """One session of a run. A session that was killed has no end."""

    started: str
    environment: Environment
    processes: int
    dataset: DataIdentity
    changes: dict[str, list[Any]] = field(default_factory=dict)
    """Settings by name that differ from the session before: [before, now]."""
    ended: str | None = None
    outcome: str | None = None
    """`finished`, or the name of the exception that ended it."""
    wall_seconds: float | None = None
    peak_host_memory_gib: float | None = None
    peak_device_memory_gib: float | None = None

    def fields(self) -> dict[str, Any]:
        """As the manifest holds it: flat."""
        fields = asdict(self)
        return {**fields.pop("environment"), **fields}


@contextmanager
def recorded_session(
    workdir: Path, config: dict[str, Any], dataset: DataIdentity, changes: dict[str, list[Any]] | None = None
) -> Iterator[None]:
    """Writes the manifest when a session of a run begins, and again with its outcome when it ends.

    Args:
        config: all settings.
        dataset: the data of this session.
        changes: settings that differ from the session before, as `Session.changes`.
    """
    started = time.monotonic()
    session = Session(_now(), environment(), jax.process_count(), dataset, changes or {})
    before = sessions_before(workdir)

    def write() -> None:
        if is_first():
            sessions = [*before, session.fields()]
            fields = {"config": config, "dataset": asdict(dataset), "sessions": sessions}
            write_checked(workdir / FILE, fields)

    write()
    session.outcome = "finished"
    try:
        yield
    except BaseException as error:
        session.outcome = type(error).__name__
        raise
    finally:
        device_memory = jax.local_devices()[0].memory_stats() or {}
        session.ended = _now()
        session.wall_seconds = round(time.monotonic() - started, 1)
        session.peak_host_memory_gib = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3)  # from KiB
        session.peak_device_memory_gib = round(device_memory.get("peak_bytes_in_use", 0) / 2**30, 3) or None
        write()


def sessions_before(workdir: Path) -> list[dict[str, Any]]:
    """The sessions that the manifest lists; none, with a warning, if it is damaged: it is renamed then."""
    path = workdir / FILE
    try:
        return list(read_checked(path)["sessions"])
    except FileNotFoundError:
        return []
    except (DamagedError, KeyError, TypeError) as error:
        if is_first():
            path.replace(path.with_name("manifest.damaged.json"))
        _LOG.warning("%s: damaged (%s); renamed to manifest.damaged.json, a new one begins", path, error)
        return []


def environment() -> Environment:
    """The environment of this process."""
    return Environment(
        code_revision=code_revision(),
        packages={name: importlib.metadata.version(name) for name in PACKAGES},
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        devices=[device.device_kind for device in jax.devices()],
    )


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
