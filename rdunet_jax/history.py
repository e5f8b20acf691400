"""What training measured: `steps.csv` a row a step, `history.csv` a row an epoch, and both as TensorBoard scalars."""

import csv
import os
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
from tensorboardX import SummaryWriter

STEP_FIELDS = ("step", "loss", "dice", "seconds")
EPOCH_FIELDS = ("epoch", "step", "loss", "train_dice", "validation_dice", "learning_rate", "seconds", "peak_memory_gib")


class History:
    """Records steps and epochs; rows past the step from which a run goes on are dropped, for they are run again."""

    def __init__(self, workdir: Path, resume_at: int):
        self._steps_path, self._epochs_path = workdir / "steps.csv", workdir / "history.csv"
        self.steps = [row for row in _read(self._steps_path) if row["step"] <= resume_at]
        self.epochs = [row for row in _read(self._epochs_path) if row["step"] <= resume_at]
        _write(self._steps_path, STEP_FIELDS, self.steps)
        _write(self._epochs_path, EPOCH_FIELDS, self.epochs)
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=resume_at + 1)

    def __enter__(self) -> Self:
        # Line by line: what a killed run had measured is there.
        self._steps_file = self._steps_path.open("a", newline="", buffering=1)
        return self

    def __exit__(self, *error: object) -> None:
        self._steps_file.close()
        self._board.close()

    def epoch_is_open(self, step: int) -> bool:
        """Whether steps have been made since the last row of `history.csv`."""
        return not self.epochs or self.epochs[-1]["step"] < step

    def end_step(self, step: int, loss: float, dice: float, seconds: float) -> None:
        """One training step: BCE, soft Dice of the batch, wall time including the wait for the batch."""
        row = dict(zip(STEP_FIELDS, (step, loss, dice, seconds), strict=True))
        self.steps.append(row)
        csv.DictWriter(self._steps_file, STEP_FIELDS).writerow(row)
        self._board.add_scalar("train/loss", loss, step)
        self._board.add_scalar("train/dice", dice, step)

    def end_epoch(self, step: int, epoch: int, validation_dice: float | None, learning_rate: float) -> None:
        """One epoch: means over its steps, and the learning rate of the next."""
        since = self.epochs[-1]["step"] if self.epochs else 0
        rows = [row for row in self.steps if since < row["step"] <= step]
        peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        values = (
            epoch,
            step,
            float(np.mean([row["loss"] for row in rows])),
            float(np.mean([row["dice"] for row in rows])),
            validation_dice,
            learning_rate,
            float(np.sum([row["seconds"] for row in rows])),
            round(peak_kib / 2**20, 3),
        )
        row = dict(zip(EPOCH_FIELDS, values, strict=True))
        self.epochs.append(row)
        _write(self._epochs_path, EPOCH_FIELDS, self.epochs)
        for name in ("loss", "train_dice", "validation_dice", "learning_rate"):
            if row[name] is not None:
                self._board.add_scalar(f"epoch/{name}", row[name], step)

    @property
    def last(self) -> str:
        """The last validation in words, for a progress bar."""
        if not self.epochs or self.epochs[-1]["validation_dice"] is None:
            return ""
        return f"validation Dice {self.epochs[-1]['validation_dice']:.3f}"


def _read(path: Path) -> list[dict[str, float | None]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        # A killed run may leave half a line at the end: it is a step that is run again.
        rows = [row for row in csv.DictReader(file) if None not in row.values()]
    return [{name: _number(name, value) for name, value in row.items()} for row in rows]


def _number(name: str, value: str) -> float | None:
    if not value:
        return None
    return int(value) if name in ("step", "epoch") else float(value)


def _write(path: Path, fields: Sequence[str], rows: Sequence[dict]) -> None:
    temporary = path.with_name(f".{path.name}.partial")
    with temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, fields)
        writer.writeheader()
        writer.writerows(rows)
    os.replace(temporary, path)
