"""What a command of `rdunet` did in a test, and the check of one that refuses its input."""

import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest

from rdunet_jax.cli import main as cli


class Result(NamedTuple):
    status: int
    out: str
    error: str


Command = Callable[..., Result]


def run_command(monkeypatch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str], *arguments: object) -> Result:
    """Runs `rdunet` with these arguments in the process of the test."""
    monkeypatch.setattr(sys, "argv", ["rdunet", *map(str, arguments)])
    status = 0
    try:
        cli.main()
    except SystemExit as end:
        status = int(end.code or 0)
    captured = capture.readouterr()
    return Result(status, captured.out, captured.err)


def one_line(result: Result, *parts: str) -> str:
    """Checks that a command refused its input, with status 2 and one line that holds all parts; returns the line."""
    assert result.status == 2, result
    assert result.error.startswith("error: ") and result.error.count("\n") == 1, result.error
    assert all(part in result.error for part in parts), result.error
    return result.error
