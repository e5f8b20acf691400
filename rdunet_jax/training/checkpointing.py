"""Checkpoints by Orbax, each with checksums: the latest two, to go on from, and the best by validation, to use.

A checkpoint restores onto any number of devices. If the latest cannot be read, the one before it serves.
"""

import logging
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from rdunet_jax.checked_json import write_checked
from rdunet_jax.files import write_whole
from rdunet_jax.parallel import any_process, is_first
from rdunet_jax.training.stored_steps import (
    CHECKSUMS,
    NO_CHECKSUMS,
    StoredStep,
    checksums_of,
    first_readable,
    one_line,
    rank,
    read_state,
    stored_steps,
    trusted,
)

_LOG = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of a run, for the one process that writes them (`stored_steps` is for those that only read).

    Only those of an epoch's end carry a validation Dice and can be the best.
    """

    def __init__(self, folder: Path):
        self._folder = folder

    @cached_property
    def _manager(self) -> ocp.CheckpointManager:
        return ocp.CheckpointManager(
            self._folder.absolute(),
            item_handlers=ocp.StandardCheckpointHandler(),
            options=ocp.CheckpointManagerOptions(
                best_fn=lambda metrics: metrics["soft_dice"],  # without it Orbax does not write metrics
                preservation_policy=AnyPreservationPolicy(
                    [
                        LatestN(2),
                        # Orbax only sorts by what the function gives, so a tuple will do.
                        BestN(get_metric_fn=rank, n=1, keep_checkpoints_without_metrics=False),  # pyright: ignore[reportArgumentType]
                    ]
                ),
                cleanup_tmp_directories=True,
                enable_async_checkpointing=False,  # the checksums follow at once
            ),
        )

    def save(
        self,
        step: int,
        state: Any,
        soft_dice: float | None = None,
        dice: float | None = None,
        texts: Mapping[str, str] | None = None,
    ) -> None:
        """Saves a checkpoint; a step that is there already is only replaced to add its validation Dice.

        Args:
            soft_dice: of the validation, which decides what is best; None in the middle of an epoch.
            dice: the thresholded one.
            texts: files by name that are saved with the state.

        Raises:
            RunError: it could not be written. The other checkpoints are kept; one that was to be replaced is lost.
        """
        with one_line(f"{self._folder}: a checkpoint cannot be written; make room, and the same command goes on"):
            if step in self._manager.all_steps():
                if soft_dice is None or self._manager.metrics(step):
                    return
                self._manager.delete(step)
            metrics = None if soft_dice is None else {"soft_dice": soft_dice, "dice": dice, "step": step}
            self._manager.save(step, args=ocp.args.StandardSave(state), metrics=metrics, force=True)
            if is_first():
                path = self._folder / str(step)
                for name, text in (texts or {}).items():
                    write_whole(path / name, text)
                write_checked(path / CHECKSUMS, {"files": checksums_of(path)})

    def restore(self, step: int, like: Any) -> Any:
        """The state saved at `step`, with the structure, shapes, dtypes and devices of `like`.

        Raises:
            RunError: it cannot be read as such a state.
        """
        return read_state(self._folder / str(step), like)

    def restore_latest(self, like: Any) -> tuple[Any, StoredStep] | None:
        """The latest state that can be read, and its checkpoint; None if there is none at all.

        Later ones, and damaged ones, are warned of and renamed to `damaged-STEP`, out of the way of those to come.

        Raises:
            RunError: there are checkpoints, and none can be read: none of them is renamed then.
        """
        steps = stored_steps(self._folder)
        if not steps:
            return None
        state, chosen = first_readable(sorted(trusted(steps), key=lambda one: -one.step), steps, like)
        any_process(False)  # all processes have chosen
        if is_first():
            for one in steps:
                if one.step > chosen.step or one.fault or (chosen.has_checksums and not one.has_checksums):
                    self._set_aside(one, chosen)
        any_process(False)
        return state, chosen

    def _set_aside(self, one: StoredStep, chosen: StoredStep) -> None:
        aside = one.path.with_name(f"damaged-{one.step}")
        number = 1
        while aside.exists():
            number += 1
            aside = one.path.with_name(f"damaged-{one.step}-{number}")
        with one_line(f"{one.path}: damaged, and cannot be renamed; remove it"):
            one.path.rename(aside)
        if one.step < chosen.step:
            _LOG.warning("%s: damaged (%s); renamed to %s", one.path, one.fault or NO_CHECKSUMS, aside.name)
        else:
            _LOG.warning(
                "%s: not finished or damaged (%s); renamed to %s; going on from the checkpoint before it, of step %d",
                one.path,
                one.fault or ("cannot be read" if one.has_checksums else NO_CHECKSUMS),
                aside.name,
                chosen.step,
            )

    @property
    def latest_step(self) -> int | None:
        """The step of the latest checkpoint; None if there is none."""
        return max((one.step for one in stored_steps(self._folder)), default=None)

    @property
    def best_step(self) -> int | None:
        """The step of the best validation, the earliest of equals; None before the first validation."""
        scored = [one for one in stored_steps(self._folder) if one.metrics]
        return max(scored, key=lambda one: one.preference).step if scored else None

    def close(self) -> None:
        """Frees what Orbax holds."""
        if "_manager" in self.__dict__:
            with one_line(f"{self._folder}: the checkpoints cannot be closed"):
                self._manager.close()
