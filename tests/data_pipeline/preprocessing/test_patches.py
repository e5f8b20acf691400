"""Patch starts against the rules, spelled out by hand and as a plain search."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.preprocessing.patches import patch_starts


def slices(depth: int, *tumour: int) -> np.ndarray:
    return np.isin(np.arange(depth), tumour)


@pytest.mark.parametrize(
    ("depth", "tumour", "expected"),
    [
        (30, range(10, 20), [10, 11, 12]),  # a run of ten holds three patches
        (30, (10, 19), [10, 11, 12]),  # gaps are filled
        (30, (12,), [12]),  # short runs are lengthened by what follows
        (30, (27, 28), [22]),  # or, at the end, by what precedes
        (8, (0,), [0]),
        (7, (0,), []),  # too short a scan
        (30, (), []),
    ],
)
def test_tumour_run(depth: int, tumour, expected: list[int]) -> None:
    assert patch_starts(slices(depth, *tumour), "tumour_run").tolist() == expected


@given(st.lists(st.booleans(), max_size=40))
def test_every_selection_against_a_plain_search(flags: list[bool]) -> None:
    tumour = np.array(flags, bool)
    starts = range(len(flags) - 7)
    assert patch_starts(tumour, "all").tolist() == list(starts)
    assert patch_starts(tumour, "any_tumour").tolist() == [s for s in starts if any(flags[s : s + 8])]
    run = patch_starts(tumour, "tumour_run").tolist()
    assert set(run) <= set(starts)
    if starts and any(flags):
        covered = {index for start in run for index in range(start, start + 8)}
        assert {index for index, flag in enumerate(flags) if flag} <= covered
