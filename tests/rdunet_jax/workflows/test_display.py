"""What comes from files is shown as it is: no markup, no control codes, no formulas."""

import csv
import io
from pathlib import Path

import pytest
from rich.console import Console

from rdunet_jax.workflows.display import number, print_table, write_csv


@pytest.mark.parametrize("name", ["[/bold]x", "[red]x[/red]", "[link=http://example.org]x"])
def test_markup_in_names_is_text(name: str) -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=False)
    print_table(console, name, ("patient", name), [(name, "1")])
    assert console.file.getvalue().count(name) == 3


def test_control_codes_and_line_ends_do_not_reach_the_terminal() -> None:
    console = Console(file=io.StringIO(), width=100)
    print_table(console, "title", ("patient",), [("a\x1b[2Jb\nc",)])
    assert "\x1b" not in console.file.getvalue() and "b�c" in console.file.getvalue()


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("http://x")'])
def test_no_name_is_a_formula(name: str, tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", [{"patient": name, "dice": -0.5}, {"patient": "P-1", "dice": None}])
    with (tmp_path / "a.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert first["patient"][0] in "'�" and first["dice"] == "-0.5"
    assert second == {"patient": "P-1", "dice": ""}


def test_numbers() -> None:
    assert [number(value) for value in (0.12345, None, float("nan"))] == ["0.123", "-", "-"]
