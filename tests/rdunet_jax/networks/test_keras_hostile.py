"""Keras files made to do harm: refused in one line, without the memory that they ask for."""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from rdunet_jax.cli.main import main
from rdunet_jax.networks import keras_hdf5
from rdunet_jax.networks.keras_files import write_keras_file
from rdunet_jax.networks.keras_weights import to_keras
from tests.rdunet_jax.networks.test_keras_weights import CONFIG, random_variables

MOST_MEMORY_GIB = 1.5
"""JAX and the libraries take about 0.5 GiB."""


def bombed(path: Path, size: int) -> None:
    """A `.keras` archive of a few megabytes that unpacks to `size` bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", "{}")
        with archive.open("model.weights.h5", "w", force_zip64=True) as member:
            for _ in range(size >> 24):
                member.write(bytes(1 << 24))


def first(file: h5py.File) -> str:
    return "encoder_1_conv_1/encoder_1_conv_1/kernel:0"


def declares_much(file: h5py.File) -> None:
    del file[first(file)]
    file.create_dataset(first(file), (3000, 3000, 3000), "f4", chunks=(1, 3000, 3000))


def declares_some(file: h5py.File) -> None:
    """Less than the limit, and none of it stored: it would be read as zeros."""
    shape = file[first(file)].shape
    del file[first(file)]
    file.create_dataset(first(file), shape, "f4", chunks=shape)


def external_storage(file: h5py.File) -> None:
    shape = file[first(file)].shape
    del file[first(file)]
    Path("secret.bin").write_bytes(os.urandom(1 << 16))
    file.create_dataset(first(file), shape, "f4", external=[("secret.bin", 0, 4 * int(np.prod(shape)))])


def external_link(file: h5py.File) -> None:
    with h5py.File("other.h5", "w") as other:
        other["kernel"] = file[first(file)][()]
    del file[first(file)]
    file[first(file)] = h5py.ExternalLink("other.h5", "/kernel")


def soft_link(file: h5py.File) -> None:
    file["copy"] = file[first(file)][()]
    del file[first(file)]
    file[first(file)] = h5py.SoftLink("/copy")


def virtual(file: h5py.File) -> None:
    shape = file[first(file)].shape
    with h5py.File("other.h5", "w") as other:
        other["kernel"] = file[first(file)][()]
    del file[first(file)]
    layout = h5py.VirtualLayout(shape, "f4")
    layout[:] = h5py.VirtualSource("other.h5", "kernel", shape)
    file.create_virtual_dataset(first(file), layout)


def large_chunks(file: h5py.File) -> None:
    """Small, in a chunk of 3.9 GB that is unpacked whole."""
    del file[first(file)]
    file.create_dataset(first(file), (1, 1), "f4", chunks=(31000, 31000), maxshape=(None, None), compression="gzip")


def text_for_weights(file: h5py.File) -> None:
    del file[first(file)]
    file[first(file)] = "text"


def group_for_weights(file: h5py.File) -> None:
    del file[first(file)]
    file.create_group(first(file))


def not_finite(file: h5py.File) -> None:
    file[first(file)][0] = np.nan


def names_elsewhere(file: h5py.File) -> None:
    file["encoder_1_conv_1"].attrs["weight_names"] = np.array([b"/../../etc/passwd", b"nothing"])


def names_of_numbers(file: h5py.File) -> None:
    file.attrs["layer_names"] = 3.5


def contains_itself(file: h5py.File) -> None:
    file["encoder_1_conv_1/again"] = file["/"]
    del file["encoder_1_conv_1"].attrs["weight_names"]


def whole_model(file: h5py.File) -> None:
    for name in list(file):
        file.move(name, f"model_weights/{name}")
    file["model_weights"].attrs["layer_names"] = file.attrs["layer_names"]


def odd_json(file: h5py.File) -> None:
    whole_model(file)
    file.attrs["model_config"] = json.dumps({"class_name": "Model", "config": {"layers": [3], "output_layers": []}})


def deep_json(file: h5py.File) -> None:
    whole_model(file)
    file.attrs["model_config"] = "[" * 30_000


REFUSED: dict[Callable[[h5py.File], None], str] = {
    declares_much: "declares 108,000 MB, and at most 537 MB are read",
    declares_some: "and holds 0; the file is damaged",
    external_storage: "its values are in another file",
    external_link: "is a link to another place or file",
    soft_link: "is a link to another place or file",
    virtual: "is put together from other files",
    large_chunks: "its chunks take more than 537 MB",
    text_for_weights: "is not an array of numbers",
    group_for_weights: "is not an array of numbers",
    not_finite: "holds values that are not finite",
    names_elsewhere: "not a Keras file",
    names_of_numbers: "not a Keras file",
    contains_itself: "import",
    odd_json: "not a graph of layers",
    deep_json: "not a Keras file",
}
RUN = """
import re, sys
from rdunet_jax.cli.main import main
sys.argv = ["rdunet", *sys.argv[1:]]
try:
    main()
