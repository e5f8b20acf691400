"""Tables of the experiments as CSV and as Markdown."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from data_pipeline.files import write_whole


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Writes a CSV file; None becomes an empty cell.

    Raises:
        InputError: the folder cannot be made or written.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write_whole(path, text.getvalue())


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]], names: int = 1) -> str:
    """A table in Markdown: the first `names` columns aligned left, the others right."""
    rule = ["---"] * names + ["--:"] * (len(header) - names)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (header, rule, *rows))
