"""`rdunet models`: side by side, measured, and the differences of two."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from rdunet_jax.networks.models import model_config
from rdunet_jax.runs.workdir import load_trained
from rdunet_jax.training.checkpointing import Checkpoints
from rdunet_jax.training.step import create_state
from tests.rdunet_jax.command import Command, one_line
from tests.rdunet_jax.runs.model_files import make_run


def test_networks_runs_and_files_side_by_side(tmp_path: Path, rdunet: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(Path("run"))
    assert rdunet("export-model", "run", "--output", "model.rdunet").status == 0
    result = rdunet("models", "tiny", "run", "model.rdunet", "--image-size", 32)
    assert result.status == 0
    rows = {line.split()[0]: line.split()[1:] for line in result.out.splitlines() if line.strip()}
    assert rows["run"] == rows["model.rdunet"] != rows["tiny"]
    assert "8 x 92 x 92" in result.out and "Stages" not in result.out
    out = rdunet("models", "--image-size", 16, 32, "run").out
    assert "one patch of 16 x 32 pixels" in out and "Stages" in out and "8 x 8 x 16 x 2" in out
    one_line(rdunet("models", "absent"), "no network is called 'absent'")


@pytest.mark.slow
def test_differences_of_settings_and_layers(tmp_path: Path, rdunet: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(Path("run"))
    assert rdunet("export-model", "run", "--output", "model.rdunet").status == 0
    result = rdunet("models", "--diff", "run", "model.rdunet")
    assert result.status == 0 and "no setting differs" in result.out and "no layer differs: 21 layers" in result.out
    trained = load_trained(Path("run"))
    state = create_state(trained.model, trained.config.train, (8, 16, 16))
    params = jax.tree.map(jnp.asarray, trained.variables["params"])
    params["logits"]["kernel"] = 2 * params["logits"]["kernel"]  # its bias is zero
    trained.config.save(Path("other"))
    checkpoints = Checkpoints(Path("other") / "checkpoints")
    checkpoints.save(1, state.replace(params=params))
    checkpoints.close()
    out = rdunet("models", "--diff", "run", "other").out
    assert "Layers that differ: 1 of 21 layers" in out and "100.00%" in out and "logits" in out
    make_run(Path("gru"), bottleneck="convgru", widths=(2, 4))
    out = rdunet("models", "--diff", "run", "gru").out
    assert "bottleneck" in out and "convgru" in out and "encoder_2/conv_1" in out and "encoder_1/conv_1" not in out
    out = rdunet("models", "--diff", "keras", "paper").out
    assert "upsample_1" in out and "block_output" in out
    assert model_config("keras").widths == model_config("paper").widths and "widths" not in out


@pytest.mark.slow
@pytest.mark.usefixtures("optax_promotion")
def test_measured_times(rdunet: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(Path("run"))
    result = rdunet("models", "run", "--image-size", 16, "--measure")
    assert result.status == 0 and "forward, ms" in result.out and "step, ms" in result.out
    values = next(line.split() for line in result.out.splitlines() if line.startswith(" run "))
    assert all(float(value.replace(",", "")) > 0 for value in values[-2:])
