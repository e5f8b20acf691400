"""Keys, strip, tables, themes and names of the page's controls, in Chromium."""

import re
from dataclasses import replace

import numpy as np
import pytest

from tests.rdunet_jax.page.pages import assert_windowed, canvas, go, small_patient, write


def test_keys_go_through_the_slices(small):
    go(small, 15)
    small.locator("#slice").blur()
    presses = {
        "ArrowRight": 16, "ArrowUp": 17, "ArrowLeft": 16, "ArrowDown": 15, "PageUp": 25, "PageDown": 15,
        "End": 39, "n": 39, "m": 19, "Home": 0, "ArrowLeft ": 0, "n ": 10, "m ": 10,
    }  # fmt: skip
    for key, expected in presses.items():
        small.keyboard.press(key.strip())
        small.wait_for_selector(f"#frame[data-slice='{expected}']", timeout=2000)
        assert f"Slice {expected + 1} of 40" in small.locator("[aria-live]").text_content()
        assert small.locator("#slice").input_value() == str(expected + 1)
    # On the window's own sliders arrows belong to the slider.
    small.locator("#level").press("ArrowRight")
    assert small.locator("#frame").get_attribute("data-slice") == "10"
    assert small.locator("#level").input_value() == "-590"


def test_a_slice_that_is_late_does_not_cover_a_newer_one(small):
    """Each picture asked for is made to come earlier than the one before."""
    go(small, 0)
    small.evaluate("""async () => {
        const decode = Image.prototype.decode;
        let wait = 200;
        Image.prototype.decode = async function () {
            const mine = (wait -= 4);
            await decode.call(this);
            await new Promise((done) => setTimeout(done, mine));
        };
        for (let index = 1; index < 10; index++) goTo(index);
        await new Promise((done) => setTimeout(done, 400));
    }""")
    assert small.locator("#frame").get_attribute("data-slice") == "9"
    assert_windowed(canvas(small, "image"), small_patient().image[9], -600, 1500)


def test_question_mark_opens_help_and_escape_closes_it(small):
    small.keyboard.press("?")
    assert small.locator("#help").is_visible()
    before = small.locator("#slice").input_value()
    small.keyboard.press("End")  # does nothing meanwhile
    small.keyboard.press("Escape")
    assert not small.locator("#help").is_visible()
    assert small.locator("#slice").input_value() == before


def test_strip_tells_right_from_wrong_and_leads_to_the_slice(small):
    bars = small.locator("#bars")
    # Slices 10 and 11 have tumour and no prediction; 20 to 23 and 30 the reverse.
    key = small.locator("#strip-key").text_content()
    assert "truth: 10 slices" in key and "false positive: 5" in key and "missed: 2" in key
    assert (bars.locator("path.mark").count(), bars.locator("circle.mark").count()) == (5, 2)
    assert bars.locator("rect.bar").count() == 8
    # Dice of 12..19: 6x8 each, overlap 5x7.
    area, heights = 2 * 35 / 96, [float(bar.get_attribute("height")) for bar in bars.locator("rect.bar").all()]
    np.testing.assert_allclose(heights, area * (74 - 7), atol=0.01)  # Dice is stored to four digits
    size = bars.bounding_box()
    bars.click(position={"x": 28 + (size["width"] - 32) * 30.5 / 40, "y": 30})
    small.wait_for_selector("#frame[data-slice='30']")
    assert "false positive" in small.locator("[aria-live]").text_content()


def test_without_truth_the_strip_shows_the_predicted_area(open_page, tmp_path):
    patient = replace(small_patient(), truth=None, probabilities=None)
    page = open_page(write(tmp_path / "page.html", patient))
    assert "cm²" in page.locator("#strip-title").text_content()
    assert not page.locator("#show-truth").is_visible() and not page.locator("#show-probability").is_visible()
    page.keyboard.press("Home")
    page.keyboard.press("n")
    page.wait_for_selector("#frame[data-slice='12']")
    assert "0.7 cm²" in page.locator("[aria-live]").text_content()  # 48 pixels of 1.5 mm²


