"""A network trained in float32, run in bfloat16."""

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from data_pipeline.loading import Dataset
from data_pipeline.phantom.phantom import write_phantoms
from data_pipeline.settings import PrepareOptions
from rdunet_jax.networks.models import create_model, model_config
from rdunet_jax.runs.workdir import TrainedNetwork, load_trained
from rdunet_jax.scoring.slices import score_slices, summarise
from rdunet_jax.workflows.demo import DATASET, INFERENCE, RECIPE
from rdunet_jax.workflows.prediction import ct_mask, sliding_window
from rdunet_jax.workflows.prepare import prepare_source
from rdunet_jax.workflows.train import train_network

QUIET = Console(quiet=True)


def mean_dice(network: TrainedNetwork, data: Dataset) -> float:
    window = sliding_window(network)
    scores = []
    for example in data.patients("test"):
        probabilities = window(network.variables, example.image)
        scores.append(score_slices(ct_mask(probabilities, example, INFERENCE), example.ct_mask))
    dice = summarise(scores)["mean_dice_tumour_slices"]
    assert dice is not None
    return dice


@pytest.mark.slow
@pytest.mark.full_size  # optimised programs: this one runs long enough for them
@pytest.mark.usefixtures("optax_promotion")
def test_bfloat16_scores_as_float32(tmp_path: Path) -> None:
    # The demo with fewer patients and steps.
    write_phantoms(tmp_path / "dicom", count=10, slices=(20, 22))
    prepare_source(
        tmp_path / "dicom", tmp_path / "data", replace(DATASET, test_share=2 / 5), QUIET, PrepareOptions(keep_ids=True)
    )
    data = Dataset(tmp_path / "data")
    # Without the cosine and the moving average, which need more steps than these.
    recipe = replace(RECIPE, epochs=1, steps_per_epoch=200, validation="none", schedule="plateau", ema=None, loss="bce")
    train_network(data, tmp_path / "run", model_config("tiny"), recipe, INFERENCE, QUIET)
    network = load_trained(tmp_path / "run")
    half = replace(network, model=create_model(replace(network.config.model, dtype="bfloat16")))
    expected, found = mean_dice(network, data), mean_dice(half, data)
    print(f"mean Dice {expected:.4f} in float32, {found:.4f} in bfloat16")
    assert expected > 0.4  # else the network says nothing, and agreement neither
    # bfloat16 keeps three digits; few voxels' probabilities lie that near to the threshold.
    assert abs(found - expected) < 0.005
