"""Small pages for the tests, and how a test reads what Chromium shows."""

import shutil
from pathlib import Path

import numpy as np

from rdunet_jax.page.write import Page, PagePatient

CHROMIUM = shutil.which("chromium")


SHAPE = (40, 20, 24)
"""So that ten slices on and back are not yet the ends."""


def box(slices: slice, rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[slices, rows, columns] = True
    return mask


def small_patient(name: str = "patient-1") -> PagePatient:
    """Uneven pixels, a tumour on slices 10..19, predicted on 12..23; slice 30 is predicted where there is none."""
    rng = np.random.default_rng(0)
    prediction = box(slice(12, 24), slice(6, 12), slice(5, 13)) | box(slice(30, 31), slice(2, 4), slice(18, 20))
    probabilities = np.zeros((SHAPE[0], 10, 12), np.float32)
    probabilities[12:24, 3:6, 2:6] = rng.uniform(0.5, 1, (12, 3, 4))
    return PagePatient(
        name,
        rng.integers(-390, 1500, SHAPE).astype(np.int16),  # nowhere air, so nothing is cropped
        (3.0, 1.0, 1.5),
        prediction,
        probabilities,
        box(slice(10, 20), slice(5, 11), slice(4, 12)),
        {"mean Dice": 0.5, "no tumour": float("nan")},
    )


def write(path: Path, *patients: PagePatient, title: str = "Results") -> Path:
    tables = {"Summary": [{"protocol": "paper", "Dice": 0.25}, {"protocol": "authors_code", "Dice": None}]}
    page = Page()
    for patient in patients:
        page.add(patient)
    page.write(path, title, tables, ["One note."])
    return path


def go(page, wanted: int) -> None:
    page.locator("#slice").fill(str(wanted + 1))
    page.wait_for_selector(f"#frame[data-slice='{wanted}']")


def canvas(page, name: str) -> np.ndarray:
    """The canvas' RGBA, (height, width, 4) int."""
    script = """name => { const c = document.getElementById(name);
        return [c.height, c.width, ...c.getContext("2d").getImageData(0, 0, c.width, c.height).data]; }"""
    height, width, *values = page.evaluate(script, name)
    return np.array(values).reshape(height, width, 4)


def assert_windowed(shown: np.ndarray, hounsfield: np.ndarray, level: float, width: float) -> None:
    """Grey is the unit's place in the window, but for half a step of its code and half a grey level for rounding."""
    expected = np.clip((hounsfield - (level - width / 2)) / width, 0, 1) * 255
    half_step = np.select([hounsfield < -200, hounsfield < 300], [4, 2], 20)
    excess = np.abs(shown[..., 0] - expected) - half_step * 255 / width - 0.5
    assert excess.max() < 1e-9, (hounsfield.flat[excess.argmax()], shown[..., 0].flat[excess.argmax()])
    assert (shown[..., 0] == shown[..., 1]).all() and (shown[..., 0] == shown[..., 2]).all()
    assert (shown[..., 3] == 255).all()
