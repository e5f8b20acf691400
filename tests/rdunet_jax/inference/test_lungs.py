"""The restriction to the lungs on a drawn thorax: tumours that touch a lung survive, what is elsewhere does not."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from data_pipeline.phantom.phantom import draw_phantom, hounsfield, tumour_mask
from data_pipeline.phantom.realistic import TUMOUR_KINDS
from data_pipeline.preprocessing.intensity import AIR_HU
from data_pipeline.preprocessing.network_grid import to_network_grid
from data_pipeline.settings import GridShape, plane_shape
from rdunet_jax.config import PostprocessingConfig
from rdunet_jax.inference import lungs
from rdunet_jax.inference.components import Components
from rdunet_jax.inference.postprocessing import CTGrid, clean, near_lungs_on_ct

DEPTH, SIDE, MM = 12, 256, 1.5
"""Slices of 5 mm; on the canvas of 512 pixels the thorax takes the middle quarter."""
Y, X = np.mgrid[:SIDE, :SIDE] * MM - SIDE * MM / 2
LUNGS_ONLY = PostprocessingConfig(lungs_only=True)


def ellipse(x: float, y: float, width: float, height: float) -> np.ndarray:
    """A disk in mm from the middle of the slice, x to the patient's left, y to the back."""
    return ((X - x) / (width / 2)) ** 2 + ((Y - y) / (height / 2)) ** 2 <= 1


def ball(place: tuple[float, float, float], radius: float) -> np.ndarray:
    z = (np.arange(DEPTH) - DEPTH / 2)[:, None, None] * 5.0
    x, y, height = place
    return (X - x) ** 2 + (Y - y) ** 2 + (z - height) ** 2 <= radius**2


TUMOURS = {
    "in the lung": ball((70, 0, 0), 12),
    "on the chest wall": ball((127, 0, 0), 22),
    "in the mediastinum": ball((16, -20, 0), 18),
    "at the hilum": ball((-32, 0, 0), 14),
}
"""The second to the fourth begin outside of a lung and reach into it."""
ELSEWHERE = {
    "in the shoulder": ball((0, -98, 0), 7),
    "behind the spine": ball((0, 96, 0), 9),
    "in the bowel": ball((0, -75, -20), 6),
    "on the couch": ball((0, 135, 0), 6),
}


@pytest.fixture(scope="module")
def thorax() -> np.ndarray:
    """HU of a body of 330 by 220 mm with two lungs, a vertebra, gas in the bowel, and a couch of foam."""
    rng = np.random.default_rng(0)
    image = np.full((DEPTH, SIDE, SIDE), -1000.0)
    image[:, ellipse(0, 0, 330, 220)] = 40
    for x in (-72, 72):
        image[:, ellipse(x, 0, 100, 150)] = -850
    image[:, ellipse(0, 62, 30, 30)] = 300
    image[:3, ellipse(0, -75, 40, 18)] = -1000
    couch = (np.abs(Y - 135) < 16) & (np.abs(X) < 150)
    image[:, couch] = -50
    image[:, couch & (np.abs(Y - 135) < 12)] = -900
    for tumour in TUMOURS.values():
        image[tumour] = 40
    return np.rint(image + rng.normal(0, 30, image.shape)).astype(np.int16)


def ct_of(image: np.ndarray, size: GridShape) -> CTGrid:
    grid = to_network_grid(image, size, AIR_HU)
    height, width = image.shape[1:]
    return CTGrid(height, width, (MM, MM), np.full(len(image), 5.0), grid)


@pytest.mark.parametrize("size", [128, 256, (256, 128)])
def test_lungs_are_found_and_nothing_else(size: GridShape, thorax: np.ndarray) -> None:
    ct = ct_of(thorax, size)
    assert ct.hounsfield is not None
    row_mm, column_mm = (MM * 512 / extent for extent in plane_shape(size))
    found = lungs.find_lungs(ct.hounsfield, lungs.filled_part(SIDE, SIDE, size), ct.slice_mm, (row_mm, column_mm))
    drawn = np.broadcast_to(ellipse(-72, 0, 100, 150) | ellipse(72, 0, 100, 150), thorax.shape).copy()
    for tumour in TUMOURS.values():
        drawn &= ~tumour
    expected = to_network_grid(np.where(drawn, 100, 0).astype(np.int16), size, 0) > 50
    assert 2 * (found & expected).sum() / (found.sum() + expected.sum()) > 0.97


def union(masks: dict[str, np.ndarray]) -> np.ndarray:
    return np.logical_or.reduce(list(masks.values()))


@pytest.mark.parametrize("size", [128, 256, (256, 128)])
def test_what_touches_a_lung_survives_and_nothing_else(size: GridShape, thorax: np.ndarray) -> None:
    """None of these touches another, so each is a component."""
    everything = union(TUMOURS) | union(ELSEWHERE)
    cleaned, (note,) = clean(everything, ct_of(thorax, size), LUNGS_ONLY)
    for name, mask in (TUMOURS | ELSEWHERE).items():
        assert (cleaned & mask).sum() == (mask.sum() if name in TUMOURS else 0), name
    assert note.startswith("post-processing removed 4 of 8 components")


