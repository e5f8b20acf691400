"""The Dockerfile without an engine: its steps are those of the README and the Makefile, and find what they need."""

import fnmatch
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def steps(kind: str) -> list[str]:
    """What follows an instruction, line by line; the file continues no line."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert "\\\n" not in text
    return re.findall(rf"^{kind} (.+)$", text, re.MULTILINE)


def copied() -> list[str]:
    return [name for step in steps("COPY") for name in step.split()[:-1]]


def as_shell(command: str, extra: str) -> str:
    """The command as /bin/sh runs it with this build argument: the one expansion that the file uses."""
    return command.replace("${EXTRA:+[$EXTRA]}", f"[{extra}]" if extra else "")


@pytest.mark.parametrize(("extra", "readme"), [("", "."), ("cuda", "'.[cuda]'")])
def test_it_installs_as_the_readme_says(extra: str, readme: str) -> None:
    quote = "'"
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "pip install --constraint constraints.txt .\n" in text and readme in text
    assert extra in ("", *PROJECT["project"]["optional-dependencies"])
    assert [as_shell(step, extra) for step in steps("RUN")] == [
        "python3 -m venv .venv",
        f'.venv/bin/python -m pip install --no-cache-dir --constraint constraints.txt "{readme.strip(quote)}"',
        ".venv/bin/rdunet --version",
    ]


def test_it_makes_the_environment_as_the_makefile_does() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "$(PYTHON) -m venv $(VENV)" in makefile and "VENV := .venv" in makefile and "PYTHON ?= python3" in makefile
    assert "-m pip install" in makefile and "--constraint constraints.txt" in makefile


def test_it_copies_what_the_installation_needs_and_nothing_else() -> None:
    packages = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    metadata = [PROJECT["project"]["readme"], *PROJECT["project"]["license-files"]]
    assert sorted(copied()) == sorted([*packages, *metadata, "pyproject.toml", "constraints.txt"])
    assert all((ROOT / name).exists() for name in copied())
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignored and sorted(line[1:] for line in ignored if line.startswith("!")) == sorted(copied())
    kept = [path for name in packages for path in (ROOT / name).rglob("*.py") if "dummy_data" not in path.parts]
    left_out = [line.removeprefix("**/") for line in ignored if line.startswith("**/")]
    assert not [path for path in kept for part in path.parts for line in left_out if fnmatch.fnmatch(part, line)]


def test_its_python_is_one_of_the_project() -> None:
    (image,) = steps("FROM")
    version = re.fullmatch(r"python:(3\.\d+)-slim-\w+", image)
    assert version and f"Programming Language :: Python :: {version[1]}" in PROJECT["project"]["classifiers"]
