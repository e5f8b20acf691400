"""Both rules on made validation curves."""

import csv
from pathlib import Path

import pytest

from data_pipeline.errors import InputError
from experiments.studies.selection_rule import HEADER, Settings, by_dice, by_soft_dice, main
from rdunet_jax.config import RECIPES, InferenceConfig, TrainConfig
from rdunet_jax.networks.models import model_config
from rdunet_jax.runs.workdir import RunConfig
from rdunet_jax.training.history import EpochRow

pytestmark = pytest.mark.usefixtures("optax_promotion")
PAPER = RECIPES["paper"]
SOFT = [0.01, 0.02, 0.04, 0.08, 0.16, 0.3, 0.5, 0.4]
HARD = [0.0, 0.0, 0.0, 0.0, 0.0, 0.2, 0.3, 0.6]


def epochs(hard: list[float], soft: list[float]) -> list[EpochRow]:
    pairs = enumerate(zip(hard, soft, strict=True), 1)
    return [EpochRow(n, 10 * n, 0.1, 0.5, dice, 1e-4, 1.0, 1.0, found) for n, (dice, found) in pairs]


def test_by_dice_waits_on_zeros() -> None:
    choice = by_dice(epochs(HARD, SOFT), PAPER)
    assert choice.best.epoch == 8
    # the first epoch sets the best, the three after it are no better, so the fourth ends with half the rate
    assert choice.rates == pytest.approx([1e-4] * 3 + [5e-5] * 5)
    assert by_dice(epochs([0.0] * 8, SOFT), PAPER).best.epoch == 1


def test_by_soft_dice_counts_from_the_first_prediction() -> None:
    choice = by_soft_dice(epochs(HARD, SOFT), PAPER)
    assert choice.best.epoch == 7 and choice.rates == pytest.approx([1e-4] * 8)
    falling = by_soft_dice(epochs([0.0, 0.1, 0.1, 0.1, 0.1, 0.1], [0.5, 0.4, 0.3, 0.2, 0.1, 0.1]), PAPER)
    assert falling.best.epoch == 1
    assert falling.rates == pytest.approx([1e-4] * 4 + [5e-5] * 2)  # epoch 2 is the first that counts


def test_a_run_gives_table_and_plot(tmp_path: Path) -> None:
    run = RunConfig(model_config("tiny"), TrainConfig(), InferenceConfig(), "hu_window", 16)
    run.save(tmp_path / "run")
    rows = [
        (one.epoch, one.step, 0.1, 0.5, one.validation_dice, 1e-4, 1, 1, one.validation_soft_dice)
        for one in epochs(HARD, SOFT)
    ]
    names = (
        "epoch",
        "step",
        "loss",
        "train_dice",
        "validation_dice",
        "learning_rate",
        "seconds",
        "peak_memory_gib",
        "validation_soft_dice",
    )
    with (tmp_path / "run" / "history.csv").open("w", newline="") as file:
        csv.writer(file).writerows([names, *rows])
    main(Settings(tmp_path, tmp_path / "run"))
    with (tmp_path / "selection_rule.csv").open(newline="") as file:
        header, *written = csv.reader(file)
    assert tuple(header) == HEADER and len(written) == 8
    assert [float(cell) for cell in written[7]] == pytest.approx([8, 80, 0.6, 0.4, 5e-5, 1e-4])
    assert (tmp_path / "selection_rule.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "run" / "history.csv").unlink()
    with pytest.raises(InputError, match="no validation"):
        main(Settings(tmp_path, tmp_path / "run"))
