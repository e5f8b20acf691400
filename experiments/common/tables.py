"""Tables of the experiments as CSV, written and read again."""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from data_pipeline.errors import InputError
from data_pipeline.files import write_whole


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Writes a CSV file; None becomes an empty cell.

    Raises:
        InputError: the folder cannot be made or written.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write_whole(path, text.getvalue())


def read_recorded(path: Path, name: str, keep: Callable[[dict[str, str]], None]) -> None:
    """Calls `keep` with each row of a table that was given as --recorded.

    Args:
        name: of such a table, for the message.

    Raises:
        InputError: the file is absent, or `keep` misses a column or cannot use a value.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                keep(row)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"--recorded: cannot be read as a {name} ({error})", path=path) from error
