"""The pictures of the documentation, made from a page of one small patient."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipeline.errors import InputError
from experiments.figures import make_figures
from rdunet_jax.page.write import Page, PagePatient


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """A folder as `rdunet demo` leaves it, with one patient of 12 slices."""
    truth = np.zeros((12, 20, 24), bool)
    truth[4:8, 6:12, 6:12] = True
    image = np.where(truth, 40, -800).astype(np.int16)
    patient = PagePatient("phantom", image, (3.0, 1.0, 1.0), truth, truth.astype(np.float32), truth, {"mean Dice": 1.0})
    page = tmp_path / "demo" / "run" / "evaluation" / "test" / "page.html"
    written = Page()
    written.add(patient)
    written.write(page, "Scores", {"All patients": [{"Dice": 1.0}]})
    (tmp_path / "demo" / "segmentation").mkdir()
    Image.new("RGB", (30, 20)).save(tmp_path / "demo" / "segmentation" / "overview.png")
    return tmp_path / "demo"


def test_both_pictures_are_written(demo: Path, tmp_path: Path) -> None:
    if not any(map(shutil.which, make_figures.BROWSERS)):
        pytest.skip("no Chromium on the path (Debian: apt-get install chromium)")
    pytest.importorskip("playwright.sync_api")
    make_figures.main(demo, tmp_path / "figures")
    overview = demo / "segmentation" / "overview.png"
    assert (tmp_path / "figures" / "demo.png").read_bytes() == overview.read_bytes()
    shown = np.asarray(Image.open(tmp_path / "figures" / "page.png").convert("RGB"))
    assert shown.shape == (800, 1280, 3)
    assert (shown == (0x56, 0xB4, 0xE9)).all(axis=-1).any()  # the outline of the reference is there


def test_what_is_missing_is_named(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make_figures, "BROWSERS", ())
    with pytest.raises(InputError, match="no Chromium"):
        make_figures.main(demo, tmp_path / "figures")
    with pytest.raises(InputError, match="rdunet demo"):
        make_figures.main(tmp_path / "none", tmp_path / "figures")
    assert not (tmp_path / "figures" / "page.png").exists()
