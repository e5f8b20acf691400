"""Holes and components against flood fills written out voxel by voxel."""

from collections import deque
from itertools import product

import numpy as np
import pytest

from rdunet_jax.config import PostprocessingConfig
from rdunet_jax.inference.components import Components, count_per_slice, fill_holes
from rdunet_jax.inference.postprocessing import CTGrid, clean

SHAPE = (5, 9, 11)
SLICE_MM = np.array([3, 3, 4.5, 4.5, 3.0])  # unevenly spaced slices
GRID = CTGrid(9, 11, (20.0, 10.0), SLICE_MM)


def flood(inside: set[tuple[int, ...]], start: tuple[int, ...], steps: list[tuple[int, ...]]) -> set[tuple[int, ...]]:
    """All voxels that steps from one to the next reach."""
    found, queue = {start}, deque([start])
    while queue:
        place = queue.popleft()
        for step in steps:
            there = tuple(a + b for a, b in zip(place, step, strict=True))
            if there in inside and there not in found:
                found.add(there)
                queue.append(there)
    return found


def naive_components(mask: np.ndarray) -> list[set[tuple[int, ...]]]:
    steps: list[tuple[int, ...]] = [step for step in product((-1, 0, 1), repeat=3) if any(step)]
    left = {tuple(place) for place in np.argwhere(mask).tolist()}
    components = []
    while left:
        one = flood(left, min(left), steps)  # in scan order
        components.append(one)
        left -= one
    return components


def as_mask(places: set[tuple[int, ...]]) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    for place in places:
        mask[place] = True
    return mask


def random_mask(seed: int, share: float = 0.12) -> np.ndarray:
    return np.random.default_rng(seed).random(SHAPE) < share


@pytest.mark.parametrize("seed", range(5))
def test_holes_are_what_a_walk_from_the_border_of_the_slice_does_not_reach(seed: int) -> None:
    mask = random_mask(seed, 0.6)
    expected = mask.copy()
    rows, columns = SHAPE[1] + 2, SHAPE[2] + 2  # with a margin, where the walk starts
    for index, plane in enumerate(np.pad(mask, ((0, 0), (1, 1), (1, 1)))):
        outside = {(r, c) for r, c in product(range(rows), range(columns)) if not plane[r, c]}
        reached = flood(outside, (0, 0), [(0, 1), (1, 0), (0, -1), (-1, 0)])
        for row, column in product(range(SHAPE[1]), range(SHAPE[2])):
            expected[index, row, column] = (row + 1, column + 1) not in reached
    assert (expected & ~mask).any()
    np.testing.assert_array_equal(fill_holes(mask), expected)


def test_a_cavity_open_to_the_next_slice_is_filled_and_a_gap_at_a_corner_is_none() -> None:
    mask = np.zeros(SHAPE, bool)
    mask[1, 2:7, 2:7] = True
    mask[1, 4, 4] = False
    assert fill_holes(mask)[1, 4, 4] and not mask[1, 4, 4]
    mask[1, 3, 4] = mask[1, 2, 4] = False  # a channel to the outside
    np.testing.assert_array_equal(fill_holes(mask), mask)
    # the corner of a missing pixel is no way out for 4-neighbours
    mask[1, 2, 4], mask[1, 2, 5] = True, False
    assert fill_holes(mask)[1, 3, 4]


@pytest.mark.parametrize("seed", range(5))
def test_components_and_their_volumes(seed: int) -> None:
    mask = random_mask(seed)
    naive = naive_components(mask)
    components = Components.of(mask, GRID.voxel_mm3)
    assert len(components.volumes_ml) == len(naive) > 3
    for number, one in enumerate(naive, 1):
        np.testing.assert_array_equal(components.labels == number, as_mask(one))
        volume = sum(SLICE_MM[place[0]] * 20.0 * 10.0 for place in one) / 1000
        assert components.volumes_ml[number - 1] == pytest.approx(volume)
    where = random_mask(seed + 100, 0.5)
    for counts, part in (
        (count_per_slice(components.labels, len(naive)), mask),
        (count_per_slice(components.labels, len(naive), where), mask & where),
    ):
        expected = [[sum(p[0] == i and part[p] for p in one) for one in naive] for i in range(SHAPE[0])]
        np.testing.assert_array_equal(counts, expected)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("smallest", "largest", "lungs"), list(product((0.0, 1.5, 2.0, 900.0), (False, True), (False, True)))
)
def test_what_is_kept(seed: int, smallest: float, largest: bool, lungs: bool) -> None:
    mask, near = random_mask(seed), random_mask(seed + 50, 0.05)
    left = [one for one in naive_components(mask) if not lungs or any(near[place] for place in one)]
    volumes = {id(one): sum(SLICE_MM[place[0]] * 200 for place in one) / 1000 for one in left}
    left = [one for one in left if volumes[id(one)] >= smallest]
    if largest and left:
        left = [max(left, key=lambda one: volumes[id(one)])]  # the first of equals
    settings = PostprocessingConfig(lungs_only=lungs, min_component_ml=smallest, largest_component=largest)
    components = Components.of(mask, GRID.voxel_mm3, near)
    np.testing.assert_array_equal(components.mask(components.kept(settings)), as_mask(set().union(*left)))


def test_the_largest_is_not_one_that_is_then_removed() -> None:
    mask, near = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    mask[0, :3, :3] = mask[4, 8, 8] = near[4, 8, 8] = True
    components = Components.of(mask, GRID.voxel_mm3, near)
    keep = components.kept(PostprocessingConfig(lungs_only=True, largest_component=True))
    np.testing.assert_array_equal(components.mask(keep), near)


def test_nothing_is_done_by_default_and_what_is_removed_is_noted() -> None:
    mask = random_mask(0)
    cleaned, notes = clean(mask, GRID, PostprocessingConfig())
    assert cleaned is mask and notes == ()
    volumes = Components.of(mask, GRID.voxel_mm3).volumes_ml
    cleaned, (note,) = clean(mask, GRID, PostprocessingConfig(largest_component=True))
    lost = np.delete(volumes, volumes.argmax())
    assert note == f"post-processing removed {len(lost)} of {len(volumes)} components ({lost.sum():.2f} ml)"
    cleaned, (note,) = clean(mask, GRID, PostprocessingConfig(min_component_ml=1000))
    assert not cleaned.any() and note.endswith("and nothing is left")
    empty, notes = clean(np.zeros(SHAPE, bool), GRID, PostprocessingConfig(fill_holes=True, largest_component=True))
    assert not empty.any() and notes == ()
