"""The files of a data set, read with errors that name the data set and say what to do."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_pipeline.errors import InputError
from data_pipeline.files import read_json, sha256_of, write_whole

FILES = ("dataset_info.json", "features.json", "metadata.json")
"""The small files of a data set."""
_CHECKSUMS = "checksums.json"
"""SHA-256 of each of `FILES`; the records have checksums of their own."""


class Records:
    """The records of one split; a damaged one raises an InputError that names the data set."""

    def __init__(self, source: Any, split: str, folder: Path):
        self._source, self._split, self._folder = source, split, folder

    def __len__(self) -> int:
        return len(self._source)

    def read(self, indices: range) -> Sequence[dict[str, Any]]:
        """Some of the records.

        Raises:
            InputError: one of them is damaged.
        """
        try:
            return self._source.__getitems__(indices)
        except MemoryError:
            raise
        except Exception as error:  # array_record and zlib raise errors of many kinds
            which = f"record {indices[0]}" if len(indices) == 1 else f"one of the records {indices[0]} to {indices[-1]}"
            what = damaged(f"{which} of '{self._split}' is damaged ({type(error).__name__})")
            raise InputError(what, path=self._folder) from error


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        InputError: it cannot be read, or holds something else.
    """
    try:
        content = read_json(path)
        if isinstance(content, dict):
            return content
        why = "not a JSON object"
    except OSError as error:
        why = f"cannot be read: {error.strerror}"
    except ValueError:
        why = "not JSON"
    raise InputError(damaged(f"damaged ({why})"), path=path)


def write_checksums(folder: Path) -> None:
    """Writes `checksums.json` into the folder of a data set, so that later damage to its small files is noticed."""
    write_whole(folder / _CHECKSUMS, json.dumps({file: sha256_of(folder / file) for file in FILES}, indent=1) + "\n")


def compare_checksums(folder: Path) -> None:
    """Raises InputError where a file is not what was written. A data set that TFDS alone built has no checksums."""
    if not (folder / _CHECKSUMS).exists():
        return
    checksums = read_object(folder / _CHECKSUMS)
    for file in FILES:
        if checksums.get(file) != sha256_of(folder / file):
            raise InputError(damaged(f"damaged (its SHA-256 is not the one in {_CHECKSUMS})"), path=folder / file)


def damaged(what: str) -> str:
    """A message that says what is damaged and what to do."""
    return f"{what}; restore it, or make the data set again with `rdunet prepare SOURCE --data-dir ... --overwrite`"
