"""What training measured: `steps.csv` a row a step, `history.csv` a row an epoch, `history.png` both as curves, and
all of it for TensorBoard and other trackers."""

import csv
import io
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from datetime import timedelta
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure

from rdunet_jax.files import write_whole
from rdunet_jax.memory import peak_host_bytes
from rdunet_jax.training.trackers import OpenTracker, TensorBoard, Tracker

_LOG = logging.getLogger(__name__)


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
class Validation:
    """What one validation measured."""

    dice: float | None
    """Mean Dice of the thresholded prediction over the slices with tumour or prediction; None: not measured."""
    soft_dice: float | None
    """Mean soft Dice of the probabilities (`losses.soft_dice`), which chooses the best epoch; None: not measured."""
    picture: UInt8[np.ndarray, "height width 3"] | None = None
    """A prediction to look at in TensorBoard."""


@dataclass(frozen=True)
class EpochRow:
    """One epoch: means over its steps, and the result of its validation."""

    epoch: int
    step: int
    loss: float
    train_dice: float
    validation_dice: float | None
    """Of the thresholded prediction."""
    learning_rate: float
    """Of the next epoch."""
    seconds: float
    """Wall time of the steps, without validation."""
    peak_memory_gib: float
    """Of the process until now, on the host."""
    validation_soft_dice: float | None = None
    """Of the probabilities: it chooses the best epoch, and decides on a plateau and an early stop."""


Row = TypeVar("Row", StepRow, EpochRow)
FILES = {StepRow: "steps.csv", EpochRow: "history.csv"}


class History:
    """Records steps and epochs; rows after the step from which a run goes on are dropped, for they are run again.

    Every checkpoint holds a copy of both tables (`texts`), which is the one that counts when a run goes on: the files
    in the run's folder are for people, and are made anew from it if they are damaged.

    Args:
        workdir: the run's folder.
        resume_at: the step from which the run goes on.
        saved: the text of each table in the checkpoint of that step, by its file's name; empty where there is none.
        writes: whether this process writes the files.
        trackers: open trackers beside TensorBoard.
    """

    def __init__(
        self,
        workdir: Path,
        resume_at: int,
        saved: Mapping[str, str] | None = None,
        writes: bool = True,
        trackers: Sequence[OpenTracker] = (),
    ):
        self._workdir, self._writes, self._resume_at = workdir, writes, resume_at
        self._to_open, self._trackers = (partial(TensorBoard, workdir / "tensorboard"), *trackers), list[Tracker]()
        self.steps = self._restored(StepRow, saved or {})
        self.epochs = self._restored(EpochRow, saved or {})

    def _restored(self, kind: type[Row], saved: Mapping[str, str]) -> list[Row]:
        path = self._workdir / FILES[kind]
        rows, bad_rows = read_rows(path, kind, self._resume_at)
        if path.name not in saved:
            if bad_rows:
                _LOG.warning("%s: %d rows are damaged and left out", path, bad_rows)
            return rows
        kept, _ = _parse(saved[path.name], kind, self._resume_at)
        if rows != kept:
            _LOG.warning("%s: damaged or incomplete; restored from the checkpoint of step %d", path, self._resume_at)
        return kept

    @property
    def texts(self) -> dict[str, str]:
        """Both tables as CSV, by the name of their file."""
        return {"steps.csv": _text(StepRow, self.steps), "history.csv": _text(EpochRow, self.epochs)}

    def __enter__(self) -> Self:
        self._open = ExitStack()
        if self._writes:
            for name, text in self.texts.items():
                write_whole(self._workdir / name, text)
            # Line by line: what a killed run had measured is there.
            steps_path = self._workdir / "steps.csv"
            self._steps_file = self._open.enter_context(steps_path.open("a", newline="", buffering=1, encoding="utf-8"))
            for open_tracker in self._to_open:
                tracker = open_tracker(self._resume_at)
                self._trackers.append(tracker)
            self._open.callback(self._track, lambda tracker: tracker.close())
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def epoch_is_open(self, step: int) -> bool:
        """Whether steps have been made since the last row of `history.csv`."""
        return not self.epochs or self.epochs[-1].step < step

    @property
    def counted_dice(self) -> list[float]:
        """Soft Dice of the epochs that count for a plateau and an early stop: from the first that predicts any tumour.

        Before it the thresholded Dice is 0: the network improves, but below the threshold.
        """
        validated = [row for row in self.epochs if row.validation_dice is not None]
        first = next((number for number, row in enumerate(validated) if row.validation_dice), len(validated))
        soft = [row.validation_soft_dice for row in validated[first:]]
        return [score for score in soft if score is not None]

    def end_step(self, row: StepRow) -> None:
        """Records one training step."""
        self.steps.append(row)
        if not self._writes:
            return
        csv.writer(self._steps_file).writerow(asdict(row).values())
        self._track(lambda tracker: tracker.scalars({"train/loss": row.loss, "train/dice": row.dice}, row.step))

    def end_epoch(self, step: int, epoch: int, validation: Validation, learning_rate: float) -> EpochRow:
        """Records one epoch, from the steps since the last."""
        since = self.epochs[-1].step if self.epochs else 0
        steps = [row for row in self.steps if since < row.step <= step]
        row = EpochRow(
            epoch=epoch,
            step=step,
            loss=float(np.mean([row.loss for row in steps])),
            train_dice=float(np.mean([row.dice for row in steps])),
            validation_dice=validation.dice,
            learning_rate=learning_rate,
            seconds=sum(row.seconds for row in steps),
            peak_memory_gib=round(peak_host_bytes() / 2**30, 3),
            validation_soft_dice=validation.soft_dice,
        )
        self.epochs.append(row)
        if not self._writes:
            return row
        write_whole(self._workdir / "history.csv", _text(EpochRow, self.epochs))
        names = ("loss", "train_dice", "validation_dice", "validation_soft_dice", "learning_rate")
        values = {f"epoch/{name}": value for name in names if (value := getattr(row, name)) is not None}
        self._track(lambda tracker: tracker.scalars(values, step))
        if (picture := validation.picture) is not None:
            self._track(lambda tracker: tracker.picture("epoch/prediction", picture, step))
        plot_history(self.epochs, self._workdir / "history.png")
        return row

    def _track(self, report: Callable[[Tracker], None]) -> None:
        """Reports to every tracker; one that fails gets nothing more."""
        for tracker in tuple(self._trackers):
            try:
                report(tracker)
            except OSError:  # a full disk ends the training, with one line
                raise
            except Exception as error:
                self._trackers.remove(tracker)
                _LOG.warning("%s failed (%s) and gets nothing more", type(tracker).__name__, error)

    def now(self, epoch: int) -> str:
        """The last step and validation in words, for a progress bar."""
        dice = self.epochs[-1].validation_dice if self.epochs else None
        validation = "" if dice is None else f"  validation Dice {dice:.3f}"
        rate = f"  rate {self.epochs[-1].learning_rate:.2g}" if self.epochs else ""
        return f"epoch {epoch}  loss {self.steps[-1].loss:.4f}  Dice {self.steps[-1].dice:.3f}{rate}{validation}"

    def seconds_a_step(self, timed: int) -> float:
        """Median of the last `timed` steps."""
        return float(np.median([row.seconds for row in self.steps[-timed:]]))