def test_tables_and_the_choice_of_patient(open_page, tmp_path):
    page = open_page(write(tmp_path / "page.html", small_patient("a"), small_patient("b")))
    assert page.locator("#tables td").all_text_contents() == [
        *("paper", "0.250", "authors_code", "–"),
        *("a", "0.500", "–", "b", "0.500", "–"),
    ]
    page.get_by_role("button", name="b", exact=True).click()
    assert page.locator("#patient").input_value() == "1"
    assert page.locator("#frame").get_attribute("aria-label").startswith("CT of b.")


def test_it_opens_at_the_worst_slice_and_lists_patients_with_their_score(open_page, tmp_path):
    patient = small_patient()
    assert patient.truth is not None
    truth, prediction = patient.truth.copy(), patient.prediction.copy()
    prediction[:] = truth
    prediction[17, 5:8] = False  # half of its tumour is missed: the lowest Dice of all
    prediction[14, 5] = False
    worst = replace(small_patient("a"), prediction=prediction)
    page = open_page(write(tmp_path / "page.html", worst, replace(small_patient("b"), truth=None, scores={})))
    page.wait_for_selector("#frame[data-slice='17']")
    assert page.locator("option").all_text_contents() == ["a · mean Dice 0.500", "b"]
    page.locator("#patient").select_option("1")  # without truth: the largest area, of which it has several
    page.wait_for_selector("#frame[data-slice='12']")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_is_enough_in_both_themes(open_page, tmp_path, scheme):
    """WCAG 2.2 AA: 4.5 for text, 3 for what is drawn."""
    page = open_page(write(tmp_path / "page.html", small_patient()), color_scheme=scheme)
    colours = page.evaluate(
        """() => {
            const ground = (e) => { const c = getComputedStyle(e).backgroundColor;
                return c === "rgba(0, 0, 0, 0)" ? ground(e.parentElement) : c; };
            const of = (selector, property) => { const e = document.querySelector(selector);
                return [selector, getComputedStyle(e)[property], ground(e)]; };
            return [
                ...["h1", "#notes", "#theme", "[aria-pressed=true]", "[aria-pressed=false]", ".hint", "#where", "dt",
                    "#strip-key span", ".table th", "footer"].map((s) => [...of(s, "color"), 4.5]),
                [...of("#bars text", "fill"), 4.5],
                ...["#bars .bar", "#bars .truth", "#bars .prediction"].map((s) => [...of(s, "fill"), 3]),
                [...of("#bars .mark", "stroke"), 3],
            ];
        }"""
    )

    def luminance(colour: str) -> float:
        channels = np.array([int(value) for value in re.findall(r"\d+", colour)[:3]]) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ (0.2126, 0.7152, 0.0722))

    for selector, front, back, least in colours:
        dark, bright = sorted((luminance(front), luminance(back)))
        assert (bright + 0.05) / (dark + 0.05) >= least, selector


def test_the_theme_follows_the_system_and_its_button(open_page, tmp_path):
    page = open_page(write(tmp_path / "page.html", small_patient()), color_scheme="dark")

    def brightness() -> int:
        return page.evaluate("Number(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])")

    assert brightness() < 60
    page.locator("#theme").click()
    assert brightness() > 200
    page.locator("#theme").click()
    assert brightness() < 60


def test_every_control_has_a_name_and_shows_its_focus(small):
    nameless = """() => [...document.querySelectorAll("input, select, button")].filter((e) =>
        !(e.labels?.length || e.getAttribute("aria-label") || e.textContent.trim())).map((e) => e.id)"""
    assert small.evaluate(nameless) == []
    for _ in range(4):
        small.keyboard.press("Tab")
        assert small.evaluate("parseFloat(getComputedStyle(document.activeElement).outlineWidth)") >= 2
