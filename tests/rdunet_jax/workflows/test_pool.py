"""Cross-validation through the commands: `prepare --folds`, `train --fold`, `evaluate` and `pool`."""

import csv
import io
import json
import shutil
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict
from pathlib import Path

import jax
import numpy as np
import pytest

from data_pipeline.loading import Dataset
from rdunet_jax.cli import main as cli
from rdunet_jax.networks.models import create_model
from rdunet_jax.runs.training_data import TrainingData
from rdunet_jax.runs.workdir import RunConfig
from rdunet_jax.scoring.intervals import mean_interval
from rdunet_jax.training.checkpointing import Checkpoints
from rdunet_jax.training.step import create_state
from rdunet_jax.workflows import train as workflow

DUMMY = Path(__file__).resolve().parents[3] / "data_pipeline" / "nsclc_radiomics" / "dummy_data"
TINY = ("--model", "tiny", "--widths", 4, 4, 4, "--recurrent-width", 4, "--batch-size", 1, "--threshold", 0.4)
FOLDS = range(3)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("optax_promotion")]
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def rdunet() -> Command:
    """Runs a command in this process; returns (status, what it printed, its errors)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        out, error, status = io.StringIO(), io.StringIO(), 0
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(error):
            patch.setattr(sys, "argv", ["rdunet", *map(str, arguments)])
            try:
                cli.main()
            except SystemExit as end:
                status = int(end.code or 0)
        assert error.getvalue().count("\n") == (status != 0), error.getvalue()
        return status, out.getvalue(), error.getvalue()

    return run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, rdunet: Command) -> Path:
    """Three patients, so that each fold holds out one."""
    folder = tmp_path_factory.mktemp("folds") / "data"
    prepare = ("prepare", DUMMY, "--data-dir", folder, "--image-size", 16, "--keep-ids", "--workers", 1)
    status, out, error = rdunet(*prepare, "--folds", 3)
    assert status == 0 and "Folds" in out, error
    return folder


def initialise(workdir: Path) -> None:
    """A checkpoint of the run's network, with weights that differ from fold to fold."""
    run = RunConfig.load(workdir)
    checkpoints = Checkpoints(workdir / "checkpoints")
    with jax.numpy_dtype_promotion("standard"):
        state = create_state(create_model(run.model), run.train, (8, 16, 16))
    checkpoints.save(1, state)
    checkpoints.close()


@pytest.fixture(scope="module")
def runs(data: Path, rdunet: Command) -> list[Path]:
    """A run for each fold, by the command, but for the steps."""
    workdirs = [data.parent / f"run{fold}" for fold in FOLDS]
    with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"):
        patch.setattr(workflow, "fit", lambda *_, **__: None)
        for fold, workdir in zip(FOLDS, workdirs, strict=True):
            train = ("train", "--data-dir", data, "--workdir", workdir, *TINY, "--seed", fold, "--fold", fold)
            status, out, error = rdunet(*train)
            assert status == 0 and f"without fold {fold}" in out, error
            initialise(workdir)
    return workdirs


@pytest.fixture(scope="module")
def evaluations(data: Path, runs: list[Path], rdunet: Command) -> list[Path]:
    for workdir in runs:
        status, _, error = rdunet("evaluate", "--data-dir", data, "--workdir", workdir)
        assert status == 0, error
    return [workdir / "evaluation" / "test" for workdir in runs]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_data_set_holds_several_splits(data: Path) -> None:
    whole, folds = Dataset(data), [Dataset(data, fold=fold) for fold in FOLDS]
    names = [name for split in ("train", "validation", "test") for name in whole.patient_names(split)]
    assert sorted(name for fold in folds for name in fold.patient_names("test")) == sorted(names)
    assert len({whole.split_sha256, *(fold.split_sha256 for fold in folds)}) >= 3
    stored = {one.name: one for split in ("train", "validation", "test") for one in whole.patients(split)}
    for fold in folds:
        assert fold.dataset_sha256 == whole.dataset_sha256
        for split in ("train", "validation", "test"):
            patients = list(fold.patients(split))
            assert tuple(one.name for one in patients) == fold.patient_names(split)
            for one in patients:
                for field, value in asdict(one).items():
                    np.testing.assert_array_equal(value, getattr(stored[one.name], field))
        batch = next(fold.batches("train", 1, seed=0))
        assert set(batch["patient"].tolist()) <= set(fold.patient_names("train"))


