"""Splits by patient."""

from data_pipeline.splits import split_patients


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
