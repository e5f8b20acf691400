"""A trained network of ours as a whole Keras 3 model.

    KERAS_BACKEND=jax python -m experiments.keras_baseline.convert --workdir runs/keras --output network.keras

`keras.models.load_model` finds Keras 2's hard sigmoid once `experiments.keras_baseline.network` is imported.
Weights alone need no Keras: `rdunet_jax.networks.keras_files.write_keras_file`.
"""

from pathlib import Path

import keras
import tyro

from experiments.keras_baseline.network import recurrent_dense_unet, zero_initial_weights
from rdunet_jax.config import ModelConfig
from rdunet_jax.networks.keras_weights import Variables, to_keras
from rdunet_jax.runs.workdir import load_trained


def keras_model(config: ModelConfig, size: int, variables: Variables) -> keras.Model:
    """The Keras network of a config of the `keras` family, for square slices of `size` pixels, with our weights."""
    with zero_initial_weights():
        model = recurrent_dense_unet(
            size,
            size,
            config.patch_depth,
            widths=config.widths,
            recurrent_width=config.recurrent_width,
            recurrent_layers=config.recurrent_layers,
            gate=config.gate,
            dropout=config.dropout,
        )
    model.set_weights([weight for layer in to_keras(variables, config) for weight in layer.weights])
    return model


def convert(workdir: Path, output: Path) -> None:
    """Write the network of a run as a Keras model.

    Args:
        workdir: Folder of a run of the `keras` network, of any widths.
        output: File to write, ending in .keras.
    """
    trained = load_trained(workdir)
    model = keras_model(trained.config.model, trained.config.image_size, trained.variables)
    model.save(output)
    print(f"{output}: the network of {workdir} at step {trained.step}")


if __name__ == "__main__":
    tyro.cli(convert)
