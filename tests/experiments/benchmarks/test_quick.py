"""`make bench`: figures are kept for each machine and compared with the last ones."""

import json
import logging
from pathlib import Path

import pytest

from experiments.benchmarks import quick as module
from experiments.benchmarks.bench import main
from experiments.benchmarks.quick import read_records, records_file
from experiments.benchmarks.timing import machine


def record(predict: float, matmul: float = 1.0, size: int = 128) -> dict:
    return {
        "revision": f"commit-{predict}",
        "versions": {"jax": "0.10.2"},
        "settings": {"size": size, "batch": 1, "threads": 2},
        "seconds": {"predict": predict, "train": 4.0, "matmul": matmul},
    }


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture):
    """Runs the command with figures that are not measured; returns what it prints."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))  # `main` sets both for the process
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def run(found: dict) -> str:
        monkeypatch.setattr(module, "measure", lambda *_: found)
        main(["quick"])
        return capsys.readouterr().out

    return run


def test_ratios_to_the_last_figures(measured) -> None:
    assert "SLOWER" not in measured(record(2.0))
    out = measured(record(3.0))
    assert "1.50 SLOWER" in out and "commit-2.0" in out
    # on a machine that is half as fast, a time of 6 is no slower than 3
    out = measured(record(6.0, matmul=2.0))
    assert "SLOWER" not in out and "commit-3.0" in out
    # figures at another size are not compared
    assert "last: code" not in measured(record(1.0, size=64))
    assert len(read_records(records_file())) == 4 and str(machine()["id"]) in records_file().name


def test_damaged_figures_are_not_used(measured, caplog: pytest.LogCaptureFixture) -> None:
    records_file().parent.mkdir(parents=True)
    for text in ("[{", "3", '[{"seconds": {}}]', '[{"seconds": 1}]'):
        records_file().write_text(text)
        with caplog.at_level(logging.WARNING):
            assert read_records(records_file()) == []
        assert "cannot be read as figures" in caplog.text
        caplog.clear()
    measured(record(2.0))
    assert len(read_records(records_file())) == 1


@pytest.mark.slow
def test_a_small_case_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("XLA_FLAGS", "")
    main(["quick", "--rounds", "1", "--size", "16", "--records", str(tmp_path / "figures.json")])
    (found,) = json.loads((tmp_path / "figures.json").read_text())
    assert all(found["seconds"][name] > 0 and found["peak_mib"][name] > 0 for name in module.FIGURES)