def test_distances_are_in_mm_where_pixels_are_not_square(thorax: np.ndarray) -> None:
    fine, coarse = (near_lungs_on_ct(ct_of(thorax, size)) for size in (256, (256, 128)))
    assert fine is not None and coarse is not None
    # a layer of a fraction of a pixel of 6 mm around two lungs; rows taken for columns give 0.90
    assert 2 * (fine & coarse).sum() / (fine.sum() + coarse.sum()) > 0.96


def test_the_cores_of_tumours_survive(thorax: np.ndarray) -> None:
    """A network may find less than the tumour: its inner 60% touch no aerated lung."""
    cores = {}
    for name, tumour in TUMOURS.items():
        depth = np.asarray(ndimage.distance_transform_edt(tumour, (5, MM, MM)))
        cores[name] = depth > 0.4 * depth.max()
        around = np.asarray(ndimage.binary_dilation(cores[name], np.ones((1, 3, 3))), bool)
        assert (thorax[around] > -400).all()
    cleaned, notes = clean(union(cores), ct_of(thorax, 256), LUNGS_ONLY)
    np.testing.assert_array_equal(cleaned, union(cores))
    assert notes == ()


def test_a_crop_whose_border_cuts_the_lungs_has_lungs(thorax: np.ndarray) -> None:
    """As the CTs of `rdunet sample-data`: neither the border nor the air around the crop takes the lung away."""
    crop = (slice(None), slice(60, 190), slice(120, 222))
    ct = ct_of(thorax[crop], 256)
    near = near_lungs_on_ct(ct)
    assert near is not None
    drawn = np.broadcast_to(ellipse(72, 0, 100, 150)[crop[1:]], near.shape)
    assert (near & drawn).sum() > 0.95 * drawn.sum()
    for name in ("in the lung", "on the chest wall", "in the mediastinum"):
        mask = TUMOURS[name][crop]
        np.testing.assert_array_equal(clean(mask, ct, LUNGS_ONLY)[0], mask, err_msg=name)


@pytest.mark.slow
def test_the_tumours_of_realistic_phantoms_survive() -> None:
    """Of every kind: at the chest wall, the hilum and the diaphragm, in the mediastinum, nodules and cavities."""
    kinds = set()
    for number in range(1, len(TUMOUR_KINDS) + 1):
        phantom = draw_phantom(3, number=number, slices=16, matrix=128, level="realistic")
        between_slices, *pixel_mm = phantom.grid.spacing_mm
        # on the canvas of 512 pixels the network's grid has the pixels of the CT
        image = to_network_grid(hounsfield(phantom), 512, AIR_HU)
        ct = CTGrid(128, 128, (pixel_mm[0], pixel_mm[1]), np.full(len(image), between_slices), image)
        near = near_lungs_on_ct(ct)
        assert near is not None and near.mean() < 0.35
        for tumour in phantom.tumours:
            mask = tumour_mask(replace(phantom, tumours=(tumour,)))
            kept = Components.of(mask, ct.voxel_mm3, near).kept(LUNGS_ONLY)
            assert len(kept) and kept.all(), tumour.kind
            kinds.add(tumour.kind)
    assert kinds == set(TUMOUR_KINDS)


def test_the_region_is_the_lungs_closed_by_a_disk_filled_and_one_voxel_wider() -> None:
    found = np.zeros((3, 40, 44), bool)
    found[1] = ndimage.gaussian_filter(np.random.default_rng(3).normal(size=(40, 44)), 3) > 0.1
    pixel_mm = (4.0, 6.0)
    reach = lungs.CLOSING_MM
    rows, columns = np.mgrid[-5:6, -4:5]
    disk = (rows * pixel_mm[0]) ** 2 + (columns * pixel_mm[1]) ** 2 <= reach**2
    grown = ndimage.binary_dilation(found[1], disk)
    # the pixels beyond the border are neither inside nor outside
    closed = ndimage.binary_erosion(grown, disk, border_value=1)
    expected = np.zeros_like(found)
    expected[1] = ndimage.binary_fill_holes(closed)
    expected = ndimage.binary_dilation(expected, np.ones((3, 3, 3)))
    np.testing.assert_array_equal(lungs.near_lungs(found, pixel_mm), expected)


def test_without_lungs_the_mask_is_kept_and_the_reader_is_warned() -> None:
    tissue = np.full((4, 64, 64), 40, np.int16)
    mask = np.zeros(tissue.shape, bool)
    mask[1, 5:9, 5:9] = mask[3, 40:, 40:] = True
    cleaned, notes = clean(mask, ct_of(tissue, 128), LUNGS_ONLY)
    np.testing.assert_array_equal(cleaned, mask)
    assert notes == ("no lungs were found in the CT, so the mask is not restricted to them",)


def test_hounsfield_units_are_needed() -> None:
    with pytest.raises(ValueError, match="Hounsfield"):
        clean(np.ones((2, 8, 8), bool), CTGrid(8, 8, (1.0, 1.0), np.ones(2)), LUNGS_ONLY)
