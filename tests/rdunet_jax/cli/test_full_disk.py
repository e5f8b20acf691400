"""A disk that is full for each file in turn: one line, and what was there before stays as it was."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import pytest
from rich.console import Console

from data_pipeline.settings import DatasetSettings, PrepareOptions
from rdunet_jax.workflows.prepare import prepare_source
from tests.rdunet_jax.cli.test_formats import untrained
from tests.rdunet_jax.command import Command, one_line
from tests.torture.parts import DUMMY

NETWORK = ("--model", "tiny", "--widths", 2, 2, "--recurrent-width", 2, "--recurrent-layers", 1)
GATE = ("--gate", "sigmoid", "--image-size", 16)
LIMITS = (1_500, 11_000, 30_000)
"""Bytes that a file may hold, the captured message too: the larger files fail first, or none."""

pytestmark = pytest.mark.slow

COMMANDS = {
    "prepare": ("prepare", DUMMY, "--data-dir", "new", "--image-size", 16, "--workers", 1),
    "evaluate": ("evaluate", "--data-dir", "data", "--workdir", "run", "--html", "--threshold", 0.5),
    "choose-postprocessing": ("choose-postprocessing", "--data-dir", "data", "--workdir", "run"),
    "model file": ("export-model", "run", "--output", "new.rdunet"),
    "huggingface": ("export-model", "run", "--output", "new", "--to", "huggingface"),
    "keras": ("export-model", "run", "--output", "new.weights.h5", "--to", "keras"),
    "import-weights": ("import-weights", "run.weights.h5", "--workdir", "new", *NETWORK, *GATE),
}


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Writing beyond `size` bytes of a file fails as on a full disk, with another number of the error."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def contents(folder: Path) -> dict[Path, bytes]:
    """All files but stored probabilities, of which each is whole, and what is remembered in the home folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path: path.read_bytes() for path in files if not {"probabilities", "home"} & set(path.parts)}


@pytest.fixture(autouse=True)
def no_compiled_program_is_stored() -> Iterator[None]:
    """The other tests would find it cut."""
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    jax.config.update(name, 1e9)
    yield
    jax.config.update(name, before)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set and a run."""
    root = tmp_path_factory.mktemp("made")
    settings = DatasetSettings(intensity="hu_window", image_size=16)
    prepare_source(DUMMY, root / "data", settings, Console(quiet=True), PrepareOptions(workers=1))
    untrained(root / "run")
    return root


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_is_one_line_and_changes_nothing(
    made: Path, rdunet: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for path in made.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    if name == "evaluate":  # scores of other settings are there
        assert rdunet(*COMMANDS[name][:-2], "--threshold", 0.9).status == 0
    if name == "import-weights":
        assert rdunet("export-model", "run", "--output", "run.weights.h5", "--to", "keras").status == 0
    before, lines = contents(made) | contents(tmp_path), set()
    for size in LIMITS:
        with files_of_at_most(size):
            result = rdunet(*COMMANDS[name])
        if result.status == 0:
            break
        lines.add(one_line(result, "make room").split(":")[1])
        assert ".partial-" not in result.error
        assert contents(made) | contents(tmp_path) == before
    assert lines
