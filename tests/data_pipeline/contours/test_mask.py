"""Contours to masks: against an oracle, known areas, the rule of edges, repairs and rejections."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from data_pipeline.contours.mask import mask_from_contours
from data_pipeline.contours.rtstruct import Contour, read_contours
from data_pipeline.dicom.discovery import discover
from data_pipeline.dicom.volume import read_volume
from data_pipeline.errors import InputError
from data_pipeline.sample_data import fetch_sample_data
from tests.data_pipeline.contours.drawings import GEOMETRY, SQUARE, assert_equal_off_the_edges, assert_equals_the_oracle
from tests.data_pipeline.shapes import SHAPES, drawn, inside, plain_geometry, random_geometry

SEEDS = st.integers(0, 2**32 - 1)


def shape_on(name: str, geometry, slice_index: int, generator) -> tuple[list[Contour], float]:
    """A shape at a random place of a slice, large or small, sometimes over the border; its contours and area in mm2."""
    height, width = np.array(geometry.shape[1:]) * geometry.pixel_spacing_mm
    radius = generator.uniform(0.1, 0.6) * min(height, width)
    shape = SHAPES[name](radius, generator.uniform(0, 7))
    centre = generator.uniform(0.2, 0.8, 2) * (height, width)
    contours = [
        drawn(geometry, slice_index, (centre + polygon) / geometry.pixel_spacing_mm, number)
        for number, polygon in enumerate(shape.polygons)
    ]
    return contours, shape.area


@pytest.mark.parametrize("name", SHAPES)
@given(seed=SEEDS)
@settings(max_examples=40, deadline=None)
def test_masks_equal_the_oracle_and_volumes_the_known_area(name, seed):
    generator = np.random.default_rng(seed)
    geometry = random_geometry(generator)
    contours, area = shape_on(name, geometry, 1, generator)
    expected, distance = inside(contours, geometry, 1)
    if not expected.any():
        with pytest.raises(InputError, match="gives a voxel"):
            mask_from_contours(contours, geometry)
        return
    mask, account = mask_from_contours(contours, geometry)
    assert_equal_off_the_edges(mask[1], expected, distance)
    assert not mask[[0, 2]].any()
    assert account.used + len(account.rejected) == account.total == len(contours)
    assert account.mask_voxels == mask.sum()
    if account.rejected:
        return
    assert account.polygon_volume_mm3 == pytest.approx(area * geometry.spacing_mm[0], rel=1e-5)
    if not account.repaired:  # wholly on the image: a pixel can differ only if the outline meets it
        half_diagonal = np.hypot(*geometry.pixel_spacing_mm) / 2
        bound = (distance <= half_diagonal).sum() * geometry.voxel_volume_mm3
        assert abs(account.mask_volume_mm3 - account.polygon_volume_mm3) <= bound


@given(seed=SEEDS, uneven=st.booleans())
@settings(max_examples=30, deadline=None)
def test_every_slice_gets_its_own(seed, uneven):
    """Several shapes a slice on several slices, drawn in any order, on sheared and uneven stacks."""
    generator = np.random.default_rng(seed)
    geometry = random_geometry(generator, depth=5, uneven=uneven)
    drawings = [
        [one for name in generator.choice(list(SHAPES), 2) for one in shape_on(name, geometry, index, generator)[0]]
        for index in range(5)
    ]
    oracle = [inside(contours, geometry, index) for index, contours in enumerate(drawings)]
    contours = [one for contours in drawings for one in contours]
    mask, account = mask_from_contours([contours[index] for index in generator.permutation(len(contours))], geometry)
    for layer, (expected, distance) in zip(mask, oracle, strict=True):
        assert_equal_off_the_edges(layer, expected, distance)
    voxels = geometry.to_patient(np.argwhere(mask).astype(float))
    np.testing.assert_allclose(account.mask_centroid_mm, voxels.mean(axis=0), atol=1e-6)


@given(seed=SEEDS, rotated=st.booleans())
@settings(max_examples=60, deadline=None)
def test_polygons_that_share_edges_neither_overlap_nor_leave_gaps(seed, rotated):
    """A polygon cut into triangles with vertices on pixel centres and halves, so that many centres lie on edges."""
    generator = np.random.default_rng(seed)
    geometry = random_geometry(generator) if rotated else plain_geometry()
    angles = np.sort(generator.uniform(0, 2 * np.pi, generator.integers(3, 12)))
    hub = np.array([13.0, 10.0])
    radii = 9 * generator.uniform(0.3, 1, len(angles))
    rim = np.rint((hub + np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)) * 2) / 2
    total = np.zeros(geometry.shape, int)
    for one, other in zip(rim, np.roll(rim, -1, axis=0), strict=True):
        try:
            total += mask_from_contours([drawn(geometry, 1, np.stack([hub, one, other]))], geometry)[0]
        except InputError:  # too small to hold a centre
            continue
    try:
        whole = mask_from_contours([drawn(geometry, 1, rim)], geometry)[0]
    except InputError:
        whole = np.zeros(geometry.shape, bool)
    np.testing.assert_array_equal(total % 2, whole)
    (y, x), (next_y, next_x) = (rim - hub).T, (np.roll(rim, -1, axis=0) - hub).T
    if (y * next_x - x * next_y <= 0).all():  # no triangle is turned over by the rounding
        assert total.max() <= 1


def test_a_centre_on_an_edge_belongs_towards_higher_rows_and_columns():
    mask, account = mask_from_contours([drawn(plain_geometry(), 1, [(3, 4), (3, 8), (6, 8), (6, 4)])], plain_geometry())
    expected = np.zeros((26, 21), bool)
    expected[3:6, 4:8] = True
    np.testing.assert_array_equal(mask[1], expected)
    assert account.mask_volume_mm3 == account.polygon_volume_mm3 == 12


def test_the_edge_rule_survives_any_orientation():
    """Vertices on pixel centres come back from the patient's axes with rounding noise, which must not decide."""
    lattice = [(3, 4), (3, 12), (9, 12), (15, 4)]
    expected = mask_from_contours([drawn(plain_geometry(), 1, lattice)], plain_geometry())[0]
    for seed in range(20):
        geometry = random_geometry(np.random.default_rng(seed))
        np.testing.assert_array_equal(mask_from_contours([drawn(geometry, 1, lattice)], geometry)[0], expected)


