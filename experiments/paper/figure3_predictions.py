"""Figure 3: what the networks of Tables 3 and 4 predict on test patients, beside the reference.

    python -m experiments.paper.figure3_predictions --output build/paper --data-dir data     # or --smoke

Four test patients, spread over the list of their names and so not chosen by how they came out; of each the slice with
most tumour, cut to its surroundings, a panel a network with the slice's Dice. Probabilities are those that the scoring
stored, cut at the runs' own threshold and dilated. Trains the seven networks that are not trained yet: see
`table3_baselines.py`. Expect the proposed network's outlines nearest to the reference's. Costs a minute beside the
training.
"""

import numpy as np
from jaxtyping import Bool
from matplotlib.figure import Figure

from data_pipeline.loading import PatientExample
from experiments.paper.figure2_data import (
    PREDICTION,
    REFERENCE,
    gray_slice,
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
NETWORKS = [*(name for name in TABLE_3 if name not in TABLE_4), *TABLE_4]
SHORT = {"3D-DenseUNet with recurrent block": "3D-DenseUNet\nwith recurrent block"}
MARGIN_MM = 40
"""From the middle of a tumour to the edge of a panel, beyond the tumour's own half."""


def make(experiments: Experiments) -> Picture:
    data = experiments.data
    examples = spread_patients(data, "test", PATIENTS)
    predictions = {}
    for name in NETWORKS:
        if experiments.summaries(name) is not None:
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
        gray = gray_slice(data, example, index)[rows, places]
        show_slice(panels[0], gray, example.spacing_mm, f"{example.name}\nslice {index + 1}")
        outline(panels[0], truth[rows, places], REFERENCE)
        for axes, name in zip(panels[1:], NETWORKS, strict=True):
            if name not in predictions:
                axes.set_axis_off()
                write_in(axes, "not run")
                continue
            prediction = predictions[name][row]
            dice = score_slices(prediction[np.newaxis], truth[np.newaxis]).dice[0]
            show_slice(axes, gray, example.spacing_mm, f"Dice {dice:.2f}")
            outline(axes, truth[rows, places], REFERENCE, width=2.2)
            outline(axes, prediction[rows, places], PREDICTION, width=1.2)
    for axes, name in zip(grid[0], ["reference", *NETWORKS], strict=True):
        axes.set_title(SHORT.get(name, name), color="white", fontsize=8, pad=3)
    figure.text(0.005, 0.992, "Test patients: the slice with most tumour", color="white", fontsize=11, va="top")
    legend(figure, {"reference": REFERENCE, "prediction": PREDICTION})
    reading = (
        "A row a test patient, a column a network: the nearer orange lies to blue, the better; the patients are spread "
        "over the list, not picked."
    )
    missing = [f"figure3: {name}" for name in NETWORKS if name not in predictions]
    return Picture("figure3", "Figure 3. Predictions", reading, figure, missing)


def _predict(
    experiments: Experiments, name: str, examples: list[PatientExample]
) -> list[Bool[np.ndarray, "height width"]]:
    """A network's mask of each patient's slice, from its stored probabilities."""
    workdir = experiments.workdir(name)
    network = load_trained(workdir)
    stored = StoredProbabilities(experiments.data, workdir, "test", network)
    masks = (ct_mask(stored[one], one.ct_mask.shape, network.config.inference) for one in examples)
    return [mask[largest_slice(one)] for mask, one in zip(masks, examples, strict=True)]


def _surroundings(truth: Bool[np.ndarray, "height width"], spacing_mm: tuple[float, ...]) -> tuple[slice, slice]:
    """Rows and columns of a square, in mm, around a tumour, as far as the slice reaches."""
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
