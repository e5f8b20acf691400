"""Folds by person: each person is held out once, and no person, study or copy is in two parts of a fold."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.errors import InputError
from data_pipeline.nsclc_radiomics.copies import copies_of_persons, folds_with_copies
from data_pipeline.nsclc_radiomics.staging import Job
from data_pipeline.preprocessing.fingerprints import Fingerprint
from data_pipeline.settings import DatasetSettings
from data_pipeline.splits import divide, read_folds, read_split, split_sha256, write_split


@st.composite
def patients(draw) -> tuple[list[Job], dict[str, Fingerprint]]:
    """CTs of persons with one to three studies each; some persons share slices or contours with others."""
    studies = draw(st.lists(st.integers(1, 3), min_size=2, max_size=25))
    jobs, fingerprints = [], {}
    for person, count in enumerate(studies):
        for study in range(1, count + 1):
            name = f"P-{person:02d}" + (f".ct{study}" if study > 1 else "")
            jobs.append(Job(len(jobs), name, f"P-{person:02d}", None))  # pyright: ignore[reportArgumentType]
            shared = draw(st.none() | st.integers(0, 4))
            pieces = (f"own {name}", *([] if shared is None else [f"shared {shared}"]))
            fingerprints[name] = draw(st.sampled_from([Fingerprint(pieces, ()), Fingerprint((), pieces)]))
    return jobs, fingerprints


@settings(deadline=None)
@given(patients(), st.integers(2, 6), st.integers(0, 5), st.sampled_from([0.0, 0.1, 0.5]))
def test_each_person_is_held_out_once_and_nobody_is_in_two_parts(found, count, seed, share) -> None:
    jobs, fingerprints = found
    persons = {job.person for job in jobs}
    copies = copies_of_persons(jobs, fingerprints)
    drawn = DatasetSettings(folds=count, seed=seed, validation_share=share)
    same = {name: frozenset(group) for group in copies for name in group}
    if len({same.get(name, frozenset([name])) for name in persons}) < count:
        with pytest.raises(InputError, match=f"--folds {count}: there are only"):
            folds_with_copies(persons, copies, drawn)
        return
    folds = folds_with_copies(persons, copies, drawn)
    assert len(folds) == count
    assert Counter(name for fold in folds for name in fold["test"]) == dict.fromkeys(persons, 1)
    for fold in folds:
        assert Counter(name for names in fold.values() for name in names) == dict.fromkeys(persons, 1)
        assert fold["test"] and fold["train"]
        # independent of how the copies were grouped: no two CTs of different parts share a person, slice or contour
        part_of = {name: part for part, names in fold.items() for name in names}
        parts_of_piece: dict[tuple, set[str]] = {}
        for job in jobs:
            one = fingerprints[job.name]
            pieces = [("slice", piece) for piece in one.slices] + [("contour", piece) for piece in one.contours]
            for piece in (("person", job.person), *pieces):
                parts_of_piece.setdefault(piece, set()).add(part_of[job.person])
        assert all(len(parts) == 1 for parts in parts_of_piece.values())
    assert len({split_sha256(fold) for fold in folds}) == count
    assert folds_with_copies(persons, copies[::-1], drawn) == folds


@given(st.integers(2, 60), st.integers(2, 10), st.integers(0, 3))
def test_folds_without_copies_are_of_equal_size(count: int, folds: int, seed: int) -> None:
    names = [f"p{i}" for i in range(count)]
    if count < folds:
        return
    divided = divide([[name] for name in names], folds, seed)
    assert max(map(len, divided)) - min(map(len, divided)) <= 1
    assert sorted(name for fold in divided for name in fold) == sorted(names)
    assert divided == divide([[name] for name in reversed(names)], folds, seed)


def test_validation_patients_are_drawn_from_the_rest_as_the_share_says() -> None:
    persons = {f"p{i:02d}" for i in range(50)}
    for fold in folds_with_copies(persons, [], DatasetSettings(folds=5, validation_share=0.1)):
        assert [len(fold[part]) for part in ("train", "validation", "test")] == [36, 4, 10]


def frozen(path: Path) -> Path:
    persons = {f"p{i}" for i in range(8)}
    split = {"train": sorted(persons - {"p1", "p2"}), "validation": ["p1"], "test": ["p2"]}
    write_split(split, path, folds_with_copies(persons, [], DatasetSettings(folds=4)))
    return path


def test_frozen_folds_come_back_for_the_patients_there_are(tmp_path: Path) -> None:
    path, persons = frozen(tmp_path / "split.json"), [f"p{i}" for i in range(8)]
    folds = folds_with_copies(set(persons), [], DatasetSettings(folds=4))
    assert read_folds(path, persons, 4) == folds
    assert read_split(path, persons)["test"] == ["p2"]
    fewer = [name for name in persons if name != folds[2]["test"][0]]
    assert [len(fold["test"]) for fold in read_folds(path, fewer, 4)] == [2, 2, 1, 2]


def test_a_split_without_folds_is_written_as_ever(tmp_path: Path) -> None:
    write_split({"train": ["a"], "validation": [], "test": ["b"]}, tmp_path / "split.json")
    assert set(json.loads((tmp_path / "split.json").read_text())) == {"train", "validation", "test", "sha256"}


def move(folds: list[dict]) -> None:
    """A patient is held out twice, with a hash that fits."""
    fold, other = folds[0], folds[1]
    fold["train"].remove(other["test"][0])
    fold["test"].append(other["test"][0])
    fold["sha256"] = split_sha256(fold)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda folds: folds[1]["train"].pop(), "changed since it was frozen"),
        (lambda folds: folds.pop(), "has 3 folds, not 4"),
        (lambda folds: folds.clear(), "has no folds, not 4"),
        (lambda folds: folds[0].pop("test"), "not a split file"),
        (move, "not held out by exactly one fold"),
    ],
)
def test_spoilt_folds_are_refused(spoil, message: str, tmp_path: Path) -> None:
    path = frozen(tmp_path / "split.json")
    fields = json.loads(path.read_text())
    spoil(fields["folds"])
    path.write_text(json.dumps(fields))
    with pytest.raises(InputError, match=message):
        read_folds(path, [f"p{i}" for i in range(8)], 4)
