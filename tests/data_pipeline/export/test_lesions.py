"""Measures of lesions, against brute force over points of their outlines, SimpleITK, and shapes of known size."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (as its own documentation calls it)

from data_pipeline.dicom.geometry import CTGeometry
from data_pipeline.export.diameters import measure_diameters
from data_pipeline.export.lesions import measure_lesions, volume_ml

EDGES = {"top": (0.0, 0.5), "bottom": (1.0, 0.5), "left": (0.5, 0.0), "right": (0.5, 1.0)}
"""Middles of the sides of a cell between four pixel centres, (row, column)."""
SIDES = {  # the sides that the outline joins in a cell, by its corners (0, 0), (0, 1), (1, 0), (1, 1)
    (1, 0, 0, 0): ["top left"], (0, 1, 0, 0): ["top right"], (0, 0, 1, 0): ["bottom left"],
    (0, 0, 0, 1): ["bottom right"], (1, 1, 0, 0): ["left right"], (1, 0, 1, 0): ["top bottom"],
    (0, 1, 1, 1): ["top left"], (1, 0, 1, 1): ["top right"], (1, 1, 0, 1): ["bottom left"],
    (1, 1, 1, 0): ["bottom right"], (0, 0, 1, 1): ["left right"], (0, 1, 0, 1): ["top bottom"],
    (1, 0, 0, 1): ["top right", "bottom left"], (0, 1, 1, 0): ["top left", "bottom right"],
}  # fmt: skip


def geometry_of(shape: tuple[int, ...], spacing: tuple[float, ...], seed: int = 0) -> CTGeometry:
    """A grid of any orientation."""
    rng = np.random.default_rng(seed)
    row, column = np.linalg.qr(rng.normal(size=(3, 3)))[0][:2]
    positions = rng.uniform(-200, 200, 3) + np.arange(shape[0])[:, None] * spacing[0] * np.cross(row, column)
    uids = tuple(map(str, range(shape[0])))
    return CTGeometry(positions, row, column, (spacing[1], spacing[2]), (shape[0], shape[1], shape[2]), uids, "1")


def random_lesion(rng: np.random.Generator) -> np.ndarray:
    """One component of any form: a smooth blob, a ragged one, or a string of pixels."""
    shape = tuple(rng.integers((2, 4, 4), (5, 13, 13)))
    kind = rng.integers(3)
    noise = rng.normal(size=shape)
    if kind == 0:
        index = np.indices(shape) - np.reshape([(size - 1) / 2 for size in shape], (3, 1, 1, 1))
        noise = 2 - (index**2 / np.reshape(rng.uniform(1, 20, 3), (3, 1, 1, 1))).sum(axis=0) + 0.4 * noise
    found = sitk.GetArrayFromImage(
        sitk.RelabelComponent(
            sitk.ConnectedComponent(sitk.GetImageFromArray((noise > (0.9 if kind == 2 else 0)).astype(np.uint8)), True)
        )
    )
    lesion = found == 1
    lesion[0, 0, 0] |= not lesion.any()
    return lesion


def parts(plane: np.ndarray) -> Iterator[set[tuple[int, int]]]:
    """Pixels that touch, found by walking from neighbour to neighbour."""
    left = set(map(tuple, np.argwhere(plane).tolist()))
    while left:
        part, front = set(), [left.pop()]
        while front:
            row, column = front.pop()
            part.add((row, column))
            near = {(row + down, column + right) for down in (-1, 0, 1) for right in (-1, 0, 1)} & left
            left -= near
            front += near
        yield part


def segments(part: set[tuple[int, int]]) -> np.ndarray:
    """The outline, cell by cell: (segments, 2 ends, 2)."""
    found = []
    rows, columns = ([pixel[axis] for pixel in part] for axis in (0, 1))
    cells = range(min(rows) - 1, max(rows) + 1), range(min(columns) - 1, max(columns) + 1)
    for row, column in itertools.product(*cells):
        one, two, three, four = (int((row + down, column + right) in part) for down in (0, 1) for right in (0, 1))
        for pair in SIDES.get((one, two, three, four), ()):
            found.append([np.add(EDGES[side], (row, column)) for side in pair.split()])
    return np.array(found)


def extent(lines: np.ndarray, through: np.ndarray, along: np.ndarray) -> float:
    """How far an outline reaches on the line through a point perpendicular to `along`."""
    across = np.array([-along[1], along[0]])
    heights = []
    for one, other in lines:
        t0, t1 = (one - through) @ along, (other - through) @ along
        if abs(t0 - t1) < 1e-9:
            heights += [one @ across, other @ across] if abs(t0) < 1e-6 else []
        elif -1e-6 <= t0 / (t0 - t1) <= 1 + 1e-6:
            heights.append((one + t0 / (t0 - t1) * (other - one)) @ across)
    return max(heights) - min(heights)


def brute_force(lesion: np.ndarray, spacing: tuple[float, float]) -> tuple[float, float]:
    """All pairs of the outline's points, and for each of the longest the perpendiculars through every point of it."""
    longest, across = 0.0, 0.0
    for plane in lesion:
        for part in parts(plane):
            lines = segments(part) * spacing
            points = np.unique(lines.reshape(-1, 2).round(9), axis=0)
            for one, other in itertools.combinations(points, 2):
                length = float(np.hypot(*(other - one)))
                if length < longest - 1e-6:
                    continue
                if length > longest + 1e-6:
                    longest, across = length, 0.0
                along = (other - one) / length
                across = max(across, *(extent(lines, point, along) for point in points))
    return longest, across


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_diameters_are_those_of_all_pairs_of_points(seed: int) -> None:
    """20 lesions, and (slow) 180 more."""
    rng = np.random.default_rng(seed)
    for _ in range(180 if seed else 20):
        lesion, spacing = random_lesion(rng), tuple(rng.uniform(0.5, 1.5, 2).tolist())
        found = measure_diameters(lesion, spacing)
        expected = brute_force(lesion, spacing)
        np.testing.assert_allclose((found.longest_mm, found.perpendicular_mm), expected, atol=1e-5)  # ties: 1e-6


