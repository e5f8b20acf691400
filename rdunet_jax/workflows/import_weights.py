"""`rdunet import-weights`."""

from dataclasses import replace
from pathlib import Path

from rdunet_jax.config import Gate, ImageSize
from rdunet_jax.errors import RunError
from rdunet_jax.networks.keras_weights import load_keras_weights
from rdunet_jax.networks.models import create_model
from rdunet_jax.ranges import check
from rdunet_jax.runs.workdir import RunConfig
from rdunet_jax.training.checkpointing import Checkpoints
from rdunet_jax.training.step import create_state


def import_weights(path: Path, workdir: Path, run: RunConfig, gate: Gate | None = None) -> RunConfig:
    """Makes `workdir` a run whose one checkpoint holds the weights of a Keras file, for `evaluate` and `segment`.

    Args:
        run: the settings to use it with; what the file says about its network replaces the config's.
        gate: the activation of the recurrent gates, needed where the file does not name it (weights alone).

    Returns:
        The settings as written.

    Raises:
        RunError: the file cannot be read or does not fit the network, or `workdir` holds a run already.
    """
    check("image_size", run.image_size, ImageSize)
    run.model.check_image_size(run.image_size)
    if (workdir / "config.json").exists():
        raise RunError(f"{workdir}: already holds a run; give --workdir another folder")
    config, variables = load_keras_weights(path, run.model, gate)
    run = replace(run, model=config)
    state = create_state(create_model(config), run.train, (config.patch_depth, run.image_size, run.image_size))
    run.save(workdir)
    checkpoints = Checkpoints(workdir / "checkpoints")
    checkpoints.save(0, state.replace(params=variables["params"], batch_stats=variables["batch_stats"]))
    checkpoints.close()
    return run
