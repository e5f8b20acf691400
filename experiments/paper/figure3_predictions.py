"""Figure 3: predictions of the networks of Tables 3 and 4 on test patients, compared with the reference.

    python -m experiments.paper.figure3_predictions --output build/paper --data-dir data     # or --smoke

Four test patients, evenly spaced in the sorted list of names, so not chosen by their scores. Each row shows the slice
with the most tumour, cropped around it, with one panel and the slice's Dice for each network. Masks come from the
probabilities that the evaluation stored, with each run's own threshold and dilation. Trains those of the seven networks
that are not trained yet: see `table3.toml`. Expect the outlines of the proposed network closest to the
reference. Costs a minute in addition to the training.
"""

if not __package__:
    raise SystemExit("error: run this in the checkout as: python -m experiments.paper.figure3_predictions")

import numpy as np
from jaxtyping import Bool
from matplotlib.figure import Figure

from data_pipeline.loading import PatientExample
from experiments.paper.figure2_data import (
    PREDICTION,
    REFERENCE,
    grey_slice,
    largest_slice,
    legend,
    outline,
    show_slice,
    spread_patients,
    write_in,
)
from experiments.paper.numbers import TABLE_3, TABLE_4, Picture
from experiments.paper.runs import Experiments, make_alone, run_script
from rdunet_jax.runs.workdir import load_trained
from rdunet_jax.scoring.slices import score_slices
from rdunet_jax.workflows.prediction import ct_mask
from rdunet_jax.workflows.stored_probabilities import StoredProbabilities

PATIENTS = 4
NETWORKS = {**dict.fromkeys(TABLE_3, "table3"), **dict.fromkeys(TABLE_4, "table4")}
"""Variant: the table whose file has it."""
SHORT = {"3D-DenseUNet with recurrent block": "3D-DenseUNet\nwith recurrent block"}
MARGIN_MM = 40
"""Distance from the edge of the tumour to the edge of a panel."""


def make(experiments: Experiments) -> Picture:
    data = experiments.data
    examples = spread_patients(data, "test", PATIENTS)
    predictions = {}
    for name, table in NETWORKS.items():
        if experiments.summaries(table, name) is not None:
            found = experiments.attempt(f"pictures of {name}", lambda name=name: _predict(experiments, name, examples))
            if found is not None:
                predictions[name] = found
    columns = 1 + len(NETWORKS)
    size, head = 1.9, 0.8
    figure = Figure(figsize=(columns * size, len(examples) * size + head), dpi=120, facecolor="black")
    grid = figure.subplots(len(examples), columns, squeeze=False)
    figure.subplots_adjust(
        left=0, right=1, bottom=0, top=1 - head / (len(examples) * size + head), wspace=0.02, hspace=0.02
    )
    for row, (panels, example) in enumerate(zip(grid, examples, strict=True)):
        index = largest_slice(example)
        truth = example.ct_mask[index]
        rows, places = _surroundings(truth, example.spacing_mm)
        grey = grey_slice(data, example, index)[rows, places]
        show_slice(panels[0], grey, example.spacing_mm, f"{example.name}\nslice {index + 1}")
        outline(panels[0], truth[rows, places], REFERENCE)
        for axes, name in zip(panels[1:], NETWORKS, strict=True):
            if name not in predictions:
                axes.set_axis_off()
                write_in(axes, "not run")
                continue
            prediction = predictions[name][row]
            dice = score_slices(prediction[np.newaxis], truth[np.newaxis]).dice[0]
            show_slice(axes, grey, example.spacing_mm, f"Dice {dice:.2f}")
            outline(axes, truth[rows, places], REFERENCE, width=2.2)
            outline(axes, prediction[rows, places], PREDICTION, width=1.2)
    for axes, name in zip(grid[0], ["reference", *NETWORKS], strict=True):
        axes.set_title(SHORT.get(name, name), color="white", fontsize=8, pad=3)
    figure.text(0.005, 0.992, "Test patients: the slice with most tumour", color="white", fontsize=11, va="top")
    legend(figure, {"reference": REFERENCE, "prediction": PREDICTION})
    reading = (
        "One row for each test patient, one column for each network: the closer orange is to blue, the better. The "
        "patients are evenly spaced in the list of names, not selected."
    )
    missing = [f"figure3: {name}" for name in NETWORKS if name not in predictions]
    return Picture("figure3", "Figure 3. Predictions", reading, figure, missing)


def _predict(
    experiments: Experiments, name: str, examples: list[PatientExample]
) -> list[Bool[np.ndarray, "height width"]]:
    """A network's mask of the slice shown of each patient, from its stored probabilities."""
    workdir = experiments.workdir(NETWORKS[name], name)
    network = load_trained(workdir)
    stored = StoredProbabilities(experiments.data, workdir, "test", network)
    masks = (ct_mask(stored[one], one, network.config.inference) for one in examples)
    return [mask[largest_slice(one)] for mask, one in zip(masks, examples, strict=True)]


def _surroundings(truth: Bool[np.ndarray, "height width"], spacing_mm: tuple[float, ...]) -> tuple[slice, slice]:
    """Rows and columns of a square (in mm) around the tumour, within the slice."""
    spans = [np.flatnonzero(truth.any(axis=1 - axis)) for axis in (0, 1)]
    half_mm = MARGIN_MM + max((s[-1] - s[0]) * mm / 2 for s, mm in zip(spans, spacing_mm[1:], strict=True))
    cuts = []
    for span, mm, length in zip(spans, spacing_mm[1:], truth.shape, strict=True):
        half = min(round(half_mm / mm), length // 2)
        middle = int(np.clip((span[0] + span[-1]) // 2, half, length - half))
        cuts.append(slice(middle - half, middle + half))
    return cuts[0], cuts[1]


if __name__ == "__main__":
    run_script(make_alone(make), __doc__)
