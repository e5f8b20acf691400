"""The rules of older code: against what the packages themselves gave, and `authors_code` against a plain
transcription."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.contours.legacy_fill import fill_like
from data_pipeline.contours.mask import mask_from_contours
from data_pipeline.contours.rasterise import Polygon
from data_pipeline.contours.rtstruct import read_contours
from data_pipeline.dicom.discovery import discover
from data_pipeline.dicom.geometry import CTGeometry
from data_pipeline.dicom.volume import read_volume
from data_pipeline.settings import FillRule
from tests.data_pipeline.shapes import drawn, plain_geometry

# cv2.fillPoly (OpenCV 5.0) of a triangle and a square in one call: the square is a hole, its outline is set.
FILLED = """
................
.###............
.#######........
.###########....
.###...#######..
.###...#####....
.########.......
.#####..........
.##.............
................
"""
TRIANGLE, SQUARE = [(1, 1), (4, 13), (8, 1)], [(3, 3), (3, 7), (6, 7), (6, 3)]
# SHA-256 over cv2.fillPoly's uint8 masks (OpenCV 5.0) of the 400 polygon sets below.
FILLED_400 = "3c18ea0c3368079ab7403ac57bee39f08ca6be0913ea35f30f57b6b8dcfd78f2"


def layer(rule: FillRule, polygons: list, height: int, width: int) -> np.ndarray:
    mask = np.zeros((1, height, width), bool)
    fill_like(rule, mask, [Polygon(0, 0, np.asarray(vertices, float)) for vertices in polygons])
    return mask[0]


def test_rt_utils_fills_as_opencv_does():
    expected = np.array([[pixel == "#" for pixel in row] for row in FILLED.split()])
    np.testing.assert_array_equal(layer("rt_utils", [TRIANGLE, SQUARE], 10, 16), expected)
    generator, digest = np.random.default_rng(0), hashlib.sha256()
    for _ in range(400):
        count = generator.integers(1, 4)
        polygons = [generator.integers(2, 38, (generator.integers(3, 12), 2)) for _ in range(count)]
        digest.update(layer("rt_utils", polygons, 40, 40).astype(np.uint8).tobytes())
    assert digest.hexdigest() == FILLED_400


def test_dcmrtstruct2nii_xors_contours_edges_included():
    mask = layer("dcmrtstruct2nii", [[(1, 1), (1, 8), (8, 8), (8, 1)], SQUARE], 10, 10)
    expected = np.zeros((10, 10), bool)
    expected[1:9, 1:9] = True
    expected[3:7, 3:8] = False
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("seed", range(10))
def test_keras_fills_rows_then_columns_between_the_vertices(seed):
    generator = np.random.default_rng(seed)
    vertices = generator.uniform(1, 17, (9, 2))
    expected = np.zeros((20, 20), bool)
    for row, column in vertices:
        expected[int(np.ceil(row)), int(np.ceil(column))] = True
    for lines in (expected, expected.T):
        for line in lines:
            if line.any():
                line[line.argmax() : len(line) - line[::-1].argmax()] = True
    np.testing.assert_array_equal(layer("authors_code", [vertices], 20, 20), expected)


def test_keras_does_not_fill_where_contours_share_a_vertex():
    assert layer("authors_code", [TRIANGLE, [*TRIANGLE[:2], (9, 9)]], 20, 20).sum() == 4


@pytest.mark.parametrize("rule", ["rt_utils", "dcmrtstruct2nii", "authors_code"])
def test_rules_go_with_the_account(rule):
    geometry = plain_geometry(height=20, width=20)
    contours = [drawn(geometry, 1, TRIANGLE, 0), drawn(geometry, 1, [(501, 1), (504, 13), (508, 1)], 1)]
    mask, account = mask_from_contours(contours, geometry, fill_rule=rule)
    assert mask[1].sum() == mask.sum() == account.mask_voxels > 0
    assert account.used == 1 and account.rejected == ((1, "is outside the image"),)


def test_a_contour_without_area_has_pixels_by_the_older_rules_only():
    geometry = plain_geometry(height=20, width=20)
    line = drawn(geometry, 1, [(3, 2), (3, 9), (3, 5)])
    _, account = mask_from_contours([line], geometry, fill_rule="rt_utils")
    assert account.mask_voxels == 8 and account.polygon_volume_mm3 == 0
    np.testing.assert_allclose(account.mask_centroid_mm, (5.5, 3, 1))
    assert np.isnan(account.polygon_centroid_mm).all()


# Voxels by rt-utils 1.2.7 (`create_series_mask_from_contour_sequence`) and dcmrtstruct2nii 5 (`DcmPatientCoords2Mask`),
# run on LUNG1-001's own files; their masks were equal to ours in every voxel.
@pytest.mark.parametrize(
    ("rule", "roi", "voxels"),
    [
        ("rt_utils", "GTV-1", 56_637),
        ("rt_utils", "Lung-Left", 812_612),
        ("rt_utils", "Spinal-Cord", 17_581),
        ("dcmrtstruct2nii", "GTV-1", 54_639),
        ("dcmrtstruct2nii", "Spinal-Cord", 15_618),
        pytest.param("dcmrtstruct2nii", "Lung-Left", 795_750, marks=pytest.mark.slow),
    ],
)
def test_real_patient(lung1, rule, roi, voxels):
    geometry, path = lung1
    assert mask_from_contours(read_contours(path, roi), geometry, fill_rule=rule)[1].mask_voxels == voxels


@pytest.fixture(scope="module")
def lung1(real_patients) -> tuple[CTGeometry, Path]:
    patient = discover(real_patients / "lung1_001").series[0]
    return read_volume(patient).geometry, patient.rtstructs[0]
