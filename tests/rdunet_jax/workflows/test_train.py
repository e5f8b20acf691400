"""`rdunet train` as a user meets it: its log, what it refuses, what it heals."""

import errno
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pydicom
import pytest
from rich.console import Console

from data_pipeline.loading import Dataset
from data_pipeline.settings import DatasetSettings, PrepareOptions, Sampling
from data_pipeline.splits import split_sha256
from rdunet_jax.config import InferenceConfig, TrainConfig
from rdunet_jax.errors import InputError
from rdunet_jax.files import locked
from rdunet_jax.networks.models import model_config
from rdunet_jax.runs.training_data import TrainingData
from rdunet_jax.training import loop, trackers
from rdunet_jax.training.history import StepRow, read_rows
from rdunet_jax.workflows.prepare import prepare_source
from rdunet_jax.workflows.train import train_network
from rdunet_jax.workflows.validation import Validator
from tests.rdunet_jax.command import Command, one_line

DUMMY = Path(__file__).resolve().parents[3] / "data_pipeline" / "nsclc_radiomics" / "dummy_data"
TINY = ("--model", "tiny", "--widths", "4", "4", "4", "--recurrent-width", "4", "--batch-size", "1")
SHORT = (*TINY, "--steps-per-epoch", 2, "--validation", "patches")

pytestmark = pytest.mark.usefixtures("optax_promotion")