def test_diameters_of_known_shapes() -> None:
    rows, columns = np.mgrid[-40:41, -40:41]
    disc = np.hypot(rows * 0.7, columns * 0.9) <= 20
    found = measure_diameters(np.stack([np.zeros_like(disc), disc]), (0.7, 0.9))
    # A point of the outline is within half a pixel of the circle at each end.
    assert found.longest_mm == pytest.approx(40, abs=0.9) and found.perpendicular_mm == pytest.approx(40, abs=0.9)
    assert found.slice_index == 1
    ellipse = (rows / 30) ** 2 + (columns / 12) ** 2 <= 1
    found = measure_diameters(ellipse[None], (1.0, 1.0))
    assert (found.longest_mm, found.perpendicular_mm) == pytest.approx((60, 24), abs=1)
    pixel = measure_diameters(np.ones((1, 1, 1), bool), (2.0, 3.0))
    assert (pixel.longest_mm, pixel.perpendicular_mm) == pytest.approx((3, 2))


def test_parts_of_a_slice_that_do_not_touch_are_measured_alone() -> None:
    """A horseshoe whose arch is on another slice: no diameter spans the gap between its legs."""
    lesion = np.zeros((2, 3, 20), bool)
    lesion[0, 1, [0, 1, 2, 17, 18, 19]] = True
    lesion[1, 1, 2:18] = True
    assert measure_diameters(lesion[:1], (1.0, 1.0)).longest_mm == pytest.approx(3)
    found = measure_diameters(lesion, (1.0, 1.0))
    assert (found.longest_mm, found.perpendicular_mm, found.slice_index) == (16, 1, 1)


def test_volumes_and_centroids_are_those_of_simpleitk() -> None:
    rng = np.random.default_rng(2)
    for seed in range(20):
        mask = rng.random(tuple(rng.integers(4, 12, 3).tolist())) < rng.choice([0.02, 0.06, 0.4])
        mask[0, 0, 0] = True
        spacing = tuple(rng.uniform(0.5, 4, 3).tolist())
        geometry = geometry_of(mask.shape, spacing, seed)
        hounsfield = rng.integers(-1000, 400, mask.shape).astype(np.int16)
        lesions = measure_lesions(mask, hounsfield, geometry)
        image = sitk.GetImageFromArray(mask.astype(np.uint8))
        image.SetSpacing(spacing[::-1])
        image.SetOrigin(geometry.positions_mm[0].tolist())
        image.SetDirection(np.stack([geometry.row_cosine, geometry.column_cosine, geometry.normal], axis=1).ravel())
        labels = sitk.ConnectedComponent(image, True)
        shapes, values = sitk.LabelShapeStatisticsImageFilter(), sitk.LabelIntensityStatisticsImageFilter()
        shapes.Execute(labels)
        grey = sitk.GetImageFromArray(hounsfield)
        grey.CopyInformation(image)
        values.Execute(labels, grey)
        theirs = sorted(
            (-shapes.GetPhysicalSize(label), *np.round(shapes.GetCentroid(label), 2), values.GetMean(label))
            for label in shapes.GetLabels()
        )
        ours = sorted((-one.volume_ml * 1000, *one.centroid_mm, one.mean_hu) for one in lesions)
        assert [one[0] for one in ours] == [-one.volume_ml * 1000 for one in lesions]  # largest first
        # volumes and HU to a tenth, centroids to a hundredth, as they are rounded
        by_place = [np.array(sorted(rows, key=lambda row: row[1:4])) for rows in (ours, theirs)]
        np.testing.assert_allclose(*by_place, atol=0.06, rtol=0)
        assert volume_ml(mask, geometry) == pytest.approx(-sum(one[0] for one in theirs) / 1000, rel=1e-9)
