"""The checkpoints in a run's folder as a reader sees them: nothing here creates, changes or deletes a file.

A checkpoint is a folder named by its step. Orbax writes `default/` (the state) and `metrics/` (the validation Dice).
`Checkpoints` adds text files and, last, `checksums.json` with the SHA-256 of every other file. So a checkpoint without
checksums was not finished (or is of an older version), and one whose files do not fit them is damaged.
"""

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from rdunet_jax.checked_json import DamagedError, read_checked
from rdunet_jax.errors import RunError
from rdunet_jax.files import access_faults, read_json, sha256_of


class RemovedError(RunError):
    """A checkpoint was removed while it was read, as a training does with those that it no longer keeps."""


_LOG = logging.getLogger(__name__)
CHECKSUMS = "checksums.json"
NO_CHECKSUMS = f"not finished: no {CHECKSUMS}"
_ATTEMPTS, _PAUSE_SECONDS = 5, 0.3
"""A training beside the reader removes and writes checkpoints; both take less than this."""


@dataclass(frozen=True)
class StoredStep:
    """One checkpoint on disk."""

    step: int
    path: Path
    metrics: dict[str, float] | None
    """Its `soft_dice`, `dice` and `step`; None where the epoch was not over or nothing was validated."""
    fault: str | None
    """What is damaged; None if nothing is."""
    has_checksums: bool

    @property
    def is_sound(self) -> bool:
        """Whether every file is as it was written."""
        return self.has_checksums and self.fault is None

    @property
    def preference(self) -> tuple[bool, bool, float, float]:
        """The higher the better to use: scored ones by `rank`, then the others, the latest first."""
        return (True, *rank(self.metrics)) if self.metrics else (False, False, 0.0, self.step)

    def text(self, name: str) -> str | None:
        """A text file that was saved with the state; None if there is none."""
        path = self.path / name
        return path.read_text("utf-8") if path.exists() else None


def rank(metrics: dict[str, float]) -> tuple[bool, float, float]:
    """The higher the better: by soft Dice, and of equal ones the earlier step, as in Keras.

    Checkpoints of older versions have a thresholded Dice alone; they come after all that have a soft one.
    """
    return "soft_dice" in metrics, metrics.get("soft_dice", metrics.get("dice", -1.0)), -metrics["step"]


def stored_steps(folder: Path) -> list[StoredStep]:
    """The checkpoints in `folder`, by step, each compared with its checksums.

    Raises:
        InputError: the folder may not be read.
    """
    if not folder.is_dir():
        return []
    with access_faults(folder):
        paths = [path for path in folder.iterdir() if path.name.isdecimal() and path.is_dir()]
        found = [_stored(path) for path in sorted(paths, key=lambda path: int(path.name))]
        return [one for one in found if one.path.exists()]  # a training beside us may have removed it


def restore_best(folder: Path, like: Any) -> tuple[Any, StoredStep, bool] | None:
    """The state of the best validation, or the latest where nothing was validated.

    A checkpoint that is damaged or was not finished is warned of, and the next best is used.

    Args:
        like: a state with the structure, shapes and dtypes to expect.

    Returns:
        The state, its checkpoint, and whether that is the best of all validations; None if there is no checkpoint.

    Raises:
        RunError: there are checkpoints, and none can be used.
    """
    for _ in range(_ATTEMPTS - 1):
        try:
            return _restore_best(folder, like)
        except RemovedError:
            continue  # a training beside us has written another one
    return _restore_best(folder, like)


def _restore_best(folder: Path, like: Any) -> tuple[Any, StoredStep, bool] | None:
    steps = stored_steps(folder)
    unfinished = {one.path for one in steps if not one.has_checksums}
    for _ in range(_ATTEMPTS):
        if all(one.is_sound for one in steps):
            break
        time.sleep(_PAUSE_SECONDS)
        steps = stored_steps(folder)
    if not steps:
        return None
    candidates = sorted(trusted(steps), key=lambda one: one.preference, reverse=True)
    # One that was there at the first look and still has no checksums is not what a training is writing just now.
    unused = [one for one in steps if one.fault or (one.path in unfinished and one not in candidates)]
    for one in unused:
        _LOG.warning("%s: damaged (%s); another checkpoint is used", one.path, one.fault or NO_CHECKSUMS)
    state, chosen = first_readable(candidates, steps, like)
    is_best = chosen.metrics is not None and chosen is candidates[0] and not unused
    return state, chosen, is_best


