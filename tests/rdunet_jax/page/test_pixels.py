"""What the page shows of image, masks and probabilities, pixel by pixel, in Chromium."""

import io
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from rdunet_jax.page.write import HU_OF_CODE, PagePatient
from tests.rdunet_jax.page.pages import SHAPE, assert_windowed, box, canvas, go, small_patient, write

BLUE, ORANGE = (0x56, 0xB4, 0xE9), (0xE6, 0x9F, 0x00)


def seen(page) -> np.ndarray:
    """The frame as shown on the screen, (height, width, 3) int."""
    return np.asarray(Image.open(io.BytesIO(page.locator("#frame").screenshot())).convert("RGB")).astype(int)


@pytest.mark.parametrize(("key", "level", "width"), [("1", -600, 1500), ("2", 40, 400), ("3", 250, 2500)])
def test_windows_map_hounsfield_units_to_grey(small, key, level, width):
    small.keyboard.press(key)
    go(small, 7)
    assert_windowed(canvas(small, "image"), small_patient().image[7], level, width)


def test_level_and_width_follow_their_sliders(small):
    go(small, 3)
    small.locator("#level").fill("100")
    small.locator("#width").fill("600")
    assert_windowed(canvas(small, "image"), small_patient().image[3], 100, 600)
    assert small.locator("output[for=width]").text_content() == "600"
    assert small.locator("[aria-pressed=true]").count() == 0


def test_codes_of_hounsfield_units_are_fine_where_it_matters():
    steps = np.diff(HU_OF_CODE)
    middles = (HU_OF_CODE[1:] + HU_OF_CODE[:-1]) / 2
    np.testing.assert_allclose(steps[middles < -200], 8)
    np.testing.assert_allclose(steps[(middles > -200) & (middles < 300)], 4)
    np.testing.assert_allclose(steps[middles > 300], 40)


GREY = np.random.default_rng(1).integers(1, 256, SHAPE).astype(np.uint8)


def test_grey_values_are_shown_as_they_are(open_page, tmp_path):
    page = open_page(write(tmp_path / "page.html", replace(small_patient(), image=GREY)))
    go(page, 5)
    np.testing.assert_array_equal(canvas(page, "image")[..., 0], GREY[5])
    assert page.locator("#window-title").text_content() == "Window, grey values"
    assert page.locator("[data-level]:visible").all_text_contents() == ["All 1"]


def test_grey_values_have_a_window(open_page, tmp_path):
    page = open_page(write(tmp_path / "page.html", replace(small_patient(), image=GREY)))
    go(page, 5)
    page.locator("#level").fill("100")
    page.locator("#width").fill("50")
    expected = np.clip((GREY[5] - 75.0) / 50, 0, 1) * 255
    np.testing.assert_allclose(canvas(page, "image")[..., 0], expected, atol=0.51)  # rounded


def test_each_kind_of_image_has_a_window_of_its_own(open_page, tmp_path):
    grey = replace(small_patient("grey"), image=GREY)
    page = open_page(write(tmp_path / "page.html", grey, small_patient("units")))
    go(page, 5)
    page.locator("#level").fill("100")
    page.keyboard.press("1")
    page.keyboard.press("2")  # has no meaning here
    assert page.locator("#level").input_value() == "127.5"
    page.locator("#patient").select_option("1")
    page.wait_for_selector("#frame[data-slice='10']")  # the first of the lowest Dice
    assert page.locator("#window-title").text_content() == "Window, HU"
    assert page.locator("[data-level]:visible").count() == 3
    assert_windowed(canvas(page, "image"), small_patient().image[10], -600, 1500)


def test_a_ct_is_shown_at_its_own_resolution_where_the_page_has_room(open_page, tmp_path):
    shape = (2, 20, 640)
    image = np.random.default_rng(3).integers(-390, 300, shape).astype(np.int16)
    mask, probabilities = np.zeros(shape, bool), np.zeros(shape, np.float32)
    page = open_page(write(tmp_path / "page.html", PagePatient("wide", image, (3.0, 0.7, 0.7), mask, probabilities)))
    go(page, 0)
    assert_windowed(canvas(page, "image"), image[0], -600, 1500)
    assert canvas(page, "probability").shape[:2] == (8, 256)


