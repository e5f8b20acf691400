"""`rdunet evaluate` as a whole, of networks whose scores are known beforehand: one says the truth, one says nothing."""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from data_pipeline.loading import Dataset, PatientExample
from data_pipeline.settings import DatasetSettings, PrepareOptions
from rdunet_jax.cli import main as cli
from rdunet_jax.config import InferenceConfig, TrainConfig
from rdunet_jax.inference.sliding_window import Predictor, SlidingWindow
from rdunet_jax.networks.models import create_model, model_config
from rdunet_jax.options import EvaluateOptions
from rdunet_jax.runs.workdir import RunConfig
from rdunet_jax.training.checkpointing import Checkpoints
from rdunet_jax.training.step import create_state
from rdunet_jax.workflows import stored_probabilities as stored
from rdunet_jax.workflows.evaluate import evaluate_network
from rdunet_jax.workflows.prepare import prepare_source

DUMMY = Path(__file__).resolve().parents[3] / "data_pipeline" / "nsclc_radiomics" / "dummy_data"
QUIET = Console(quiet=True)
SIZE = 512
"""That of the canvas: slices are neither reduced nor enlarged."""

pytestmark = pytest.mark.usefixtures("optax_promotion")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("data")
    settings = DatasetSettings(intensity="hu_window", image_size=SIZE, test_share=0.67, validation_share=0)
    prepare_source(DUMMY, folder, settings, QUIET, PrepareOptions(workers=1, keep_ids=True))
    return Dataset(folder)


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    """A run, whose network the tests put another predictor in the place of."""
    network = model_config("tiny", widths=(4, 4, 4), recurrent_width=4)
    run = RunConfig(network, TrainConfig(), InferenceConfig(), "hu_window", SIZE)
    run.save(tmp_path)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(1, create_state(create_model(network), run.train, (8, 16, 16)))
    checkpoints.close()
    return tmp_path


def truth(patients: Sequence[PatientExample]) -> Predictor:
    """Knows every window of the patients, and says its mask."""
    starts = [(patient, start) for patient in patients for start in range(len(patient.image) - 7)]
    windows = jnp.asarray(np.stack([patient.image[start : start + 8] for patient, start in starts]))
    masks = jnp.asarray(np.stack([patient.mask[start : start + 8] for patient, start in starts]), jnp.float32)

    def predict(variables, window):
        same = (windows == window[jnp.newaxis]).all((1, 2, 3))
        return masks[same.argmax()]

    return predict


def nothing(variables, window):
    return jnp.zeros(window.shape, jnp.float32)


def use(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "sliding_window", lambda network: SlidingWindow(predictor))


