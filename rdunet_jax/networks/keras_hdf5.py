"""Opens the HDF5 and zip files of Keras without trusting them: sizes are compared before anything is read.

A file of a few kilobytes can declare hundreds of gigabytes, or refer to other files, whose bytes would then be read as
weights. Real files hold at most some 300 MB (19 million parameters, with the state of the optimizer).
"""

import io
import math
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from rdunet_jax.errors import RunError

MOST_BYTES_OF_FILE = 1 << 30
"""Largest HDF5 file in a `.keras` archive."""
MOST_BYTES_OF_WEIGHTS = 1 << 29
"""All weights of a file together."""
MOST_BYTES_OF_CONFIG = 1 << 26
MOST_OBJECTS = 100_000
"""Groups and data sets of a file."""
MOST_LEVELS = 50
"""Groups inside each other; Keras makes less than 10."""


@contextmanager
def open_keras(path: Path) -> Iterator[tuple[h5py.File, str | None]]:
    """The HDF5 file of a Keras file, and the JSON beside it in a `.keras` archive.

    Raises:
        RunError: the file is not one of Keras, or it exceeds a limit, or refers to another file.
    """
    if not path.is_file():
        raise RunError("there is no such file")
    if not zipfile.is_zipfile(path):
        with h5py.File(path, "r") as file:
            _check_objects(file)
            yield file, None
        return
    with zipfile.ZipFile(path) as archive:
        config = _member(archive, "config.json", MOST_BYTES_OF_CONFIG).decode()
        weights = io.BytesIO(_member(archive, "model.weights.h5", MOST_BYTES_OF_FILE))
    with h5py.File(weights, "r") as file:
        _check_objects(file)
        yield file, config


def read_weights(datasets: Sequence[Any]) -> list[np.ndarray]:
    """The arrays of a layer, in memory.

    Raises:
        RunError: a data set is not an array of numbers, or its values are not finite.
    """
    weights = []
    for dataset in datasets:
        if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "fiu":
            raise RunError(f"{dataset.name}: is not an array of numbers")
        weight = np.asarray(dataset)
        # which is false for NaN too; values of float64 may be beyond float32, in which they are used
        if weight.dtype.kind == "f" and not (np.abs(weight) <= np.finfo(np.float32).max).all():
            raise RunError(f"{dataset.name}: holds values that are not finite")
        weights.append(weight)
    return weights


def _member(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    try:
        size = archive.getinfo(name).file_size
    except KeyError:
        raise RunError(f"is a zip file without {name}") from None
    if size > most:
        raise RunError(f"{name} takes {_megabytes(size)} unpacked, and at most {_megabytes(most)} are read")
    return archive.read(name)  # never more than the size above


def _check_objects(file: h5py.File) -> None:
    """Compares declared with stored sizes, and refuses links to other places and files.

    Raises:
        RunError: see above.
    """
    total, objects, seen = 0, 0, set()
    waiting: list[Any] = [file["/"]]
    while waiting:
        group = waiting.pop()
        address = h5py.h5o.get_info(group.id).addr  # pyright: ignore[reportAttributeAccessIssue]
        if address in seen:  # a group can contain itself
            continue
        seen.add(address)
        for name in group:
            where = f"{group.name.rstrip('/')}/{name}"
            objects += 1
            if where.count("/") > MOST_LEVELS:
                raise RunError(f"holds more than {MOST_LEVELS} groups inside each other; it is not a Keras file")
            if objects > MOST_OBJECTS:
                raise RunError(f"holds more than {MOST_OBJECTS} objects")
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise RunError(f"{where}: is a link to another place or file, which is not followed")
            item = group[name]
            if isinstance(item, h5py.Group):
                waiting.append(item)
            elif isinstance(item, h5py.Dataset):
                _check_dataset(where, item)
                total += item.nbytes
                if total > MOST_BYTES_OF_FILE:
                    raise RunError(
                        f"declares {_megabytes(total)} or more, and at most {_megabytes(MOST_BYTES_OF_FILE)} are read"
                    )


def _check_dataset(where: str, item: h5py.Dataset) -> None:
    if item.external:
        raise RunError(f"{where}: its values are in another file, which is not read")
    if item.is_virtual:
        raise RunError(f"{where}: is put together from other files, which are not read")
    if item.shape is None or item.size == 0:
        return
    if item.nbytes > MOST_BYTES_OF_WEIGHTS:
        raise RunError(
            f"{where}: declares {_megabytes(item.nbytes)}, and at most {_megabytes(MOST_BYTES_OF_WEIGHTS)} are read"
        )
    stored = item.id.get_storage_size()
    if item.chunks is None:
        missing = stored < item.nbytes
    else:
        if math.prod(item.chunks) * item.dtype.itemsize > MOST_BYTES_OF_WEIGHTS:
            raise RunError(f"{where}: its chunks take more than {_megabytes(MOST_BYTES_OF_WEIGHTS)}")
        chunks = math.prod(math.ceil(size / chunk) for size, chunk in zip(item.shape, item.chunks, strict=True))
        missing = item.id.get_num_chunks() < chunks
    if missing:
        raise RunError(f"{where}: declares {item.nbytes} bytes, and holds {stored}; the file is damaged")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
