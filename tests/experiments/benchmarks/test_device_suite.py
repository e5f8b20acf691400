"""`bench all`: rehearsed on the CPU, refused without a GPU, and lowered for CUDA without a device."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from data_pipeline.errors import InputError
from experiments.benchmarks.bench import main
from experiments.benchmarks.case import Case
from experiments.benchmarks.device_part import native_lowering
from experiments.benchmarks.device_suite import Settings, every, page, parts_of
from experiments.benchmarks.startup import program_of

SMALL = Case("predict", "", size=32, widths=(16, 16), recurrent_width=16, recurrent_layers=2)
TINY = ("--size", "16", "--widths", "2", "3", "--recurrent-width", "4", "--slices", "10", "--matmul", "64")


def test_a_machine_without_a_gpu_is_refused_in_one_line() -> None:
    with pytest.raises(InputError, match=r"^--device gpu: JAX finds cpu only; .* --device cpu to rehearse$"):
        every(Settings(device="gpu"))


def test_batches_must_rise() -> None:
    with pytest.raises(InputError, match="--batches: give numbers from 1 in rising order"):
        every(Settings(device="cpu", batches=(2, 1)))


def test_important_parts_come_first_and_each_precision_is_there() -> None:
    parts = parts_of(SMALL, Settings())
    assert list(parts)[:3] == ["parity", "train, tf32", "learn, tf32"]
    trained = {(part.precision, part.remat) for part in parts.values() if part.task == "train"}
    assert trained == {(name, remat) for name in ("float32", "tf32", "bfloat16") for remat in (False, True)}
    assert all(part.batches == (1, 2, 4, 8) for part in parts.values() if part.task == "train" and not part.remat)
    assert not any(part.native for part in parts.values())


@pytest.mark.parametrize("task", ["predict", "train"])
def test_lowering_for_cuda_has_the_native_convolution_alone(task, optax_promotion) -> None:
    """Without a device: the program for CUDA convolves in 3-D, and calls nothing that only a CPU has."""
    with native_lowering(True):
        program, arguments = program_of(replace(SMALL, task=task))
        text = program.trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()
    volumes = re.findall(r"stablehlo\.convolution.*?dim_numbers = \[b, 0, 1, 2, f\]", text)
    assert len(volumes) >= 8  # two of each block, in two levels down and two up
    assert not re.search(r"custom_call @(?!Sharding|SPMD)", text)


def test_a_program_that_does_not_fit_is_a_row_of_the_page() -> None:
    rows = [{"batch": 8, "out_of_memory": True}]
    record = {"rehearsal": False, "machine": {"id": "m", "cores": 2, "python": "3"}, "parts": []}
    record["parts"].append({"name": "train, tf32", "findings": rows, "problem": None})
    assert "| train, tf32 | 8 | out of memory |" in page(record)


@pytest.mark.slow
def test_rehearsal_runs_every_part(tmp_path: Path, optax_promotion) -> None:
    output = tmp_path / "device.json"
    main(["all", "--device", "cpu", "--output", str(output), *TINY, "--batches", "1", "--rounds", "1"])
    record = json.loads(output.read_text())
    assert [part["problem"] for part in record["parts"]] == [None] * len(record["parts"])
    by_name = {part["name"]: part["findings"] for part in record["parts"]}
    assert list(by_name) == list(parts_of(SMALL, Settings()))
    # Sums of some hundred float32 products in another order; bfloat16 has 8 binary digits.
    differences = {one["precision"]: one["largest_difference"] for one in by_name["parity"]}
    assert differences["float32"] < 1e-5 and differences["tf32"] < 1e-2 and differences["bfloat16"] < 0.1
    (learned,) = by_name["learn, tf32"]
    assert learned["last_loss"] < 0.8 * learned["first_loss"]
    for name in ("train, float32", "predict, tf32"):
        assert [one["batch"] for one in by_name[name]] == [1]
        assert all(one["planned_bytes"] > 0 and len(one["seconds"]) == 1 for one in by_name[name])
    text = output.with_suffix(".md").read_text()
    assert "**Rehearsal on a CPU**" in text
    for title in ("Largest difference", "Prediction and training step", "A whole patient", "A short training"):
        assert f"## {title}" in text


@pytest.mark.slow
def test_time_that_is_over_is_said(tmp_path: Path) -> None:
    output = tmp_path / "device.json"
    main(["all", "--device", "cpu", "--output", str(output), *TINY, "--minutes", "0.01"])
    problems = {part["problem"] for part in json.loads(output.read_text())["parts"]}
    assert problems <= {"stopped: the time was over", "not run: the time was over"}
    assert "## Not measured" in output.with_suffix(".md").read_text()
