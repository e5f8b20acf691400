"""The receptive field from the settings, beside what changes of the input show."""

import zlib
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdunet_jax.config import ModelConfig
from rdunet_jax.networks.models import MODELS, create_model, model_config
from rdunet_jax.networks.receptive_field import receptive_field

DEPTH, SIZE, DRAWS = 3, 48, 2
SMALL: dict[str, Any] = {"widths": (4,), "recurrent_width": 4, "recurrent_layers": 2, "patch_depth": DEPTH}
CASES: dict[str, dict[str, Any]] = {
    "bidirectional": SMALL | {"bottleneck": "bidirectional", "recurrent_layers": 1},
    "convgru": SMALL | {"bottleneck": "convgru", "gate": "sigmoid"},
    "block": SMALL | {"bottleneck": "block", "pooling": "spatio-temporal", "patch_depth": 20},
    "none": SMALL | {"bottleneck": "none", "widths": (4, 4), "decoder": "block-first", "upsampling": "nearest",
             "patch_depth": 18},
    "lungnet": {"architecture": "lungnet", "widths": (4, 4), "dilations": (1, 3), "kernel_depth": 1,
                "fusion_widths": (4,), "patch_depth": DEPTH},
}  # fmt: skip


def drawn(key: jax.Array, path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.Array:
    """Random weights; ones where a normalisation scales or divides."""
    name = jax.tree_util.keystr(path)
    if name.endswith(("['scale']", "['var']")):
        return jnp.ones(leaf.shape)
    return 0.3 * jax.random.normal(jax.random.fold_in(key, zlib.crc32(name.encode())), leaf.shape)


def seen(config: ModelConfig) -> tuple[int, int]:
    """Largest number of slices, and of columns, whose change is seen in an output, over outputs and random networks.

    The networks are too narrow for Winograd's convolution, whose rounding reaches further than what it computes.
    """
    model, shape = create_model(config), (config.patch_depth, SIZE, SIZE)
    shapes: Any = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *shape, 1)))
    apply = jax.jit(model.apply)
    marks = []
    for axis in (0, 2):
        changed = np.zeros((shape[axis], shape[axis]), bool)
        for draw in range(DRAWS):
            variables = jax.tree_util.tree_map_with_path(partial(drawn, jax.random.key(draw)), shapes)
            image, other = np.random.default_rng(draw).standard_normal((2, *shape), np.float32)
            images = np.stack([image] * (shape[axis] + 1))
            for place in range(shape[axis]):
                index = (place,) if axis == 0 else (slice(None), slice(None), place)
                images[place][index] = other[index]
            logits = np.asarray(apply(variables, images[..., np.newaxis]))[..., 0]
            differ = np.moveaxis(logits[:-1] != logits[-1], axis + 1, 1)
            changed |= differ.any(axis=(2, 3))
        marks.append(changed)
    middle = slice(SIZE // 2, SIZE // 2 + 2 ** len(config.widths))
    slices, columns = marks[0].T, marks[1].T[middle]
    return tuple(max(int(np.ptp(np.flatnonzero(row))) + 1 for row in rows) for rows in (slices, columns))  # pyright: ignore


@pytest.mark.slow
@pytest.mark.full_size
@pytest.mark.parametrize("name", CASES)
def test_it_is_what_changes_show(name: str) -> None:
    config = model_config("tiny" if "architecture" not in CASES[name] else "3d-lungnet", **CASES[name])
    slices, _, columns = receptive_field(config) or (0, 0, 0)
    assert seen(config) == (slices, columns)


def test_of_the_named_networks() -> None:
    fields = {name: receptive_field(config) for name, config in MODELS.items()}
    assert fields["2d-lungnet"] == (1, 1 + 2 * 143, 1 + 2 * 143)  # the sum of its dilations
    # 3x3 convolutions: two at full size and four each at 1/2, 1/4 and 1/8, with twice their spacing; three poolings.
    plane = 1 + 2 * (2 * 1 + 4 * 2 + 4 * 4 + 4 * 8) + (1 + 2 + 4)
    assert fields["3d-unet"] == (8, plane, plane)
    assert receptive_field(model_config("keras", norm="group")) is None
