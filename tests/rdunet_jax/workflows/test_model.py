"""The library as a user calls it: a loaded network beside the commands, networks as objects, and data of one's own."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jax
import nibabel as nib
import numpy as np
import pytest
from rich.console import Console

import rdunet_jax
from data_pipeline.dicom.discovery import discover
from data_pipeline.dicom.volume import CTVolume, read_chest_ct
from data_pipeline.errors import InputError
from data_pipeline.loading import Dataset, PatientExample
from data_pipeline.own_data import as_dataset
from data_pipeline.settings import DatasetSettings, PrepareOptions, Sampling
from rdunet_jax.networks.layers import PseudoDenseBlock
from rdunet_jax.workflows.prediction import ct_grid_of
from rdunet_jax.workflows.prepare import prepare_source
from tests.rdunet_jax.command import Command

DUMMY = Path(__file__).resolve().parents[3] / "data_pipeline" / "nsclc_radiomics" / "dummy_data"
SMALL = rdunet_jax.model_config("tiny", widths=(4, 4), recurrent_width=4)
SAMPLING = Sampling()
LUNGS = rdunet_jax.InferenceConfig(threshold=0.41, lungs_only=True, min_component_ml=0.01, flip=True, stride=2)

pytestmark = pytest.mark.usefixtures("optax_promotion")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    settings = DatasetSettings(intensity="hu_window", image_size=16)
    prepare_source(DUMMY, folder, settings, Console(quiet=True), PrepareOptions(workers=1, keep_ids=True))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"), "hu_window", LUNGS)


def make_run(workdir: Path, intensity: str, inference: rdunet_jax.InferenceConfig) -> Path:
    """A network as it was initialised, with larger weights of the last layer: its probabilities vary."""
    config = rdunet_jax.RunConfig(SMALL, rdunet_jax.TrainConfig(), inference, intensity, 16)
    config.save(workdir)
    checkpoints = rdunet_jax.Checkpoints(workdir / "checkpoints")
    with jax.numpy_dtype_promotion("standard"):
        state = rdunet_jax.create_state(rdunet_jax.create_model(SMALL), config.train, (8, 16, 16))
        logits = jax.tree.map(lambda leaf: 30 * leaf, state.params["logits"])
        checkpoints.save(1, state.replace(params={**state.params, "logits": logits}))
    checkpoints.close()
    return workdir


def ct(name: str) -> CTVolume:
    return read_chest_ct(discover(DUMMY / name).series[0])


def test_padding_of_an_array_is_air_as_that_of_a_file(tmp_path: Path) -> None:
    """`slice_minmax` scales a slice from its lowest value, which padding must not be."""
    model = rdunet_jax.load(make_run(tmp_path, "slice_minmax", rdunet_jax.InferenceConfig()))
    volume = ct("PHANTOM-002")
    air, spacing = volume.hounsfield.copy(), volume.geometry.spacing_mm
    air[:, :4, :4] = -1024
    for dtype, padding in ((np.int16, -3024), (np.int32, -3024), (np.float32, -2000)):
        padded = air.astype(dtype)
        padded[:, :4, :4] = padding
        np.testing.assert_array_equal(model.predict(padded, spacing), model.predict(air, spacing))
        assert padded.min() == padding  # the caller's array is not changed


@pytest.mark.slow
def test_a_loaded_network_is_bit_for_bit_that_of_the_commands(
    run: Path, data: Path, rdunet: Command, tmp_path: Path
) -> None:
    volume, model = ct("PHANTOM-002"), rdunet_jax.load(run)
    spacing = volume.geometry.spacing_mm
    probabilities, mask = model.predict(volume.hounsfield, spacing), model.segment(volume.hounsfield, spacing)
    assert probabilities.dtype == np.float32 and mask.dtype == bool and 0 < mask.mean() < 1

    status, _, _ = rdunet(
        *("segment", DUMMY / "PHANTOM-002", "--workdir", run, "--output", tmp_path), "--probabilities"
    )
    assert status == 0
    for array, file in ((mask, "mask.nii.gz"), (probabilities, "probabilities.nii.gz")):
        written = np.asarray(nib.Nifti1Image.from_filename(tmp_path / file).dataobj)
        assert np.array_equal(written.T, array)

    file = tmp_path / "model.rdunet"
    assert rdunet("export-model", run, "--output", file).status == 0
    from_file = rdunet_jax.load(file)
    assert np.array_equal(from_file.predict(volume.hounsfield, spacing), probabilities)
    assert from_file.provenance.weights_sha256 == model.provenance.weights_sha256

    (patient,) = [one for split in ("train", "test") for one in Dataset(data).patients(split) if "002" in one.name]
    split = next(split for split in ("train", "test") if patient.name in Dataset(data).patient_names(split))
    status, _, _ = rdunet("evaluate", "--data-dir", data, "--workdir", run, "--split", split, "--allow-seen")
    assert status == 0
    (stored,) = (run / "evaluation" / split / "probabilities").rglob(f"{patient.name}.npz")
    with np.load(stored) as arrays:
        of_evaluate = rdunet_jax.postprocess_on_ct(arrays["probabilities"], ct_grid_of(patient), LUNGS)
    assert np.array_equal(of_evaluate.probabilities, probabilities) and np.array_equal(of_evaluate.mask, mask)


@pytest.mark.slow
def test_settings_other_than_the_runs(run: Path) -> None:
    volume = ct("PHANTOM-001")
    plain = rdunet_jax.load(run, rdunet_jax.PredictionOverrides(threshold=0.01, dilation_diameter=1, stride=1))
    assert plain.postprocessing.threshold == 0.01 and plain.config.inference.stride == 1
    for same in (volume.hounsfield.astype(np.float64), volume.hounsfield.astype(int)):
        expected = plain.segment(volume.hounsfield, (3.0, 1.0, 1.0))
        assert np.array_equal(plain.segment(same, (3.0, 1.0, 1.0)), expected)


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    "volume, spacing, says",
    [
        (np.zeros((4, 4), np.int16), (1.0, 1.0, 1.0), "volume_hu has the shape"),
        (np.zeros((0, 4, 4), np.int16), (1.0, 1.0, 1.0), "volume_hu has the shape"),
        (np.full((4, 4, 4), np.nan), (1.0, 1.0, 1.0), "Hounsfield units from -32768 to 32767"),
        (np.full((4, 4, 4), 1e6), (1.0, 1.0, 1.0), "Hounsfield units from"),
        (np.full((4, 4, 4), 0.5), (1.0, 1.0, 1.0), "whole Hounsfield units"),
        (np.zeros((4, 4, 4), complex), (1.0, 1.0, 1.0), "Hounsfield units from"),
        (np.zeros((4, 4, 4), np.int16), (1.0, 0.0, 1.0), "spacing is"),
        (np.zeros((4, 4, 4), np.int16), (1.0, 1.0), "spacing is"),
    ],
)
def test_what_is_no_ct_is_refused(run: Path, volume: np.ndarray, spacing: tuple, says: str) -> None:
    with pytest.raises(InputError, match=says):
        rdunet_jax.load(run).predict(volume, spacing)


def test_where_a_network_comes_from(run: Path) -> None:
    known = rdunet_jax.load(run).provenance
    assert (known.run, known.step, known.best, known.data_sets, known.plugins) == (run.name, 1, False, (), ())
    assert len(known.weights_sha256) == 64
    with pytest.raises(InputError, match="no trained network here"):
        rdunet_jax.load(run / "nowhere")


class Discs:
    """Data of one's own: discs of soft tissue in air."""

    intensity = "hu_window"

    def patients(self, split: str) -> Iterator[PatientExample]:
        for number in range({"train": 2, "validation": 1, "test": 2}[split]):
            mask = np.zeros((10, 16, 16), bool)
            mask[3:7, 4 : 9 + number, 5:10] = True
            image = np.where(mask, 40, -800 - number - len(split)).astype(np.int16)
            yield PatientExample(f"{split}-{number}", image, mask, mask, (3.0, 1.0, 1.0))

    def batches(
        self, split: str, batch_size: int, seed: int, start: int = 0, sampling: Sampling = SAMPLING
    ) -> Iterator[dict[str, np.ndarray]]:
        patients, step = list(self.patients(split)), start
        while True:
            chosen = [patients[i] for i in np.random.default_rng([seed, step]).integers(len(patients), size=batch_size)]
            image, mask = (np.stack([getattr(one, name)[:8] for one in chosen]) for name in ("image", "mask"))
            yield {"image": image[..., None], "mask": mask[..., None].astype(np.uint8)}
            step += 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "network, validation", [(SMALL, "patients"), (rdunet_jax.create_model(SMALL), "patches")], ids=["config", "module"]
)
def test_own_data_and_a_network_as_an_object(network, validation, rdunet: Command, tmp_path: Path, capfd) -> None:
    own, run = Discs(), tmp_path / "run"
    recipe = rdunet_jax.TrainConfig(steps=3, epochs=2, steps_per_epoch=2, validation=validation)
    rdunet_jax.train_network(own, run, network, recipe)
    summary = rdunet_jax.evaluate_network(own, rdunet_jax.load(run))
    assert capfd.readouterr().out.strip() == ""  # without a console nothing is shown
    assert summary["patients"] == 2 and summary["slices"] == 20
    written = json.loads((run / "evaluation" / "test" / "summary.json").read_text())
    assert written["mean_volumetric_dice"] == summary["mean_volumetric_dice"] and not written["other_dataset"]
    known = rdunet_jax.load(run).provenance
    assert (known.data_sets[0].name, known.trained_on, known.selected_on) == ("Discs", 2, 1)
    with pytest.raises(InputError, match="trained or selected on 2 of the 2 patients"):
        rdunet_jax.evaluate_network(own, run, options=rdunet_jax.EvaluateOptions(split="train"))
    assert rdunet("segment", DUMMY / "PHANTOM-002", "--workdir", run, "--output", tmp_path / "out").status == 0
    rdunet_jax.train_network(own, run, network, replace(recipe, steps=4))  # goes on
    assert rdunet_jax.load(run).provenance.step == 4


