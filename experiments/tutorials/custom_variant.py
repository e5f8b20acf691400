"""A custom bottleneck, attention along the depth instead of the ConvLSTM: defined, trained, scored on test patients.

    python -m experiments.tutorials.custom_variant --data-dir data --workdir runs/attention

Costs about 3 minutes on 2 cores with a data set of 64x64 pixels.
"""

if not __package__:
    raise SystemExit("error: run this in the checkout as: python -m experiments.tutorials.custom_variant")

from functools import partial
from pathlib import Path

import flax.linen as nn
import jax.numpy as jnp

from data_pipeline.loading import Dataset
from data_pipeline.preprocessing.intensity import normalise
from experiments.common import script
from rdunet_jax.config import InferenceConfig, TrainConfig
from rdunet_jax.inference.sliding_window import SlidingWindow, network_predictor
from rdunet_jax.networks.convolution import Conv3D
from rdunet_jax.networks.models import create_model
from rdunet_jax.scoring.slices import score_slices, summarise
from rdunet_jax.training.loop import fit
from rdunet_jax.training.step import create_state
from rdunet_jax.workflows.prediction import ct_mask


class DepthAttention(nn.Module):
    features: int
    norm: nn.Module
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):  # (batch, depth, height, width, channels)
        x = self.norm(name="norm")(Conv3D(self.features, (1, 1, 1), self.dtype)(x))
        attention = nn.MultiHeadDotProductAttention(num_heads=4, dtype=self.dtype)
        return x + jnp.moveaxis(attention(jnp.moveaxis(x, 1, 3)), 3, 1)  # a pixel attends to itself in all slices


def main(data_dir: Path, workdir: Path, steps: int = 200) -> None:
    """Train and score the variant.

    Args:
        data_dir: Folder with a data set that `rdunet prepare` made.
        workdir: Folder of the run.
        steps: Training steps.
    """
    data, model = Dataset(data_dir), create_model("tiny", bottleneck=DepthAttention)
    recipe, gray = TrainConfig(epochs=1, learning_rate=1e-3), partial(normalise, intensity=data.intensity)
    state = create_state(model, recipe, (8, data.image_size, data.image_size))
    batches = partial(data.batches, "train", recipe.batch_size, recipe.seed)
    state = fit(state, recipe, normalise=gray, batches=batches, steps_per_epoch=steps, validate=None, workdir=workdir)
    window, inference, scores = SlidingWindow(network_predictor(model, gray)), InferenceConfig(threshold=0.5), []
    for patient in data.patients("test"):
        probabilities = window(state.variables, patient.image)
        scores.append(score_slices(ct_mask(probabilities, patient.ct_mask.shape, inference), patient.ct_mask))
    print(summarise(scores))


if __name__ == "__main__":
    script.run(main, __doc__)
