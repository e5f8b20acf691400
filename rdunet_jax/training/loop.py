"""The training loop (paper, section 3.3)."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import Progress

from rdunet_jax.config import TrainConfig
from rdunet_jax.errors import RunError
from rdunet_jax.files import disk_faults
from rdunet_jax.parallel import any_process, is_first, local, make_mesh, replicate, split_batch
from rdunet_jax.progress import progress_bar
from rdunet_jax.training.checkpointing import Checkpoints
from rdunet_jax.training.history import History, StepRow, Validation, epoch_in_words
from rdunet_jax.training.interruption import Stopped, StopRequest
from rdunet_jax.training.optimizer import learning_rate, plateau_decay, stops_early
from rdunet_jax.training.step import Batch, Normalise, TrainState, train_step
from rdunet_jax.training.trackers import OpenTracker

TIMED_STEPS = 5
"""After this many steps a session estimates its duration; the first of them compiles, and is not counted."""
SAVE_SECONDS = 600
"""Longest time between two checkpoints."""

Validate = Callable[[TrainState, Callable[[int, int], None]], Validation]
"""(state, progress callback of (done, total)) to the validation's result."""


class NotFiniteError(RunError):
    """A loss, a gradient or an update is infinite or not a number."""


def fit(
    state: TrainState,
    config: TrainConfig,
    *,
    normalise: Normalise,
    batches: Callable[[int], Iterator[Batch]],
    steps_per_epoch: int,
    validate: Validate | None,
    workdir: Path,
    log: Callable[[str], None] = lambda line: None,
    trackers: Sequence[OpenTracker] = (),
) -> TrainState:
    """Trains until the configured end or the early stop, or goes on from the latest checkpoint in `workdir`.

    Many parameters because they are what a training is made of.

    Ctrl-C or SIGTERM ends it after the running step, with a checkpoint. Everything that training depends on is in the
    checkpoint: the state, its history and, as its step, the position in the data, whose batch i depends on the seed and
    i alone.

    Args:
        state: the fresh state; replaced by the checkpoint's where there is one.
        batches: (first step) to the endless batches from that step on. What a batch holds beside `image` and `mask`
            identifies it, and is named in the error where it fails.
        validate: called at each epoch's end; None for no validation.
        workdir: gets `checkpoints/`, `steps.csv`, `history.csv`, `history.png` and `tensorboard/`.
        log: gets lines for the user.
        trackers: get what is measured, beside the files of `workdir`; they are opened by the first process alone.

    Raises:
        Stopped: the user stopped it; the checkpoint is written.
        RunError: a loss, gradient or update is not finite (the state before it is in a checkpoint), memory or disk is
            short, or no checkpoint can be read.
    """
    with _shortage_in_one_line(config), disk_faults(workdir):
        session = Session(state, config, normalise, batches, steps_per_epoch, validate, workdir, log, trackers)
        return session.run()


