"""Contours to masks: against known areas and an independent oracle, and every contour that is not as it should be."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import ImplicitVRLittleEndian
from rich.console import Console

from data_pipeline.contours.mask import mask_from_contours
from data_pipeline.contours.rtstruct import Contour, read_contours
from data_pipeline.dicom.discovery import discover
from data_pipeline.dicom.files import quiet_pydicom
from data_pipeline.dicom.hounsfield import air_fraction
from data_pipeline.dicom.volume import read_volume
from data_pipeline.errors import InputError
from data_pipeline.sample_data import fetch_sample_data
from tests.data_pipeline.dicom_files import contour, uid, write_rtstruct, write_series
from tests.data_pipeline.shapes import SHAPES, drawn, inside, plain_geometry, random_geometry, rotation

SQUARE = [(2.5, 2.5), (2.5, 8.5), (8.5, 8.5), (8.5, 2.5)]  # 36 pixel centres
SEEDS = st.integers(0, 2**32 - 1)


# --- the rule ---


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


def assert_equal_off_the_edges(mask: np.ndarray, expected: np.ndarray, distance: np.ndarray) -> None:
    """Vertices are rounded by half a millionth of a pixel: a centre that chance puts there may fall either way."""
    clear = distance > 1e-5
    np.testing.assert_array_equal(mask[clear], expected[clear])


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


# --- contours that are not as they should be ---

GEOMETRY = plain_geometry()
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
    "there and back": (dict(points_mm=OPEN[[0, 1, 0, 1]]), "encloses no pixel center"),
    "empty": (dict(points_mm=OPEN[:0]), "has no points"),
    "open": (dict(geometric_type="OPEN_PLANAR"), "is OPEN_PLANAR, not closed"),
    "open in space": (dict(geometric_type="OPEN_NONPLANAR"), "is OPEN_NONPLANAR, not closed"),
    "off image": (dict(points_mm=moved(200, 0, 0)), "is outside the image"),
    "between centres": (dict(points_mm=OPEN * [0.01, 0.01, 1] + [5.2, 5.2, 0]), "encloses no pixel center"),
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


def test_a_contour_over_the_border_is_cut():
    mask, account = mask_from_contours([drawn(GEOMETRY, 1, np.array(SQUARE) - [6, 0], 3)], GEOMETRY)
    assert mask.sum() == 18 and account.repaired == ((3, "cut at the border of the image"),)


def test_no_voxel_at_all_is_an_error_with_the_reasons():
    points = [drawn(GEOMETRY, 1, SQUARE[:1], number, geometric_type="POINT") for number in range(3)]
    with pytest.raises(InputError, match=r"none of 3 contours gives a voxel \(3 x has 1 points, .*\)"):
        mask_from_contours(points, GEOMETRY)
    with pytest.raises(InputError, match="none of 0 contours"):
        mask_from_contours([], GEOMETRY)


# --- files ---


@pytest.mark.parametrize(
    ("name", "matches"),
    [(name, True) for name in ("GTV-1", "gtv1", "GTV_1 ", "GTV 1", " Gtv-1")]
    + [(name, False) for name in ("GTV-10", "gtv_nr_7", "GTV-2", "xGTV-1", "GTV", "GTV-1b", "gtv-supral")],
)
def test_the_default_roi(tmp_path, name, matches):
    series = write_series(tmp_path / "ct")
    path = write_rtstruct(tmp_path / "rs", {"Lung": [], name: [contour(series.points(1, SQUARE))]}, series)
    if matches:
        (one,) = read_contours(path)
        assert one.roi_name == name.strip() or one.roi_name == name.rstrip()
    else:
        with pytest.raises(InputError, match=f"no ROI matches .* it has: Lung, {name}$"):
            read_contours(path)


def test_contours_are_read_as_written(tmp_path):
    series = write_series(tmp_path / "ct")
    written = [
        contour(series.points(1, SQUARE), series.uids[1]),
        contour(series.points(2, SQUARE)),
        contour(series.points(2, SQUARE), kind=None),
    ]
    path = write_rtstruct(tmp_path / "rs", {"GTV-1": written, "GTV-2": written[:1], "Heart": written[:1]}, series)
    contours = read_contours(path)
    assert [(one.number, one.roi_name, one.roi_number) for one in contours] == [
        (index, "GTV-1", 1) for index in range(3)
    ]
    assert [one.sop_instance_uid for one in contours] == [series.uids[1], None, None]
    assert [one.geometric_type for one in contours] == ["CLOSED_PLANAR", "CLOSED_PLANAR", ""]
    np.testing.assert_allclose(contours[0].points_mm, series.points(1, SQUARE), atol=1e-6)
    assert contours[0].frame_of_reference_uid == series.frame_uid
    assert [(one.roi_name, one.number) for one in read_contours(path, r"gtv-\d")][2:] == [("GTV-1", 2), ("GTV-2", 0)]


@pytest.mark.parametrize("data", ["1\\2", "1\\x\\3 ", "1\\\\3 "])
def test_coordinates_that_are_no_coordinates_are_rejected_one_by_one(tmp_path, data):
    series = write_series(tmp_path / "ct")
    broken = Dataset()
    broken.ContourGeometricType = "CLOSED_PLANAR"
    tag = Tag("ContourData")
    broken[tag] = RawDataElement(tag, "DS", len(data), data.encode(), 0, False, True)
    path = write_rtstruct(tmp_path / "rs", {"GTV-1": [contour(series.points(1, SQUARE)), broken]}, series)
    (patient,) = discover(tmp_path).series
    _, account = mask_from_contours(read_contours(path), read_volume(patient).geometry)
    assert account.rejected == ((1, "its coordinates are not a list of x, y, z"),) and account.used == 1


def test_files_without_usable_contours_are_one_clear_line(tmp_path):
    series = write_series(tmp_path / "ct")
    nothing = write_rtstruct(tmp_path / "nothing", {}, series)
    (tmp_path / "text").write_text("text")
    for message, path in (
        ("the ROI has no contours.*: GTV-1", write_rtstruct(tmp_path / "listed", {"GTV-1": None}, series)),
        ("the ROI has no contours.*: GTV-1", write_rtstruct(tmp_path / "empty", {"GTV-1": []}, series)),
        ("it has: none", nothing),
        ("not an RTSTRUCT", series.files[0]),
        ("not DICOM", tmp_path / "text"),
        ("FileNotFoundError", tmp_path / "gone"),
    ):
        with pytest.raises(InputError, match=message) as error:
            read_contours(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(InputError, match="not a regular expression"):
        read_contours(nothing, "gtv(")


@pytest.mark.parametrize(
    ("roi", "name"),
    [
        ("GTV-1 (CT)", "GTV-1 (CT)"),  # parentheses, taken literally
        ("gtv+", " GTV+"),
        ("Tumeur pulmonaire é", "Tumeur pulmonaire e\u0301"),  # composed and decomposed
        ("GTV-1", "\uff27\uff34\uff36-1"),  # full-width letters of Japanese systems
        ("gtv.*", "GTV 1"),
    ],
)
def test_rois_are_found_by_literal_name_and_in_any_unicode_form(tmp_path, roi, name):
    series = write_series(tmp_path / "ct")
    square = [contour(series.points(1, SQUARE))]
    path = write_rtstruct(
        tmp_path / "rs",
        {"Lung": square, name: square},
        series,
        edit=lambda dataset: setattr(dataset, "SpecificCharacterSet", "ISO_IR 192"),
    )
    assert {one.roi_number for one in read_contours(path, roi)} == {2}


def test_a_literal_name_goes_before_the_pattern(tmp_path):
    series = write_series(tmp_path / "ct")
    square = [contour(series.points(1, SQUARE))]
    path = write_rtstruct(tmp_path / "rs", {"GTV.": square, "GTV1": square}, series)
    assert [one.roi_name for one in read_contours(path, "gtv.")] == ["GTV."]


def renumber_roi(dataset):
    """Another organ gets the tumor's number, in the list of ROIs and in the contours."""
    dataset.StructureSetROISequence[1].ROINumber = 1
    dataset.ROIContourSequence[1].ReferencedROINumber = 1


