"""Figure 2: slices of the data set with the tumours outlined.

    python -m experiments.paper.figure2_data --output build/paper --data-dir data     # or --smoke

Eight training patients, evenly spaced in the sorted list of names. Each panel shows the slice with the most tumour, in
the grey values and at the resolution that the network sees, with the outline of the reference on the CT's own grid.
Expect tumours from a few millimetres to a large part of a lung. Costs one to two minutes for reading 260 patients, with
--smoke half a minute for the phantoms.
"""

if not __package__:
    raise SystemExit("error: run this in the checkout as: python -m experiments.paper.figure2_data")

from itertools import islice

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from data_pipeline.loading import Dataset, PatientExample
from data_pipeline.preprocessing.intensity import normalise
from data_pipeline.settings import PREDICTION_COLOUR, REFERENCE_COLOUR
from experiments.paper.numbers import Picture
from experiments.paper.runs import Experiments, make_alone, run_script
from rdunet_jax.workflows.prediction import ct_grid_of

PATIENTS, COLUMNS = 8, 4
REFERENCE, PREDICTION = REFERENCE_COLOUR, PREDICTION_COLOUR
RIM = (withStroke(linewidth=2, foreground="black"),)


def spread_patients(data: Dataset, split: str, count: int) -> list[PatientExample]:
    """Patients of a split, evenly spaced in the sorted list of names."""
    every = max(1, data.patient_count(split) // count)
    return list(islice(data.patients(split), 0, every * count, every))


def largest_slice(example: PatientExample) -> int:
    return int(example.ct_mask.sum(axis=(1, 2)).argmax())


def grey_slice(data: Dataset, example: PatientExample, index: int) -> np.ndarray:
    """A slice as the network sees it, grey values 0 to 1, resized to the CT's (height, width)."""
    on_ct = ct_grid_of(example).values(example.image)[index : index + 1]
    return np.asarray(normalise(np.rint(on_ct).astype(example.image.dtype), data.intensity), np.float32)[0]


def show_slice(axes: Axes, grey: np.ndarray, spacing_mm: tuple[float, ...], label: str) -> None:
    axes.imshow(grey, cmap="gray", vmin=0, vmax=1, aspect=spacing_mm[1] / spacing_mm[2])
    axes.set_axis_off()
    write_in(axes, label)


def write_in(axes: Axes, text: str, color: str = "white") -> None:
    """Writes at the upper left, readable on lung and on bone."""
    axes.text(0.03, 0.97, text, transform=axes.transAxes, color=color, fontsize=8, va="top", path_effects=RIM)


def outline(axes: Axes, mask: np.ndarray, color: str, width: float = 1.5) -> None:
    if mask.any():
        axes.contour(mask, [0.5], colors=color, linewidths=width)


def legend(figure: Figure, colours: dict[str, str]) -> None:
    handles = [Line2D([], [], color=colour, label=name) for name, colour in colours.items()]
    figure.legend(handles=handles, loc="upper right", ncols=len(handles), frameon=False, labelcolor="white", fontsize=9)


def make(experiments: Experiments) -> Picture:
    data = experiments.data
    examples = spread_patients(data, "train", PATIENTS)
    rows = -(-len(examples) // COLUMNS)
    figure = Figure(figsize=(COLUMNS * 3, rows * 3 + 0.4), dpi=120, facecolor="black")
    grid = figure.subplots(rows, COLUMNS, squeeze=False)
    figure.subplots_adjust(left=0, right=1, bottom=0, top=1 - 0.4 / (rows * 3 + 0.4), wspace=0.01, hspace=0.01)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, example in zip(grid.flat, examples, strict=False):
        index = largest_slice(example)
        label = f"{example.name}, slice {index + 1} of {len(example.ct_mask)}"
        show_slice(axes, grey_slice(data, example, index), example.spacing_mm, label)
        outline(axes, example.ct_mask[index], REFERENCE)
    figure.text(0.008, 0.99, "Training patients: the slice with most tumour", color="white", fontsize=11, va="top")
    legend(figure, {"reference": REFERENCE})
    reading = "Each panel is one training patient as the network sees it; the blue outline is the reference."
    return Picture("figure2", "Figure 2. The data", reading, figure)


if __name__ == "__main__":
    run_script(make_alone(make), __doc__)
