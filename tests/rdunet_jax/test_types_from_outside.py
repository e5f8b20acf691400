"""A project outside of the repository, checked by pyright in its strict mode: `load`, the Protocol and the registry."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = Path(__file__).with_name("outside")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[int, str]]]:
    """Line and rule of what pyright reports, by file."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(PROJECT, folder, dirs_exist_ok=True)
    (folder / "mistakes.txt").rename(folder / "mistakes.py")
    installed = folder / "site-packages"
    installed.mkdir()
    for package in ("rdunet_jax", "data_pipeline"):
        assert (ROOT / package / "py.typed").exists()
        (installed / package).symlink_to(ROOT / package)
    settings = {
        "include": ["parts.py", "use.py", "mistakes.py"],
        "typeCheckingMode": "strict",
        "pythonVersion": "3.11",
        "extraPaths": [installed.name],
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "-p", str(folder)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    reported: dict[str, list[tuple[int, str]]] = {name: [] for name in settings["include"]}
    for one in json.loads(done.stdout)["generalDiagnostics"]:
        where = one["range"]["start"]["line"] + 1
        reported[Path(one["file"]).name].append((where, one.get("rule") or one["message"]))
    return reported


@pytest.mark.slow
def test_a_strict_project_has_no_errors(found) -> None:
    assert (found["parts.py"], found["use.py"]) == ([], [])


@pytest.mark.slow
def test_mistakes_are_found(found) -> None:
    lines = (PROJECT / "mistakes.txt").read_text().splitlines()
    wrong = [
        number for number, line in enumerate(lines, 1) if line.startswith(("data:", "mask", "name", "rdunet_jax."))
    ]
    assert sorted({line for line, _ in found["mistakes.py"]}) == wrong
