"""A trained network, and data of one's own."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

import rdunet_jax
from data_pipeline.own_data import PatientData, PatientExample, Sampling

SAMPLING = Sampling()


class Own:
    intensity = "hu_window"

    def patients(self, split: str) -> Iterator[PatientExample]:
        mask = np.zeros((10, 16, 16), bool)
        yield PatientExample(f"{split}-1", np.zeros((10, 16, 16), np.int16), mask, mask, (3.0, 1.0, 1.0))

    def batches(
        self, split: str, batch_size: int, seed: int, start: int = 0, sampling: Sampling = SAMPLING
    ) -> Iterator[dict[str, npt.NDArray[np.generic]]]:
        while True:
            patch = np.zeros((batch_size, sampling.depth, 16, 16, 1), np.int16)
            yield {"image": patch, "mask": patch.astype(np.uint8)}


data: PatientData = Own()
recipe = rdunet_jax.TrainConfig(steps=1)
network = rdunet_jax.create_model(rdunet_jax.model_config("tiny", bottleneck="none"))
rdunet_jax.train_network(data, Path("run"), network, recipe)
scores = rdunet_jax.evaluate_network(data, rdunet_jax.load("run"))

rdunet_jax.load_plugin("parts.py")
model = rdunet_jax.load(Path("run"), rdunet_jax.PredictionOverrides(threshold=0.4))
volume = np.zeros((10, 32, 32), np.int16)
probability: float = float(model.predict(volume, (3.0, 1.0, 1.0)).max())
tumour: int = int(model.segment(volume, (3.0, 1.0, 1.0)).sum())
widths: tuple[int, ...] = model.config.model.widths
step: int = model.provenance.step
