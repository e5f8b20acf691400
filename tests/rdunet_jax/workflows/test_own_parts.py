"""The tutorial's plugins, trained, scored and used for segmentation by the commands and by the library."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import rdunet_jax
from data_pipeline.dicom.discovery import discover
from data_pipeline.dicom.volume import read_chest_ct
from rdunet_jax.files import sha256_of
from tests.rdunet_jax.command import Command, one_line

ROOT = Path(__file__).resolve().parents[3]
DUMMY = ROOT / "data_pipeline" / "nsclc_radiomics" / "dummy_data"
TUTORIALS = ROOT / "experiments" / "tutorials"

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("optax_promotion")]


@pytest.mark.parametrize("file", ["attention.py", "boundary_loss.py"])
def test_a_plugin_of_the_tutorial_is_short(file: str) -> None:
    assert len((TUTORIALS / file).read_text().splitlines()) < 40


def test_the_tutorial_by_three_commands(rdunet: Command, tmp_path: Path, new_process) -> None:
    data, work, code = tmp_path / "data", tmp_path / "work", tmp_path / "code"
    code.mkdir()
    attention, boundary = (shutil.copy(TUTORIALS / name, code) for name in ("attention.py", "boundary_loss.py"))
    assert rdunet("prepare", DUMMY, "--data-dir", data, "--image-size", 16, "--keep-ids", "--workers", 1).status == 0
    small = ("--model", "tiny", "--widths", 4, 4, "--recurrent-width", 8, "--batch-size", 1, "--steps", 2)
    plugins = ("--plugin", attention, "--plugin", boundary)
    train = ("train", "--data-dir", data, "--workdir", work, *small)
    own = ("--bottleneck", "attention", "--loss", "bce+0.1*boundary")
    one_line(rdunet(*train, *own), "attention", "--bottleneck")
    result = rdunet(*train, *plugins, *own)
    assert result.status == 0 and "loss bce+0.1*boundary" in result.out
    config = json.loads((work / "config.json").read_text())
    assert config["model"]["bottleneck"] == "attention"
    used = [{"name": Path(one).name, "sha256": sha256_of(Path(one))} for one in (attention, boundary)]
    assert config["plugins"] == used
    assert "{convlstm,bidirectional,convgru,block,none,attention}" in rdunet("train", *plugins, "--help").out

    new_process()  # the next commands find the plugins by what was named
    evaluate = ("evaluate", "--data-dir", data, "--workdir", work, "--threshold", 0.3)
    assert rdunet(*evaluate).status == 0
    segment = ("segment", DUMMY / "PHANTOM-002", "--workdir", work, "--output", tmp_path / "out", "--threshold", 0.3)
    assert rdunet(*segment).status == 0

    volume = read_chest_ct(discover(DUMMY / "PHANTOM-002").series[0])
    model = rdunet_jax.load(work, rdunet_jax.PredictionOverrides(threshold=0.3))
    mask = model.segment(volume.hounsfield, volume.geometry.spacing_mm)
    written = np.asarray(nib.Nifti1Image.from_filename(tmp_path / "out" / "mask.nii.gz").dataobj)
    assert np.array_equal(mask, written.T)
    assert [one.name for one in model.provenance.plugins] == ["attention.py", "boundary_loss.py"]

    for change, says in (
        (lambda: Path(attention).write_text("# edited\n" + Path(attention).read_text()), "was changed since"),
        (lambda: Path(attention).rename(code / "renamed.py"), "is missing or was renamed"),
    ):
        new_process()
        change()
        for command in (evaluate, segment, ("choose-postprocessing", "--data-dir", data, "--workdir", work)):
            one_line(rdunet(*command), says, str(work / "plugins"), "--plugin")


EVERY_KIND = """
import flax.linen as nn
import jax.numpy as jnp
from rdunet_jax.config import ModelConfig
from rdunet_jax.registry import ARCHITECTURES, AUGMENTATIONS, BLOCKS, INTENSITIES, MODELS
from rdunet_jax.training.augmentation import on_image, sometimes

class OneLayer(nn.Module):
    features: int
    norm: object
    dtype: object
    dropout: object = None

    @nn.compact
    def __call__(self, x):
        return nn.relu(self.norm(name="norm")(nn.Dense(self.features, dtype=self.dtype, name="dense")(x)))

class Pixelwise(nn.Module):
    config: ModelConfig

    @nn.compact
    def __call__(self, x, *, train=False):
        return nn.Dense(1, name="logits")(nn.relu(nn.Dense(self.config.widths[0], name="hidden")(x)))

BLOCKS.register("one-layer")(lambda config: OneLayer)
ARCHITECTURES.register("pixelwise")(Pixelwise)
MODELS.register("mine")(ModelConfig("mine", architecture="pixelwise", widths=(3,)))
AUGMENTATIONS.register("dim")(sometimes(on_image(lambda key, image, settings: 0.5 * image)))
INTENSITIES.register("soft-tissue")(lambda patches: (patches.astype(jnp.float32) / 400).clip(-1, 1))
"""


def test_every_other_kind_of_part(rdunet: Command, tmp_path: Path, new_process) -> None:
    data, plugin = tmp_path / "data", tmp_path / "every.py"
    plugin.write_text(EVERY_KIND)
    prepare = ("prepare", DUMMY, "--data-dir", data, "--image-size", 16, "--keep-ids", "--workers", 2)
    assert rdunet(*prepare, "--plugin", plugin, "--intensity", "soft-tissue").status == 0
    new_process()
    plain = ("train", "--data-dir", data, "--workdir", tmp_path / "none", "--model", "tiny")
    one_line(rdunet(*plain), "its intensity 'soft-tissue' is none of slice_minmax, hu_window; give --plugin")

    assert "mine" in rdunet("models", "mine", "--image-size", 15, "--plugin", plugin).out
    for name, options in {
        "block": ("--model", "tiny", "--widths", 4, 4, "--recurrent-width", 4, "--block", "one-layer"),
        "network": ("--model", "mine", "--lungs-only"),
    }.items():
        work = tmp_path / name
        short = ("--steps", 1, "--batch-size", 1, "--augmentation", "dim", "blur", "--validation", "none")
        train = ("train", "--data-dir", data, "--workdir", work, "--plugin", plugin, *options, *short)
        assert rdunet(*train).status == 0
        config = json.loads((work / "config.json").read_text())
        assert config["intensity"] == "soft-tissue" and [one["name"] for one in config["plugins"]] == ["every.py"]
        new_process()
        assert rdunet("evaluate", "--data-dir", data, "--workdir", work).status == 0
        assert rdunet("segment", DUMMY / "PHANTOM-002", "--workdir", work, "--output", tmp_path / "out").status == 0
    one_line(rdunet("export-model", tmp_path / "network", "--output", tmp_path / "x.h5", "--to", "keras"), "pixelwise")
