"""Folders and files that may not be read or written: one line that names them, or no matter."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rdunet_jax.command import Result, one_line
from tests.torture.parts import DUMMY
from tests.torture.world import TINY

# Root may read and write everything, unless it gives up that capability.
AS_OTHERS = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(AS_OTHERS) and not shutil.which("setpriv"), reason="root without setpriv may do everything"
    ),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source, a data set, a run and a key."""
    root = tmp_path_factory.mktemp("made")
    shutil.copytree(DUMMY, root / "source")
    for arguments in (
        ("prepare", "source", "--data-dir", "data", "--image-size", "16", "--key", "key", "--workers", "1"),
        ("train", "--data-dir", "data", "--workdir", "run", "--steps-per-epoch", "1", "--epochs", "1", *TINY),
    ):
        done = command(root, *arguments)
        assert done.status == 0, done
    return root


def command(root: Path, *arguments: str) -> Result:
    """`rdunet` in a process of its own, which permissions bind."""
    code = "from rdunet_jax.cli.main import main; main()"
    path = os.pathsep.join(one for one in sys.path if one)
    done = subprocess.run(
        [*AS_OTHERS, sys.executable, "-c", code, *arguments],
        cwd=root,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": path, "HOME": str(root / "home")},
        capture_output=True,
        text=True,
    )
    return Result(done.returncode, done.stdout, done.stderr)


PREPARE = ("prepare", "source", "--data-dir", "new", "--image-size", "16", "--workers", "1")
EVALUATE = ("evaluate", "--data-dir", "data", "--workdir", "run", "--output", "scores")
SEGMENT = ("segment", "source", "--workdir", "run", "--output", "masks", "--key", "key")


@pytest.mark.parametrize(
    ("closed", "arguments"),
    [
        ("source", (*PREPARE, "--key", "key")),
        ("key", (*PREPARE, "--key", "key")),
        ("data", EVALUATE),
        ("run", EVALUATE),
        ("run/config.json", EVALUATE),
        ("run/checkpoints", EVALUATE),
        ("source", SEGMENT),
        ("key", SEGMENT),
        ("run", SEGMENT),
    ],
)
def test_what_may_not_be_read_is_named(made: Path, tmp_path: Path, closed: str, arguments: tuple[str, ...]) -> None:
    root = shutil.copytree(made, tmp_path / "copy")
    (root / closed).chmod(0)
    try:
        one_line(command(root, *arguments), closed)
    finally:
        (root / closed).chmod(0o700)


@pytest.mark.parametrize(
    ("closed", "arguments"),
    [
        (".", (*PREPARE, "--key", "key")),
        (".", EVALUATE),
        (".", SEGMENT),
        (".", ("train", "--data-dir", "data", "--workdir", "new", "--steps-per-epoch", "1", "--epochs", "1", *TINY)),
        ("run", ("train", "--data-dir", "data", "--workdir", "run", "--steps-per-epoch", "1", "--epochs", "2", *TINY)),
    ],
)
def test_where_nothing_may_be_written_is_named(
    made: Path, tmp_path: Path, closed: str, arguments: tuple[str, ...]
) -> None:
    root = shutil.copytree(made, tmp_path / "copy")
    (root / "home").mkdir(exist_ok=True)
    (root / closed).chmod(0o500)
    try:
        written = arguments[arguments.index("--output" if "--output" in arguments else "--data-dir") + 1]
        named = "run" if closed == "run" else written if arguments[0] != "train" else "new"
        one_line(command(root, *arguments), named)
    finally:
        (root / closed).chmod(0o700)


def test_a_patient_that_may_not_be_read_does_not_stop_the_others(made: Path, tmp_path: Path) -> None:
    root = shutil.copytree(made, tmp_path / "copy")
    closed = sorted(path for path in (root / "source").iterdir() if path.is_dir())[0]
    closed.chmod(0)
    try:
        done = command(root, *PREPARE, "--key", "key")
    finally:
        closed.chmod(0o700)
    assert done.status in (0, 1) and "Traceback" not in done.error + done.out
    assert "cannot be read" in done.out + done.error and closed.name not in done.out + done.error


def test_a_home_that_may_not_be_written_is_no_matter(made: Path, tmp_path: Path) -> None:
    root = shutil.copytree(made, tmp_path / "copy")
    (root / "home").mkdir(exist_ok=True)
    (root / "home").chmod(0o500)
    try:
        assert command(root, *EVALUATE).status == 0
    finally:
        (root / "home").chmod(0o700)
