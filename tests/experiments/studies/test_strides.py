"""The table of strides: its combinations, windows and scores."""

from dataclasses import replace

import numpy as np
import pytest

from data_pipeline.loading import PatientExample
from experiments.studies import strides
from rdunet_jax.config import InferenceConfig, TrainConfig
from rdunet_jax.inference.sliding_window import SlidingWindow
from rdunet_jax.networks.models import create_model, model_config
from rdunet_jax.runs.workdir import RunConfig, TrainedNetwork


class OnePatient:
    """A data set whose only patient has a tumour in 3 of its 21 slices, as bright as nothing else."""

    def patients(self, split: str):
        image = np.full((21, 512, 512), 40, np.int16)
        image[9:12, 200:230, 200:230] = 900
        yield PatientExample("one", image, image > 800, image > 800, (3.0, 1.0, 1.0))


def test_every_combination_is_predicted_and_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    config = model_config("tiny")
    inference = InferenceConfig(window_batch=2, threshold=0.5, dilation_diameter=1)
    run = RunConfig(config, TrainConfig(), inference, "hu_window", 512)
    network = TrainedNetwork(run, create_model(config), {}, 1, True)
    monkeypatch.setattr(
        strides,
        "sliding_window",
        lambda one: SlidingWindow(
            lambda variables, window: (window > 500).astype(np.float32), stride=one.config.inference.stride
        ),
    )
    every = list(strides.combinations(network, (1, 8)))
    settings = [one.config.inference for one in every]
    assert len(set(settings)) == len(settings) == 8
    assert {replace(one, stride=1, window_weights="uniform", flip=False) for one in settings} == {inference}
    for one in every[:2]:
        row = strides.measure(one, OnePatient(), "test")  # type: ignore[arg-type]
        # 14 windows of stride 1; at stride 8 from slices 0, 8 and 13
        assert row.windows == {1: 14, 8: 3}[row.inference.stride]
        assert (row.dice_3d, row.dice_slices, row.false_positive_slices) == (1.0, 1.0, 0)
        assert row.cells()[:4] == (str(row.inference.stride), "uniform", "no", str(row.windows))