def test_islands_in_holes_and_contours_that_cross():
    def box(low, high):
        return [(low, low), (low, high), (high, high), (high, low)]

    geometry = plain_geometry()
    nested = [
        drawn(geometry, 1, box(*ends), number) for number, ends in enumerate([(0.5, 18.5), (3.5, 15.5), (6.5, 9.5)])
    ]
    mask, account = mask_from_contours(nested, geometry)
    assert mask.sum() == account.polygon_volume_mm3 == 18**2 - 12**2 + 3**2
    crossing = [drawn(geometry, 1, box(*ends), number) for number, ends in enumerate([(0.5, 9.5), (5.5, 15.5)])]
    mask, account = mask_from_contours(crossing, geometry)
    assert mask.sum() == account.polygon_volume_mm3 == 9**2 + 10**2 - 2 * 4**2
    np.testing.assert_allclose(account.polygon_centroid_mm, account.mask_centroid_mm)


def test_rois_are_merged_not_combined_by_even_odd():
    geometry = plain_geometry()
    contours = [drawn(geometry, 1, SQUARE, 0), drawn(geometry, 1, SQUARE, 0, roi_number=2, roi_name="GTV-2")]
    mask, account = mask_from_contours(contours, geometry)
    assert mask.sum() == 36 and account.used == 2 and not account.rejected


OPEN = drawn(GEOMETRY, 1, [*SQUARE, SQUARE[0]]).points_mm


def moved(*by: float) -> np.ndarray:
    return OPEN + np.array(by)


