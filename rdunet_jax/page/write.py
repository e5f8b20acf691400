"""One self-contained HTML page to look at segmentations: score tables, a strip of Dice per slice, and the slices.

The page asks for nothing over the network. Its content security policy admits only its own script and style, by their
hashes, and images that are part of the page, so that no name in the data can run. All data is one block of JSON:

| what          | stored as                                                                                  |
|---------------|--------------------------------------------------------------------------------------------|
| image         | a PNG a slice, cropped to the body, at most `side` pixels on a side; HU by `HU_OF_CODE`    |
| probabilities | a PNG a slice of whole percents, at most `side` and 256 pixels on a side                   |
| masks         | a PNG of one bit a pixel for each slice that is not empty, at full resolution              |

`side` is the largest of `SIDES` at which all patients fit in the page; the first of them is the CT's own resolution.
Where even the smallest does not do, patients beyond the limit have scores and strip but no slices, and the page says
so. LUNG1-001 (134 slices) is shown at 384 pixels: at its own 440, without air, its image alone would take 16.4 MB.
"""

import base64
import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Shaped
from PIL import Image

from data_pipeline.settings import PREDICTION_COLOUR, REFERENCE_COLOUR
from rdunet_jax.files import write_whole
from rdunet_jax.scoring.slices import score_slices

SIDES: tuple[int, ...] = (4096, 512, 384, 256, 192, 128)
"""No CT is larger than the first; most are 512 x 512."""
MAX_BYTES = 14_500_000
"""Of the slices of all patients, in base64; script, style and scores are far below the half megabyte that is left."""

# 256 codes for Hounsfield units: steps of 8 HU in lung, 4 in soft tissue, 40 in bone. So a lung window of 1500 HU is
# true to 0.3%, a mediastinal one of 400 HU to 0.5%: below the noise of a CT and about what an eye can tell.
_CODES = (0, 100, 225, 255)
_HU = (-1000, -200, 300, 1500)
HU_OF_CODE = np.interp(np.arange(256), _CODES, _HU)
_BODY_HU = -400
_PROBABILITY_SIDE = 256
"""Of the networks' own grid; they change too little over a few pixels to be worth more bytes."""

Cell = str | int | float | None
Table = Sequence[Mapping[str, Cell]]
"""Rows that map column to cell; the first row's columns are the table's."""


@dataclass(frozen=True)
class PagePatient:
    """One patient on the page. Image and probabilities may be finer or coarser than the masks in plane.

    They must cover the same field: what was predicted on a padded canvas has to be cut back to the CT's.
    """

    name: str
    """Shown as it is: a pseudonym, never an identity."""
    image: Shaped[np.ndarray, "depth rows columns"]
    """int16 is Hounsfield units; uint8 is stored grey values."""
    spacing_mm: tuple[float, float, float]
    """Between slices, rows and columns of the masks."""
    prediction: Bool[np.ndarray, "depth height width"]
    probabilities: Float32[np.ndarray, "depth grid_rows grid_columns"] | None = None
    truth: Bool[np.ndarray, "depth height width"] | None = None
    scores: Mapping[str, Cell] = field(default_factory=dict)
    """The patient's row in the table of patients; the list of patients shows the first."""
    sides: tuple[str, str] | None = None
    """Letters for the left and the right edge of the image, such as ("R", "L"); None where they are not known."""


