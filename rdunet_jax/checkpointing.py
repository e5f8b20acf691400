"""Checkpoints by Orbax: the latest, to go on from, and the best by validation Dice, to use."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN


class Checkpoints:
    """The checkpoints of a run, by step. Only those of an epoch's end carry a validation Dice and can be the best."""

    def __init__(self, folder: Path):
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            options=ocp.CheckpointManagerOptions(
                best_fn=lambda metrics: metrics["dice"],  # without it Orbax does not write metrics
                preservation_policy=AnyPreservationPolicy(
                    [
                        LatestN(1),
                        # Orbax only sorts by what the function gives, so a pair will do.
                        BestN(get_metric_fn=_rank, n=1, keep_checkpoints_without_metrics=False),  # pyright: ignore[reportArgumentType]
                    ]
                ),
                cleanup_tmp_directories=True,
            ),
        )

    def save(self, step: int, state: Any, dice: float | None = None) -> None:
        """Saves in the background; a step that is there already is only replaced to add its Dice."""
        if step in self._manager.all_steps():
            if dice is None or self._manager.metrics(step):
                return
            self._manager.delete(step)
        metrics = None if dice is None else {"dice": dice, "step": step}
        self._manager.save(step, args=ocp.args.StandardSave(state), metrics=metrics, force=True)

    def restore(self, step: int, like: Any) -> Any:
        """The state saved at `step`, with the structure, shapes and dtypes of `like`."""
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        return self._manager.restore(step, args=ocp.args.StandardRestore(abstract))

    @property
    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    @property
    def best_step(self) -> int | None:
        """The step of the best validation Dice, the earliest of equals; None before the first validation."""
        scored = [metrics for step in self._manager.all_steps() if (metrics := self._manager.metrics(step))]
        return max(scored, key=_rank)["step"] if scored else None

    def close(self) -> None:
        """Waits until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()


def _rank(metrics: dict[str, float]) -> tuple[float, float]:
    """The higher the better; of equal Dice the earlier step is the better one, as in Keras."""
    return metrics["dice"], -metrics["step"]