@dataclass
class Session:
    """A run from its latest checkpoint to its end or a stop. The fields are the arguments of `fit`."""

    state: TrainState
    config: TrainConfig
    normalise: Normalise
    batches: Callable[[int], Iterator[Batch]]
    steps_per_epoch: int
    validate: Validate | None
    workdir: Path
    log: Callable[[str], None]
    trackers: Sequence[OpenTracker] = ()

    def run(self) -> TrainState:
        """Trains to the end; returns the state."""
        self.restore()
        with StopRequest() as self._stop, progress_bar() as progress, self.history:
            self._show(progress)
            try:
                if self._at_epoch_end and self.step_count and self.history.epoch_is_open(self.step_count):
                    self.end_epoch()  # a stop came between the last step of an epoch and its validation
                while not self._is_finished:
                    self.step()
                    if self._at_epoch_end:
                        self.end_epoch()
                    self._check_stop()
                    self.save_if_due()
            except (Stopped, NotFiniteError):
                if self.step_count:  # before the first step there is nothing to keep, and no setting to hold on to
                    self._save()
                raise
            finally:
                self.checkpoints.close()
        return self.state

    def restore(self) -> None:
        """Places the state on the devices: the latest checkpoint's, or the fresh one."""
        config = self.config
        self.total_steps = config.epochs * self.steps_per_epoch
        if config.steps is not None:
            self.total_steps = min(self.total_steps, config.steps)
        self._decay = plateau_decay(config)
        self._mesh = make_mesh(config.batch_size)
        if self._mesh.size < len(jax.devices()):
            self.log(
                f"on {self._mesh.size} of {len(jax.devices())} devices: a batch of {config.batch_size} cannot be split "
                "further"
            )
        self.state = replicate(self.state, self._mesh)
        self.checkpoints = Checkpoints(self.workdir / "checkpoints")
        restored = self.checkpoints.restore_latest(like=self.state)
        saved = {}
        if restored is not None:
            self.state, checkpoint = restored
            saved = {name: text for name in ("steps.csv", "history.csv") if (text := checkpoint.text(name)) is not None}
        self.step_count = self._first_step = int(self.state.step)
        self.history = History(self.workdir, self.step_count, saved, is_first(), self.trackers)
        self._source: Iterator[Batch] | None = None
        self._ahead: tuple[Any, dict[str, Any]] | None = None
        self._saved_at = time.monotonic()

    def step(self) -> None:
        """One training step.

        Raises:
            NotFiniteError: its loss, gradient or update is not finite; the state is that before it.
        """
        started = time.perf_counter()
        arrays, labels = self._ahead or self._next_batch()
        self.state, metrics = train_step(self.state, arrays, self.config, self.normalise, self._mesh)
        # While the devices compute this step.
        self._ahead = self._next_batch() if self.step_count + 1 < self.total_steps else None
        loss = float(metrics["loss"])
        if not metrics["finite"]:
            raise NotFiniteError(_not_finite(loss, self.step_count, labels))
        self.step_count += 1
        seconds = time.perf_counter() - started
        self.history.end_step(StepRow(self.step_count, loss, float(metrics["dice"]), seconds))
        self._progress.update(self._bar, completed=self.step_count, description=self.history.now(self._epoch))
        steps_left = self.total_steps - self.step_count
        if self.step_count - self._first_step == TIMED_STEPS and steps_left:
            speed = self.config.batch_size / self.history.seconds_a_step(TIMED_STEPS - 1)
            left = timedelta(seconds=round(steps_left * self.config.batch_size / speed))
            self.log(f"{speed:.2f} patches/s: {left} for {steps_left} steps, and the validations")

    def end_epoch(self) -> None:
        """Validates, lowers the rate on a plateau, saves; repeated from its start if a stop interrupts it."""
        started = time.monotonic()
        measured = Validation(None, None)
        if self.validate is not None:
            measured = self.validate(local(self.state), self._on_validation)
        state, history = self.state, self.history
        counts = self.config.schedule == "plateau" and (measured.dice or history.counted_dice)
        if measured.soft_dice is not None and counts:
            value = jnp.float32(1 - measured.soft_dice)
            _, plateau = self._decay.update({}, local(state.plateau), value=value)
            self.state = state = state.replace(plateau=replicate(plateau, self._mesh))
        scale = float(jnp.asarray(state.plateau.scale))
        rate = scale * learning_rate(self.config, self.step_count // self.config.accumulate)
        row = history.end_epoch(self.step_count, self._epoch, measured, rate)
        self._save(measured)
        if not self._progress.console.is_terminal:
            steps_left = self.total_steps - self.step_count
            validations = -(-steps_left // self.steps_per_epoch) * (time.monotonic() - started)
            seconds = steps_left * history.seconds_a_step(self.steps_per_epoch)
            self.log(epoch_in_words(row, self.total_steps, seconds + validations))

    def save_if_due(self) -> None:
        """Saves a checkpoint if the last one is older than `SAVE_SECONDS`."""
        if any_process(time.monotonic() - self._saved_at > SAVE_SECONDS):
            self._save()

    def _save(self, measured: Validation | None = None) -> None:
        scores = (measured.soft_dice, measured.dice) if measured else ()
        self.checkpoints.save(self.step_count, self.state, *scores, texts=self.history.texts)
        self._saved_at = time.monotonic()

    @property
    def _epoch(self) -> int:
        return -(-self.step_count // self.steps_per_epoch)

    @property
    def _at_epoch_end(self) -> bool:
        return self.step_count % self.steps_per_epoch == 0 or self.step_count == self.total_steps

    @property
    def _is_finished(self) -> bool:
        early = stops_early(self.history.counted_dice, self.config.early_stopping)
        return early or self.step_count >= self.total_steps

    def _next_batch(self) -> tuple[Any, dict[str, Any]]:
        """A batch's arrays, on the devices, and what identifies it."""
        self._source = self._source or self.batches(self.step_count)
        labels = dict(next(self._source))
        return split_batch({name: labels.pop(name) for name in ("image", "mask")}, self._mesh), labels

    def _show(self, progress: Progress) -> None:
        """The bars, and where the session starts."""
        self._progress = progress
        self._bar = progress.add_task("", total=self.total_steps, completed=self.step_count)
        self._validation_bar = progress.add_task("validation", total=None, visible=False)
        if self._is_finished:
            self.log(f"already finished: {self.step_count} steps")
            return
        if self.step_count:
            self.log(f"going on from step {self.step_count} of {self.total_steps}")
        self.log("compiling the training step, once: this can take minutes")

    def _on_validation(self, done: int, total: int) -> None:
        self._progress.update(self._validation_bar, completed=done, total=total, visible=done < total)
        self._check_stop()

    def _check_stop(self) -> None:
        if any_process(self._stop.requested):
            raise Stopped


def _not_finite(loss: float, step: int, labels: dict[str, Any]) -> str:
    which = ", ".join(f"{name} {np.asarray(value).tolist()}" for name, value in labels.items())
    return (
        f"the loss ({loss}), its gradient or the update is not finite at step {step + 1} ({which or f'batch {step}'}); "
        "the network before it is kept: go on with a lower --learning-rate in the same --workdir, start anew with "
        "--clip-norm, or check these patients"
    )


@contextmanager
def _shortage_in_one_line(config: TrainConfig) -> Iterator[None]:
    """Too little memory becomes one line that says what to do."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise RunError(
            f"the device's memory does not hold a step on a batch of {config.batch_size}; lower --batch-size (and "
            "raise --accumulate to make up for it), use --remat or --dtype bfloat16, or make --widths or the data "
            "set's image size smaller"
        ) from error