def prepared(rdunet: Command, source: Path, data: Path, *more: object) -> Path:
    status, _, error = rdunet(
        "prepare", source, "--data-dir", data, "--image-size", 16, "--keep-ids", "--workers", 1, *more
    )
    assert status == 0, error
    return data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dummy patients as a data set."""
    folder = tmp_path_factory.mktemp("train")
    options = PrepareOptions(workers=1, keep_ids=True)
    prepare_source(DUMMY, folder, DatasetSettings(image_size=16), Console(quiet=True), options)
    return folder


@pytest.mark.slow
def test_windows_need_hounsfield_units(rdunet, data: Path, tmp_path: Path) -> None:
    windows = ("--hu-windows", "lung", "soft_tissue")
    train = ("train", "--workdir", tmp_path / "run", *SHORT, "--epochs", 1, *windows)
    one_line(rdunet(*train, "--data-dir", data), "--hu-windows needs Hounsfield units", "slice_minmax")
    hounsfield = prepared(rdunet, DUMMY, tmp_path / "data", "--intensity", "hu_window")
    assert rdunet(*train, "--data-dir", hounsfield).status == 0
    assert rdunet("evaluate", "--data-dir", hounsfield, "--workdir", tmp_path / "run").status == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["model"]["hu_windows"] == ["lung", "soft_tissue"]


@pytest.mark.slow
def test_a_log_file_says_how_it_goes_and_the_run_knows_its_data(rdunet, data: Path, tmp_path: Path) -> None:
    train = ("train", "--data-dir", data, "--workdir", tmp_path / "run", *SHORT, "--epochs")
    status, out, _ = rdunet(*train, 2)
    assert status == 0
    assert "compiling the training step, once" in out
    lines = [line for line in out.splitlines() if line.startswith("epoch ")]
    assert len(lines) == 2 and lines[1].startswith("epoch 2: step 4 of 4, loss ") and "(soft 0." in lines[1]
    assert "best validation soft Dice 0." in out
    _, out, _ = rdunet(*train, 2)
    assert "already finished: 4 steps" in out and "compiling" not in out
    assert rdunet(*train, 1)[0] == 0

    used = TrainingData.load(tmp_path / "run")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert used is not None and sorted(used.seen({f"PHANTOM-{n:03d}": "" for n in range(1, 4)}).values()) == [
        "selected",
        "trained",
    ]
    assert [session["dataset"]["dataset_sha256"] for session in manifest["sessions"]] == [
        used.data_sets[0].dataset_sha256
    ] * 3
    assert manifest["sessions"][2]["changes"] == {"train.epochs": [2, 1]}


@pytest.mark.slow
def test_selection_share_and_depth_are_settings_of_the_run(rdunet, data: Path, tmp_path: Path) -> None:
    """Two runs on one data set: straight, and stopped after an epoch. They end in the same losses, bit for bit."""
    chosen = ("--selection", "all", "--tumour-free-share", 0.25, "--patch-depth", 3)
    train = ("train", "--data-dir", data, *SHORT)
    for name, epochs in (("straight", 2), ("resumed", 1), ("resumed", 2)):
        status, out, error = rdunet(*train, *chosen, "--workdir", tmp_path / name, "--epochs", epochs)
        assert status == 0 and "(selection all, 25% without tumour)" in out, error
    straight, resumed = (read_rows(tmp_path / name / "steps.csv", StepRow)[0] for name in ("straight", "resumed"))
    assert len(straight) == 4 and [row.loss for row in straight] == [row.loss for row in resumed]
    config = json.loads((tmp_path / "straight" / "config.json").read_text())
    assert (config["train"]["selection"], config["train"]["tumour_free_share"]) == ("all", 0.25)
    assert config["model"]["patch_depth"] == 3
    train = (*train, "--workdir", tmp_path / "resumed", "--epochs", 2)
    one_line(rdunet(*train, *chosen[2:]), "train.selection all (now tumour_run)", "another --workdir")
    one_line(rdunet(*train, *chosen[:2], *chosen[4:]), "train.tumour_free_share 0.25 (now None)")


def test_training_takes_no_threshold_of_each_patient(rdunet, data: Path, tmp_path: Path) -> None:
    says = "threshold histogram: training needs a number"
    train = ("train", "--data-dir", data, "--workdir", tmp_path / "run", *SHORT)
    one_line(rdunet(*train, "--threshold", "histogram"), says)
    with pytest.raises(InputError, match=says):
        recipe, inference = TrainConfig(batch_size=1, epochs=1), InferenceConfig(threshold="histogram")
        train_network(Dataset(data), tmp_path / "run", model_config("tiny"), recipe, inference)
    assert not (tmp_path / "run").exists()


def test_too_few_patches_of_a_selection_are_one_line(rdunet, data: Path, tmp_path: Path) -> None:
    train = ("train", "--data-dir", data, "--workdir", tmp_path / "run", *SHORT)
    one_line(rdunet(*train, "--patch-depth", 11), "0 training patches", "--patch-depth 11")
    one_line(rdunet(*train, "--tumour-free-share", 0.5, "--patch-depth", 9), "no patch without tumour", "train")
    assert not (tmp_path / "run" / "config.json").exists()
    one_line(rdunet(*train, "--tumour-free-share", 1), "tumour_free_share is 1.0", "from 0 and below 1")


def test_a_tracker_that_is_not_installed_is_one_line(rdunet, data: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    train = ("train", "--data-dir", data, "--workdir", tmp_path / "run", *SHORT, "--tracker", "wandb")
    one_line(rdunet(*train), "--tracker wandb: not installed; install the extra: pip install '.[wandb]'")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_another_data_set_is_refused_unless_on_purpose(rdunet, data: Path, tmp_path: Path) -> None:
    other = prepared(rdunet, DUMMY, tmp_path / "other", "--seed", 1)
    work = tmp_path / "run"
    train = ("train", "--workdir", work, *SHORT)
    assert rdunet(*train, "--data-dir", data, "--epochs", 1)[0] == 0
    longer = (*train, "--data-dir", other, "--epochs", 2)
    one_line(rdunet(*longer), str(work), "another data set or split", "--other-dataset")
    assert rdunet(*longer, "--other-dataset")[0] == 0
    sessions = json.loads((work / "manifest.json").read_text())["sessions"]
    assert len({session["dataset"]["dataset_sha256"] for session in sessions}) == 2
    used = TrainingData.load(work)
    assert used is not None and len(used.data_sets) == 2


def spoiled(step_number: int, error: Exception | None = None):
    """The training step, but that number fails: with an error, or with a loss that is not a number."""
    made = 0
    real = loop.train_step

    def step(state, *arguments):
        nonlocal made
        made += 1
        if made == step_number and error is not None:
            raise error
        if made == step_number:
            return state, {"loss": jnp.float32(jnp.nan), "dice": jnp.float32(0), "finite": jnp.array(False)}
        return real(state, *arguments)

    return step


@pytest.mark.slow  # test_not_finite.py has the loop's half
def test_a_first_step_that_fails_does_not_lock_the_folder(rdunet, data: Path, tmp_path: Path, monkeypatch) -> None:
    train = ("train", "--data-dir", data, "--workdir", tmp_path / "run", *SHORT, "--epochs", 1)
    one_line(rdunet(*train, "--loss", "mse"), "mse")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", spoiled(1, loop.jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no memory")))
        one_line(rdunet(*train, "--loss", "iou"), "lower --batch-size")
    status, _, error = rdunet(*train, "--loss", "dice")
    assert status == 0, error
    one_line(rdunet(*train, "--loss", "iou"), "train.loss dice (now iou)")  # from now on it is a run


@pytest.mark.slow  # test_not_finite.py has the loop's half
def test_a_step_that_is_not_finite_names_its_patients_and_takes_a_lower_rate(
    rdunet, data: Path, tmp_path: Path, monkeypatch
) -> None:
    work = tmp_path / "run"
    train = ("train", "--data-dir", data, "--workdir", work, *SHORT, "--epochs", 2)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", spoiled(3))
        one_line(rdunet(*train), "not finite at step 3", "patient ['PHANTOM-", "start [", "--learning-rate")
    one_line(rdunet(*train, "--learning-rate", 0.01), "train.learning_rate")
    status, out, error = rdunet(*train, "--learning-rate", 1e-5)
    assert status == 0 and "going on from step 2 of 4" in out, error
    sessions = json.loads((work / "manifest.json").read_text())["sessions"]
    assert [session["outcome"] for session in sessions] == ["NotFiniteError", "finished"]
    assert sessions[1]["changes"] == {"train.learning_rate": [1e-4, 1e-5]}


def shorten(folder: Path, slices: int) -> None:
    """Leaves so many slices of a CT, from the first with a contour on, and their contours."""
    files = [(path, pydicom.dcmread(path)) for path in folder.rglob("*.dcm")]
    ((structures_path, structures),) = [pair for pair in files if pair[1].Modality == "RTSTRUCT"]
    images = sorted((pair for pair in files if pair[1].Modality == "CT"), key=lambda pair: pair[1].SliceLocation)
    contours = structures.ROIContourSequence[0].ContourSequence
    lowest = min(float(contour.ContourData[2]) for contour in contours)
    above = [pair for pair in images if pair[1].ImagePositionPatient[2] >= lowest][:slices]
    kept = {image.SOPInstanceUID for _, image in above}
    assert len(kept) == slices
    for path, image in images:
        if image.SOPInstanceUID not in kept:
            path.unlink()
    for roi in structures.ROIContourSequence:
        roi.ContourSequence = [
            contour
            for contour in roi.ContourSequence
            if contour.ContourImageSequence[0].ReferencedSOPInstanceUID in kept
        ]
    frame = structures.ReferencedFrameOfReferenceSequence[0]
    series = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    series.ContourImageSequence = [one for one in series.ContourImageSequence if one.ReferencedSOPInstanceUID in kept]
    structures.save_as(structures_path)


@pytest.mark.parametrize("validation", [
    "patches",
    pytest.param("patients", marks=pytest.mark.slow),
    pytest.param("none", marks=pytest.mark.slow),
])  # fmt: skip
def test_a_short_validation_patient_is_scored_on_its_whole_ct(validation: str, rdunet, tmp_path: Path) -> None:
    """It has 6 slices, so it has no patch of 8."""
    source = Path(shutil.copytree(DUMMY, tmp_path / "source"))
    shorten(source / "PHANTOM-001", 6)
    split = {"train": ["PHANTOM-002"], "validation": ["PHANTOM-001"], "test": ["PHANTOM-003"]}
    (tmp_path / "split.json").write_text(json.dumps(split | {"sha256": split_sha256(split)}))
    data = prepared(rdunet, source, tmp_path / "data", "--split-file", tmp_path / "split.json")
    train = ("train", "--data-dir", data, "--workdir", tmp_path / "run", *TINY, "--steps-per-epoch", 1, "--epochs", 1)
    status, out, error = rdunet(*train, "--validation", validation)
    assert status == 0, error
    assert ("best validation soft Dice" in out) == (validation != "none")


def test_every_validation_patient_counts_though_some_are_too_short_for_a_patch(rdunet, tmp_path: Path) -> None:
    source = Path(shutil.copytree(DUMMY, tmp_path / "source"))
    shorten(source / "PHANTOM-001", 6)
    split = {"train": ["PHANTOM-002"], "validation": ["PHANTOM-001", "PHANTOM-003"], "test": []}
    (tmp_path / "split.json").write_text(json.dumps(split | {"sha256": split_sha256(split)}))
    data = Dataset(prepared(rdunet, source, tmp_path / "data", "--split-file", tmp_path / "split.json"))

    class Window:
        """Sure of the short patient's tumour, and of nothing in the others."""

        depth = 8

        def __call__(self, variables: object, image: np.ndarray) -> np.ndarray:
            return np.full(image.shape, 0.9 if len(image) == 6 else 0.0, np.float32)

    window: Any = Window()
    state: Any = SimpleNamespace(variables={})
    calls: list[tuple[int, int]] = []
    found = Validator(data, "validation", "patches", Sampling(), window, InferenceConfig())(
        state, lambda *c: calls.append(c)
    )
    tumour, voxels = (data.patient("validation", 0).mask, 6 * 16 * 16)
    patches = [mask for _, mask in data.patches("validation")]
    soft = [(2 * 0.9 * tumour.sum() + 1) / (0.9 * voxels + tumour.sum() + 1)]
    soft += [1 / (mask.sum() + 1) for mask in patches]
    assert patches and found.soft_dice == pytest.approx(np.mean(soft), abs=1e-6)
    assert found.dice and calls[-1] == (len(soft), len(soft))


