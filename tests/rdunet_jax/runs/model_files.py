"""Model files for tests: of a network that was never trained, and rewritten byte by byte with a checksum that fits."""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from rdunet_jax.config import ImageSize, InferenceConfig, PostprocessingConfig, TrainConfig
from rdunet_jax.networks.models import create_model, model_config
from rdunet_jax.runs.chosen_postprocessing import ChosenPostprocessing
from rdunet_jax.runs.training_data import DataIdentity, TrainingData
from rdunet_jax.runs.workdir import RunConfig, load_trained
from rdunet_jax.training.checkpointing import Checkpoints
from rdunet_jax.training.step import create_state

Fields = dict[str, Any]
CHOSEN = PostprocessingConfig(0.5, 3, "square")
NAMES = ("CANARY-TRAINED-1", "CANARY-TRAINED-2"), ("CANARY-SELECTED",)
DATA = TrainingData((DataIdentity("hu_window_16", "d" * 64, "a" * 64),), *NAMES)


def make_run(
    workdir: Path,
    logits: float = 30,
    image_size: ImageSize = 16,
    spacing: tuple[float, float, float] | None = None,
    **network: Any,
) -> Path:
    """A run whose network has random weights, with patients and a chosen post-processing.

    Args:
        logits: factor of the weights of the last layer, so that probabilities vary.
        image_size, spacing: of its images.
    """
    settings = {"widths": (2, 2), "recurrent_width": 2, "recurrent_layers": 1} | network
    inference = InferenceConfig(threshold=0.5, dilation_diameter=1)
    model = model_config("tiny", **settings)
    run = RunConfig(model, TrainConfig(), inference, "hu_window", image_size, spacing=spacing)
    run.save(workdir)
    with jax.numpy_dtype_promotion("standard"):
        state = create_state(create_model(run.model), run.train, run.window_shape)
    scaled = jax.tree.map(lambda leaf: logits * leaf, state.params["logits"])
    checkpoints = Checkpoints(workdir / "checkpoints")
    checkpoints.save(3, state.replace(params={**state.params, "logits": scaled}))
    checkpoints.close()
    DATA.save(workdir)
    weights = load_trained(workdir).weights_sha256
    ChosenPostprocessing(CHOSEN, 3, weights, "d" * 64, ("CANARY-CHOSEN",)).save(workdir)
    return workdir


def signed(content: bytes) -> bytes:
    """The content with the checksum that fits it."""
    pattern = rb'(\\"sha256\\": \\")[0-9a-f]{64}'
    zeros = re.sub(pattern, rb"\g<1>" + b"0" * 64, content, count=1)
    digest = hashlib.sha256(zeros).hexdigest().encode()
    return re.sub(pattern, rb"\g<1>" + digest, content, count=1)


def unpacked(content: bytes) -> tuple[Fields, Fields, bytes]:
    """Entries of the arrays, description, and bytes of the arrays."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    return header, json.loads(header.pop("__metadata__")["rdunet"]), content[end:]


def packed(header: Fields | str, description: Fields | str, arrays: bytes) -> bytes:
    """The parts as a file whose checksum fits; texts are written as they are."""
    text = description if isinstance(description, str) else json.dumps(description)
    if not isinstance(header, str):
        header = json.dumps({"__metadata__": {"rdunet": text}, **header})
    return signed(len(header.encode()).to_bytes(8, "little") + header.encode() + arrays)


def rewritten(content: bytes, edit: Callable[[Fields, Fields], object]) -> bytes:
    """A model file with other entries or another description."""
    header, description, arrays = unpacked(content)
    edit(header, description)
    return packed(header, description, arrays)