REPAIRED = {
    "ends meet": (dict(points_mm=OPEN, geometric_type="OPEN_PLANAR"), "called open, but its ends meet"),
    "no type": (dict(geometric_type=""), "has no geometric type, taken as closed"),
    "no such image": (dict(sop_instance_uid="9.9"), "references an image not in the series; placed by position"),
    "another slice": (dict(sop_instance_uid="1.2.0"), "references an image elsewhere; placed by position"),
    "off plane": (dict(points_mm=moved(0, 0, 0.2)), "moved 0.20 mm onto its slice"),
    "off plane, no image": (
        dict(points_mm=moved(0, 0, -0.4), sop_instance_uid=None),
        "moved 0.40 mm onto its slice",
    ),
    "thick": (dict(points_mm=OPEN + np.linspace(-0.1, 0.1, 5)[:, None] * [0, 0, 1]), "flattened (0.20 mm thick)"),
    "other frame": (
        dict(frame_of_reference_uid="7.7"),
        "names another frame of reference, though it references the slice that it is on",
    ),
}


@pytest.mark.parametrize(("fields", "how"), REPAIRED.values(), ids=REPAIRED.keys())
def test_repairs_give_the_mask_that_was_meant(fields, how):
    one = drawn(GEOMETRY, 1, SQUARE, 5)
    mask, account = mask_from_contours([Contour(**{**vars(one), **fields})], GEOMETRY)
    assert mask[1].sum() == mask.sum() == 36
    assert account.repaired == ((5, how),) and account.used == account.total == 1


@pytest.mark.parametrize(
    "fields",
    [
        dict(sop_instance_uid=None),
        dict(geometric_type="CLOSEDPLANAR_XOR"),
        dict(frame_of_reference_uid="1.3"),
        dict(points_mm=OPEN),
    ],
)
def test_what_is_in_order_is_not_called_repaired(fields):
    one = drawn(GEOMETRY, 1, SQUARE)
    mask, account = mask_from_contours([Contour(**{**vars(one), **fields})], GEOMETRY)
    assert mask.sum() == 36 and not account.repaired and not account.rejected


REJECTED = {
    "point": (dict(points_mm=OPEN[:1], geometric_type="POINT"), "has 1 points, which enclose nothing"),
    "two points": (dict(points_mm=OPEN[:2]), "has 2 points, which enclose nothing"),
    "one point thrice": (dict(points_mm=OPEN[[0, 0, 0]]), "has 0 different points, which enclose nothing"),
    "there and back": (dict(points_mm=OPEN[[0, 1, 0, 1]]), "encloses no pixel centre"),
    "empty": (dict(points_mm=OPEN[:0]), "has no points"),
    "open": (dict(geometric_type="OPEN_PLANAR"), "is OPEN_PLANAR, not closed"),
    "open in space": (dict(geometric_type="OPEN_NONPLANAR"), "is OPEN_NONPLANAR, not closed"),
    "off image": (dict(points_mm=moved(200, 0, 0)), "is outside the image"),
    "between centres": (dict(points_mm=OPEN * [0.01, 0.01, 1] + [5.2, 5.2, 0]), "encloses no pixel centre"),
    "beyond the stack": (
        dict(points_mm=moved(0, 0, 2)),
        "has no slice within half a slice spacing (the nearest is 1.00 mm away)",
    ),
    "upright": (dict(points_mm=OPEN[:, [0, 2, 1]]), "is not in the plane of a slice (spans 6.00 mm)"),
    "not a number": (dict(points_mm=OPEN * np.nan), "has impossible coordinates"),
    "astronomic": (dict(points_mm=OPEN * 1e200), "has impossible coordinates"),
    "unreadable": (dict(points_mm=OPEN[:0], fault="is broken"), "is broken"),
    "other frame": (dict(frame_of_reference_uid="7.7", sop_instance_uid=None), "is in another frame of reference"),
    "twice": (
        dict(points_mm=drawn(GEOMETRY, 2, SQUARE).points_mm, sop_instance_uid="1.2.2"),
        "repeats another contour",
    ),
    "twice, turned": (
        dict(points_mm=drawn(GEOMETRY, 2, [*SQUARE[2::-1], SQUARE[3]]).points_mm, sop_instance_uid="1.2.2"),
        "repeats another contour",
    ),
}


@pytest.mark.parametrize(("fields", "why"), REJECTED.values(), ids=REJECTED.keys())
def test_rejections_leave_the_others_alone(fields, why):
    good, bad = drawn(GEOMETRY, 2, SQUARE, 0), Contour(**{**vars(drawn(GEOMETRY, 1, SQUARE, 1)), **fields})
    mask, account = mask_from_contours([good, bad], GEOMETRY)
    assert mask[2].sum() == mask.sum() == 36
    assert account.rejected == ((1, why),) and account.used == 1 and account.total == 2
    assert account.polygon_volume_mm3 == pytest.approx(36)


