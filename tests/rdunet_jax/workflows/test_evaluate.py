"""`rdunet evaluate` as a whole, of networks whose scores are known beforehand: one says the truth, one says nothing."""

from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from data_pipeline.loading import Dataset, PatientExample
from data_pipeline.settings import DatasetSettings, PrepareOptions
from rdunet_jax.config import EvaluateOptions, InferenceConfig, TrainConfig
from rdunet_jax.inference.sliding_window import Predictor, SlidingWindow
from rdunet_jax.networks.models import create_model, model_config
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
    assert dilated["mean_dice_tumour_slices"] < 0.95
    assert dilated["false_positive_slices"] == dilated["false_negative_slices"] == 0


def test_nothing_scores_what_is_counted_by_hand(data: Dataset, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(nothing, monkeypatch)
    tumour = [patient.ct_mask.any((1, 2)) for patient in data.patients("test")]
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
