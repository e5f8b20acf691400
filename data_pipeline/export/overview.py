"""A picture of a segmentation, to check it by eye. It does not name the patient."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int16, Shaped
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from scipy import ndimage

from data_pipeline.dicom.geometry import CTGeometry
from data_pipeline.export.lesions import volume_ml
from data_pipeline.export.nifti import require_grid
from data_pipeline.files import atomic_path
from data_pipeline.settings import PREDICTION_COLOUR, REFERENCE_COLOUR

MAX_SLICES = 12
DISPLAY_WINDOW_HU = (-1350, 150)

# The reference is the wider line and drawn first: where both agree, the reader sees a blue line with an orange core.
_PREDICTION = {"color": PREDICTION_COLOUR, "linewidth": 1.4}
_REFERENCE = {"color": REFERENCE_COLOUR, "linewidth": 3.0}
_RIM = (withStroke(linewidth=2, foreground="black"),)
_BODY_HU = -400
_MARGIN_MM = 10


def write_overview(
    hounsfield: Int16[np.ndarray, "depth height width"],
    geometry: CTGeometry,
    path: Path,
    prediction: Shaped[np.ndarray, "depth height width"],
    truth: Shaped[np.ndarray, "depth height width"] | None = None,
) -> None:
    """Draw up to 12 slices in a lung window with the tumour's contours, as a PNG.

    The slices sample the tumour's extent, predicted or reference: the tumour slices are divided into 12 equal runs, and
    of each run the slice with the largest tumour area is shown. Without any tumour the slices sample the middle half of
    the scan, and the title says so. Slices are cropped to the body and shown in radiological orientation: the patient's
    right side on the left, the front at the top.

    Args:
        hounsfield: the CT, HU.
        geometry: position of its voxels.
        path: the file to write (`.png`).
        prediction: bool or 0 and 1, on the grid of `geometry`.
        truth: the reference mask, likewise; None if there is none.

    Raises:
        InputError: a mask or the CT has another shape than `geometry`, or `path` cannot be written.
    """
    path = Path(path)
    masks = {"prediction": prediction != 0} | ({} if truth is None else {"reference": truth != 0})
    for volume in (hounsfield, *masks.values()):
        require_grid(volume, geometry, path)
    view = _View.of(geometry)
    shown = _chosen_slices(np.sum([mask.sum(axis=(1, 2)) for mask in masks.values()], axis=0))
    images = view.planes(hounsfield, shown)
    contours = {name: view.planes(mask, shown) for name, mask in masks.items()}
    rows, columns = _body(images, np.logical_or.reduce(list(contours.values())), view)

    figure, panels = _canvas(len(shown), images[0, rows, columns].shape, view)
    for index, axes, image in zip(shown, panels, images, strict=True):
        axes.imshow(
            image[rows, columns],
            cmap="gray",
            vmin=DISPLAY_WINDOW_HU[0],
            vmax=DISPLAY_WINDOW_HU[1],
            aspect=view.spacing_mm[0] / view.spacing_mm[1],
        )
        _write_in(axes, 0.02, 0.97, f"{index + 1} / {geometry.shape[0]}", va="top")
        place = f"{view.normal_name} = {geometry.positions_mm[index, view.normal_axis]:.1f} mm"
        _write_in(axes, 0.98, 0.97, place, va="top", ha="right")
        _write_in(axes, 0.02, 0.5, view.left_side, va="center", weight="bold")
    for name, style in (("reference", _REFERENCE), ("prediction", _PREDICTION)):
        for axes, mask in zip(panels, contours.get(name, ()), strict=False):
            if mask[rows, columns].any():
                axes.contour(mask[rows, columns], [0.5], colors=style["color"], linewidths=style["linewidth"])
    _scale_bar(panels[0], view)
    _head(figure, geometry, masks)
    with atomic_path(path) as temporary:
        FigureCanvasAgg(figure).print_png(temporary)


@dataclass(frozen=True)
class _View:
    """How to turn stored slices: the patient's left (or back) on the right, his back (or feet) at the bottom."""

    transpose: bool
    flip: tuple[int, int]
    """Steps of 1 or -1 through rows and columns, after transposing."""
    spacing_mm: tuple[float, float]
    """Between rows and between columns, as shown."""
    left_side: str
    normal_axis: int

    @classmethod
    def of(cls, geometry: CTGeometry) -> "_View":
        axes = list(zip((geometry.column_cosine, geometry.row_cosine), geometry.pixel_spacing_mm, strict=True))
        main = [int(np.abs(cosine).argmax()) for cosine, _ in axes]
        transpose = main[0] < main[1]
        if transpose:
            axes.reverse()
            main.reverse()
        (down, row_mm), (right, column_mm) = axes
        # LPS: x grows to the patient's left, y to his back, z to his head.
        flip = (1 if down[main[0]] * (-1 if main[0] == 2 else 1) > 0 else -1, 1 if right[main[1]] > 0 else -1)
        normal_axis = int(np.abs(geometry.normal).argmax())
        return cls(transpose, flip, (row_mm, column_mm), "RAF"[main[1]], normal_axis)

    @property
    def normal_name(self) -> str:
        return "xyz"[self.normal_axis]

    def planes(
        self, volume: Shaped[np.ndarray, "depth height width"], indices: list[int]
    ) -> Shaped[np.ndarray, "shown rows columns"]:
        planes = volume[indices]
        return (planes.transpose(0, 2, 1) if self.transpose else planes)[:, :: self.flip[0], :: self.flip[1]]


