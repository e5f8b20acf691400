"""Splits by patient, never by slice: the VIP Cup's where its patients are all there, drawn by a seed otherwise.

A split can be frozen in a file, so that another data set of the same patients (other gray values, another size) or a
later one gets the same.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.errors import InputError
from data_pipeline.files import write_whole
from data_pipeline.settings import SPLITS, TEST_SHARE, VALIDATION_SHARE

Split = dict[str, list[str]]

VIP_CUP_TRAIN = frozenset(f"LUNG1-{number:03d}" for number in range(1, 261))
VIP_CUP_TEST = frozenset(f"LUNG1-{number:03d}" for number in range(261, 301))
"""The paper gives the counts, 260 and 40 of 300; which they are is read as the order of the patients' numbers."""


def split_patients(
    patients: Iterable[str],
    seed: int = 0,
    test_share: float = TEST_SHARE,
    validation_share: float = VALIDATION_SHARE,
    tests: Iterable[str] | None = None,
) -> Split:
    """Draws patients into `train`, `validation` and `test`; the order in which they are given does not matter.

    Shares above 0 are rounded, but give at least one patient each where there are three patients or more. One or two
    patients are all for training: too few to hold any back.

    Args:
        tests: the test patients, where they are settled; then only the validation patients are drawn.
    """
    names = sorted(set(patients))
    enough = len(names) >= 3

    def draw(pool: list[str], share: float) -> list[str]:
        count = max(1, round(share * len(pool))) if enough and share > 0 else 0
        return pool[:count]

    shuffled = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    held = draw(shuffled, test_share) if tests is None else sorted(set(tests) & set(names))
    others = [name for name in shuffled if name not in set(held)]
    validations = draw(others, validation_share)
    return {
        "train": sorted(others[len(validations) :]),
        "validation": sorted(validations),
        "test": sorted(held),
    }


def vip_cup_parts(names: Mapping[str, str]) -> tuple[set[str], set[str]] | None:
    """The names of the Cup's training and test patients; None unless all 300 are there.

    Args:
        names: Patient ID to the name under which the data set has the patient.
    """
    if not set(names) >= VIP_CUP_TRAIN | VIP_CUP_TEST:
        return None
    return {names[one] for one in VIP_CUP_TRAIN}, {names[one] for one in VIP_CUP_TEST}


def split_sha256(split: Mapping[str, list[str]]) -> str:
    """SHA-256 of the patients of each part, whatever their order."""
    tidy = {part: sorted(split[part]) for part in SPLITS}
    return hashlib.sha256(json.dumps(tidy).encode()).hexdigest()


def write_split(split: Split, path: Path) -> None:
    """Freezes a split in a JSON file with its hash."""
    write_whole(path, json.dumps(split | {"sha256": split_sha256(split)}, indent=1) + "\n")


def read_split(path: Path, patients: Iterable[str]) -> Split:
    """The part of a frozen split that concerns these patients.

    Raises:
        InputError: not a split file, changed since it was written, or a patient is not in it.
    """
    try:
        frozen: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        split: Split = {part: [str(name) for name in frozen[part]] for part in SPLITS}
        frozen_sha256 = str(frozen["sha256"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: not a split file ({type(error).__name__}); `rdunet prepare` writes one") from error
    if frozen_sha256 != split_sha256(split):
        raise InputError(f"{path}: changed since it was frozen (its sha256 does not fit); restore it or draw another")
    listed = [name for part in SPLITS for name in split[part]]
    if len(listed) != len(set(listed)):
        raise InputError(f"{path}: a patient is in two parts; restore it or draw another")
    names = set(patients)
    missing = sorted(names - set(listed))
    if missing:
        raise InputError(f"{path}: {len(missing)} patients are not in it, such as {missing[0]}; draw another split")
    return {part: sorted(names & set(split[part])) for part in SPLITS}
