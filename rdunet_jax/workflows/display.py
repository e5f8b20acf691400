"""How the commands print tables and numbers, and write CSV files. Names come from files, so they are shown as they are:
never as markup, control codes or formulas."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from data_pipeline.privacy import one_line
from rdunet_jax.files import atomic_path

_LEFT = ("patient", "split", "name", "stage", "score", "variant", "protocol")


def print_table(console: Console, title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table with numbers aligned right and names aligned left."""
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in header:
        table.add_column(Text(name), justify="left" if name in _LEFT else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(one_line(cell)) for cell in row))
    console.print(table)


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]], names: int = 1) -> str:
    """A table in Markdown: the first `names` columns aligned left, the others right."""
    rule = ["---"] * names + ["--:"] * (len(header) - names)
    lines = [[cell.replace("|", r"\|") for cell in cells] for cells in (header, rule, *rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def number(value: float | None) -> str:
    """A score to three digits; an undefined one, such as a mean over nothing, is a dash."""
    return "-" if value is None or value != value else f"{value:.3f}"


def plural(count: int, noun: str) -> str:
    """`1 patient`, `2 patients`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Writes a CSV file, whole or not at all; the first row's keys are the columns."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows({name: _cell(value) for name, value in row.items()} for row in rows)


def _cell(value: object) -> object:
    """Text that a spreadsheet would run as a formula gets an apostrophe in front, as OWASP advises."""
    if not isinstance(value, str):
        return value
    text = one_line(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
