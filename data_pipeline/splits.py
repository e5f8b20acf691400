"""Splits by patient, never by slice."""

from collections.abc import Iterable

import numpy as np

SPLITS = ("train", "validation", "test")
TEST_SHARE = 40 / 300
"""The VIP Cup's share of test patients (paper, Table 2)."""
VALIDATION_SHARE = 0.1
"""Share of the training patients held out for validation (paper, section 3.3)."""


def split_patients(
    patients: Iterable[str], seed: int = 0, test_share: float = TEST_SHARE, validation_share: float = VALIDATION_SHARE
) -> dict[str, list[str]]:
    """Draws patients into `train`, `validation` and `test`; the order in which they are given does not matter.

    Shares above 0 are rounded, but give at least one patient each where there are three patients or more. One or two
    patients are all for training: too few to hold any back.
    """
    names = sorted(set(patients))
    shuffled = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    enough = len(names) >= 3

    def count(share: float, total: int) -> int:
        return max(1, round(share * total)) if enough and share > 0 else 0

    tests = count(test_share, len(names))
    validations = count(validation_share, len(names) - tests)
    return {
        "train": sorted(shuffled[tests + validations :]),
        "validation": sorted(shuffled[tests : tests + validations]),
        "test": sorted(shuffled[:tests]),
    }
