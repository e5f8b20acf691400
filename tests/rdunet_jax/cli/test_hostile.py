"""Hostile files through the commands: one line or the right result, in little time and memory, and no name outside."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.rdunet_jax.cli.hostile import CASES, SECONDS

ROOT = Path(__file__).resolve().parents[3]
MOST_MIB = 2048
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of each case: status, output, seconds, MiB and files."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.rdunet_jax.cli.hostile", str(tmp_path_factory.mktemp("hostile")), *CASES]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", CASES)
def test_hostile_files_do_no_harm(name: str, outcomes: dict[str, Any]) -> None:
    outcome = outcomes[name]
    printed = outcome["out"] + outcome["err"]
    assert outcome["status"] in (0, 2) and "Traceback" not in printed, printed[-2000:]
    if outcome["status"] == 2:
        assert outcome["err"].splitlines()[-1].startswith("error: ")
    assert CASES[name].says in printed, printed[-2000:]
    assert "CANARY" not in printed and not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e]", printed)
    assert outcome["seconds"] < SECONDS and outcome["mib"] < MOST_MIB
    for path in outcome["files"]:
        parts = Path(path).parts
        assert all(re.fullmatch(r"[A-Za-z0-9._-]{1,200}", part) for part in parts), path
        assert len({one.casefold() for one in outcome["files"]}) == len(outcome["files"])
    assert not outcome["outside"], outcome["outside"]
