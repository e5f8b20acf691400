"""Model files: what they hold, and that damaged and hostile ones are refused in one line."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy

from rdunet_jax.config import InferenceConfig
from rdunet_jax.errors import RunError
from rdunet_jax.runs import tensor_file
from rdunet_jax.runs.model_file import Evaluation, ModelFile, describe, load_model, load_run_or_model, save_model
from rdunet_jax.runs.training_data import UNKNOWN
from rdunet_jax.runs.workdir import load_trained
from rdunet_jax.workflows.export_model import model_of_run
from tests.rdunet_jax.runs.model_files import CHOSEN, DATA, Fields, make_run, packed, rewritten, signed, unpacked

SCORES = {"patients": 3, "mean_volumetric_dice": 0.5, "mean_volumetric_dice_low": 0.25, "mean_dice_all_slices": None}
EVALUATION = Evaluation("test", "paper", "d" * 64, 0, 1, InferenceConfig(), SCORES)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def content(run: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Of a model file."""
    model, path = model_of_run(run), tmp_path_factory.mktemp("models") / "model.rdunet"
    save_model(path, model.network, model.description)
    return path.read_bytes()


@pytest.fixture
def load(tmp_path: Path) -> Callable[[bytes], ModelFile]:
    def load_content(content: bytes) -> ModelFile:
        (tmp_path / "model.rdunet").write_bytes(content)
        return load_model(tmp_path / "model.rdunet")

    return load_content


@pytest.fixture
def refused(load, tmp_path: Path) -> Callable[[bytes, str], None]:
    def check(content: bytes, says: str) -> None:
        with pytest.raises(RunError) as error:
            load(content)
        message = str(error.value)
        assert message.startswith(f"{tmp_path / 'model.rdunet'}: ") and says in message
        assert message.isprintable() and len(message) < 400

    return check


def test_a_file_holds_what_prediction_needs_bit_for_bit(run: Path, tmp_path: Path) -> None:
    network = load_trained(run)
    description = describe(model_of_run(run).network, DATA, (EVALUATION,), "apache-2.0", "Tests.")
    save_model(tmp_path / "one.rdunet", network, description)
    save_model(tmp_path / "two.rdunet", network, description)
    assert (tmp_path / "one.rdunet").read_bytes() == (tmp_path / "two.rdunet").read_bytes()
    model = load_model(tmp_path / "one.rdunet")
    assert model.description == description and model.network.chosen == CHOSEN
    assert model.network.config == network.config and (model.network.step, model.network.is_best) == (3, False)
    assert jax.tree.structure(model.network.variables) == jax.tree.structure(network.variables)
    jax.tree.map(np.testing.assert_array_equal, model.network.variables, network.variables)
    assert model.network.weights_sha256 == network.weights_sha256
    assert load_run_or_model(run).weights_sha256 == load_run_or_model(tmp_path / "one.rdunet").weights_sha256
    assert model.training_data.data_sets == (*DATA.data_sets, UNKNOWN) and not model.training_data.is_complete


def test_a_file_names_no_patient_and_is_safetensors(content: bytes) -> None:
    assert b"CANARY" not in content
    _, description, _ = unpacked(content)
    assert description["trained_on"]["patients_trained_on"] == 2
    assert description["trained_on"]["patients_selected_on"] == 1
    arrays = safetensors.numpy.load(content)
    assert all(array.dtype == np.float32 for array in arrays.values())
    assert {name.split("/")[0] for name in arrays} == {"params", "batch_stats"}  # no optimizer


def test_a_changed_byte_is_found_wherever_it_is(content: bytes, refused) -> None:
    end = 8 + int.from_bytes(content[:8], "little")
    places = [*range(0, 24), *range(24, end, 61), *range(end, len(content), 211), len(content) - 1]
    for number, place in enumerate(places):
        changed = bytearray(content)
        changed[place] ^= 1 << number % 8
        refused(bytes(changed), "")


def test_a_file_that_is_cut_or_longer_is_refused(content: bytes, refused) -> None:
    for changed in (content[:-1], content + b"\0", content[:5000], content[:5], b""):
        refused(changed, "")


