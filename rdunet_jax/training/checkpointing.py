"""Checkpoints by Orbax: the latest two, to go on from, and the best by validation Dice, to use.

A checkpoint restores onto any number of devices. If the latest cannot be read, the one before it serves.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from rdunet_jax.errors import RunError

_LOG = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of a run, by step. Only those of an epoch's end carry a validation Dice and can be the best."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            options=ocp.CheckpointManagerOptions(
                best_fn=lambda metrics: metrics["dice"],  # without it Orbax does not write metrics
                preservation_policy=AnyPreservationPolicy(
                    [
                        LatestN(2),
                        # Orbax only sorts by what the function gives, so a pair will do.
                        BestN(get_metric_fn=_rank, n=1, keep_checkpoints_without_metrics=False),  # pyright: ignore[reportArgumentType]
                    ]
                ),
                cleanup_tmp_directories=True,
            ),
        )

    def save(self, step: int, state: Any, dice: float | None = None) -> None:
        """Saves in the background; a step that is there already is only replaced to add its Dice.

        Raises:
            RunError: it, or the one before, could not be written; what was there before is kept.
        """
        if step in self._manager.all_steps():
            if dice is None or self._manager.metrics(step):
                return
            self._manager.delete(step)
        metrics = None if dice is None else {"dice": dice, "step": step}
        with _told(f"{self._folder}: a checkpoint cannot be written; make room, and the same command goes on"):
            self._manager.save(step, args=ocp.args.StandardSave(state), metrics=metrics, force=True)

    def restore(self, step: int, like: Any) -> Any:
        """The state saved at `step`, with the structure, shapes, dtypes and devices of `like`.

        Raises:
            RunError: it cannot be read as such a state.
        """
        with _told(f"{self._folder / str(step)}: cannot be read as a checkpoint of this network"):
            return self._manager.restore(step, args=ocp.args.StandardRestore(jax.tree.map(_abstract, like)))

    def restore_latest(self, like: Any) -> Any | None:
        """The latest state that can be read; those after it are warned of and removed. None if there is none at all.

        Raises:
            RunError: there are checkpoints, and none can be read: none of them is removed then.
        """
        broken, error = [], None
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                state = self.restore(step, like)
            except RunError as failure:
                broken.append(step)
                error = error or failure
                continue
            for lost in broken:
                _LOG.warning("%s; going on from the checkpoint before it, of step %d", error, step)
                self._manager.delete(lost)
            return state
        if error is not None:
            raise error
        return None

    @property
    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    @property
    def best_step(self) -> int | None:
        """The step of the best validation Dice, the earliest of equals; None before the first validation."""
        scored = [metrics for step in self._manager.all_steps() if (metrics := self._manager.metrics(step))]
        return max(scored, key=_rank)["step"] if scored else None

    def close(self) -> None:
        """Waits until everything is on disk.

        Raises:
            RunError: the last could not be written.
        """
        with _told(f"{self._folder}: a checkpoint cannot be written; make room, and the same command goes on"):
            self._manager.wait_until_finished()
            self._manager.close()


def _rank(metrics: dict[str, float]) -> tuple[float, float]:
    """The higher the better; of equal Dice the earlier step is the better one, as in Keras."""
    return metrics["dice"], -metrics["step"]


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    """Shape, dtype and device to restore onto; this process's first device where `leaf` names none."""
    sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf), sharding=sharding)


@contextmanager
def _told(message: str) -> Iterator[None]:
    """Orbax and TensorStore raise anything; a user gets one line."""
    try:
        yield
    except Exception as error:
        raise RunError(f"{message} ({(str(error).splitlines() or [type(error).__name__])[0][:200]})") from error
