"""JSON files in a run's folder that carry a SHA-256 of their content, so that damage is noticed on reading."""

import hashlib
import json
from pathlib import Path
from typing import Any

from rdunet_jax.files import read_json, write_whole

_KEY = "sha256"


class DamagedError(ValueError):
    """A file is not what was written. The message says what is wrong, without the file's name."""


def write_checked(path: Path, fields: dict[str, Any]) -> None:
    """Writes `fields`, and a digest of them, as one JSON object; the file is replaced whole."""
    write_whole(path, json.dumps({**fields, _KEY: _digest(fields)}, indent=1) + "\n")


def read_checked(path: Path) -> dict[str, Any]:
    """The fields that `write_checked` wrote. A file without a digest is accepted: it was written by hand.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedError: it is not a JSON object, or not what was written.
    """
    try:
        fields = read_json(path)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # ValueError: JSON, UTF-8
        raise DamagedError(str(error)) from error
    if not isinstance(fields, dict):
        raise DamagedError("not a JSON object")
    digest = fields.pop(_KEY, None)
    if digest is not None and digest != _digest(fields):
        raise DamagedError(
            f'its content does not fit its "{_KEY}"; if you changed the file on purpose, delete that line'
        )
    return fields


def _digest(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