def renumber_contours(dataset):
    dataset.ROIContourSequence[1].ReferencedROINumber = 1


@pytest.mark.parametrize("edit", [renumber_roi, renumber_contours])
def test_a_number_that_stands_for_two_rois_is_refused(tmp_path, edit):
    series = write_series(tmp_path / "ct")
    square, lung = ([contour(series.points(index, SQUARE))] for index in (1, 2))
    path = write_rtstruct(tmp_path / "rs", {"GTV-1": square, "Lung": lung, "Heart": lung}, series, edit=edit)
    with pytest.raises(InputError, match="ROI number 1, so that contours cannot be assigned"):
        read_contours(path)
    assert len(read_contours(path, "Heart")) == 1  # whose number is its own


def test_names_of_rois_cannot_break_a_message(tmp_path):
    series = write_series(tmp_path / "ct")
    with quiet_pydicom():
        path = write_rtstruct(tmp_path / "rs", {"a\nb": [], "\x1b[31mred": [], "x" * 500: []}, series)
    with pytest.raises(InputError) as error:
        read_contours(path)
    assert error.value.quoted == "a b, [31mred, " + 63 * "x" + "…" and "\n" not in str(error.value)


def test_contours_with_too_many_points_are_rejected(tmp_path):
    """Beyond any drawn contour, and in a syntax that can hold them (PS3.5 7.1.2: explicit VR ends at 64 kB)."""
    series = write_series(tmp_path / "ct")
    item = contour(series.points(1, SQUARE))
    tag = Tag("ContourData")
    text = b"0\\0\\0\\" * 100_000 + b"0\\0\\0"
    item[tag] = RawDataElement(tag, "DS", len(text), text, 0, True, True)

    def implicit(dataset):
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian

    path = write_rtstruct(tmp_path / "rs", {"GTV-1": [contour(series.points(1, SQUARE)), item]}, series, edit=implicit)
    good, bad = read_contours(path)
    assert not good.fault and bad.fault == "has more than 100000 points" and not len(bad.points_mm)


