"""Tables of the experiments as CSV."""

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
