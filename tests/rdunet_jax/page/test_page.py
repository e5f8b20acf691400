"""What the page stores, how large it is, and what it keeps out."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rdunet_jax.page import write as page_module
from rdunet_jax.page.write import PagePatient
from tests.rdunet_jax.page.pages import SHAPE, go, small_patient, write

HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>&amp;\u2028"


def test_a_hostile_name_is_only_shown(open_page, tmp_path):
    patient = replace(small_patient(HOSTILE), scores={HOSTILE: HOSTILE})
    page = open_page(write(tmp_path / "page.html", patient, title=HOSTILE))
    assert page.evaluate("window.hacked") is None
    assert page.locator("h1").text_content() == HOSTILE
    assert page.locator("option").text_content() == f"{HOSTILE} · {HOSTILE} {HOSTILE}"
    assert page.locator("#scores dt").text_content() == HOSTILE
    assert page.title() == HOSTILE


def test_the_policy_stops_foreign_scripts_and_requests(browser, tmp_path):
    """That the pages above ask for nothing could be luck; here something tries."""
    path = write(tmp_path / "page.html", small_patient())
    path.write_text(path.read_text().replace("</main>", "</main><script>window.hacked = 1</script>"))
    page = browser.new_page()
    page.goto(path.as_uri())
    assert page.evaluate("window.hacked") is None
    script = "url => fetch(url).then(() => 'sent', error => error.message)"
    assert page.evaluate(script, "https://localhost:9/") == "Failed to fetch"
    violations = page.evaluate(
        """() => new Promise(done => {
            document.addEventListener("securitypolicyviolation", event => done(event.effectiveDirective));
            fetch("https://localhost:9/").catch(() => {});
            setTimeout(() => done("nothing was stopped"), 2000);
        })"""
    )
    assert violations == "connect-src"
    page.close()


def scan(depth: int = 120, side: int = 512) -> PagePatient:
    """A CT's texture: smooth organs in a round body, noise of 35 HU that neighbours share in part, air around."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    organs = 400 * np.sin(9 * x + 2 * y) * np.cos(7 * y) - 400
    noise = rng.normal(0, 50, (depth, side + 1, side)).astype(np.float32)
    noise = (noise[:, 1:] + noise[:, :-1]) / 2
    image = (np.where(x**2 + (y / 0.8) ** 2 < 0.85, organs, -1000).astype(np.float32) + noise).astype(np.int16)
    heights = np.arange(depth)[:, None, None] / depth
    distance = np.sqrt((x - 0.3) ** 2 + y**2 + (2 * heights - 1) ** 2).astype(np.float32)
    probabilities = np.clip(1.3 - 3 * distance + rng.normal(0, 0.1, distance.shape), 0, 1)
    return PagePatient(
        "scan",
        image,
        (3.0, 0.98, 0.98),
        probabilities > 0.6,
        probabilities[:, ::2, ::2].astype(np.float32),
        distance < 0.2,
    )


@pytest.mark.slow
def test_a_whole_scan_opens_in_two_seconds_and_stays_under_15_mb(open_page, tmp_path):
    path = write(tmp_path / "page.html", scan())
    assert 5e6 < path.stat().st_size < 15e6
    tries = []
    for _ in range(3):
        start = time.perf_counter()
        page = open_page(path)
        tries.append((time.perf_counter() - start, page))
    seconds, page = min(tries, key=lambda one: one[0])  # the best: other tests use the machine too
    width = page.evaluate("document.getElementById('image').width")
    print(f"{path.stat().st_size / 1e6:.1f} MB, {width} pixels wide, open after {seconds:.2f} s")
    assert seconds < 2
    for wanted in (0, 119):
        go(page, wanted)


def test_patients_share_the_largest_side_at_which_all_fit(open_page, tmp_path, monkeypatch):
    """Incompressible images, so that their bytes are known: side² a slice, a third more in base64."""
    rng = np.random.default_rng(4)
    image = rng.integers(1, 256, (SHAPE[0], 80, 80)).astype(np.uint8)
    patients = [replace(small_patient(name), image=image, probabilities=None) for name in "abc"]
    monkeypatch.setattr(page_module, "SIDES", (80, 40))
    whole = SHAPE[0] * 80**2 * 4 / 3

    def width_and_held(limit: float) -> tuple[int, int]:
        monkeypatch.setattr(page_module, "MAX_BYTES", limit)
        page = open_page(write(tmp_path / "page.html", *patients))
        assert (tmp_path / "page.html").stat().st_size < limit + 50_000
        width = page.evaluate("document.getElementById('image').width")
        return width, page.evaluate("data.patients.filter((patient) => patient.image).length")

    # Masks, headers of the PNGs and quotes take less than a tenth at side 80, and less than half at side 40.
    assert width_and_held(3 * 1.1 * whole) == (80, 3)
    assert width_and_held(3 * whole) == (40, 3)
    assert width_and_held(2 * 1.5 * whole / 4) == (40, 2)
    page = open_page(tmp_path / "page.html")
    page.locator("#patient").select_option("2")
    assert page.locator("#missing").is_visible() and not page.locator("#image").is_visible()
    assert page.locator("#bars rect.bar").count() == 8


def test_a_page_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = write(tmp_path / "new" / "page.html", small_patient())
    before = path.read_bytes()

    def no_room(*_) -> None:
        raise OSError("disk gone")

    monkeypatch.setattr(Path, "write_bytes", no_room)
    with pytest.raises(OSError, match="disk gone"):
        write(path, small_patient("again"))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_the_same_patients_give_the_same_page(tmp_path):
    first, second = (write(tmp_path / name, small_patient()) for name in ("a.html", "b.html"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.zeros(SHAPE, np.float32)}, "image is float32"),
        ({"image": np.zeros((3, 4, 4), np.uint8)}, r"have \[3, 40, 40, 40\] slices"),
        ({"truth": np.zeros((40, 20, 25), bool)}, "differ in shape"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(unchecked_shapes, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "page.html", replace(small_patient(), **change))
    assert list(tmp_path.iterdir()) == []