@pytest.mark.parametrize(
    ("version", "says"),
    [(2, "a model file of version 2, and this program reads version 1; export it again"), (True, "of no version"),
     ("1", "of no version"), (-1, "of no version"), (10**400, "of no version"), (None, "of no version")],
)  # fmt: skip
def test_another_version_is_refused(content: bytes, refused, version, says) -> None:
    refused(rewritten(content, lambda header, description: description.update(version=version)), says)


def first(header: Fields) -> Fields:
    return header[min(header, key=lambda name: header[name]["data_offsets"])]


def exchange(header: Fields, _: Fields) -> None:
    """Two arrays of a shape, in each other's place."""
    one, other = "params/encoder_1/norm_1/bias", "params/encoder_1/norm_1/scale"
    header[one], header[other] = header[other], header[one]


def many_windows(_: Fields, description: Fields) -> None:
    description["config"].update(image_size=512)
    description["config"]["inference"].update(window_batch=4096)


HOSTILE: dict[str, tuple[Callable[[Fields, Fields], object], str]] = {
    "huge shape": (lambda header, _: first(header).update(shape=[1 << 40, 1 << 20]), "shapes or places"),
    "overflowing shape": (lambda header, _: first(header).update(shape=[1 << 63, 2, 2]), "shapes or places"),
    "negative shape": (lambda header, _: first(header).update(shape=[-1]), "shapes or places"),
    "endless shape": (lambda header, _: first(header).update(shape=[1] * 100_000), "shapes or places"),
    "empty shape": (lambda header, _: first(header).update(shape=[0, 1 << 60], data_offsets=[0, 0]), "shapes or"),
    "places beyond the end": (lambda header, _: first(header).update(data_offsets=[0, 1 << 50]), "shapes or places"),
    "places of text": (lambda header, _: first(header).update(data_offsets="all"), "shapes or places"),
    "dtype": (lambda header, _: first(header).update(dtype="F64"), "not of float32"),
    "dtype of a list": (lambda header, _: first(header).update(dtype=["F32"]), "not of float32"),
    "entry of a number": (lambda header, _: header.update(more=3), "not of float32"),
    "surplus": (lambda header, _: header.update(more=first(header)), "shapes or places"),
    "path": (lambda header, _: header.update({"../../etc/passwd": header.pop("params/logits/bias")}), "1 are of no"),
    "absolute path": (lambda header, _: header.update({"/params/x": header.pop("params/logits/bias")}), "1 are of no"),
    "exchanged": (exchange, "its weights are not those that it describes"),
    "large windows": (many_windows, "and at most 67108864 are taken"),
    "large images": (lambda _, description: description["config"].update(image_size=4096), "voxels in one call"),
    "large network": (lambda _, d: d["config"]["model"].update(widths=[4096] * 4), "arrays are missing"),
    "other network": (lambda _, d: d["config"]["model"].update(widths=[2, 4]), "another shape than its network wants"),
    "deep network": (lambda _, d: d["config"]["model"].update(widths=[4096] * 3000), "widths is 4096 4096"),
    "unknown setting": (lambda _, description: description.update(more="\x1b[2J"), "unknown setting"),
    "missing setting": (lambda _, description: description.pop("config"), "setting 'config' is missing"),
    "settings of a list": (lambda _, description: description.update(config=[]), "cannot be used"),
    "choice of a list": (lambda _, d: d.update(chosen_postprocessing=[]), "cannot be used"),
    "another kind": (lambda _, description: description.update(format="other"), "another kind of file"),
    "no kind": (lambda _, description: description.pop("format"), "another kind of file"),
    "licence": (lambda _, description: description.update(licence=7), "licence is 7"),
    "endless licence": (lambda _, description: description.update(licence="x" * 100_000), "1 to 10000 characters"),
    "scores of text": (lambda _, d: d.update(evaluations=[{"split": "test"}]), "cannot be used"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_is_refused(content: bytes, refused, name: str) -> None:
    edit, says = HOSTILE[name]
    refused(rewritten(content, edit), says)


def test_missing_and_surplus_arrays_are_refused(content: bytes, refused) -> None:
    header, description, arrays = unpacked(content)
    count = len(header)
    last = max(header, key=lambda name: header[name]["data_offsets"])
    start, end = header[last]["data_offsets"]
    entry = header.pop(last)
    refused(packed(header, description, arrays[:start]), f"1 of its network's {count} arrays are missing, and 0 ")
    header |= {last: entry, "params/more": {**entry, "data_offsets": [end, 2 * end - start]}}
    refused(
        packed(header, description, arrays + arrays[start:]), f"0 of its network's {count} arrays are missing, and 1 "
    )
    refused(packed({}, description, b""), f"{count} of its network's {count} arrays are missing")


def test_values_that_are_not_finite_are_refused(content: bytes, refused) -> None:
    refused(signed(content[:-4] + np.float32(np.nan).tobytes()), "values that are not finite")


def test_a_key_that_occurs_twice_is_refused(content: bytes, refused) -> None:
    header, description, arrays = unpacked(content)
    twice = json.dumps(description)[:-1] + ', "licence": "other"}'
    refused(packed(header, twice, arrays), "no JSON object")
    text = json.dumps({"__metadata__": {"rdunet": json.dumps(description)}, **header})
    name = min(header)
    refused(packed(text[:-1] + f", {json.dumps(name)}: {json.dumps(header[name])}}}", "", arrays), "no JSON object")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[]", "3", '{"a": NaN}', "9" * 100_000])
def test_json_of_another_kind_is_refused(content: bytes, refused, text: str) -> None:
    header, _, arrays = unpacked(content)
    refused(packed(text, "", arrays), "header")
    refused(packed(header, text, arrays), "header")


@pytest.mark.parametrize("length", [0, 1, 1 << 22, 1 << 40, 2**64 - 1])
def test_a_header_of_another_length_is_refused(content: bytes, refused, length: int) -> None:
    refused(length.to_bytes(8, "little") + content[8:], "not a model file")


def test_a_file_that_is_too_large_is_refused(content: bytes, refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_file, "MOST_BYTES", len(content) - 1)
    refused(content, "larger than")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "nothing", tmp_path / "pipe"):
        with pytest.raises(RunError, match="it is no file"):
            load_model(path)


EACH = """
import re, sys, time
from rdunet_jax.cli.main import main
for path in sys.argv[1:]:
    sys.argv = ["rdunet", "segment", "in", "--model", path, "--output", "out"]
    started = time.process_time()
    try:
        main()
    except SystemExit as end:
        assert end.code == 2
    assert time.process_time() - started < 60, path
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 2**20)
"""
MOST_MEMORY_GIB = 2


@pytest.mark.slow
def test_the_command_refuses_in_one_line_and_little_memory(content: bytes, tmp_path: Path) -> None:
    """All hostile headers, and files that are as large as the limits or larger."""
    header, description, _ = unpacked(content)
    files = {f"{number:02d}": rewritten(content, edit) for number, (edit, _) in enumerate(HOSTILE.values())}
    lists = "[" + "[]," * ((tensor_file.MOST_BYTES_OF_HEADER - 10) // 3) + "0]"
    files["lists"] = packed(lists, "", b"")
    for name, file in files.items():
        (tmp_path / name).write_bytes(file)
    end = 8 + int.from_bytes(content[:8], "little")
    for name, size in (("largest", tensor_file.MOST_BYTES), ("endless", 8 << 30)):
        (tmp_path / name).write_bytes(content[:end])
        os.truncate(tmp_path / name, size)
    first(header).update(shape=[tensor_file.MOST_BYTES // 8], data_offsets=[0, tensor_file.MOST_BYTES // 2])
    (tmp_path / "one").write_bytes(packed(header, description, bytes(tensor_file.MOST_BYTES // 2)))
    names = [*files, "largest", "endless", "one"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[3]), "HOME": str(tmp_path)}
    command = [sys.executable, "-c", EACH, *names]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == len(names) and all(line.startswith("error: ") for line in lines), done.stderr
    assert float(done.stdout) < MOST_MEMORY_GIB
