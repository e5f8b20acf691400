"""Exported programs: what they compute without Flax, and that the one for CUDA has the native convolution alone."""

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from rdunet_jax.inference.sliding_window import Predictor
from rdunet_jax.inference.stablehlo import export_predictor
from rdunet_jax.networks.convolution import WINOGRAD_CHANNELS, default_lowering, lowered_for
from rdunet_jax.runs.model_file import load_model
from rdunet_jax.runs.workdir import TrainedNetwork
from rdunet_jax.workflows.prediction import predictor_of
from tests.rdunet_jax.command import Command
from tests.rdunet_jax.runs.model_files import make_run

WINDOW = jax.ShapeDtypeStruct((8, 16, 16), np.int16)
TOLERANCE = 1e-6
"""Of probabilities: XLA may fuse sums in another order."""
WITHOUT_FLAX = """
import sys
from collections import Counter
from pathlib import Path
import jax.export, numpy as np
program = jax.export.deserialize(bytearray(Path(sys.argv[1]).read_bytes()))
for name in sys.argv[2:]:
    np.save(name + ".out.npy", program.call(np.load(name)))
assert not {"flax", "rdunet_jax", "data_pipeline"} & {name.split(".")[0] for name in sys.modules}
"""


def library(network: TrainedNetwork, windows: np.ndarray) -> np.ndarray:
    """The probabilities of a batch of windows, as `SlidingWindow` computes them."""
    predictor: Predictor = predictor_of(network.config, network.model)
    return np.asarray(jax.jit(jax.vmap(predictor, in_axes=(None, 0)))(network.variables, windows))


@pytest.mark.slow
@pytest.mark.full_size  # both sides compiled with all optimisations
def test_programs_for_two_platforms(tmp_path: Path, rdunet: Command) -> None:
    """With Winograd's convolution, which only the program for the CPU has, and a recurrent layer."""
    width = WINOGRAD_CHANNELS
    run = make_run(tmp_path / "run", logits=5, widths=(width, width), recurrent_width=width)
    assert rdunet("export-model", run, "--output", tmp_path / "model.rdunet").status == 0
    result = rdunet("export-model", tmp_path / "model.rdunet", "--to", "stablehlo", "--output", tmp_path / "programs")
    assert result.status == 0 and "cpu.stablehlo, cuda.stablehlo" in result.out
    random = np.random.default_rng(0)
    inputs = [tmp_path / "one.npy", tmp_path / "three.npy"]
    for path, batch in zip(inputs, (1, 3), strict=True):
        np.save(path, random.integers(-1024, 1000, (batch, *WINDOW.shape)).astype(np.int16))
    command = [sys.executable, "-c", WITHOUT_FLAX, str(tmp_path / "programs" / "cpu.stablehlo"), *map(str, inputs)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    network = load_model(tmp_path / "model.rdunet").network
    for path in inputs:
        found, expected = np.load(f"{path}.out.npy"), library(network, np.load(path))
        assert found.dtype == np.float32 and np.ptp(expected) > 0.1
        np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)
    cuda = jax.export.deserialize(bytearray((tmp_path / "programs" / "cuda.stablehlo").read_bytes()))
    assert cuda.platforms == ("cuda",)
    # Two convolutions a block and two of the recurrent layer, all native; the products are the transposed convolutions
    # and the logits, the loop is that over the slices.
    volumes, planes = "[b,0,1,2,f]x[0,1,2,i,o]", "[b,0,1,f]x[0,1,i,o]"
    assert operations(cuda) == {volumes: 2 * 2 * 2, planes: 2, "dot_general": 2 + 1, "while": 1}
    cpu = jax.export.deserialize(bytearray((tmp_path / "programs" / "cpu.stablehlo").read_bytes()))
    assert volumes not in operations(cpu) and operations(cpu)["optimization_barrier"] > 0  # Winograd's


def operations(program: jax.export.Exported) -> Counter[str]:
    """How often a program has each kind of convolution, by its axes, and each operation that a lowering for the CPU is
    made of. The only call of code outside the program checks the shape of its input."""
    text = program.mlir_module()
    assert set(re.findall(r"custom_call @(\w+)", text)) == {"shape_assertion"}
    kinds = re.findall(r"stablehlo\.(dot_general|while|optimization_barrier|scatter|gather)\b", text)
    return Counter([axes.replace(" ", "") for axes in re.findall(r"dim_numbers = (.*?)->", text)] + kinds)


def test_the_program_of_another_predictor_takes_any_number_of_windows() -> None:
    program = export_predictor(lambda scale, window: window.astype(np.float32) * scale, np.float32(2), WINDOW, "cpu")
    for batch in (1, 4):
        windows = np.ones((batch, *WINDOW.shape), np.int16)
        np.testing.assert_array_equal(program.call(windows), 2 * windows.astype(np.float32))


def test_a_network_for_another_platform_gets_its_lowering() -> None:
    x, kernel = (
        jax.ShapeDtypeStruct((1, 8, 32, 32, 32), jnp.float32),
        jax.ShapeDtypeStruct((3, 3, 3, 32, 32), jnp.float32),
    )
    for platform, lowering in {"cpu": "winograd", "cuda": "direct", "tpu": "direct", "onnx": "fold"}.items():
        with lowered_for(platform):
            assert default_lowering(x, kernel) == lowering
    assert default_lowering(x, kernel) == ("winograd" if jax.default_backend() == "cpu" else "direct")