def test_folds_do_not_change_the_data_set_nor_its_split(data: Path, rdunet: Command, tmp_path: Path) -> None:
    prepare = ("prepare", DUMMY, "--data-dir", tmp_path, "--image-size", 16, "--keep-ids", "--workers", 1)
    assert rdunet(*prepare)[0] == 0
    plain, folds = Dataset(tmp_path), Dataset(data)
    assert (plain.split_sha256, plain.dataset_sha256) == (folds.split_sha256, folds.dataset_sha256)
    train = ("train", "--data-dir", tmp_path, "--workdir", tmp_path / "run", *TINY, "--fold", 0)
    assert "has no folds; make it again with `rdunet prepare" in rdunet(*train)[2]
    train = ("train", "--data-dir", data, "--workdir", tmp_path / "run", *TINY, "--fold")
    for fold in (3, -1):
        assert f"has the folds 0 to 2, not {fold}" in rdunet(*train, fold)[2]
    assert "--folds 4: there are only 3 persons" in rdunet(*prepare, "--overwrite", "--folds", 4)[2]


def test_a_run_keeps_its_fold_and_scores_what_it_held_out(data, runs, evaluations, rdunet) -> None:
    for fold, workdir in zip(FOLDS, runs, strict=True):
        held_out = Dataset(data, fold=fold)
        used = TrainingData.load(workdir)
        assert used is not None and set(used.trained_on) == set(held_out.patient_names("train"))
        assert used.data_sets[0].split_sha256 == held_out.split_sha256
        summary = json.loads((evaluations[fold] / "summary.json").read_text())
        assert (summary["fold"], summary["folds"]) == (fold, held_out.folds_sha256)
        assert summary["split_sha256"] == held_out.split_sha256 and summary["patients_trained_on"] == 0
        assert [row["patient"] for row in table(evaluations[fold] / "patients.csv")] == [
            *held_out.patient_names("test")
        ]
    train = ("train", "--data-dir", data, "--workdir", runs[0], *TINY, "--seed", 0)
    for more in (("--fold", 1), ("--fold", 1, "--other-dataset"), ("--other-dataset",)):
        status, _, error = rdunet(*train, *more)
        assert status == 2 and "holds a run with other settings: fold 0 (now" in error


@pytest.mark.parametrize("protocol", ["paper", "authors_code"])
def test_the_pooled_score_is_the_one_computed_by_hand(protocol: str, data, runs, evaluations, rdunet, tmp_path) -> None:
    folders = evaluations
    if protocol == "authors_code":
        for workdir in runs:
            assert rdunet("evaluate", "--data-dir", data, "--workdir", workdir, "--protocol", protocol)[0] == 0
        folders = [folder.with_name(f"test-{protocol}") for folder in evaluations]
    status, out, error = rdunet("pool", *folders[::-1], "--output", tmp_path / "pooled")
    assert status == 0 and "n = 3" in out, error
    pooled = json.loads((tmp_path / "pooled" / "summary.json").read_text())
    patients = [row for folder in folders for row in table(folder / "patients.csv")]
    slices = [row for folder in folders for row in table(folder / "slices.csv")]
    dice = np.array([float(row["dice"]) for row in patients])
    assert len(set(dice)) == 3
    assert pooled["patients"] == 3 and pooled["mean_volumetric_dice"] == pytest.approx(dice.sum() / 3, abs=1e-12)
    interval = (pooled["mean_volumetric_dice_low"], pooled["mean_volumetric_dice_high"])
    assert interval == pytest.approx(mean_interval(dice, bounds=(0, 1)))
    truth = np.array([int(row["truth_pixels"]) for row in slices])
    predicted = np.array([int(row["predicted_pixels"]) for row in slices])
    assert pooled["tumour_slices"] == (truth > 0).sum()
    assert pooled["false_positive_slices"] == ((truth == 0) & (predicted > 0)).sum()
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in folders]
    for count in ("slices", "lesions", "lesions_missed", "lesions_false_positive"):
        assert pooled[count] == sum(one[count] for one in summaries)
    if protocol == "paper":
        by_hand = np.array([float(row["dice"]) for row in slices])[truth > 0].mean()
        assert pooled["mean_dice_tumour_slices"] == pytest.approx(by_hand, abs=1e-12)
    else:
        found = [one for one in summaries if one["slices_with_surface_distance"]]
        counts = [one["slices_with_surface_distance"] for one in found]
        assert pooled["slices_with_surface_distance"] == sum(counts)
        if found:
            by_hand = np.average([one["mean_hd95_mm"] for one in found], weights=counts)
            assert pooled["mean_hd95_mm"] == pytest.approx(by_hand)
    # a comparison takes it as any other evaluation
    assert [row["fold"] for row in table(tmp_path / "pooled" / "patients.csv")] == ["0", "1", "2"]
    assert rdunet("compare", tmp_path / "pooled", tmp_path / "pooled")[0] == 0


