"""The order of training patches against naive loops, and the share of those without tumour by counting."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from data_pipeline.errors import InputError
from data_pipeline.sampling import Patches, Strata
from data_pipeline.settings import PATCH_SELECTIONS, Sampling

MASKS = st.lists(st.lists(st.booleans(), max_size=24), min_size=1, max_size=4)
"""Which slices of each patient hold tumour."""
SHARES = st.none() | st.sampled_from([0, 0.1, 0.25, 0.5, 0.9]) | st.floats(0, 0.95)


def patients_of(masks: list[list[bool]]) -> dict[str, np.ndarray]:
    return {f"p{number}": np.array(flags, bool) for number, flags in enumerate(masks)}


def strata_of(masks: list[list[bool]], sampling: Sampling) -> Strata:
    """On scans of one pixel a slice, whose grey value is the patient's number times 100 plus the slice."""

    def read(name: str, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        grey = int(name[1:]) * 100 + np.arange(first, first + count)
        tumour = patients_of(masks)[name][first : first + count]
        return grey.astype(np.int16)[:, None, None], tumour[:, None, None]

    return Strata.of(patients_of(masks), sampling, read)


def naive(masks: list[list[bool]], sampling: Sampling) -> tuple[set[tuple[str, int]], set[tuple[str, int]]]:
    """The selected patches and all those without tumour, by the words of the rules."""
    selected, tumour_free = set(), set()
    for name, flags in patients_of(masks).items():
        windows = {s: flags[s : s + sampling.depth] for s in range(len(flags) - sampling.depth + 1)}
        tumour = [index for index, flag in enumerate(flags) if flag]
        for start, window in windows.items():
            if not window.any():
                tumour_free.add((name, start))
            end = start + sampling.depth - 1
            if tumour and len(tumour) and sampling.selection == "tumour_run":
                long_enough = tumour[-1] - tumour[0] + 1 >= sampling.depth
                inside = tumour[0] <= start and end <= tumour[-1]
                instead = start == min(tumour[0], max(windows))  # a short run, lengthened by what follows or precedes
                take = inside if long_enough else instead
            else:
                take = sampling.selection == "all" or (sampling.selection == "any_tumour" and window.any())
            if take:
                selected.add((name, start))
    if sampling.tumour_free_share is not None:
        selected -= tumour_free
    return selected, tumour_free


def places(patches: Patches) -> set[tuple[str, int]]:
    found = list(zip(patches.names, patches.starts.tolist(), strict=True))
    assert len(found) == len(set(found))
    return set(found)


@given(MASKS, st.sampled_from(PATCH_SELECTIONS), st.integers(1, 10), SHARES)
def test_patches_are_those_of_a_naive_search(masks, selection, depth: int, share) -> None:
    sampling = Sampling(selection, depth, share)
    selected, tumour_free = naive(masks, sampling)
    strata = strata_of(masks, sampling)
    assert places(strata.selected) == selected
    assert (strata.tumour_free is None) == (not share)
    assert strata.tumour_free is None or places(strata.tumour_free) == tumour_free
    for (image, mask), name, start in zip(strata.selected, strata.selected.names, strata.selected.starts, strict=True):
        assert image[:, 0, 0].tolist() == [int(name[1:]) * 100 + start + index for index in range(depth)]
        assert mask[:, 0, 0].tolist() == masks[int(name[1:])][start : start + depth]


@settings(max_examples=10, deadline=None)
@given(
    MASKS, st.sampled_from([1, 3, 8]), st.sampled_from([0.1, 1 / 3, 0.5, 0.9]), st.integers(1, 5), st.integers(0, 99)
)
def test_the_share_of_patches_without_tumour_by_counting(masks, depth, share, batch_size: int, seed: int) -> None:
    strata = strata_of(masks, Sampling("any_tumour", depth, share))
    assert strata.tumour_free is not None
    assume(len(strata.selected) and len(strata.tumour_free))
    batches: Any = strata.batches(batch_size, seed)
    count = 0
    pools: dict[bool, list[tuple[str, int]]] = {True: [], False: []}
    for number in range(15):
        batch = batches[number]
        with_tumour = batch["mask"].any(axis=(1, 2, 3, 4))
        count += int((~with_tumour).sum())
        # within one patch, whatever the number of batches; 1e-9: rounding of the product
        assert abs(count - (number + 1) * batch_size * share) < 1 + 1e-9
        for flag, name, start in zip(with_tumour, batch["patient"], batch["start"], strict=True):
            pools[bool(flag)].append((str(name), int(start)))
    for flag, patches in ((True, strata.selected), (False, strata.tumour_free)):
        passes = [pools[flag][i : i + len(patches)] for i in range(0, len(pools[flag]), len(patches))]
        for one in passes:  # every patch once before any comes again
            assert len(set(one)) == len(one) and (len(one) < len(patches) or set(one) == places(patches))


MASK = [[False] * 20 + [True] * 6 + [False] * 20, [False] * 9 + [True] * 3 + [False] * 9]


def labels(sampling: Sampling, seed: int, start: int, count: int) -> list[tuple]:
    batches: Any = strata_of(MASK, sampling).batches(batch_size=2, seed=seed)
    return [tuple(map(tuple, (batches[i]["patient"], batches[i]["start"]))) for i in range(start, start + count)]


@pytest.mark.parametrize("share", [None, 0.0, 0.25, 0.7])
def test_batches_depend_on_seed_and_step_alone(share) -> None:
    sampling = Sampling("any_tumour", 8, share)
    straight = labels(sampling, seed=3, start=0, count=60)
    assert labels(sampling, seed=3, start=37, count=23) == straight[37:]
    assert labels(sampling, seed=4, start=0, count=60) != straight


def test_each_batch_has_the_share_in_expectation_over_seeds() -> None:
    """The first batch of two has one patch without tumour with half of the seeds, else none."""
    counts: Counter[int] = Counter()
    for seed in range(100):
        batches: Any = strata_of(MASK, Sampling("any_tumour", 8, 0.25)).batches(batch_size=2, seed=seed)
        counts[int((~batches[0]["mask"].any(axis=(1, 2, 3, 4))).sum())] += 1
    assert set(counts) == {0, 1}
    assert abs(counts[1] - 50) < 20  # four standard deviations of a fair coin, sqrt(100) / 2 each


def test_an_epoch_takes_each_patch_with_tumour_once() -> None:
    plain = strata_of(MASK, Sampling("any_tumour"))
    assert plain.epoch_patches == len(plain.selected) == 13 + 10
    assert strata_of(MASK, Sampling("any_tumour", tumour_free_share=0.5)).epoch_patches == 46
    assert strata_of(MASK, Sampling("all", tumour_free_share=0.0)).epoch_patches == 23
    assert strata_of(MASK, Sampling("all")).epoch_patches == 39 + 14


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"selection": "some"}, "selection is some, but must be one of tumour_run, any_tumour, all"),
        ({"depth": 0}, "depth is 0, but must be a whole number, from 1 to 512"),
        ({"tumour_free_share": 1.0}, "tumour_free_share is 1.0, but must be a number, from 0 and below 1 or none"),
        ({"tumour_free_share": -0.1}, "tumour_free_share is -0.1"),
    ],
)
def test_values_out_of_range_are_refused(values: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Sampling(**values)