class Page:
    """A page that takes one patient after the other, so that only one is in memory.

    All of `SIDES` that are still possible are kept until `write`, a page's size each, so a patient is read only once.

    Args:
        finest: pixels on a side beyond which the images hold no more detail.
    """

    def __init__(self, finest: int = SIDES[0]) -> None:
        sides = [finest, *(side for side in SIDES if side < finest)]
        self._heads: list[dict[str, Any]] = []
        self._slices: dict[int, list[dict[str, Any]]] = {side: [] for side in sides}
        self._used: dict[int, int] = dict.fromkeys(sides, 0)

    def add(self, patient: PagePatient) -> None:
        """Takes a patient.

        Raises:
            ValueError: its arrays differ in depth, its masks in shape, or the image has another dtype.
        """
        head = _head(patient)
        masks = {"prediction": _masks(patient.prediction), "truth": _masks(patient.truth)}
        body = _body(patient)
        own = max(part.stop - part.start for part in body)  # a larger side changes nothing
        made = {side: masks | _pictures(patient, body, side) for side in {min(one, own) for one in self._slices}}
        sizes = {side: len(json.dumps(pictures)) for side, pictures in made.items()}
        smallest = min(self._slices)
        self._heads.append(head)  # from here on nothing can fail
        for side in list(self._slices):
            pictures, size = made[min(side, own)], sizes[min(side, own)]
            if self._used[side] + size <= MAX_BYTES:
                self._used[side] += size
                self._slices[side].append(pictures)
            elif side != smallest:
                del self._slices[side]
            else:
                self._slices[side].append({})

    def write(self, path: Path, title: str, tables: Mapping[str, Table], notes: Sequence[str] = ()) -> None:
        """Writes the page, whole or not at all; it stays under 15 MB.

        Args:
            path: the `.html` file, replaced if it exists.
            tables: by caption. The patients' own `scores` make one more.
            notes: sentences under the title, such as which network and post-processing.
        """
        slices = self._slices[max(self._slices)]
        content = {
            "title": title,
            "notes": list(notes),
            "tables": [{"caption": caption, "rows": _plain(rows)} for caption, rows in tables.items()],
            "hounsfield": HU_OF_CODE.tolist(),
            "patients": [head | pictures for head, pictures in zip(self._heads, slices, strict=True)],
        }
        colours = f":root {{ --prediction-color: {PREDICTION_COLOUR}; --reference-color: {REFERENCE_COLOUR}; }}\n"
        style, script = colours + _part("page.css"), _part("page.js") + _part("strip.js")
        page = Template(_part("page.html")).substitute(
            title=escape(title),
            style=style,
            style_hash=_hash(style),
            script=script,
            script_hash=_hash(script),
            # In a script element only "<" can end or start anything.
            data=json.dumps(content, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
        )
        write_whole(path, page)


def _part(name: str) -> str:
    return (resources.files("rdunet_jax.page") / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """As a content security policy names a script or style (CSP level 2)."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _plain(rows: Table) -> list[dict[str, Cell]]:
    """JSON has no NaN and no infinity: a score that is not finite is an empty cell."""

    def cell(value: Any) -> Cell:
        value = value.item() if isinstance(value, np.generic) else value
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return [{column: cell(value) for column, value in row.items()} for row in rows]


def _head(patient: PagePatient) -> dict[str, Any]:
    """All of a patient that is not pictures."""
    image, prediction, truth = patient.image, patient.prediction, patient.truth
    if image.dtype not in (np.int16, np.uint8):
        raise ValueError(f"{patient.name}: image is {image.dtype}, but must be int16 (HU) or uint8 (grey values)")
    depths = [len(array) for array in (image, prediction, patient.probabilities, truth) if array is not None]
    if len(set(depths)) > 1:
        raise ValueError(f"{patient.name}: image, prediction, probabilities and truth have {depths} slices")
    row_mm, column_mm = patient.spacing_mm[1:]
    head = {
        "name": patient.name,
        "scores": _plain([patient.scores])[0],
        "depth": len(prediction),
        "height": prediction.shape[1],
        "width": prediction.shape[2],
        "spacing": [float(millimetres) for millimetres in patient.spacing_mm],
        "hounsfield": image.dtype == np.int16,
        "sides": patient.sides,
        "area": (prediction.sum(axis=(1, 2)) * row_mm * column_mm / 100).round(2).tolist(),  # cm²
        "predicted": prediction.any(axis=(1, 2)).tolist(),
    }
    if truth is not None:
        scores = score_slices(prediction, truth)
        head |= {
            "dice": scores.dice.round(4).tolist(),
            "tumour": scores.tumour.tolist(),
            "falsePositive": scores.false_positive.tolist(),
            "falseNegative": scores.false_negative.tolist(),
        }
    return head


def _pictures(patient: PagePatient, body: tuple[slice, slice], side: int) -> dict[str, Any]:
    """Image and probabilities, at most `side` pixels on a side."""
    image = patient.image
    rows, columns = body
    is_hounsfield = image.dtype == np.int16

    def stored(plane: np.ndarray) -> np.ndarray:
        small = _reduced(plane[rows, columns], side)
        return np.interp(small, _HU, _CODES) if is_hounsfield else small

    crop = [rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start]
    pictures: dict[str, Any] = {
        # As fractions of the field: (top, left, height, width).
        "crop": [edge / extent for edge, extent in zip(crop, image.shape[1:] * 2, strict=True)],
        "image": [_png(Image.fromarray(np.rint(stored(plane)).astype(np.uint8))) for plane in image],
    }
    if patient.probabilities is not None:
        fewer = min(side, _PROBABILITY_SIDE)
        percents = (np.rint(100 * _reduced(plane, fewer)).astype(np.uint8) for plane in patient.probabilities)
        pictures["probability"] = [_png(Image.fromarray(plane)) for plane in percents]
    return pictures


def _body(patient: PagePatient) -> tuple[slice, slice]:
    """Rows and columns of the image that hold anything but air, or any mask."""
    image = patient.image
    masks = [mask for mask in (patient.prediction, patient.truth) if mask is not None]
    parts = [image > (_BODY_HU if image.dtype == np.int16 else 0), *masks]
    spans = []
    for axis, across in ((1, (0, 2)), (2, (0, 1))):
        size = image.shape[axis]
        starts, stops = [], []
        for part in parts:
            marked = np.flatnonzero(part.any(axis=across))
            if marked.size:
                starts.append(int(marked[0]) * size // part.shape[axis])
                stops.append(math.ceil((int(marked[-1]) + 1) * size / part.shape[axis]))
        spans.append(slice(min(starts, default=0), max(stops, default=size)))
    return spans[0], spans[1]


def _reduced(plane: Shaped[np.ndarray, "rows columns"], side: int) -> Float32[np.ndarray, "fewer_rows fewer_columns"]:
    """Local mean on at most `side` x `side` pixels; a smaller plane stays as it is."""
    scale = side / max(plane.shape)
    floats = plane.astype(np.float32)
    if scale >= 1:
        return floats
    height, width = (max(1, round(extent * scale)) for extent in plane.shape)
    return np.asarray(Image.fromarray(floats).resize((width, height), Image.Resampling.BOX))


def _masks(mask: Bool[np.ndarray, "depth height width"] | None) -> list[str | None] | None:
    return None if mask is None else [_png(Image.fromarray(plane)) if plane.any() else None for plane in mask]


def _png(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")  # its `optimize` takes three times as long for 2% less
    return base64.b64encode(file.getvalue()).decode()
