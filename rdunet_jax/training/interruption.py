"""Ctrl-C and SIGTERM end a loop between two steps, never inside one."""

import signal
from types import FrameType
from typing import Self


class Stopped(KeyboardInterrupt):
    """The user's stop, at a moment when everything can be saved."""


class StopRequest:
    """Inside its context the first SIGINT or SIGTERM sets `requested`; a second one acts at once.

    A signal inside a training step would otherwise leave a state whose buffers are donated.
    """

    def __init__(self) -> None:
        self._requested = False

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._requested:
            raise KeyboardInterrupt
        self._requested = True
        print("\nstopping after this step, with a checkpoint; once more to stop at once")

    @property
    def requested(self) -> bool:
        return self._requested