finally:
    # not ru_maxrss, which begins with the memory of the process that started this one
    print(int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 2**20)
"""


def arguments(path: Path) -> list[str]:
    sizes = ["--widths", "2", "3", "--recurrent-width", "4", "--recurrent-layers", "2"]
    return ["import-weights", str(path), "--workdir", str(path.parent / "run"), *sizes, "--gate", "sigmoid"]


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    monkeypatch.chdir(tmp_path)

    def check(path: Path, says: str) -> None:
        monkeypatch.setattr(sys, "argv", ["rdunet", *arguments(path)])
        with pytest.raises(SystemExit) as end:
            main()
        error = capsys.readouterr().err
        assert end.value.code == 2 and error.startswith(f"error: {path}: ") and error.count("\n") == 1
        assert says in error
        assert not (path.parent / "run").exists()

    return check


def peak_memory(path: Path) -> float:
    """In GiB, of the command in a process of its own."""
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", RUN, *arguments(path)], capture_output=True, text=True, env=variables)
    assert done.returncode == 2, done.stderr
    return float(done.stdout)


def spoiled(path: Path, spoil: Callable[[h5py.File], None]) -> Path:
    write_keras_file(path, to_keras(random_variables(), CONFIG))
    with h5py.File(path, "a") as file:
        spoil(file)
    assert path.stat().st_size < 1 << 20
    return path


@pytest.mark.parametrize("spoil", REFUSED, ids=lambda spoil: spoil.__name__)
def test_hdf5(spoil: Callable[[h5py.File], None], refused, tmp_path: Path) -> None:
    refused(spoiled(tmp_path / "weights.h5", spoil), REFUSED[spoil])


@pytest.mark.parametrize("spoil", [declares_much, large_chunks])
def test_memory_of_hdf5(spoil: Callable[[h5py.File], None], tmp_path: Path) -> None:
    assert peak_memory(spoiled(tmp_path / "weights.h5", spoil)) < MOST_MEMORY_GIB


@pytest.mark.parametrize("content", [b"", b"no", b"PK\x03\x04" + bytes(100), b"\x89HDF\r\n\x1a\n" + bytes(100)])
def test_other_bytes(content: bytes, refused, tmp_path: Path) -> None:
    path = tmp_path / "weights.h5"
    path.write_bytes(content)
    refused(path, "not a Keras file")


def test_a_zip_without_a_network(refused, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "network.keras", "w") as archive:
        archive.writestr("readme.txt", "nothing here")
    refused(tmp_path / "network.keras", "is a zip file without config.json")


def test_folders_and_nothing(refused, tmp_path: Path) -> None:
    refused(tmp_path / "nothing.h5", "there is no such file")
    refused(tmp_path, "there is no such file")


def test_a_small_zip_that_unpacks_to_much(refused, tmp_path: Path) -> None:
    path = tmp_path / "network.keras"
    bombed(path, keras_hdf5.MOST_BYTES_OF_FILE + (1 << 24))
    assert path.stat().st_size < 2 << 20
    refused(path, "model.weights.h5 takes 1,091 MB unpacked, and at most 1,074 MB are read")
    assert peak_memory(path) < MOST_MEMORY_GIB
