"""The tables of parts by name: what is listed is there, own parts join, and nothing built in is replaced."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import pytest
import tyro

from data_pipeline.errors import InputError
from data_pipeline.ranges import check
from data_pipeline.registry import NameIn, Registry


def table() -> Registry:
    return Registry("shape", "no.such.module", ("circle",))


def run(path: Path, name: str, registry: Registry, comment: str = "") -> None:
    """Runs a new file that registers a part."""
    path.write_text(f"TABLE.register({name!r})({name!r} + ' of ' + __file__)  {comment}\n")
    exec(path.read_text(), {"__file__": str(path), "__name__": path.stem, "TABLE": registry})


def test_own_parts_follow_those_of_the_package(tmp_path: Path) -> None:
    shapes = table()
    run(tmp_path / "a.py", "square", shapes)
    assert list(shapes) == ["circle", "square"] and "square" in shapes and len(shapes) == 2
    assert shapes["square"] == f"square of {tmp_path / 'a.py'}"
    assert shapes.origin("circle") is None
    origin = shapes.origin("square")
    assert origin and origin.name == "a.py" and origin.source == (tmp_path / "a.py").read_bytes()


@pytest.mark.parametrize(
    "name, says", [("circle", "built in"), ("a b", "a name must be"), ("", "a name must be"), ("a+b", "a name must be")]
)
def test_names_that_are_refused(name: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says):
        run(tmp_path / "a.py", name, table())


def test_a_name_is_one_files(tmp_path: Path) -> None:
    shapes = table()
    run(tmp_path / "a.py", "square", shapes)
    run(tmp_path / "a.py", "square", shapes)  # again, as in a session that reloads it
    run(tmp_path / "a-copy.py", "square", shapes)  # the same content elsewhere
    with pytest.raises(InputError, match=re.escape(str(tmp_path))) as error:
        run(tmp_path / "b.py", "square", shapes, "# another")
    assert "registered by" in str(error.value) and "\n" not in str(error.value)


def test_a_setting_of_a_registered_name(tmp_path: Path) -> None:
    shapes = table()
    kind = Annotated[str, NameIn(shapes)]
    with pytest.raises(InputError, match="shape is square, but must be text, one of circle"):
        check("shape", "square", kind)
    run(tmp_path / "a.py", "square", shapes)
    check("shape", "square", kind)

    def command(shape: kind = "circle", several: tuple[kind, ...] = ("circle",)) -> tuple:  # type: ignore[valid-type]
        return shape, several

    arguments = ["--shape", "square", "--several", "circle", "square"]
    assert tyro.cli(command, args=arguments) == ("square", ("circle", "square"))


def test_choices_of_the_command_line_are_the_names_of_the_moment(tmp_path: Path, capsys) -> None:
    shapes = table()
    kind = Annotated[str, NameIn(shapes)]

    def command(shape: kind = "circle", several: tuple[kind, ...] = ()) -> None:  # type: ignore[valid-type]
        pass

    run(tmp_path / "a.py", "square", shapes)
    with pytest.raises(SystemExit):
        tyro.cli(command, args=["--help"])
    assert capsys.readouterr().out.count("{circle,square}") >= 2
    with pytest.raises(SystemExit):
        tyro.cli(command, args=["--shape", "triangle"])
    assert "triangle" in capsys.readouterr().err


def test_the_names_of_the_package_are_those_that_its_modules_register() -> None:
    """In a process of its own, where no test has imported the modules before."""
    code = """
import sys
from rdunet_jax.runs.plugins import TABLES
assert "jax" not in sys.modules
for table in TABLES:
    assert list(table) and {name: table[name] for name in table}.keys() == table._parts.keys(), table.kind
"""
    subprocess.run([sys.executable, "-c", code], check=True)
