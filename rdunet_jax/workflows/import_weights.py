"""`rdunet import-weights`."""

import shutil
from dataclasses import replace
from pathlib import Path

from rdunet_jax.config import Gate
from rdunet_jax.errors import RunError
from rdunet_jax.networks.keras_weights import load_keras_weights
from rdunet_jax.networks.models import create_model
from rdunet_jax.runs import chosen_postprocessing, manifest, training_data
from rdunet_jax.runs.start import has_checkpoint
from rdunet_jax.runs.workdir import FILE, RunConfig
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
    if has_checkpoint(workdir):
        raise RunError(f"{workdir}: already holds a run; give --workdir another folder")
    config, variables = load_keras_weights(path, run.model, gate)
    run = replace(run, model=config)
    state = create_state(create_model(config), run.train, run.window_shape)
    for name in (training_data.FILE, chosen_postprocessing.FILE, manifest.FILE):  # of a training that never began
        (workdir / name).unlink(missing_ok=True)
    checkpoints = Checkpoints(workdir / "checkpoints")
    try:
        run.save(workdir)
        checkpoints.save(0, state.replace(params=variables["params"], batch_stats=variables["batch_stats"]))
        checkpoints.close()
    except BaseException:  # such as a full disk: no half of a run
        (workdir / FILE).unlink(missing_ok=True)
        shutil.rmtree(workdir / "checkpoints", ignore_errors=True)
        raise
    return run
