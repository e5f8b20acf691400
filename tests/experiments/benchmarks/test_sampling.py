"""The benchmark of stored slices, at a small size: its batches are equal, and its table has all rows."""

import numpy as np
import pytest

from experiments.benchmarks.sampling import check_equal, main


def test_the_table_has_a_row_for_each_way(capsys: pytest.CaptureFixture[str], tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    main(patients=2, slices=12, image_size=16, batches=2)
    out = capsys.readouterr().out
    for way in ("patches, tumour_run", "slices, tumour_run", "patches, all", "slices, all"):
        assert way in out
    assert "35,725" in out


def test_other_batches_are_not_reported() -> None:
    one = {"image": np.zeros(3), "mask": np.zeros(3)}
    with pytest.raises(AssertionError):
        check_equal(iter([one]), iter([one | {"mask": np.ones(3)}]))
