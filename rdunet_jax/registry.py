"""The tables of parts by name: what `--bottleneck convgru` or `--loss bce+0.5*dice` may name.

A plugin is a Python file that registers parts of one's own in these tables, as the modules of this package do:

>>> @LOSSES.register("squared")
... def squared(logits, targets):
...     return ((logits - targets) ** 2).mean()
>>> "squared" in LOSSES, LOSSES.origin("bce")
(True, None)
>>> from rdunet_jax import TrainConfig
>>> TrainConfig(loss="bce+0.5*squared").loss
'bce+0.5*squared'

The names are then choices of the command line, and of every settings class. `c` is the network's `ModelConfig`; `make`
is a Flax module class or a function that returns a module, called with keywords alone.

| table | a part | |
|---|---|---|
| `BLOCKS` | `part(c) -> make`, `make(features=, norm=, dropout=, dtype=, name=)` | a level of encoder or decoder |
| `BOTTLENECKS` | `part(c) -> make`, `make(features=, norm=, dtype=, name=)`; None for nothing | between the two |
| `ARCHITECTURES` | `part(c) -> module`, called with `train=` | a whole network |
| `MODELS` | a `ModelConfig` | a network's settings: `--model` |
| `LOSSES` | `part(logits, targets) -> scalar` | a term of `--loss` |
| `AUGMENTATIONS` | `part(key, patch, settings) -> patch` | see `rdunet_jax.training.augmentation` |
| `INTENSITIES` | `part(patches) -> patches` | Hounsfield units to the network's input |

Imports no JAX, because `rdunet --help` lists these names.
"""

from collections.abc import Callable
from typing import Any

from data_pipeline.registry import Registry
from data_pipeline.settings import INTENSITIES

__all__ = ["ARCHITECTURES", "AUGMENTATIONS", "BLOCKS", "BOTTLENECKS", "INTENSITIES", "LOSSES", "MODELS", "Registry"]

BLOCKS: Registry[Callable[[Any], Callable[..., Any]]] = Registry(
    "block", "rdunet_jax.networks.models", ("pseudo-dense",)
)
"""Levels of encoder and decoder."""
BOTTLENECKS: Registry[Callable[[Any], Callable[..., Any] | None]] = Registry(
    "bottleneck", "rdunet_jax.networks.models", ("convlstm", "bidirectional", "convgru", "block", "none")
)
"""Layers between encoder and decoder."""
ARCHITECTURES: Registry[Callable[[Any], Any]] = Registry(
    "architecture", "rdunet_jax.networks.models", ("unet", "lungnet")
)
"""Whole networks."""
MODELS: Registry[Any] = Registry(
    "network",
    "rdunet_jax.networks.named",
    (
        "keras",
        "paper",
        "3d-unet",
        "3d-denseunet",
        "3d-denseunet-recurrent",
        "2d-unet",
        "2d-lungnet",
        "3d-lungnet",
        "tiny",
    ),
)
"""Named settings of networks, `ModelConfig`."""
LOSSES: Registry[Callable[[Any, Any], Any]] = Registry(
    "loss", "rdunet_jax.training.losses", ("bce", "dice", "tversky", "focal", "iou")
)
"""Terms of the loss."""
PAPER_AUGMENTATION = (
    *("rotation", "cropping", "global_shift", "global_scale"),
    *("additive_noise", "multiplicative_noise", "horizontal_flip", "blur"),
)
"""The paper's eight augmentations (section 3.2)."""
AUGMENTATIONS: Registry[Callable[[Any, Any, Any], Any]] = Registry(
    "augmentation",
    "rdunet_jax.training.augmentation",
    (*PAPER_AUGMENTATION, "gamma", "contrast", "elastic", "authors_code"),
)
"""Changes of a training patch."""
