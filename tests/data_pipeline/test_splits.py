"""Splits by patient."""

from pathlib import Path

import pytest

from data_pipeline.errors import InputError
from data_pipeline.splits import read_split, split_patients, vip_cup_parts, write_split


def test_300_patients_give_the_papers_counts() -> None:
    parts = split_patients(f"LUNG1-{i:03d}" for i in range(300))
    assert {name: len(part) for name, part in parts.items()} == {"train": 234, "validation": 26, "test": 40}


def test_parts_are_disjoint_and_complete() -> None:
    names = {f"p{i}" for i in range(57)}
    parts = split_patients(names, seed=3)
    assert sorted(name for part in parts.values() for name in part) == sorted(names)


def test_the_order_given_does_not_matter_but_the_seed_does() -> None:
    names = [f"p{i}" for i in range(20)]
    assert split_patients(names) == split_patients(reversed(names))
    assert split_patients(names) != split_patients(names, seed=1)


def test_few_patients() -> None:
    def sizes(count: int) -> list[int]:
        return [len(part) for part in split_patients(f"p{i}" for i in range(count)).values()]

    assert [sizes(n) for n in range(5)] == [[0, 0, 0], [1, 0, 0], [2, 0, 0], [1, 1, 1], [2, 1, 1]]


def test_a_share_of_zero_holds_nobody_back() -> None:
    assert split_patients("abcd", test_share=0, validation_share=0)["train"] == list("abcd")


def test_the_vip_cups_patients_are_split_as_there() -> None:
    names = {f"LUNG1-{number:03d}": f"P-{number}" for number in range(1, 423)}
    cup = vip_cup_parts(names)
    assert cup is not None
    trains, tests = cup
    assert (len(trains), len(tests)) == (260, 40) and "P-260" in trains and "P-261" in tests
    parts = split_patients(trains | tests, tests=tests)
    assert {name: len(part) for name, part in parts.items()} == {"train": 234, "validation": 26, "test": 40}
    assert set(parts["test"]) == tests
    del names["LUNG1-128"]
    assert vip_cup_parts(names) is None


def test_a_frozen_split_comes_back_for_the_patients_there_are(tmp_path: Path) -> None:
    split = split_patients(f"p{i}" for i in range(20))
    write_split(split, tmp_path / "split.json")
    assert read_split(tmp_path / "split.json", (f"p{i}" for i in range(20))) == split
    some = {"p1", "p5", "p12"}
    part = read_split(tmp_path / "split.json", some)
    assert {name for names in part.values() for name in names} == some
    assert all(set(part[name]) <= set(split[name]) for name in split)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda text: text.replace('"p3"', '"p99"'), "changed since it was frozen"),
        (lambda text: text[:-20], "not a split file"),
        (lambda text: "[]", "not a split file"),
    ],
)
def test_a_spoilt_split_file_is_refused(spoil, message: str, tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    write_split(split_patients(f"p{i}" for i in range(20)), path)
    path.write_text(spoil(path.read_text()))
    with pytest.raises(InputError, match=message):
        read_split(path, ["p1"])


def test_a_patient_that_a_frozen_split_lacks_is_named(tmp_path: Path) -> None:
    write_split(split_patients(["a", "b", "c"]), tmp_path / "split.json")
    with pytest.raises(InputError, match="such as d"):
        read_split(tmp_path / "split.json", ["a", "d"])
