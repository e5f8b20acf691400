"""Phantoms of the level `realistic`: each kind is there, of its size, at its place; what looks alike has no contour."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.contours.mask import mask_from_contours
from data_pipeline.contours.rtstruct import read_contours
from data_pipeline.dicom.discovery import discover
from data_pipeline.dicom.volume import read_volume
from data_pipeline.phantom.anatomy import Sections
from data_pipeline.phantom.finding import Finding
from data_pipeline.phantom.phantom import (
    Phantom,
    draw_phantom,
    hounsfield,
    tumour_contours,
    tumour_mask,
    tumour_volume_mm3,
    write_phantom,
)

KINDS = ("nodule", "hilar", "chest_wall", "cavity", "mediastinal", "diaphragm")
DIAMETERS_MM = {
    "nodule": (5, 30),
    "hilar": (25, 55),
    "chest_wall": (15, 50),
    "cavity": (20, 50),
    "mediastinal": (20, 50),
    "diaphragm": (15, 45),
    "lymph_node": (5, 10),
    "atelectasis": (20, 40),
    "granuloma": (3, 10),
    "vessel": (8, 14),
}
"""Of the ball with the same volume."""
SMALL_SEED = 40
"""Of a first patient with one nodule, of 5.9 mm."""


@pytest.fixture(scope="module")
def cohort() -> list[Phantom]:
    """Two patients of each kind."""
    return [draw_phantom(0, number=number, matrix=64, level="realistic") for number in range(1, 13)]


@pytest.fixture(scope="module")
def patients() -> list[Phantom]:
    """One of each kind, with pixels of 2 to 3 mm."""
    return [draw_phantom(1, number=n, slices=40, matrix=160, level="realistic") for n in range(1, 7)]


@pytest.fixture(scope="module")
def volumes(patients: list[Phantom]) -> list[np.ndarray]:
    return [hounsfield(patient) for patient in patients]


def _inside(finding: Finding, steps: int = 16) -> tuple[np.ndarray, float]:
    """Points inside, of a grid of so many steps along each side of a box; and the volume of each (mm3)."""
    surface = finding.surface()[0]
    low, high = surface.min(0) - 0.5, surface.max(0) + 0.5
    axes = [np.linspace(*ends, steps) for ends in zip(low, high, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    return points[finding.level(points) < 0], float(np.prod((high - low) / (steps - 1)))


def _voxel(phantom: Phantom, point: np.ndarray) -> tuple[int, int, int]:
    """The index of the voxel that is nearest to x, y, z."""
    grid = phantom.grid
    z, y, x = (int(np.abs(axis - at).argmin()) for axis, at in zip((grid.z, grid.y, grid.x), point[::-1], strict=True))
    return z, y, x


def test_every_kind_occurs_in_turn(cohort: list[Phantom]) -> None:
    assert [phantom.tumours[0].kind for phantom in cohort] == list(KINDS) * 2
    others = Counter(finding.kind for phantom in cohort for finding in phantom.lookalikes)
    assert set(others) == {"lymph_node", "atelectasis", "granuloma", "vessel"}
    assert all(phantom.level == "realistic" and len(phantom.tumours) <= 3 for phantom in cohort)
    assert any(len(phantom.tumours) > 1 for phantom in cohort)


def test_sizes_are_within_their_bounds(cohort: list[Phantom]) -> None:
    for phantom in cohort:
        for finding in (*phantom.tumours, *phantom.lookalikes):
            low, high = DIAMETERS_MM[finding.kind]
            assert 0.999 * low < finding.diameter_mm < 1.001 * high
            if finding.kind == "lymph_node":
                assert 2 * finding.axes.min() < 10  # normal
            if finding.kind == "cavity":
                wall = finding.diameter_mm / 2 * (1 - finding.cavity)
                assert 3.99 < wall < 12.01 and finding.cavity > 0.2


def test_a_nodule_may_have_five_millimetres() -> None:
    phantom = draw_phantom(SMALL_SEED, slices=40, matrix=512, level="realistic")
    (nodule,) = phantom.tumours
    assert nodule.kind == "nodule" and 5 < nodule.diameter_mm < 6
    mask = tumour_mask(phantom)
    assert mask.any((1, 2)).sum() in (1, 2)
    # One or two slices sample 5 mm.
    assert mask.sum() * np.prod(phantom.grid.spacing_mm) == pytest.approx(nodule.volume_mm3, rel=0.5)


def test_masses_touch_what_they_are_named_for(cohort: list[Phantom]) -> None:
    """Shares of each tumour's volume on either side of the organs' surfaces."""
    for phantom in cohort:
        for tumour in phantom.tumours:
            points = _inside(tumour)[0].astype(np.float32)
            x, y, z = points.T
            at = Sections(phantom.anatomy, x, y)
            in_lung, in_mediastinum = (at.lungs(z) < 0).mean(), (at.mediastinum(z) < 0).mean()
            below, outside = (at.diaphragm(z) > 0).mean(), (at.cavity(z) > 0).mean()
            match tumour.kind:
                case "nodule":
                    assert in_lung == 1
                case "cavity":
                    assert in_lung > 0.9
                case "hilar":
                    assert in_lung > 0.05 and in_mediastinum > 0.01
                case "mediastinal":
                    assert in_mediastinum > 0.3 and outside == below == 0
                case "diaphragm":
                    assert in_lung > 0.3 and 0.005 < below < 0.7 and outside == 0
                case "chest_wall":
                    assert in_lung > 0.3 and 0.005 < outside < 0.7 and below == 0


def test_findings_are_apart_and_in_the_scan(cohort: list[Phantom]) -> None:
    for phantom in cohort:
        every, z = (*phantom.tumours, *phantom.lookalikes), phantom.grid.z
        for i, one in enumerate(every):
            height = one.surface()[0][:, 2]
            assert z[1] < height.min() and height.max() < z[-2]
            surface = one.surface()[0]
            assert all(other.level(surface).min() > 0 for other in every[:i])
        for tumour in phantom.tumours:
            assert any(tumour.section(float(height)) for height in z)


@pytest.mark.parametrize("number", [2, 6])
def test_a_short_scan_has_a_tumour(number: int) -> None:
    """Where a scan does not reach the organ of the kind, a nodule replaces it."""
    phantom = draw_phantom(2, number=number, slices=8, matrix=64, level="realistic")
    assert phantom.tumours and phantom.tumours[0].kind in (KINDS[number - 1], "nodule")
    assert tumour_contours(phantom)


def test_voxels_add_up_to_the_analytic_volume(cohort: list[Phantom]) -> None:
    """One finding of each kind."""
    every = {finding.kind: finding for phantom in cohort for finding in (*phantom.tumours, *phantom.lookalikes)}
    assert set(every) == set(DIAMETERS_MM)
    for finding in every.values():
        points, voxel = _inside(finding, 40)
        # Of some 20,000 points inside, a tenth are at the surface, where the count is off at random.
        assert len(points) * voxel == pytest.approx(finding.volume_mm3, rel=0.015)
    for phantom in cohort[:3]:
        assert tumour_volume_mm3(phantom) == pytest.approx(sum(t.volume_mm3 for t in phantom.tumours))


def test_a_cavity_is_air_inside_the_contour(patients: list[Phantom], volumes: list[np.ndarray]) -> None:
    phantom, volume = patients[3], volumes[3]
    tumour = phantom.tumours[0]
    assert tumour.kind == "cavity"
    centre = _voxel(phantom, tumour.centre)
    assert tumour_mask(phantom)[centre]
    assert volume[centre] < -850
    points = _inside(tumour)[0]
    wall = points[(tumour.level(points) < -2) & (tumour.level(points, tumour.cavity) > 2)]
    assert np.median([volume[_voxel(phantom, point)] for point in wall]) > -60


def test_lookalikes_have_the_ct_numbers_of_their_kind_and_no_contour(
    patients: list[Phantom], volumes: list[np.ndarray]
) -> None:
    seen = Counter()
    for phantom, volume in zip(patients, volumes, strict=True):
        mask = tumour_mask(phantom)
        for finding in phantom.lookalikes:
            at = _voxel(phantom, finding.centre)
            assert not mask[at]
            seen[finding.kind] += 1
            if finding.kind == "granuloma":
                # A small one fills part of a voxel only.
                assert volume[at] > (150 if finding.diameter_mm > 6 else -300)
            else:
                # Soft tissue; a thin vessel or plate shares its voxel with lung, which has -740 HU or less.
                assert -400 < volume[at] < 150
    assert set(seen) == {"lymph_node", "atelectasis", "granuloma", "vessel"}


def test_atelectasis_ends_at_the_pleura() -> None:
    """It replaces lung, not ribs and muscle."""
    drawn = (draw_phantom(3, number=number, slices=40, matrix=128, level="realistic") for number in range(1, 12))
    phantom = next(one for one in drawn if any(finding.kind == "atelectasis" for finding in one.lookalikes))
    others = tuple(finding for finding in phantom.lookalikes if finding.kind != "atelectasis")
    with_it, without, grid = hounsfield(phantom), hounsfield(replace(phantom, lookalikes=others)), phantom.grid
    changed = np.argwhere(np.abs(with_it - without) > 60)
    assert len(changed) > 50
    z, y, x = grid.z[changed[:, 0]], grid.y[changed[:, 1]], grid.x[changed[:, 2]]
    lungs = Sections(phantom.anatomy, x, y).lungs(z)
    # half a pixel's diagonal, half the blur of an edge, and a quarter of a slice
    assert (lungs < grid.spacing_mm[1] + 1 + grid.spacing_mm[0] / 4).all()


@pytest.mark.parametrize("index", [0, 3, 4])
def test_the_way_back_gives_the_analytic_mask(index: int, patients: list[Phantom], tmp_path: Path) -> None:
    phantom = patients[index]
    folder = write_phantom(phantom, tmp_path)
    truth = json.loads((folder / "truth.json").read_text())
    assert truth["level"] == "realistic"
    assert [one["kind"] for one in truth["tumours"]] == [tumour.kind for tumour in phantom.tumours]
    assert [one["kind"] for one in truth["lookalikes"]] == [finding.kind for finding in phantom.lookalikes]
    (patient,) = discover(tmp_path).series
    volume = read_volume(patient)
    assert np.allclose(np.diff(volume.geometry.positions_mm[:, 2]), phantom.grid.spacing_mm[0])
    contours = read_contours(patient.rtstructs[0])
    mask, account = mask_from_contours(contours, volume.geometry)
    expected = tumour_mask(phantom)
    assert account.used == account.total == len(tumour_contours(phantom))
    # Only voxels whose centre is within 0.01 mm or a chord's sagitta of the surface can change sides.
    assert (mask ^ expected).sum() <= max(2, 0.01 * expected.sum())


def test_patients_differ_from_the_easy_ones() -> None:
    easy, realistic = (draw_phantom(0, number=1, slices=12, matrix=64, level=level) for level in ("easy", "realistic"))
    assert not np.array_equal(hounsfield(easy), hounsfield(realistic))
    again = draw_phantom(0, number=1, slices=12, matrix=64, level="realistic")
    np.testing.assert_array_equal(hounsfield(again), hounsfield(realistic))
