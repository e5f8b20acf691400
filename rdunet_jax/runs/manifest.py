"""`manifest.json`: what a run was made with and from, session by session."""

import importlib.metadata
import logging
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax

from data_pipeline.ranges import check, from_json
from rdunet_jax.checked_json import DamagedError, read_checked, write_checked
from rdunet_jax.errors import InputError
from rdunet_jax.memory import peak_host_bytes
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


@dataclass(frozen=True)
class InitialWeights:
    """The network that a run began with (`train --init-from`), and its layers by name."""

    source: str
    """Name of its folder or file, without the path."""
    sha256: str
    """Of the file; of a run, of its weights."""
    step: int | None
    """Of the run's checkpoint; None for a file."""
    taken: tuple[str, ...]
    """Layers whose weights were taken."""
    left_out: tuple[str, ...]
    """Layers of the source that the new network does not have, or has in other shapes."""
    random: tuple[str, ...]
    """Layers of the new network that began at random."""


@dataclass
class Session:
    """One session of a run. A session that was killed has no end."""

    started: str
    environment: Environment
    processes: int
    dataset: DataIdentity
    changes: dict[str, list[Any]] = field(default_factory=dict)
    """Settings by name that differ from the session before: [before, now]."""
    initial_weights: InitialWeights | None = None
    """What the session began with; None if it began at random or went on from a checkpoint."""
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
    workdir: Path,
    config: dict[str, Any],
    dataset: DataIdentity,
    changes: dict[str, list[Any]] | None = None,
    initial_weights: InitialWeights | None = None,
) -> Iterator[None]:
    """Writes the manifest when a session of a run begins, and again with its outcome when it ends.

    Args:
        config: all settings.
        dataset: the data of this session.
        changes: settings that differ from the session before, as `Session.changes`.
        initial_weights: what the session begins with, as `Session.initial_weights`.
    """
    started = time.monotonic()
    session = Session(_now(), environment(), jax.process_count(), dataset, changes or {}, initial_weights)
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
        session.peak_host_memory_gib = round(peak_host_bytes() / 2**30, 3)
        session.peak_device_memory_gib = round(device_memory.get("peak_bytes_in_use", 0) / 2**30, 3) or None
        write()


def sessions_before(workdir: Path) -> list[dict[str, Any]]:
    """The sessions that the manifest lists; none, with a warning, if it is damaged: it is renamed then."""
    path = workdir / FILE
    try:
        sessions = read_checked(path)["sessions"]
        check("sessions", tuple(sessions), tuple[dict, ...])
        for session in sessions:
            if session.get("dataset") is not None:
                from_json(DataIdentity, session["dataset"])
        return sessions
    except FileNotFoundError:
        return []
    except (DamagedError, InputError, KeyError, TypeError) as error:
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