def trusted(steps: Sequence[StoredStep]) -> list[StoredStep]:
    """Those that are as they were written; if there are none, those without checksums, with a warning."""
    sound = [one for one in steps if one.is_sound]
    if sound:
        return sound
    unchecked = [one for one in steps if one.fault is None]
    if unchecked:
        _LOG.warning(
            "%s: no checkpoint has checksums (an older version wrote them, or the first was not finished), so damage "
            "would not be noticed",
            unchecked[-1].path.parent,
        )
    return unchecked


def first_readable(candidates: Iterable[StoredStep], steps: Sequence[StoredStep], like: Any) -> tuple[Any, StoredStep]:
    """The state of the first candidate that can be read; those before it are warned of.

    Args:
        candidates: in the order to try.
        steps: all there are, to name their faults where no candidate can be read.

    Raises:
        RemovedError: a candidate was removed while it was read.
        RunError: none can be read.
    """
    errors: list[RunError] = []
    for one in candidates:
        try:
            state = read_state(one.path, like)
        except RunError as error:
            time.sleep(_PAUSE_SECONDS)  # a removal takes its time
            if not one.path.exists():
                raise RemovedError(f"{one.path}: removed while it was read; start the same command again") from error
            errors.append(error)
            continue
        for error in errors:
            _LOG.warning("%s; the checkpoint of step %d is used", error, one.step)
        return state, one
    errors += [RunError(f"{one.path}: cannot be read as a checkpoint ({one.fault})") for one in steps if one.fault]
    raise RunError(f"{errors[0]}; restore the folder from a copy, or train anew in another --workdir")


def read_state(path: Path, like: Any) -> Any:
    """The state in a checkpoint's folder, with the structure, shapes, dtypes and devices of `like`.

    Raises:
        RunError: it cannot be read as such a state.
    """
    unreadable = f"{path}: cannot be read as a checkpoint of this network"
    # By Orbax's checkpointer and not its manager, which fixes its layout by the first step that it opens.
    with one_line(unreadable), ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
        expected = ocp.args.StandardRestore(jax.tree.map(_abstract, like))
        return reader.restore((path / "default").absolute(), args=expected)


def checksums_of(path: Path) -> dict[str, str]:
    """The SHA-256 of each file below a folder but `checksums.json`, by its relative path."""
    files = sorted(file for file in path.rglob("*") if file.is_file() and file != path / CHECKSUMS)
    return {file.relative_to(path).as_posix(): sha256_of(file) for file in files}


@contextmanager
def one_line(message: str) -> Iterator[None]:
    """Orbax and TensorStore raise anything; a user gets one line. Orbax also logs the same errors with their stacks."""
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    except Exception as error:
        cause = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise RunError(f"{message} ({cause})") from error
    finally:
        log.setLevel(level)


def _stored(path: Path) -> StoredStep:
    metrics, fault, has_checksums = None, None, True
    try:
        fault = _difference(path, read_checked(path / CHECKSUMS)["files"])
    except FileNotFoundError:
        has_checksums = False
    except (DamagedError, KeyError, OSError) as error:
        fault = f"{CHECKSUMS}: {error}"
    try:
        if fault is None and (path / "metrics" / "metrics").exists():
            metrics = dict(read_json(path / "metrics" / "metrics"))
            rank(metrics)
    except (OSError, ValueError, TypeError, KeyError) as error:
        metrics, fault = None, f"metrics: {error}"
    return StoredStep(int(path.name), path, metrics, fault, has_checksums)


def _difference(path: Path, expected: dict[str, str]) -> str | None:
    """The first file that is missing or changed, and how."""
    for name, digest in expected.items():
        try:
            if sha256_of(path / name) != digest:
                return f"{name}: not what was written"
        except FileNotFoundError:
            return f"{name}: missing"
    return None


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    """Shape, dtype and device to restore onto; this process's first device where `leaf` names none."""
    sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf), sharding=sharding)
