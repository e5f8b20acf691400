"""What training measured: `steps.csv` a row a step, `history.csv` a row an epoch, `history.png` both as curves, and
all of it for TensorBoard."""

import csv
import io
import resource
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure
from tensorboardX import SummaryWriter

from rdunet_jax.files import write_whole


@dataclass(frozen=True)
class StepRow:
    """One training step."""

    step: int
    loss: float
    dice: float
    """Soft Dice of the batch."""
    seconds: float
    """Wall time, the wait for the batch included."""


@dataclass(frozen=True)
class EpochRow:
    """One epoch: means over its steps, and what validation said."""

    epoch: int
    step: int
    loss: float
    train_dice: float
    validation_dice: float | None
    learning_rate: float
    """Of the next epoch."""
    seconds: float
    """Wall time of the steps, without validation."""
    peak_memory_gib: float
    """Of the process until now, on the host."""


Row = TypeVar("Row", StepRow, EpochRow)


class History:
    """Records steps and epochs; rows past the step from which a run goes on are dropped, for they are run again."""

    def __init__(self, workdir: Path, resume_at: int, writes: bool = True):
        self._workdir, self._writes = workdir, writes
        self._steps_path, self._epochs_path = workdir / "steps.csv", workdir / "history.csv"
        self.steps = _read(self._steps_path, StepRow, resume_at)
        self.epochs = _read(self._epochs_path, EpochRow, resume_at)
        self._resume_at = resume_at

    def __enter__(self) -> Self:
        self._open = ExitStack()
        if self._writes:
            _write(self._steps_path, StepRow, self.steps)
            _write(self._epochs_path, EpochRow, self.epochs)
            # Line by line: what a killed run had measured is there.
            self._steps_file = self._open.enter_context(self._steps_path.open("a", newline="", buffering=1))
            board = SummaryWriter(str(self._workdir / "tensorboard"), purge_step=self._resume_at + 1)
            self._board = self._open.enter_context(board)
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def epoch_is_open(self, step: int) -> bool:
        """Whether steps have been made since the last row of `history.csv`."""
        return not self.epochs or self.epochs[-1].step < step

    @property
    def validation_dice(self) -> list[float | None]:
        """Of every epoch until now."""
        return [row.validation_dice for row in self.epochs]

    def end_step(self, row: StepRow) -> None:
        """Records one training step."""
        self.steps.append(row)
        if not self._writes:
            return
        csv.writer(self._steps_file).writerow(asdict(row).values())
        self._board.add_scalar("train/loss", row.loss, row.step)
        self._board.add_scalar("train/dice", row.dice, row.step)

    def end_epoch(
        self,
        step: int,
        epoch: int,
        validation_dice: float | None,
        learning_rate: float,
        picture: UInt8[np.ndarray, "height width 3"] | None = None,
    ) -> None:
        """Records one epoch, from the steps since the last."""
        since = self.epochs[-1].step if self.epochs else 0
        steps = [row for row in self.steps if since < row.step <= step]
        row = EpochRow(
            epoch=epoch,
            step=step,
            loss=float(np.mean([row.loss for row in steps])),
            train_dice=float(np.mean([row.dice for row in steps])),
            validation_dice=validation_dice,
            learning_rate=learning_rate,
            seconds=sum(row.seconds for row in steps),
            peak_memory_gib=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3),  # from KiB
        )
        self.epochs.append(row)
        if not self._writes:
            return
        _write(self._epochs_path, EpochRow, self.epochs)
        for name in ("loss", "train_dice", "validation_dice", "learning_rate"):
            if (value := getattr(row, name)) is not None:
                self._board.add_scalar(f"epoch/{name}", value, step)
        if picture is not None:
            self._board.add_image("epoch/prediction", picture, step, dataformats="HWC")
        plot_history(self.epochs, self._workdir / "history.png")

    def now(self, epoch: int) -> str:
        """The last step and validation in words, for a progress bar."""
        dice = self.epochs[-1].validation_dice if self.epochs else None
        validation = "" if dice is None else f"  validation Dice {dice:.3f}"
        rate = f"  rate {self.epochs[-1].learning_rate:.2g}" if self.epochs else ""
        return f"epoch {epoch}  loss {self.steps[-1].loss:.4f}  Dice {self.steps[-1].dice:.3f}{rate}{validation}"

    def estimate(self, steps_left: int, batch_size: int, timed: int) -> str:
        """Speed and time left in words, from the last `timed` steps."""
        seconds = float(np.median([row.seconds for row in self.steps[-timed:]]))
        left = timedelta(seconds=round(seconds * steps_left))
        return f"{batch_size / seconds:.2f} patches/s: {left} for {steps_left} steps, and the validations"


def plot_history(epochs: Sequence[EpochRow], path: Path) -> None:
    """Loss, Dice and learning rate by step, as a PNG."""
    steps = [row.step for row in epochs]
    figure = Figure(figsize=(10, 3), layout="constrained")
    loss, dice, rate = figure.subplots(1, 3)
    loss.plot(steps, [row.loss for row in epochs], ".-")
    dice.plot(steps, [row.train_dice for row in epochs], ".-", label="training patches, soft")
    validated = [(row.step, row.validation_dice) for row in epochs if row.validation_dice is not None]
    if validated:
        dice.plot(*zip(*validated, strict=True), ".-", label="validation")
    dice.legend()
    rate.plot(steps, [row.learning_rate for row in epochs], ".-")
    rate.set_yscale("log")
    for axes, title in ((loss, "loss"), (dice, "Dice"), (rate, "learning rate")):
        axes.set(title=title, xlabel="step")
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=100)
    write_whole(path, image.getvalue())


def _read(path: Path, kind: type[Row], resume_at: int) -> list[Row]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        # A killed run may leave half a line at the end: it is a step that is run again.
        texts = [row for row in csv.DictReader(file) if None not in row.values()]
    rows = [
        kind(**{field.name: _number(row[field.name], field.type is int) for field in fields(kind)}) for row in texts
    ]
    return [row for row in rows if row.step <= resume_at]


def _number(text: str, whole: bool) -> Any:
    if not text:  # no validation
        return None
    return int(text) if whole else float(text)


def _write(path: Path, kind: type[Row], rows: Sequence[Row]) -> None:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([field.name for field in fields(kind)])
    writer.writerows(asdict(row).values() for row in rows)
    write_whole(path, text.getvalue())