def _chosen_slices(tumour_pixels: Shaped[np.ndarray, "depth"]) -> list[int]:
    """Slices to show, ascending, from the tumour's pixels in every slice."""
    tumour = np.flatnonzero(tumour_pixels)
    if not tumour.size:
        depth = len(tumour_pixels)
        return np.unique(np.linspace(depth / 4, 3 * depth / 4, MAX_SLICES).astype(int).clip(0, depth - 1)).tolist()
    runs = np.array_split(tumour, min(MAX_SLICES, len(tumour)))
    return [int(run[tumour_pixels[run].argmax()]) for run in runs]


def _body(
    images: Shaped[np.ndarray, "shown rows columns"], tumour: Bool[np.ndarray, "shown rows columns"], view: _View
) -> tuple[slice, slice]:
    """Rows and columns that hold the body, the tumour and a margin in all the slices."""
    keep, parts = np.any(tumour, axis=0), np.empty(images.shape[1:], np.int32)
    for image in images:
        # Opening cuts the table off; the body is the largest part that is left.
        if ndimage.label(ndimage.binary_opening(image > _BODY_HU, iterations=3), output=parts):
            keep = keep | (parts == 1 + np.bincount(parts.ravel())[1:].argmax())
    if not keep.any():
        keep = ~keep
    spans = []
    for axis, spacing in enumerate(view.spacing_mm):
        inside = np.flatnonzero(np.any(keep, axis=1 - axis))
        margin = round(_MARGIN_MM / spacing)
        spans.append(slice(max(0, int(inside[0]) - margin), int(inside[-1]) + 1 + margin))
    return spans[0], spans[1]


def _canvas(count: int, shape: tuple[int, int], view: _View) -> tuple[Figure, list[Axes]]:
    """A dark figure of `count` panels that fit the slices' proportions without gaps."""
    columns = min(count, 4)
    rows = -(-count // columns)
    width = {1: 9.0, 2: 6.0}.get(columns, 3.6)  # inches a panel
    height = width * shape[0] * view.spacing_mm[0] / (shape[1] * view.spacing_mm[1])
    head = 0.65
    figure = Figure(figsize=(columns * width, rows * height + head), dpi=150, facecolor="black")
    grid = figure.subplots(
        rows,
        columns,
        squeeze=False,
        gridspec_kw={
            "left": 0,
            "right": 1,
            "bottom": 0,
            "top": 1 - head / (rows * height + head),
            "wspace": 0.01,
            "hspace": 0.01,
        },
    )
    for axes in grid.flat:
        axes.set_axis_off()
    return figure, list(grid.flat)[:count]


def _write_in(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    """White with a black rim, readable on lung and on bone; `x` and `y` as fractions of the panel."""
    axes.text(x, y, text, transform=axes.transAxes, color="white", fontsize=8, path_effects=_RIM, **style)


def _scale_bar(axes: Axes, view: _View, length_mm: int = 50) -> None:
    """A bar of known length at the lower left."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    x, y = left + 0.03 * (right - left), bottom + 0.04 * (top - bottom)
    for color, width in (("black", 4), ("white", 2)):
        axes.plot([x, x + length_mm / view.spacing_mm[1]], [y, y], color=color, linewidth=width)
    axes.set(xlim=(left, right), ylim=(bottom, top))
    _write_in(axes, 0.03, 0.06, f"{length_mm} mm")


def _head(figure: Figure, geometry: CTGeometry, masks: dict[str, Bool[np.ndarray, "depth height width"]]) -> None:
    """Title with volumes and Dice, legend, and a line with window and purpose."""
    volumes = {name: volume_ml(mask, geometry) for name, mask in masks.items()}
    facts = [f"{name} {volume:.1f} cm³" for name, volume in volumes.items()]
    if "reference" in masks and any(volumes.values()):
        overlap = (masks["prediction"] & masks["reference"]).sum()
        facts.append(f"Dice of the volumes {2 * overlap / sum(mask.sum() for mask in masks.values()):.3f}")
    if not any(volumes.values()):
        facts.append("no tumour found: slices from the middle of the scan")
    top = 1 - 0.1 / figure.get_figheight()
    left = 0.1 / figure.get_figwidth()
    figure.text(left, top, "Lung tumour: " + " · ".join(facts), color="white", fontsize=13, va="top")
    small = f"CT, {DISPLAY_WINDOW_HU[0]} to {DISPLAY_WINDOW_HU[1]} HU · slice number and position · for research only"
    figure.text(left, top - 0.3 / figure.get_figheight(), small, color="0.7", fontsize=8, va="top")
    handles = [
        Line2D([], [], label=name, **style)
        for name, style in (("prediction", _PREDICTION), ("reference", _REFERENCE))
        if name in masks
    ]
    figure.legend(handles=handles, loc="upper right", frameon=False, labelcolor="white", fontsize=10)
