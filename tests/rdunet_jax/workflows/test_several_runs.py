"""`evaluate` and `segment` with the mean of several runs, through the commands and beside a naive loop."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import nibabel as nib
import numpy as np
import pytest
from rich.console import Console

from data_pipeline.loading import Dataset
from data_pipeline.preprocessing.intensity import normalise
from data_pipeline.settings import DatasetSettings, PrepareOptions
from rdunet_jax.config import InferenceConfig, TrainConfig
from rdunet_jax.inference.postprocessing import postprocess_on_ct
from rdunet_jax.networks.models import create_model, model_config
from rdunet_jax.runs.training_data import TrainingData
from rdunet_jax.runs.workdir import RunConfig, load_trained
from rdunet_jax.training.checkpointing import Checkpoints
from rdunet_jax.training.step import create_state
from rdunet_jax.workflows import prediction, segment_ct, stored_probabilities
from rdunet_jax.workflows.prepare import prepare_source
from tests.rdunet_jax.command import Result, run_command

DUMMY = Path(__file__).resolve().parents[3] / "data_pipeline" / "nsclc_radiomics" / "dummy_data"
PLAIN = ("--dilation-diameter", 1)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("optax_promotion")]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    settings = DatasetSettings(intensity="hu_window", image_size=16)
    prepare_source(DUMMY, folder, settings, Console(quiet=True), PrepareOptions(workers=1, keep_ids=True))
    return folder


def make_run(workdir: Path, run: RunConfig) -> Path:
    """A run of a network as it was initialised, with larger weights of the last layer: its probabilities vary."""
    run.save(workdir)
    checkpoints = Checkpoints(workdir / "checkpoints")
    with jax.numpy_dtype_promotion("standard"):
        state = create_state(create_model(run.model), run.train, run.window_shape)
        logits = jax.tree.map(lambda leaf: 30 * leaf, state.params["logits"])
        checkpoints.save(1, state.replace(params={**state.params, "logits": logits}))
    checkpoints.close()
    return workdir


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, data: Path) -> list[Path]:
    """Three runs, the last of another width, that were trained on the data set."""
    folder = tmp_path_factory.mktemp("runs")
    workdirs = []
    for seed, width in enumerate((4, 4, 6)):
        network = model_config("tiny", widths=(4, width), recurrent_width=4)
        run = RunConfig(network, TrainConfig(seed=seed), InferenceConfig(window_batch=2), "hu_window", 16)
        workdirs.append(make_run(folder / f"r{seed}", run))
        TrainingData.of(Dataset(data).account.to_json(), "hu_window_16").save(workdirs[-1])
    return workdirs


@pytest.fixture
def rdunet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """Runs a command in this process; returns (status, what it printed, its errors)."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def run(*arguments: object) -> Result:
        result = run_command(monkeypatch, capsys, *arguments)
        assert result.error.count("\n") == (result.status != 0), result.error
        return result

    return run


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> list:
    """The sliding windows that the commands make."""
    made = []

    def keep(network):
        made.append(prediction.sliding_window(network))
        return made[-1]

    for module in (stored_probabilities, segment_ct):
        monkeypatch.setattr(module, "sliding_window", keep)
    return made


def naive(workdirs: list[Path], image: np.ndarray) -> np.ndarray:
    """Every window by every network on its own; the mean over networks of the mean over windows."""
    result = np.zeros(image.shape)
    for workdir in workdirs:
        trained = load_trained(workdir)
        apply = jax.jit(trained.model.apply)
        sums, counts = np.zeros(image.shape), np.zeros(len(image))
        for start in range(len(image) - 7):
            window = normalise(jnp.asarray(image[start : start + 8]), "hu_window")[jnp.newaxis, ..., jnp.newaxis]
            logits = np.asarray(apply(trained.variables, window), np.float64)[0, ..., 0]
            sums[start : start + 8] += 1 / (1 + np.exp(-logits))
            counts[start : start + 8] += 1
        result += sums / counts[:, np.newaxis, np.newaxis] / len(workdirs)
    return result


def test_the_mean_equals_a_naive_loop_and_compiles_once(rdunet, runs, data, windows, tmp_path) -> None:
    evaluate = ("evaluate", "--data-dir", data, "--workdir", *runs, *PLAIN)
    status, out, error = rdunet(*evaluate, "--output", tmp_path / "mean")
    assert status == 0, error
    assert "Mean of 3 networks: r0, step 1 (latest); r1, step 1 (latest); r2, step 1 (latest)" in out
    (patient,) = Dataset(data).patients("test")
    (stored,) = (tmp_path / "mean" / "evaluation" / "test" / "probabilities").glob("mean-of-3-*/*.npz")
    with np.load(stored) as arrays:
        mean = arrays["probabilities"]
    assert np.ptp(mean) > 0.01
    np.testing.assert_allclose(mean, naive(runs, patient.image), atol=1e-6)  # float32 sums of probabilities
    assert [window._add_windows._cache_size() for window in windows] == [1]
    summary = json.loads((tmp_path / "mean" / "evaluation" / "test" / "summary.json").read_text())
    assert summary["runs"] == [
        {"run": f"r{i}", "step": 1, "best": False, "weights_sha256": load_trained(run).weights_sha256}
        for i, run in enumerate(runs)
    ]
    assert str(tmp_path) not in json.dumps(summary) and not (runs[0] / "evaluation").exists()
    # a shard of it stores the same probabilities, which are found again
    assert rdunet(*evaluate, "--output", tmp_path / "shards", "--shard", "1/1")[0] == 0
    (again,) = (tmp_path / "shards" / "evaluation" / "test" / "probabilities").glob("mean-of-3-*/*.npz")
    assert (again.parent.name, again.read_bytes()) == (stored.parent.name, stored.read_bytes())


