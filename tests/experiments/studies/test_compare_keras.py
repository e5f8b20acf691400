"""Keras' own training and ours from the same weights on the same batches, for 50 steps."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console

from data_pipeline.loading import Dataset
from data_pipeline.settings import DatasetSettings, PrepareOptions
from experiments.studies.compare_keras import distance, largest_difference, score_both, train_both, write_curves
from rdunet_jax.config import RECIPES, InferenceConfig
from rdunet_jax.networks.models import model_config
from rdunet_jax.runs.workdir import RunConfig
from rdunet_jax.workflows.prepare import prepare_source

DUMMY = Path(__file__).resolve().parents[3] / "data_pipeline" / "nsclc_radiomics" / "dummy_data"
QUIET = Console(quiet=True)
TOLERANCE = 1e-5
"""Of loss and Dice, over 50 steps: rounding, which at 64 x 64 took Keras itself 1e-6 from its own double precision."""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras under NumPy 2
def test_both_learn_the_same(tmp_path: Path) -> None:
    settings = DatasetSettings(intensity="hu_window", image_size=16, test_share=0.34, validation_share=0)
    prepare_source(DUMMY, tmp_path / "data", settings, QUIET, PrepareOptions(workers=1, keep_ids=True))
    data = Dataset(tmp_path / "data")
    network = model_config("keras", dropout=0.0, widths=(2, 3), recurrent_width=4, recurrent_layers=1)
    recipe = replace(RECIPES["plain"], epochs=1, steps_per_epoch=50, selection="any_tumour", validation="none")
    # After 50 steps all probabilities are within 0.45 and 0.52: above 0.4 no pixel can fall either way.
    run = RunConfig(network, recipe, InferenceConfig(threshold=0.4), "hu_window", 16)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):  # Keras counts on both
        curves = train_both(data, tmp_path, run, QUIET)
    assert all(curve.shape == (50, 2) and np.isfinite(curve).all() for curve in curves.values())
    assert np.ptp(curves["keras"][:, 0]) > 100 * TOLERANCE  # they did learn
    assert distance(curves["keras"], curves["ours"]).max() < TOLERANCE
    assert distance(curves["ours"], curves["exact"]).max() < TOLERANCE

    write_curves(tmp_path, curves)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    lines = (tmp_path / "curves.csv").read_text().splitlines()
    assert lines[0] == "step,keras_loss,keras_dice,ours_loss,ours_dice,exact_loss,exact_dice"
    assert [float(cell) for cell in lines[50].split(",")[1:3]] == curves["keras"][49].tolist()

    keras_row, our_row = score_both(data, tmp_path, QUIET)
    assert keras_row[1:] == our_row[1:] and float(our_row[1]) > 0
    # Biases ahead of batch normalisation get gradients of mere rounding, which Adam walks along. In training the mean
    # over the batch takes them out again; the running mean, which predicts, follows slowly.
    assert largest_difference(data, tmp_path, QUIET) < 1e-3