def epoch_in_words(row: EpochRow, total_steps: int, seconds_left: float) -> str:
    """One line of a log file."""
    validation = ""
    if row.validation_dice is not None and row.validation_soft_dice is not None:
        validation = f"validation Dice {row.validation_dice:.3f} (soft {row.validation_soft_dice:.3f}), "
    return (
        f"epoch {row.epoch}: step {row.step} of {total_steps}, loss {row.loss:.4f}, {validation}"
        f"rate {row.learning_rate:.2g}, {timedelta(seconds=round(seconds_left))} left"
    )


def plot_history(epochs: Sequence[EpochRow], path: Path) -> None:
    """Loss, Dice and learning rate by step, as a PNG."""
    steps = [row.step for row in epochs]
    figure = Figure(figsize=(10, 3), layout="constrained")
    loss, dice, rate = figure.subplots(1, 3)
    loss.plot(steps, [row.loss for row in epochs], ".-")
    dice.plot(steps, [row.train_dice for row in epochs], ".-", label="training patches, soft")
    for name, label in (("validation_soft_dice", "validation, soft"), ("validation_dice", "validation, thresholded")):
        validated = [(row.step, value) for row in epochs if (value := getattr(row, name)) is not None]
        if validated:
            dice.plot(*zip(*validated, strict=True), ".-", label=label)
    dice.legend()
    rate.plot(steps, [row.learning_rate for row in epochs], ".-")
    rate.set_yscale("log" if all(row.learning_rate > 0 for row in epochs) else "linear")  # a cosine ends at 0
    for axes, title in ((loss, "loss"), (dice, "Dice"), (rate, "learning rate")):
        axes.set(title=title, xlabel="step")
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=100)
    write_whole(path, image.getvalue())


def read_rows(path: Path, kind: type[Row], until: float = float("inf")) -> tuple[list[Row], int]:
    """The rows of a run's table with a step of at most `until`, and how many others cannot be read.

    Args:
        path: `steps.csv` or `history.csv`; without such a file there are no rows.
        kind: `StepRow` or `EpochRow`.
    """
    try:
        text = path.read_text("utf-8", errors="replace")
    except FileNotFoundError:
        return [], 0
    return _parse(text, kind, until)


def _parse(text: str, kind: type[Row], until: float) -> tuple[list[Row], int]:
    rows, bad_rows = [], 0
    lines = text.splitlines()
    for texts in csv.DictReader(lines):
        try:
            row = kind(**{name: _number(texts[name], name) for name in _names(kind) if name in texts})
        except (KeyError, TypeError, ValueError):
            bad_rows += 1
            continue
        if row.step <= until:
            rows.append(row)
    # A killed run may leave half a line at the end: it is a step that is run again.
    half_a_line = bool(bad_rows) and not text.endswith("\n")
    return rows, bad_rows - half_a_line


def _number(text: str | None, name: str) -> Any:
    if text is None:
        raise ValueError("a value is missing")
    if not text and name.startswith("validation"):
        return None
    return int(text) if name in ("epoch", "step") else float(text)


def _text(kind: type[Row], rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(_names(kind))
    writer.writerows(map(attrgetter(*_names(kind)), rows))
    return text.getvalue()


def _names(kind: type[Row]) -> list[str]:
    return [field.name for field in fields(kind)]
