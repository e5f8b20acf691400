"""Splits by patient, never by slice: the VIP Cup's where its patients are all there, drawn by a seed otherwise.

For cross-validation the patients are also divided into folds. Each fold is a split of its own, whose test part no other
fold shares.

A split can be frozen in a file, so that another data set of the same patients (other grey values, another size) or a
later one gets the same.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.errors import InputError
from data_pipeline.files import read_json, write_whole
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


def divide(groups: Iterable[Sequence[str]], count: int, seed: int = 0) -> list[list[str]]:
    """Divides patients into folds of equal size, as far as their groups allow; the order of the groups does not matter.

    Args:
        groups: patients that must stay together: copies of one person; most have one member.
        count: number of folds.
        seed: of the order in which groups of one size are dealt out.

    Raises:
        InputError: there are fewer groups than folds.
    """
    tidy = sorted(sorted(group) for group in groups)
    if len(tidy) < count:
        raise InputError(f"--folds {count}: there are only {len(tidy)} persons; give at most that many folds")
    shuffled = [tidy[i] for i in np.random.default_rng(seed).permutation(len(tidy))]
    folds: list[list[str]] = [[] for _ in range(count)]
    for group in sorted(shuffled, key=len, reverse=True):  # stable; large groups first, while all folds have room
        min(folds, key=len).extend(group)
    return [sorted(fold) for fold in folds]


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


def write_split(split: Split, path: Path, folds: Sequence[Split] = ()) -> None:
    """Freezes a split, and the folds if there are any, in a JSON file; each with its hash."""

    def fields(one: Split) -> dict[str, Any]:
        return {**one, "sha256": split_sha256(one)}

    frozen = fields(split) | ({"folds": [fields(fold) for fold in folds]} if folds else {})
    write_whole(path, json.dumps(frozen, indent=1) + "\n")


def read_split(path: Path, patients: Iterable[str]) -> Split:
    """The part of a frozen split that concerns these patients.

    Raises:
        InputError: not a split file, changed since it was written, or a patient is not in it.
    """
    return _checked(path, _frozen(path), set(patients))


def read_folds(path: Path, patients: Iterable[str], count: int) -> list[Split]:
    """The folds in the file of a frozen split, as far as they concern these patients.

    Raises:
        InputError: as `read_split`; or the file has another number of folds, a patient is held out in several of them
            or in none, or a fold holds out none of these patients.
    """
    frozen, names = _frozen(path), set(patients)
    folds = frozen.get("folds", [])
    if not isinstance(folds, list) or len(folds) != count:
        held = f"{len(folds)} folds" if isinstance(folds, list) and folds else "no folds"
        raise InputError(f"{path}: has {held}, not {count}; give --folds accordingly, or draw another split")
    splits = [_checked(path, fold, names) for fold in folds]
    held_out = [name for split in splits for name in split["test"]]
    if sorted(held_out) != sorted(names):
        raise InputError(f"{path}: a patient is not held out by exactly one fold; restore it or draw another")
    if not all(split["test"] and split["train"] for split in splits):
        raise InputError(f"{path}: a fold holds out none of these patients, or all; draw another split")
    return splits


def _frozen(path: Path) -> dict[str, Any]:
    try:
        frozen = read_json(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a split file ({type(error).__name__}); `rdunet prepare` writes one") from error
    if not isinstance(frozen, dict):
        raise InputError(f"{path}: not a split file; `rdunet prepare` writes one")
    return frozen


def _checked(path: Path, frozen: Any, names: set[str]) -> Split:
    try:
        split: Split = {part: [str(name) for name in frozen[part]] for part in SPLITS}
        frozen_sha256 = str(frozen["sha256"])
    except (TypeError, KeyError) as error:
        raise InputError(f"{path}: not a split file ({type(error).__name__}); `rdunet prepare` writes one") from error
    if frozen_sha256 != split_sha256(split):
        raise InputError(f"{path}: changed since it was frozen (its sha256 does not fit); restore it or draw another")
    listed = [name for part in SPLITS for name in split[part]]
    if len(listed) != len(set(listed)):
        raise InputError(f"{path}: a patient is in two parts; restore it or draw another")
    missing = sorted(names - set(listed))
    if missing:
        raise InputError(f"{path}: {len(missing)} patients are not in it, such as {missing[0]}; draw another split")
    return {part: sorted(names & set(split[part])) for part in SPLITS}
