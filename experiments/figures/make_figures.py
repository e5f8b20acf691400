"""Makes the pictures of README and documentation from a finished demo: `demo.png` and `page.png`.

    make demo
    python -m experiments.figures.make_figures --demo demo

`demo.png` is the overview of the segmented phantom, `page.png` a screenshot of the page of scores. Needs Chromium and
the extra `dev`, which installs Playwright. Costs some seconds. The plots `bench_*.png` are those that
`experiments.benchmarks.bench` writes.
"""

if not __package__:
    raise SystemExit("error: run this in the checkout as: python -m experiments.figures.make_figures")

import shutil
from pathlib import Path

from data_pipeline.errors import InputError
from data_pipeline.files import atomic_path
from experiments.common import script

HERE = Path(__file__).parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SCREEN = {"width": 1280, "height": 800}


def screenshot(page: Path, picture: Path) -> None:
    """Writes a picture (PNG, 1280 x 800 pixels) of a page of `rdunet evaluate --html` as Chromium shows it.

    Raises:
        InputError: Chromium or Playwright is not installed.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise InputError("no Chromium on the path; install it, for example with: apt-get install chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError as error:
        raise InputError("Playwright is not installed; install it with: pip install '.[dev]'") from error
    with sync_playwright() as playwright, atomic_path(picture) as path:
        # Chromium cannot use its sandbox as root, the usual user in a container; the page is our own.
        running = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        view = running.new_page(viewport=SCREEN)  # pyright: ignore[reportArgumentType]
        view.goto(page.resolve().as_uri())
        view.wait_for_selector("#frame[data-slice]")
        view.screenshot(path=path)
        running.close()


def main(demo: Path = Path("demo"), output: Path = HERE) -> None:
    """Make the pictures.

    Args:
        demo: Folder of a finished `rdunet demo`.
        output: Folder for the pictures.
    """
    overview = demo / "segmentation" / "overview.png"
    page = demo / "run" / "evaluation" / "test" / "page.html"
    for file in (overview, page):
        if not file.exists():
            raise InputError(f"{file}: not found; make it with: rdunet demo --output {demo}")
    with atomic_path(output / "demo.png") as path:
        shutil.copyfile(overview, path)
    screenshot(page, output / "page.png")
    script.make_console().print(f"pictures: {output / 'demo.png'}, {output / 'page.png'}", markup=False)


if __name__ == "__main__":
    script.run(main, __doc__)