@pytest.mark.parametrize("finer", [2, 3])
@pytest.mark.parametrize("reverse", [False, True])
def test_contours_of_a_finer_reconstruction_do_not_cancel_each_other(finer, reverse):
    """A body that tapers over 3 slices: its contours on the planes of the slices alone give the mask."""
    contours = []
    for step in range(-finer, finer + 1):
        half = 4 - abs(step / finer)  # in pixels
        square = np.array([(-half, -half), (-half, half), (half, half), (half, -half)]) + 6
        plain = drawn(GEOMETRY, 1, square, step + finer, sop_instance_uid=None)
        contours.append(Contour(**{**vars(plain), "points_mm": plain.points_mm + np.array([0, 0, step / finer])}))
    on_slices = [one for one in contours if (one.number - finer) % finer == 0]
    expected, exact = mask_from_contours(on_slices, GEOMETRY)
    mask, account = mask_from_contours(contours[::-1] if reverse else contours, GEOMETRY)
    np.testing.assert_array_equal(mask, expected)
    assert account.polygon_volume_mm3 == exact.polygon_volume_mm3 == pytest.approx(64 + 2 * 36)
    why = "is between slices, and its slice has contours on a nearer plane"
    assert {reason for _, reason in account.rejected} == {why} and account.used == 3


def test_of_two_planes_equally_near_the_lower_one_is_used():
    small = np.array(SQUARE) * 0.5 + 3
    below, above = drawn(GEOMETRY, 1, SQUARE, 0), drawn(GEOMETRY, 1, small, 1)
    both = [
        Contour(**{**vars(one), "points_mm": one.points_mm + np.array([0, 0, off])})
        for one, off in ((above, 0.3), (below, -0.3))
    ]
    mask, account = mask_from_contours(both, GEOMETRY)
    assert mask[1].sum() == mask.sum() == 36 and [number for number, _ in account.rejected] == [1]


def test_a_hole_that_is_a_rounding_error_off_its_outline_stays_a_hole():
    hole = drawn(GEOMETRY, 1, np.array(SQUARE) * 0.5 + 3, 1)
    hole = Contour(**{**vars(hole), "points_mm": hole.points_mm + np.array([0, 0, 0.05])})
    mask, account = mask_from_contours([drawn(GEOMETRY, 1, SQUARE, 0), hole], GEOMETRY)
    assert mask.sum() == 36 - 9 and account.used == 2


def test_a_contour_over_the_border_is_cut():
    mask, account = mask_from_contours([drawn(GEOMETRY, 1, np.array(SQUARE) - [6, 0], 3)], GEOMETRY)
    assert mask.sum() == 18 and account.repaired == ((3, "cut at the border of the image"),)


def test_no_voxel_at_all_is_an_error_with_the_reasons():
    points = [drawn(GEOMETRY, 1, SQUARE[:1], number, geometric_type="POINT") for number in range(3)]
    with pytest.raises(InputError, match=r"none of 3 contours gives a voxel \(3 x has 1 points, .*\)"):
        mask_from_contours(points, GEOMETRY)
    with pytest.raises(InputError, match="none of 0 contours"):
        mask_from_contours([], GEOMETRY)


@pytest.mark.slow  # downloads 26 MB
def test_the_sample_patients_equal_the_oracle(tmp_path):
    try:
        fetch_sample_data(tmp_path / "sample", console=Console(quiet=True))
    except InputError as error:
        if "could not download" not in str(error):
            raise
        pytest.skip(f"the sample patients cannot be had here: {error}")
    patients = discover(tmp_path / "sample").series
    assert len(patients) == 4
    for patient in patients:
        geometry = read_volume(patient).geometry
        contours = read_contours(patient.rtstructs[0])
        mask, account = mask_from_contours(contours, geometry)
        assert account.used == account.total == len(contours) and not account.rejected
        assert_equals_the_oracle(mask, contours, geometry)
