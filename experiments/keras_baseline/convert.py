"""Writes one of our trained networks as a complete Keras 3 model.

    python -m experiments.keras_baseline.convert --workdir runs/keras --output network.keras

Import `experiments.keras_baseline.network` before `keras.models.load_model`: it registers Keras 2's hard sigmoid.
`rdunet_jax.networks.keras_files.write_keras_file` writes weights alone and does not need Keras.
"""

if not __package__:
    raise SystemExit("error: run this in the checkout as: python -m experiments.keras_baseline.convert")

from pathlib import Path

from data_pipeline.errors import InputError
from data_pipeline.files import atomic_path
from data_pipeline.settings import plane_shape
from experiments.common import script
from experiments.keras_baseline.network import keras, recurrent_dense_unet, zero_initial_weights
from rdunet_jax.config import ImageSize, ModelConfig
from rdunet_jax.networks.keras_weights import Variables, to_keras
from rdunet_jax.networks.named import KERAS
from rdunet_jax.runs.workdir import load_trained

FREE = {
    *("name", "widths", "recurrent_width", "recurrent_layers", "gate", "dropout", "patch_depth"),
    *("norm_epsilon", "norm_momentum", "dtype", "remat"),
}
"""What a Keras model can have of its own; dtype and rematerialisation change no weight."""


def keras_model(config: ModelConfig, image_size: ImageSize, variables: Variables) -> keras.Model:
    """The Keras model of a network of the `keras` family with our weights, for slices of that size.

    Raises:
        InputError: the network differs from `keras` in more than its sizes, gate, dropout and normalisation constants.
    """
    odd = [name for name, value in vars(config).items() if name not in FREE and value != getattr(KERAS, name)]
    if odd:
        raise InputError(f"network {config.name}: differs from `keras` in {', '.join(odd)}, which no Keras model has")
    with zero_initial_weights():
        model = recurrent_dense_unet(
            *plane_shape(image_size),
            config.patch_depth,
            widths=config.widths,
            recurrent_width=config.recurrent_width,
            recurrent_layers=config.recurrent_layers,
            gate=config.gate,
            dropout=config.dropout,
            norm_epsilon=config.norm_epsilon,
            norm_momentum=config.norm_momentum,
        )
    model.set_weights([weight for layer in to_keras(variables, config) for weight in layer.weights])
    return model


def convert(workdir: Path, output: Path) -> None:
    """Write the network of a run as a Keras model.

    Args:
        workdir: Folder of a run of the `keras` network, with any widths.
        output: File to write, ending in .keras.
    """
    if output.suffix != ".keras":
        raise InputError(f"{output}: the name of the file must end in .keras")
    trained = load_trained(workdir)
    model = keras_model(trained.config.model, trained.config.image_size, trained.variables)
    with atomic_path(output) as path:
        model.save(path)
    print(f"{output}: the network of {workdir} at step {trained.step}")


if __name__ == "__main__":
    script.run(convert, __doc__)
