"""One file of named arrays and a JSON object, in the safetensors format, with a checksum of all its bytes.

    8 bytes       length of the header
    header        JSON: name, dtype, shape and place of each array; `__metadata__` holds the JSON object as text
    the arrays

The object's `sha256` is that of the whole file in which its own 64 digits are zeros. A file may come from anybody, so
sizes and names are compared before anything is taken from it, and nothing in it is run.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from rdunet_jax.errors import RunError
from rdunet_jax.files import write_whole

MOST_BYTES = 1 << 29
"""Largest file: 130 million parameters in float32."""
MOST_BYTES_OF_HEADER = 1 << 22
_KEY, _DIGEST, _PLACEHOLDER = "rdunet", "sha256", "0" * 64


class UnfitError(ValueError):
    """Why a file cannot be used, in words that contain nothing of it."""


def write_tensors(path: Path, fields: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> str:
    """Writes the file, whole or not at all; returns the SHA-256 of the file.

    Args:
        fields: the JSON object.
        tensors: float32 arrays by name.

    Raises:
        RunError: the file would be larger than what is read.
        InputError: it cannot be written.
    """
    text = json.dumps({**fields, _DIGEST: _PLACEHOLDER}, allow_nan=False)
    content = safetensors.numpy.save(
        {name: np.ascontiguousarray(tensor, np.float32) for name, tensor in tensors.items()}, {_KEY: text}
    )
    if len(content) > MOST_BYTES:
        raise RunError(
            f"the network takes {len(content) >> 20} MiB, of {MOST_BYTES >> 20} that a file holds", path=path
        )
    content = content.replace(_PLACEHOLDER.encode(), hashlib.sha256(content).hexdigest().encode(), 1)
    write_whole(path, content)
    return hashlib.sha256(content).hexdigest()


def is_model_file(path: Path) -> bool:
    """Whether a file begins as `write_tensors` and safetensors write it: a length, then a JSON object."""
    with path.open("rb") as file:
        return file.read(10)[8:] == b'{"'


def read_tensors(path: Path, name: str, version: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The JSON object and the arrays of a file that `write_tensors` wrote.

    Args:
        name: what the object's `format` must be.
        version: what its `version` must be.

    Raises:
        RunError: there is no such file, it is another kind of file, of another version, or not what was written.
    """
    try:
        return _read(path, name, version)
    except OSError as error:
        raise RunError(f"cannot be read ({error.strerror})", path=path) from error
    except UnfitError as error:
        raise RunError(f"not a model file of rdunet that can be used ({error})", path=path) from error


def _read(path: Path, name: str, version: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    content = _content(path)
    header = _header(content)
    metadata = header.pop("__metadata__", None)
    if not isinstance(metadata, dict) or list(metadata) != [_KEY] or not isinstance(metadata[_KEY], str):
        raise UnfitError("its header has no description")
    fields = _object(metadata[_KEY])
    if fields.pop("format", None) != name:
        raise UnfitError("its description is of another kind of file")
    found = fields.pop("version", None)
    if type(found) is not int or found != version:
        written = f"version {found}" if type(found) is int and 0 <= found < 10_000 else "no version"
        raise RunError(
            f"a model file of {written}, and this program reads version {version}; export it again with this program",
            path=path,
        )
    if not _is_intact(content, fields.pop(_DIGEST, None)):
        raise RunError("damaged (its content does not fit its SHA-256); copy or download it again", path=path)
    return fields, _arrays(content, header)


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise UnfitError("it is no file")
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise UnfitError(f"it is larger than {MOST_BYTES >> 20} MiB")
    return content


def _header(content: bytes) -> dict[str, Any]:
    length = int.from_bytes(content[:8], "little")
    if length > min(MOST_BYTES_OF_HEADER, len(content) - 8):
        raise UnfitError("it does not begin with the length of a header")
    try:
        return _object(content[8 : 8 + length].decode())
    except UnicodeDecodeError:
        raise UnfitError("its header is no text") from None


def _object(text: str) -> dict[str, Any]:
    """A JSON object in which no key occurs twice."""
    try:
        fields = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise UnfitError("a header that is no JSON object") from None
    if not isinstance(fields, dict):
        raise UnfitError("a header that is no JSON object")
    return fields


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError
    return fields


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _is_intact(content: bytes, stored: Any) -> bool:
    """Whether the SHA-256 of the content with zeros in place of the stored one is the stored one."""
    if not isinstance(stored, str) or not re.fullmatch("[0-9a-f]{64}", stored):
        return False
    place = content.find(stored.encode())
    digest = hashlib.sha256(memoryview(content)[:place])
    digest.update(_PLACEHOLDER.encode())
    digest.update(memoryview(content)[place + len(stored) :])
    return digest.hexdigest() == stored


def _arrays(content: bytes, header: dict[str, Any]) -> dict[str, np.ndarray]:
    if any(not isinstance(entry, dict) or entry.get("dtype") != "F32" for entry in header.values()):
        raise UnfitError("an array that is not of float32")
    try:  # compares shapes, places and the size of the file, before it makes an array
        return safetensors.numpy.load(content)
    except Exception as error:  # its own error, or what NumPy says of a shape
        raise UnfitError("shapes or places of its arrays do not fit its size") from error