def change(**fields: object) -> Callable[[list[Path]], None]:
    """Other fields in the summary of the last evaluation."""

    def spoil(folders: list[Path]) -> None:
        path = folders[-1] / "summary.json"
        held = {name: value for name, value in json.loads(path.read_text()).items() if name not in ("sha256", "files")}
        path.write_text(json.dumps(held | fields))  # as if another program had written it, without checksums

    return spoil


def same_patient(folders: list[Path]) -> None:
    change()(folders)
    for file in ("patients.csv", "slices.csv"):
        shutil.copy(folders[0] / file, folders[-1] / file)


def damage_slices(folders: list[Path]) -> None:
    """Sound as a table of scores, but not what was written."""
    path = folders[-1] / "slices.csv"
    path.write_text(path.read_text().rsplit("\n", 2)[0] + "\n")


def cut_slices(folders: list[Path]) -> None:
    change()(folders)
    (folders[-1] / "slices.csv").write_text("patient,slice\nP-1,0\n")


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda folders: folders.pop(), "fold 2 is missing of 3"),
        (lambda folders: folders.append(folders[0]), "fold 0 is there twice of 3"),
        (change(fold=1), "fold 2 is missing of 3"),
        (same_patient, "is in several folds"),
        (change(protocol="authors_code"), "differ in protocol"),
        (change(dataset_sha256="other"), "differ in dataset_sha256"),
        (change(folds=["a", "b", "c"]), "differ in folds"),
        (change(fold=None), "not the scores of a fold's held-out patients"),
        (change(split="validation"), "not the scores of a fold's held-out patients"),
        (change(failed_patients=["P-1"]), "patients failed"),
        (damage_slices, "slices.csv: cannot be read as scores (not what was written"),
        (cut_slices, "slices.csv: cannot be read as scores"),
        (lambda folders: (folders[0] / "patients.csv").unlink(), "patients.csv: no such file"),
    ],
)
def test_what_cannot_be_pooled_is_one_line(spoil, message: str, evaluations, rdunet, tmp_path: Path) -> None:
    folders = [shutil.copytree(folder, tmp_path / str(fold)) for fold, folder in enumerate(evaluations)]
    spoil(folders)
    status, _, error = rdunet("pool", *folders, "--output", tmp_path / "pooled")
    assert status == 2 and message in error and not (tmp_path / "pooled").exists()


def test_what_limits_the_scores_is_marked(evaluations, rdunet, tmp_path: Path) -> None:
    folders = [shutil.copytree(folder, tmp_path / str(fold)) for fold, folder in enumerate(evaluations)]
    change(patients_trained_on=1, threshold=0.9, training_data_known=False)(folders)
    status, out, _ = rdunet("pool", *folders, "--output", tmp_path / "pooled")
    assert status == 0 and "not the same in all folds: threshold 0.4, 0.4, 0.9" in out
    assert "fold 2: NOT NEW PATIENTS" in out and "fold 2: it is not recorded" in out
    pooled = json.loads((tmp_path / "pooled" / "summary.json").read_text())
    assert pooled["patients_trained_on"] == 1 and not pooled["training_data_known"]
    assert rdunet("pool", *folders, "--output", folders[0])[0] == 2


def test_a_run_of_a_fold_is_scored_on_another_data_set_by_its_own_split(runs, rdunet, tmp_path: Path) -> None:
    prepare = ("prepare", DUMMY, "--data-dir", tmp_path / "other", "--image-size", 16, "--workers", 1, "--folds", 3)
    (tmp_path / "key").write_text("0" * 64)
    assert rdunet(*prepare, "--seed", 1, "--key", tmp_path / "key")[0] == 0
    run = shutil.copytree(runs[0], tmp_path / "copy")
    status, out, _ = rdunet("evaluate", "--data-dir", tmp_path / "other", "--workdir", run)
    assert status == 0 and "Another data set" in out
    summary = json.loads((run / "evaluation" / "test" / "summary.json").read_text())
    assert summary["fold"] is None and summary["split_sha256"] == Dataset(tmp_path / "other").split_sha256
