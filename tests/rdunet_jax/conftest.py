"""The command `rdunet`, run in the process of the test, with a home folder of its own."""

from collections.abc import Callable
from pathlib import Path

import pytest

from rdunet_jax.runs.plugins import TABLES
from tests.rdunet_jax.command import Command, Result, run_command


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder that does not exist yet, for the key of the pseudonyms and the cache."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    return tmp_path / "home"


@pytest.fixture
def rdunet(home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs a command; returns its status, what it printed, and its errors."""

    def run(*arguments: object) -> Result:
        result = run_command(monkeypatch, capfd, *arguments)
        assert result.status or not result.error, result.error  # a command that succeeds has no errors to show
        return result

    return run


@pytest.fixture
def new_process(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """The test begins without plugins. Called, it forgets those that were loaded, as another process has not them."""

    def forget() -> None:
        for table in TABLES:
            own = {name: part for name, part in table._parts.items() if table.origin(name) is None}
            monkeypatch.setattr(table, "_parts", own)
            monkeypatch.setattr(table, "_origins", {})

    forget()
    return forget
