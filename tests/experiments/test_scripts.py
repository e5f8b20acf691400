"""Every script: it says how it is run, answers `--help`, ends a mistake in one line, and runs as a module only."""

import os
import re
import runpy
import site
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in sorted((ROOT / "experiments").rglob("*.py"))
    if '__name__ == "__main__"' in path.read_text()
}
INTERNAL = {f"experiments.benchmarks.{name}" for name in ("contestants", "device_part", "startup")}
"""Started by `bench`, not by users."""
FOR_USERS = sorted(set(SCRIPTS) - INTERNAL)


def test_all_scripts_are_found() -> None:
    assert len(FOR_USERS) >= 18 and set(SCRIPTS) >= INTERNAL


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """Runs a script as `python -m NAME` in this process; returns (status, output, errors)."""
    for name in ("JAX_COMPILATION_CACHE_DIR", "XLA_FLAGS"):  # set by `prepare_jax`; restored after the test
        monkeypatch.setenv(name, os.environ.get(name, ""))

    def run(name: str, *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        captured = capsys.readouterr()
        return end.value.code, captured.out, captured.err  # type: ignore[return-value]

    return run


@pytest.mark.filterwarnings("ignore:.*found in sys.modules after import:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras under NumPy 2
@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_help(name: str, started) -> None:
    status, out, _ = started(name, "--help")
    assert status == 0 and "usage" in out.lower()
    if name in FOR_USERS:
        command = re.search(rf"python -m {re.escape(name)}\b", SCRIPTS[name].read_text())
        assert command, "the docstring shows the command"


@pytest.mark.parametrize("name", FOR_USERS)
def test_a_script_that_is_run_as_a_file_names_the_command(name: str) -> None:
    with pytest.raises(SystemExit, match=rf"^error: run this in the checkout as: python -m {re.escape(name)}$"):
        runpy.run_path(str(SCRIPTS[name]), run_name="__main__")


@pytest.mark.filterwarnings("ignore:.*found in sys.modules after import:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras under NumPy 2
@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("experiments.studies.compare_keras", ["--output", "{}/x"], "--smoke"),
        ("experiments.studies.real_patients", ["--output", "{}/x"], "--lung1"),
        ("experiments.studies.real_patients", ["--output", "{}/x", "--lung1", *3 * ["{}/none"]], "no such folder"),
        ("experiments.studies.real_patients", ["--output", "{}", "--patients", "9"], "the patients are"),
        ("experiments.paper.tables", ["table3", "--output", "{}"], "rdunet prepare"),
        ("experiments.tutorials.custom_variant", ["--data-dir", "{}/none", "--workdir", "{}/w"], "{}/none"),
        ("experiments.tutorials.export_onnx", ["{}", "--output", "{}/x.onnx"], "no trained network"),
        ("experiments.keras_baseline.convert", ["--workdir", "{}", "--output", "{}/x.keras"], "no trained network"),
        ("experiments.keras_baseline.convert", ["--workdir", "{}", "--output", "{}/x.h5"], ".keras"),
        ("experiments.benchmarks.bench", ["patient", "--ct", "{}/none"], "{}/none"),
    ],
)
def test_a_mistake_is_one_line(name: str, arguments: list[str], said: str, tmp_path: Path, started) -> None:
    status, _, errors = started(name, *(argument.format(tmp_path) for argument in arguments))
    assert status == 2
    assert errors.startswith("error: ") and errors.count("\n") == 1 and said.format(tmp_path) in errors


@pytest.mark.slow
def test_scripts_run_from_a_checkout_after_a_plain_installation(tmp_path: Path) -> None:
    """With the two packages installed as a wheel holds them, and without the links of an editable installation."""
    installed, checkout = tmp_path / "site-packages", tmp_path / "checkout"
    installed.mkdir()
    checkout.mkdir()
    for package in ("rdunet_jax", "data_pipeline"):
        (installed / package).symlink_to(ROOT / package)
    (checkout / "experiments").symlink_to(ROOT / "experiments")
    paths = os.pathsep.join([str(installed), *site.getsitepackages()])
    for name, *arguments in (
        ("experiments.paper.reproduce_paper", "--help"),
        ("experiments.benchmarks.devices", "--devices", "1", "2", "--image-size", "16", "--steps", "4"),
    ):
        done = subprocess.run(
            [sys.executable, "-S", "-m", name, *arguments],  # -S: no .pth files
            cwd=checkout,
            env=os.environ | {"PYTHONPATH": paths},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0 and ("usage" in done.stdout or "patches/s" in done.stdout), done.stderr
