"""Chromium, and a page opened in it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rdunet_jax.page.pages import CHROMIUM, small_patient, write


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no chromium on the path (Debian: apt-get install chromium)")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        # Chromium refuses to sandbox as root, which is what CI is.
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def open_page(browser) -> Iterator:
    """Opens a page, and at the end asserts that it wrote nothing to the console and asked for nothing."""
    opened, errors, requests = [], [], []

    def opener(path: Path, **options):
        page = browser.new_page(viewport={"width": 1280, "height": 900}, **options)
        page.on("console", lambda message: errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector("#frame[data-slice]", timeout=10_000)
        opened.append(page)
        return page

    yield opener
    for page in opened:
        page.close()
    assert errors == []
    assert {url for url in requests if not url.startswith("data:")} <= {page.url for page in opened}


@pytest.fixture
def small(open_page, tmp_path):
    return open_page(write(tmp_path / "page.html", small_patient()))