@pytest.mark.slow
def test_the_loop_alone_makes_a_run_too(rdunet: Command, tmp_path: Path) -> None:
    own = Discs()

    def batches(start: int) -> Iterator[dict[str, np.ndarray]]:
        return own.batches("train", 2, 0, start)

    recipe = rdunet_jax.TrainConfig(steps=2, learning_rate=1e-3)
    model = rdunet_jax.create_model(SMALL)
    one = rdunet_jax.fit(
        *(model, recipe), normalise="hu_window", batches=batches, steps_per_epoch=2, workdir=tmp_path / "run"
    )
    loaded = rdunet_jax.load(tmp_path / "run")
    assert loaded.config.model == SMALL and loaded.config.intensity == "hu_window" and loaded.provenance.step == 2
    assert rdunet("segment", DUMMY / "PHANTOM-002", "--workdir", tmp_path / "run", "--output", tmp_path / "out")[0] == 0
    with pytest.raises(rdunet_jax.RunError, match="normalise is a function, which a run cannot record"):
        rdunet_jax.fit(
            *(model, recipe), normalise=lambda x: x, batches=batches, steps_per_epoch=2, workdir=tmp_path / "other"
        )
    assert int(one.step) == 2


def test_a_bottleneck_without_a_name_is_never_recorded_as_another(tmp_path: Path) -> None:
    model = rdunet_jax.create_model(SMALL, bottleneck=PseudoDenseBlock)
    with pytest.raises(rdunet_jax.RunError, match=r"its settings do not make it again.*register its parts"):
        rdunet_jax.train_network(Discs(), tmp_path / "run", model)
    assert not (tmp_path / "run").exists()


