"""The authors' network, rewritten in Keras 3 from its description: the baseline that `rdunet_jax` is compared with.

Axes are the original's, (batch, height, width, depth, channels), so that weight files of the original can be loaded.
Any Keras backend runs it; set the environment variable KERAS_BACKEND before the import to choose one (here `jax` if
unset).
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal
from unittest import mock

os.environ.setdefault("KERAS_BACKEND", "jax")

import numpy as np

try:
    import keras
except ModuleNotFoundError as error:
    raise SystemExit("error: Keras is not installed; install it with: pip install '.[keras]'") from error
from keras import layers, ops


@keras.saving.register_keras_serializable(package="rdunet")
def keras2_hard_sigmoid(x: Any) -> Any:
    """clip(0.2 x + 0.5, 0, 1), Keras 2's `hard_sigmoid`; Keras 3's of the same name is another function."""
    return ops.clip(0.2 * x + 0.5, 0.0, 1.0)


@contextmanager
def zero_initial_weights() -> Iterator[None]:
    """Networks built inside the block start with zeros: for networks whose weights are loaded afterwards.

    Keras on JAX compiles a random draw for every shape of kernel: more than a minute for the full network on two cores.
    """

    def zeros(self: Any, shape: Any, dtype: Any = None) -> np.ndarray:
        return np.zeros(shape, dtype or "float32")

    with (
        mock.patch.object(keras.initializers.GlorotUniform, "__call__", zeros),
        mock.patch.object(keras.initializers.Orthogonal, "__call__", zeros),
    ):
        yield


def recurrent_dense_unet(
    height: int = 256,
    width: int = 256,
    depth: int = 8,
    *,
    widths: Sequence[int] = (32, 64, 128),
    recurrent_width: int = 256,
    recurrent_layers: int = 3,
    gate: Literal["hard_sigmoid", "sigmoid"] = "hard_sigmoid",
    dropout: float = 0.1,
    norm_epsilon: float = 1e-3,
    norm_momentum: float = 0.99,
) -> keras.Model:
    """The network from grey patches (batch, height, width, depth, 1) to probabilities of the same shape.

    Many parameters because each is a size or a constant of the network, and all have the authors' values as defaults.

    Args:
        height, width, depth: of a patch; height and width divisible by 2 to the number of widths.
        widths: features of the encoder's levels, finest first.
        recurrent_width, recurrent_layers: features and number of the ConvLSTM layers.
        gate: their recurrent activation: Keras 2's hard sigmoid (used by the authors) or a true sigmoid (the default of
            Keras 3).
        dropout: probability of dropping a channel after a pooling.
        norm_epsilon, norm_momentum: of the batch normalisation (Keras' defaults).
    """
    norm = partial(layers.BatchNormalization, epsilon=norm_epsilon, momentum=norm_momentum)
    gate_activation: Any = keras2_hard_sigmoid if gate == "hard_sigmoid" else "sigmoid"
    x = inputs = keras.Input((height, width, depth, 1))
    skips = []
    for level, features in enumerate(widths, 1):
        output, last = _block(x, features, norm)
        # Only the coarsest level passes its whole output on to the decoder.
        skips.append(output if level == len(widths) else last)
        x = layers.MaxPooling3D((2, 2, 1))(output)
        x = layers.SpatialDropout3D(dropout)(x)

    x = layers.Permute((3, 1, 2, 4))(x)  # ConvLSTM2D runs along the first axis: the slices
    for _ in range(recurrent_layers):
        x = layers.ConvLSTM2D(
            recurrent_width,
            3,
            padding="same",
            return_sequences=True,
            recurrent_activation=gate_activation,
        )(x)
        x = norm()(x)
    x = layers.Permute((2, 3, 1, 4))(x)

    for features, skip in zip(reversed(widths), reversed(skips), strict=True):
        x = layers.Permute((3, 1, 2, 4))(x)
        x = layers.TimeDistributed(layers.Conv2DTranspose(features, 2, strides=2))(x)
        x = layers.Permute((2, 3, 1, 4))(x)
        x = layers.Concatenate()([x, skip])
        x, _ = _block(x, features, norm)
    return keras.Model(inputs, layers.Conv3D(1, 1, activation="sigmoid")(x))


def _block(x: Any, features: int, norm: Callable[[], Any]) -> tuple[Any, Any]:
    """The pseudo-dense block: (its input concatenated with its last layer, its last layer)."""
    first = _convolution(x, features, norm)
    last = _convolution(layers.Concatenate()([x, first]), features, norm)
    return layers.Concatenate()([x, last]), last


def _convolution(x: Any, features: int, norm: Callable[[], Any]) -> Any:
    x = layers.Conv3D(features, 3, padding="same")(x)
    x = norm()(x)
    return layers.Activation("relu")(x)