def test_the_truth_scores_one(data: Dataset, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patients = list(data.patients("test"))
    assert len(patients) == 2 and all(patient.ct_mask.any() for patient in patients)
    use(truth(patients), monkeypatch)
    ones = ("mean_dice_tumour_slices", "median_dice_tumour_slices", "mean_dice_all_slices", "mean_dice_marked_slices")
    in_3d_ones = ("mean_volumetric_dice", "mean_volumetric_iou")
    zeros = ("false_positive_slices", "false_negative_slices", "lesions_missed", "lesions_false_positive")
    in_3d_zeros = ("mean_surface_distance_mm", "hd95_mm", "volume_error_mm3")

    paper = evaluate_network(data, workdir, QUIET, EvaluateOptions(dilation_diameter=1))
    assert {name: paper[name] for name in (*ones, *in_3d_ones)} == dict.fromkeys((*ones, *in_3d_ones), 1.0)
    assert not any(paper[name] for name in (*zeros, *(f"mean_volumetric_{name}" for name in in_3d_zeros)))
    keras = evaluate_network(data, workdir, QUIET, EvaluateOptions(dilation_diameter=1, protocol="authors_code"))
    assert keras["mean_patient_dice"] == keras["median_patient_dice"] == 1.0
    assert keras["mean_surface_distance_mm"] == keras["mean_hd95_mm"] == 0.0
    assert not any(keras[name] for name in zeros)

    # Dilation costs Dice, but marks no slice that was not marked.
    dilated = evaluate_network(data, workdir, QUIET, EvaluateOptions(dilation_diameter=7))
    dice = dilated["mean_dice_tumour_slices"]
    assert dice is not None and dice < 0.95
    assert dilated["false_positive_slices"] == dilated["false_negative_slices"] == 0


def test_nothing_scores_what_is_counted_by_hand(data: Dataset, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(nothing, monkeypatch)
    tumour = [np.asarray(patient.ct_mask.any((1, 2))) for patient in data.patients("test")]
    slices, marked = sum(map(len, tumour)), int(sum(one.sum() for one in tumour))
    assert 0 < marked < slices

    paper = evaluate_network(data, workdir, QUIET)
    counts = ("slices", "tumour_slices", "both_empty_slices", "false_positive_slices", "false_negative_slices")
    assert [paper[name] for name in counts] == [slices, marked, slices - marked, 0, marked]
    assert paper["mean_dice_tumour_slices"] == 0.0
    assert paper["mean_dice_all_slices"] == pytest.approx((slices - marked) / slices)  # both empty: 1
    assert paper["mean_volumetric_dice"] == paper["mean_volumetric_iou"] == 0.0
    assert paper["mean_volumetric_hd95_mm"] is None and paper["patients_without_surface_distance"] == 2
    assert paper["lesions_missed"] == paper["lesions"] and paper["lesions_false_positive"] == 0

    keras = evaluate_network(data, workdir, QUIET, EvaluateOptions(protocol="authors_code"))
    inner = [one[len(one) // 5 : len(one) - len(one) // 5] for one in tumour]
    slices, marked = sum(map(len, inner)), int(sum(one.sum() for one in inner))
    assert [keras[name] for name in counts] == [slices, marked, slices - marked, 0, marked]
    assert keras["mean_patient_dice"] == 0.0 and keras["patients_without_partial_dice"] == 2
    assert keras["mean_hd95_mm"] is None and keras["slices_with_surface_distance"] == 0


@pytest.fixture
def lungs_and_two_finds(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> str:
    """One patient with a lung on the left; its name. The network finds the tumour in it, and more in the tissue."""
    image = np.full((10, SIZE, SIZE), 40, np.int16)
    image[:, 150:350, 100:250] = -850
    tumour, other = np.zeros(image.shape, bool), np.zeros(image.shape, bool)
    tumour[3:6, 200:220, 150:170] = other[3:6, 200:224, 350:374] = True
    image[tumour | other] = 1000
    name = data.patient_names("test")[0]
    example = PatientExample(name, image, tumour, tumour, (3.0, 0.8, 0.8), data.account.patients[name].sides)
    monkeypatch.setattr(Dataset, "patient", lambda self, split, index: example)
    monkeypatch.setattr(Dataset, "patient_count", lambda self, split: 1)
    monkeypatch.setattr(Dataset, "patient_names", lambda self, split: (example.name,))
    use(lambda variables, window: (window > 900).astype(jnp.float32), monkeypatch)
    return example.name


def evaluate(workdir: Path, data: Dataset, monkeypatch: pytest.MonkeyPatch, *flags: object) -> dict:
    """`rdunet evaluate` in this process; its summary."""
    command = ["rdunet", "evaluate", "--data-dir", data.folder.parents[2], "--workdir", workdir, *flags]
    monkeypatch.setattr(sys, "argv", list(map(str, command)))
    cli.main()
    return json.loads((workdir / "evaluation" / "test" / "summary.json").read_text())


@pytest.mark.slow
def test_components_are_removed_and_the_scores_say_how(lungs_and_two_finds, data, workdir, monkeypatch, capsys) -> None:
    base = ("--dilation-diameter", 1, "--html")
    both = evaluate(workdir, data, monkeypatch, *base)
    dice = 2 * 20**2 / (2 * 20**2 + 24**2)
    assert both["mean_volumetric_dice"] == pytest.approx(dice) and both["postprocessing_notes"] == {}
    assert (both["lungs_only"], both["min_component_ml"]) == (False, 0)
    capsys.readouterr()
    one = evaluate(workdir, data, monkeypatch, *base, "--lungs-only")
    assert one["mean_volumetric_dice"] == 1 and one["lesions_false_positive"] == 0 and one["lungs_only"]
    # 3 slices of 24 x 24 pixels of 3 x 0.8 x 0.8 mm; those of the tumour are 20 x 20: 2.304 ml
    (note,) = one["postprocessing_notes"][lungs_and_two_finds]
    assert note == "post-processing removed 1 of 2 components (3.32 ml)"
    page = (workdir / "evaluation" / "test" / "page.html").read_text()
    assert '"sides":["R","L"]' in page
    for text in (capsys.readouterr().out, page):
        assert f"{lungs_and_two_finds}: {note}." in text and "only components that touch the lungs" in text
    kept = evaluate(workdir, data, monkeypatch, *base, "--min-component-ml", 2.3)
    assert kept["mean_volumetric_dice"] == pytest.approx(dice)
    none = evaluate(workdir, data, monkeypatch, *base, "--min-component-ml", 3.4)
    assert none["mean_volumetric_dice"] == 0 and "nothing is left" in str(none["postprocessing_notes"])


@pytest.mark.usefixtures("lungs_and_two_finds")
def test_a_choice_of_components_is_stored_and_used(data, workdir, monkeypatch, capsys) -> None:
    argv = ["rdunet", "choose-postprocessing", "--data-dir", data.folder.parents[2], "--workdir", workdir]
    monkeypatch.setattr(sys, "argv", list(map(str, argv)))
    cli.main()
    out = capsys.readouterr().out
    chosen = next(line for line in out.splitlines() if line.startswith("chosen: ")).removeprefix("chosen: ")
    # no other step keeps the tumour and not the larger find
    assert chosen.endswith("--dilation-diameter 1 --lungs-only")
    by_choice = evaluate(workdir, data, monkeypatch, "--chosen-postprocessing", "--allow-seen")
    assert by_choice["mean_volumetric_dice"] == 1 and by_choice["lungs_only"]
    by_flags = evaluate(workdir, data, monkeypatch, *chosen.split(), "--allow-seen")
    assert by_flags["mean_volumetric_dice"] == 1


def test_lungs_are_refused_where_grey_values_are_not_hounsfield_units(
    workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    settings = DatasetSettings(image_size=16, test_share=0.33, validation_share=0.5)
    prepare_source(DUMMY, tmp_path / "grey", settings, QUIET, PrepareOptions(workers=1, keep_ids=True))
    grey = Dataset(tmp_path / "grey")
    replace(RunConfig.load(workdir), intensity="slice_minmax", image_size=16).save(workdir)
    for command in ("evaluate", "train"):
        where = tmp_path / "new" if command == "train" else workdir
        argv = ["rdunet", command, "--data-dir", tmp_path / "grey", "--workdir", where, "--lungs-only"]
        argv += ["--model", "tiny"] if command == "train" else []
        monkeypatch.setattr(sys, "argv", list(map(str, argv)))
        with pytest.raises(SystemExit) as end:
            cli.main()
        error = capsys.readouterr().err
        assert end.value.code == 2 and error.count("\n") == 1, error
        assert str(grey.folder) in error and "--lungs-only needs Hounsfield units" in error
    assert not (tmp_path / "new").exists()
    argv = ["rdunet", "choose-postprocessing", "--data-dir", tmp_path / "grey", "--workdir", workdir]
    monkeypatch.setattr(sys, "argv", list(map(str, argv)))
    cli.main()
    assert "--lungs-only is not among the choices" in capsys.readouterr().out
