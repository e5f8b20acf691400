"""The benchmark of many CTs, at a small size: both ways give the same masks, also after a kill."""

from pathlib import Path

import pytest

from experiments.benchmarks.many_cts import Settings, measure


@pytest.mark.slow  # starts the command several times
def test_both_ways_and_a_kill_give_the_same_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("apache_beam")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    found = measure(Settings(count=2, kills=1), tmp_path)
    assert found["same_masks"] and found["cts"] == 2 and found["ratio"] > 0