def edges(path: str, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The horizontal and vertical pixel edges that an SVG path of M, h and v runs along."""
    horizontal, vertical = np.zeros((shape[0] + 1, shape[1]), int), np.zeros((shape[0], shape[1] + 1), int)
    for x, y, direction, run in re.findall(r"M(\d+) (\d+)([hv])(\d+)", path):
        x, y, run = int(x), int(y), int(run)
        if direction == "h":
            horizontal[y, x : x + run] += 1
        else:
            vertical[y : y + run, x] += 1
    return horizontal, vertical


def test_outlines_are_the_borders_of_the_masks(open_page, tmp_path):
    """Also of ragged ones that touch the border and have holes, against the mask's differences."""
    ragged = np.random.default_rng(2).random(SHAPE) > 0.5
    truth = small_patient().truth
    assert truth is not None
    page = open_page(write(tmp_path / "page.html", replace(small_patient(), prediction=ragged)))
    go(page, 11)
    for kind, mask in (("prediction", ragged[11]), ("truth", truth[11])):
        padded = np.pad(mask, 1).astype(int)
        for line in page.locator(f"path.{kind}").all():
            horizontal, vertical = edges(line.get_attribute("d"), mask.shape)
            np.testing.assert_array_equal(horizontal, np.abs(np.diff(padded, axis=0))[:, 1:-1])
            np.testing.assert_array_equal(vertical, np.abs(np.diff(padded, axis=1))[1:-1])


def test_outlines_are_seen_where_the_masks_end_and_can_be_hidden(small):
    go(small, 15)
    picture = seen(small)
    height, width = picture.shape[:2]
    assert width / height == pytest.approx(24 * 1.5 / 20, rel=0.01)  # a pixel of the screen in hundreds

    def at(row: float, column: float) -> np.ndarray:
        """Three pixels of the screen, one above the other: a thin line may lie between two."""
        y = round(row / 20 * height)
        return seen(small)[y - 1 : y + 2, round(column / 24 * width)]

    def nearest(pixels: np.ndarray, colour: tuple[int, int, int]) -> int:
        return np.abs(pixels - colour).max(axis=1).min()

    # Truth is rows 5..10 and columns 4..11, so its upper border is y = 5; the prediction's lower one is y = 12.
    for key, place, colour in (("t", (5, 7.5), BLUE), ("p", (12, 8.5), ORANGE)):
        assert nearest(at(*place), colour) < 90  # blended by at most a third with a rim that is nearly black
        small.keyboard.press(key)
        assert (np.ptp(at(*place), axis=1) == 0).all()  # grey
        small.keyboard.press(key)
        assert nearest(at(*place), colour) < 90
    small.locator("#show-truth").uncheck()
    assert (np.ptp(at(5, 7.5), axis=1) == 0).all()


def test_probability_is_a_translucent_layer_over_the_image(small):
    go(small, 15)
    assert not small.locator("#probability").is_visible()
    before = seen(small)
    small.keyboard.press("h")
    after = seen(small)
    probabilities = small_patient().probabilities
    assert probabilities is not None
    percents = np.rint(100 * probabilities[15])
    layer = canvas(small, "probability")
    np.testing.assert_allclose(layer[..., 3], 255 * 0.7 * np.sqrt(percents / 100), atol=0.51)  # rounded
    sure = percents > 90
    np.testing.assert_allclose(layer[sure][:, 1], 40 + 1.9 * percents[sure], atol=2.5)  # alpha 0.66 is stored rounded
    height, width = before.shape[:2]
    changed = (before != after).any(axis=-1)
    # Probability pixels cover rows 6..11 and columns 4..11 of the mask's, and blend into the next half outside.
    inside = changed[int(0.35 * height) : int(0.55 * height), int(0.25 * width) : int(0.45 * width)]
    assert inside.mean() > 0.5  # outlines lie on top
    assert not changed[int(0.7 * height) :].any() and not changed[:, int(0.6 * width) : int(0.9 * width)].any()


def test_cropped_image_lies_under_its_masks(open_page, tmp_path):
    """The body is rows 8..17 and columns 6..21: the view shows just that, and the outline keeps to the bright box."""
    image = np.full(SHAPE, -1000, np.int16)
    image[:, 8:18, 6:22] = -200
    mask = box(slice(5, 9), slice(10, 14), slice(12, 18))
    image[mask] = 300
    path = write(tmp_path / "page.html", replace(small_patient(), image=image, truth=mask, prediction=mask))
    page = open_page(path, color_scheme="dark")  # the frame's round corners show what is behind it
    assert page.locator("#outlines").get_attribute("viewBox") == "6 8 16 10"
    page.keyboard.press("h")
    frame, layer = (page.locator(selector).bounding_box() for selector in ("#frame", "#probability"))
    right, down = frame["width"] / 16, frame["height"] / 10  # of a mask's pixel; the probabilities cover 24 x 20
    found = layer["x"] - frame["x"], layer["y"] - frame["y"], layer["width"], layer["height"]
    np.testing.assert_allclose(
        found, (-6 * right, -8 * down, 24 * right, 20 * down), atol=0.1
    )  # browsers round to 1/64
    page.keyboard.press("h")
    page.keyboard.press("2")
    page.keyboard.press("p")
    page.keyboard.press("t")
    bare = seen(page)[..., 0] > 128
    height, width = bare.shape
    rows, columns = np.flatnonzero(bare.any(axis=1)), np.flatnonzero(bare.any(axis=0))
    found = rows[0] / height * 10 + 8, (rows[-1] + 1) / height * 10 + 8, columns[0] / width * 16 + 6
    np.testing.assert_allclose(found, (10, 14, 12), atol=0.3)  # enlarged smoothly, half grey lies near the edge
    page.keyboard.press("p")
    orange = np.abs(seen(page) - ORANGE).sum(axis=-1) < 100
    rows, columns = np.flatnonzero(orange.any(axis=1)), np.flatnonzero(orange.any(axis=0))
    found = rows[0] / height * 10 + 8, rows[-1] / height * 10 + 8, columns[0] / width * 16 + 6
    np.testing.assert_allclose(found, (10, 14, 12), atol=0.1)  # two pixels of some forty a voxel


def test_sides_are_marked_where_they_are_known(open_page, tmp_path):
    page = open_page(write(tmp_path / "page.html", replace(small_patient(), sides=("R", "L")), small_patient("b")))
    left, right = (page.locator(name).bounding_box() for name in ("#left-side", "#right-side"))
    assert page.locator(".side").all_text_contents() == ["R", "L"] and left["x"] < right["x"]
    page.locator("#patient").select_option("1")
    assert page.locator(".side").all_text_contents() == ["", ""]
