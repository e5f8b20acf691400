"""The benchmark suite at tiny sizes: what it refuses, what it counts, and its programs side by side."""

import importlib.util
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.benchmarks.bench import Settings, agree, main, present
from experiments.benchmarks.case import Case
from experiments.benchmarks.growth import fit
from experiments.benchmarks.race import Result
from experiments.benchmarks.timing import machine, machine_in_words, take_turns

TINY = ("--size", "16", "--widths", "2", "3", "--recurrent-width", "4", "--rounds", "1")
SMALL = Case("predict", "", size=16, widths=(2, 3), recurrent_width=4, recurrent_layers=2)


def test_other_results_are_refused() -> None:
    expected = np.linspace(0, 1, 8, dtype=np.float32)
    agree("predict", "other", expected + np.float32(5e-5), expected, 0)
    for wrong in (expected + 1e-3, expected * np.nan, expected[:4]):
        with pytest.raises(SystemExit, match="do not compute the same: other differs"):
            agree("predict", "other", wrong, expected, 0)
    with pytest.raises(SystemExit, match="constant"):
        agree("predict", "other", np.full(8, 0.5), np.full(8, 0.5), 0)


def test_losses_are_compared_at_the_first_two_steps() -> None:
    loss = np.float32(0.7)
    for number, difference in ((0, 1e-3), (1, 1e-2)):
        with pytest.raises(SystemExit, match="do not compute the same"):
            agree("train", "other", loss + difference, loss, number)
    agree("train", "other", loss + np.float32(0.1), loss, 2)


def test_arithmetic_is_that_of_the_keras_network() -> None:
    from experiments.keras_baseline.network import recurrent_dense_unet, zero_initial_weights

    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"), zero_initial_weights():
        model = recurrent_dense_unet(16, 16, 8, **SMALL.network())
    total = 0
    for layer in model.layers:
        kind, positions = type(layer).__name__, np.prod(layer.output.shape[1:-1])
        if kind in ("Conv3D", "ConvLSTM2D"):
            total += 2 * positions * sum(math.prod(w.shape) for w in layer.weights if len(w.shape) > 1)
        elif kind == "TimeDistributed":  # each pixel of the input goes once through the whole kernel
            total += 2 * np.prod(layer.input.shape[1:-1]) * math.prod(layer.weights[0].shape)
    assert SMALL.forward_flops() == total
    assert replace(SMALL, batch=3).forward_flops() == 3 * total


def test_exponent_of_a_power() -> None:
    results = [Result(seconds=[3 * value**1.5], peak=2**20) for value in (1, 2, 4, 8)]
    found = fit((1, 2, 4, 8), results)
    assert found["exponent"] == pytest.approx(1.5)  # exact but for rounding
    assert found["peak_mib"] == [1, 1, 1, 1]


def test_one_that_was_stopped_is_a_lower_bound() -> None:
    assert Result(first_seconds=50, seconds=[3.0], over=10).median == 10
    assert Result(over=10).median is None  # compilation says nothing about a run
    assert "over 10 s" in Result(over=10).in_words()


def test_what_is_not_installed_is_named() -> None:
    lines = []
    there = present(["ours", "torch"], {}, lines.append)
    if importlib.util.find_spec("torch") is None:
        assert there == ["ours"] and lines == ["torch is left out: torch is not installed"]
    else:
        assert there == ["ours", "torch"] and not lines


def test_programs_take_turns_after_a_round_that_is_not_counted() -> None:
    calls, waited = [], []
    programs = {name: (lambda name=name: calls.append(name) or name) for name in ("a", "b")}
    seconds = take_turns(programs, 2, waited.append)
    assert calls == waited == ["a", "b"] * 3
    assert {name: len(found) for name, found in seconds.items()} == {"a": 2, "b": 2}


def test_the_machine_has_an_id_for_tables() -> None:
    found = machine()
    assert re.fullmatch(r"[a-z0-9-]+", str(found["id"])) and str(found["cores"]) in str(found["id"])
    assert str(found["id"]) in machine_in_words()


@pytest.mark.slow
@pytest.mark.parametrize("task", ["predict", "train", "patient"])
def test_ours_beside_keras(task, tmp_path: Path) -> None:
    short = ("--slices", "12") if task == "patient" else ()
    main([task, *TINY, *short, "--contestants", "ours", "keras-jax", "--output", str(tmp_path)])
    record = json.loads((tmp_path / f"{task}-16-1.json").read_text())
    assert (tmp_path / f"{task}-16-1.png").read_bytes().startswith(b"\x89PNG")
    assert set(record["results"]) == {"ours", "keras-jax", "matmul"}
    for result in record["results"].values():
        assert len(result["seconds"]) == 1 and result["median"] > 0 and result["peak"] > 2**20
    assert record["matmul_gflops"] > 0 and str(tmp_path) not in json.dumps(record)
    assert record["machine"] == machine() and "jax" in record["results"]["ours"]["versions"]


@pytest.mark.slow
def test_pytorch_computes_the_same(tmp_path: Path) -> None:
    if importlib.util.find_spec("torch") is None:
        pytest.skip("PyTorch is not installed; see `--torch-python` of bench.py")
    main(["train", *TINY, "--contestants", "ours", "torch", "--output", str(tmp_path)])


def test_defaults_are_the_full_network() -> None:
    settings = Settings()
    case = Case("predict", "", widths=settings.widths, recurrent_width=settings.recurrent_width)
    # Some 600 billion a patch: more than a laptop's core does in a second, less than a hundred do.
    assert settings.size == 256 and 3e11 < case.forward_flops() < 3e12