def test_points_without_preamble_as_pydicom_ships_them():
    path = Path(str(get_testdata_file("rtstruct.dcm")))
    contours = [one for one in read_contours(path, ".*") if one.geometric_type == "POINT"]
    assert contours
    with pytest.raises(InputError, match="which enclose nothing"):
        mask_from_contours(contours, GEOMETRY)


@pytest.mark.parametrize("seed", range(5))
def test_from_files_to_mask_in_any_orientation(tmp_path, seed):
    generator = np.random.default_rng(seed)
    axes = rotation(generator)
    series = write_series(
        tmp_path / "ct", height=30, width=19, spacing=(2.5, 0.6, 0.9), orientation=tuple(axes[:2].ravel())
    )
    outline = [(4 + generator.uniform(-2, 2), 3), (24, 5.3), (27.2, 14.9), (11.7, 16.2)]
    hole = [(9.3, 7.2), (18.1, 8.8), (15.4, 12.6)]
    drawn_on = [contour(series.points(2, points), series.uids[2]) for points in (outline, hole)]
    write_rtstruct(tmp_path / "rs", {"GTV-1": drawn_on}, series)
    (patient,) = discover(tmp_path).series
    geometry = read_volume(patient).geometry
    contours = read_contours(patient.rtstructs[0])
    mask, account = mask_from_contours(contours, geometry)
    assert_equal_off_the_edges(mask[2], *inside(contours, geometry, 2))
    assert account.used == 2 and not account.repaired and mask.sum() == mask[2].sum() > 100


def test_a_file_in_another_frame_is_told(tmp_path):
    series = write_series(tmp_path / "ct")
    path = write_rtstruct(tmp_path / "rs", {"GTV-1": [contour(series.points(1, SQUARE))]}, series, frame=uid(66))
    (patient,) = discover(tmp_path).series
    with pytest.raises(InputError, match="1 x is in another frame of reference"):
        mask_from_contours(read_contours(path), read_volume(patient).geometry)


# --- real patients ---


@pytest.mark.parametrize(("number", "slices", "used", "volume_mm3"), [(0, 60, 26, 358_661), (1, 134, 21, 156_346)])
def test_real_patients(real_patients, number, slices, used, volume_mm3):
    patient = discover(real_patients).series[number]
    volume = read_volume(patient)
    geometry = volume.geometry
    contours = read_contours(patient.rtstructs[0])
    mask, account = mask_from_contours(contours, geometry)
    assert air_fraction(volume.hounsfield, mask) < 0.006
    assert mask.shape[0] == slices and mask.any(axis=(1, 2)).sum() == used
    assert account.used == account.total == used and not account.rejected and not account.repaired
    assert account.polygon_volume_mm3 == pytest.approx(volume_mm3, abs=1)
    assert account.mask_volume_mm3 == pytest.approx(volume_mm3, rel=0.005)
    apart = np.diff(geometry.to_index(np.array([account.mask_centroid_mm, account.polygon_centroid_mm])), axis=0)
    assert np.abs(apart).max() < 0.5
    assert_equals_the_oracle(mask, contours, geometry)


def assert_equals_the_oracle(mask, contours, geometry) -> None:
    """Voxel for voxel; the slices' contours of these patients are one each."""
    seen = set()
    for one in contours:
        index = int(np.rint(geometry.to_index(one.points_mm)[0, 0]))
        seen.add(index)
        on_slice = [c for c in contours if int(np.rint(geometry.to_index(c.points_mm)[0, 0])) == index]
        pixels = np.concatenate([geometry.to_pixels(c.points_mm, index) for c in on_slice])
        (top, left), (bottom, right) = pixels.min(axis=0).astype(int) - 1, pixels.max(axis=0).astype(int) + 3
        (top, left), (bottom, right) = np.maximum((top, left), 0), np.minimum((bottom, right), geometry.shape[1:])
        expected = inside(on_slice, geometry, index, rows=(top, bottom), columns=(left, right))[0]
        np.testing.assert_array_equal(mask[index, top:bottom, left:right], expected)
        assert mask[index].sum() == expected.sum()
    assert set(np.flatnonzero(mask.any(axis=(1, 2)))) <= seen


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
