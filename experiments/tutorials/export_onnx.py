"""Writes the network of a run or of a model file as ONNX, and compares it in ONNX Runtime.

    python -m experiments.tutorials.export_onnx model.rdunet --output model.onnx

In an environment of its own, made by `pip install . jax2onnx==0.17.1`: that version of jax2onnx, which carries
the network, needs an older orbax-checkpoint than this package is pinned to. The program takes one window of stored grey
values as float32 (depth, height, width) and gives its probabilities.
"""

if not __package__:
    raise SystemExit("error: run this in the checkout as: python -m experiments.tutorials.export_onnx")

from pathlib import Path
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from tyro.conf import Positional

from data_pipeline.errors import InputError
from data_pipeline.files import write_whole
from experiments.common import script
from rdunet_jax.inference.sliding_window import Predictor
from rdunet_jax.networks.convolution import lowered_for
from rdunet_jax.runs.model_file import load_run_or_model
from rdunet_jax.workflows.prediction import predictor_of


def onnx_model(predictor: Predictor, variables: Any, window: jax.ShapeDtypeStruct) -> Any:
    """The ONNX model of a predictor of one window.

    jax2onnx replaces functions of JAX while it traces, which Flax's scan does not survive, so it gets a traced program.
    """
    from jax2onnx import to_onnx  # pyright: ignore[reportMissingImports]

    with lowered_for("onnx"):
        program = jax.make_jaxpr(lambda stored: predictor(variables, stored))(window)
    return to_onnx(lambda stored: jax.extend.core.jaxpr_as_fun(program)(stored)[0], inputs=[window.shape])


def main(run: Positional[Path], output: Path) -> None:
    """Write a network as ONNX.

    Args:
        run: Folder of the run whose best network is written; or a model file.
        output: File to write, such as model.onnx.
    """
    trained = load_run_or_model(run)
    config = trained.config
    shape = config.window_shape
    predictor = predictor_of(config, trained.model)
    try:
        model = onnx_model(predictor, trained.variables, jax.ShapeDtypeStruct(shape, jnp.float32))
        import onnxruntime  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(f"{error.name} is not installed; see the beginning of this script") from error
    content = model.SerializeToString()
    write_whole(output, content)
    window = np.random.default_rng(0).integers(0, 256, shape).astype(np.float32)
    session = onnxruntime.InferenceSession(content)
    (found,) = session.run(None, {session.get_inputs()[0].name: window})
    expected = jax.jit(predictor)(trained.variables, window)
    difference = np.abs(found - np.asarray(expected)).max()
    print(f"{output}: {len(content) / 1e6:.1f} MB, largest difference of a probability {difference:.1e}")


if __name__ == "__main__":
    script.run(main, __doc__)
