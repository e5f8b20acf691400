"""How the commands speak: tables and numbers."""

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table


def print_table(console: Console, title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table whose numbers stand to the right, names to the left."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in header:
        table.add_column(
            name, justify="left" if name in ("patient", "split", "name", "stage") else "right", no_wrap=True
        )
    for row in rows:
        table.add_row(*row)
    console.print(table)


def number(value: float | None) -> str:
    """A score to three digits; a mean over nothing is a dash."""
    return "-" if value is None else f"{value:.3f}"