def test_segment_takes_the_mean_and_reports_all_runs(rdunet, runs, data, windows, tmp_path) -> None:
    (patient,) = Dataset(data).patients("test")
    mean = naive(runs, patient.image)
    shape, config = patient.ct_mask.shape, replace(InferenceConfig(), dilation_diameter=1)
    on_ct = postprocess_on_ct(mean.astype(np.float32), prediction.ct_grid_of(patient), config).probabilities
    values = np.unique(on_ct)
    middle = values[len(values) // 4 : -len(values) // 4]
    place = np.diff(middle).argmax()  # no voxel is near the threshold
    threshold = float(middle[place] + middle[place + 1]) / 2
    source = DUMMY / patient.name
    status, _, error = rdunet(
        "segment", source, "--workdir", *runs, "--output", tmp_path / "out", *PLAIN, "--threshold", threshold
    )
    assert status == 0, error
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    # a source behind --workdir is not one of the runs
    last = ("segment", "--output", tmp_path / "last", *PLAIN, "--threshold", threshold, "--workdir", *runs, source)
    assert rdunet(*last)[0] == 0
    assert (tmp_path / "last" / "report.json").read_text() == (tmp_path / "out" / "report.json").read_text()
    assert "SOURCE" in rdunet("segment", "--output", tmp_path / "none", "--workdir", runs[0])[2]
    assert [one["run"] for one in report["network"]["runs"]] == ["r0", "r1", "r2"] and report["network"]["step"] is None
    mask = np.asarray(nib.load(tmp_path / "out" / "mask.nii.gz").dataobj)  # pyright: ignore[reportAttributeAccessIssue]
    assert mask.shape == shape[::-1] and mask.sum() == (on_ct > threshold).sum()
    assert 0.2 < mask.mean() < 0.8
    assert [window._add_windows._cache_size() for window in windows] == [1, 1]


@pytest.mark.parametrize("command", ["evaluate", "segment"])
@pytest.mark.parametrize(
    "changes, says",
    [
        ({"image_size": 32}, "image_size is 16 in one and 32 in the other; name other runs"),
        ({"intensity": "slice_minmax"}, "intensity is hu_window in one and slice_minmax in the other"),
        ({"inference": InferenceConfig(stride=2)}, "stride is 1 in one and 2 in the other; give --stride"),
        (
            {"inference": InferenceConfig(threshold=0.5)},
            "threshold is 0.7 in one and 0.5 in the other; give --threshold",
        ),
        ({"model": model_config("tiny", widths=(4, 4), recurrent_width=4, patch_depth=6)}, "patch_depth is 8"),
    ],
)
def test_runs_that_see_other_windows_are_not_averaged(command, changes, says, rdunet, runs, data, tmp_path) -> None:
    config = replace(RunConfig.load(runs[0]), **changes)
    other = make_run(tmp_path / "other", config)
    first = ("evaluate", "--data-dir", data) if command == "evaluate" else ("segment", DUMMY / "PHANTOM-001")
    words = (*first, "--workdir", runs[0], other, "--output", tmp_path / "out")
    status, _, error = rdunet(*words)
    assert status == 2 and f"{runs[0]} and {other}: cannot be averaged, because {says}" in error
    assert not (tmp_path / "out").exists()
    if "threshold" in says and command == "segment":
        assert rdunet(*words, "--threshold", 0.6)[0] == 0


def test_mistakes_are_one_line(rdunet, runs, data, tmp_path) -> None:
    evaluate = ("evaluate", "--data-dir", data, "--workdir")
    assert "--output: name a folder for the scores of several runs" in rdunet(*evaluate, *runs)[2]
    assert "name each run once" in rdunet(*evaluate, runs[0], runs[0], "--output", tmp_path / "out")[2]
    status, _, error = rdunet(*evaluate, runs[0], tmp_path / "none", "--output", tmp_path / "out")
    assert status == 2 and str(tmp_path / "none") in error
    assert rdunet(*evaluate, "--output", tmp_path / "out")[0] == 2


def test_a_patient_is_seen_if_one_of_the_runs_has_seen_it(rdunet, runs, data, tmp_path) -> None:
    account = Dataset(data).account.to_json()
    (name,) = account["splits"]["test"]
    other = shutil.copytree(runs[1], tmp_path / "other")
    TrainingData.of(account | {"splits": {"train": [name], "validation": []}}, "hu_window_16").save(other)
    words = ("--workdir", runs[0], other, "--output", tmp_path / "out")
    evaluate = ("evaluate", "--data-dir", data, *words)
    for more in ((), ("--shard", "1/1")):
        status, _, error = rdunet(*evaluate, *more)
        assert status == 2 and "--allow-seen" in error and str(other) in error
    status, out, _ = rdunet(*evaluate, "--allow-seen")
    assert status == 0 and "NOT NEW PATIENTS: the network was trained on 1 of these 1 patients" in out
    (other / "training_data.json").unlink()
    status, out, _ = rdunet(*evaluate)
    assert status == 0 and "It is not recorded" in out
    TrainingData.of(account | {"splits": {"train": [name], "validation": []}}, "hu_window_16").save(other)
    assert rdunet("segment", DUMMY / name, *words)[0] == 0
    assert json.loads((tmp_path / "out" / "report.json").read_text())["seen_by_network"] == "trained"