def test_a_second_training_is_refused_and_a_stale_lock_is_not(rdunet, data: Path, tmp_path: Path) -> None:
    work = tmp_path / "run"
    train = ("train", "--data-dir", data, "--workdir", work, *SHORT, "--epochs", 1)
    with locked(work / ".lock", work):
        one_line(rdunet(*train), str(work), "in use by process")
    (work / ".lock").write_text(json.dumps({"pid": 1, "host": "elsewhere"}))  # as `kill -9` leaves it
    assert rdunet(*train)[0] == 0


def test_a_full_disk_at_the_start_is_one_line(rdunet, data: Path, tmp_path: Path, monkeypatch) -> None:
    def full(self: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        one_line(rdunet("train", "--data-dir", data, "--workdir", tmp_path / "run", *SHORT), "No space left on device")


@pytest.mark.slow
def test_damaged_files_of_a_run_end_in_one_line_or_are_made_anew(rdunet, data: Path, tmp_path: Path, caplog) -> None:
    work = tmp_path / "run"
    train = ("train", "--data-dir", data, "--workdir", work, *SHORT, "--validation", "none", "--epochs", 2)
    assert rdunet(*train)[0] == 0
    refused = {"config.json": "cannot be read as a run's settings", "training_data.json": "damaged"}
    for name in (*refused, "manifest.json", "history.csv", "steps.csv"):
        sound = (work / name).read_bytes()
        for damaged in (sound[: len(sound) // 2], b"", b"\xff" + sound, sound.replace(b"e", b"f", 1)):
            assert damaged != sound
            (work / name).write_bytes(damaged)
            caplog.clear()
            result = rdunet(*train)
            if name in refused:
                one_line(result, name, refused[name])
                (work / name).write_bytes(sound)
                continue
            assert result[0] == 0, result[2]
            assert f"{name}: damaged" in caplog.text
            if name.endswith("csv"):
                assert (work / name).read_bytes() == sound