def test_own_data_as_a_data_set() -> None:
    data = as_dataset(Discs())
    assert data.patient_names("test") == ("test-0", "test-1") and data.image_size == 16
    assert data.patch_count("train", Sampling(depth=8)) == len(list(data.patches("train", Sampling(depth=8)))) > 0
    for index in (1, 0, 1):
        assert data.patient("test", index).name == f"test-{index}"
    assert as_dataset(Discs()).dataset_sha256 == data.dataset_sha256

    class Wide(Discs):
        def patients(self, split: str) -> Iterator[PatientExample]:
            for one in super().patients(split):
                image, mask = (np.pad(array, ((0, 0), (0, 0), (0, 8))) for array in (one.image, one.mask))
                yield replace(one, image=image, mask=mask)

    assert as_dataset(Wide()).image_size == (16, 24)

    class Others(Discs):
        def patients(self, split: str) -> Iterator[PatientExample]:
            for one in super().patients(split):
                yield replace(one, image=one.image + np.int16(1))

    assert as_dataset(Others()).dataset_sha256 != data.dataset_sha256
    assert as_dataset(data) is data


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    "change, says",
    [
        ({"name": "same"}, "two patients have this name"),
        ({"image": np.zeros((10, 16, 16))}, "image is float64, but must be int16"),
        ({"image": np.zeros((10, 16), np.int16)}, "image is \\(10, 16\\), but must be \\(slices, rows, columns\\)"),
        ({"image": np.zeros((10, 16, 24), np.int16)}, "mask is \\(10, 16, 16\\)"),
        ({"mask": np.zeros((9, 16, 16), bool)}, "mask is \\(9, 16, 16\\)"),
        ({"ct_mask": np.zeros((10, 16, 16), np.uint8)}, "mask and ct_mask must be of dtype bool"),
    ],
)
def test_own_data_that_cannot_be_used(change: dict, says: str) -> None:
    class Wrong(Discs):
        def patients(self, split: str) -> Iterator[PatientExample]:
            return (replace(one, **change) for one in super().patients(split))

    with pytest.raises(InputError, match=f"^Wrong: patient .*: {says}"):
        as_dataset(Wrong())


def test_batches_of_another_shape_are_refused() -> None:
    class Wrong(Discs):
        def batches(self, *arguments, **options) -> Iterator[dict[str, np.ndarray]]:
            return ({"image": one["image"][..., 0], "mask": one["mask"]} for one in super().batches(*arguments))

    with pytest.raises(InputError, match="Wrong: batches gives image and mask of"):
        next(as_dataset(Wrong()).batches("train", 2, 0))
