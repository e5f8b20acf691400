"""The tables of a training: which epochs count, what heals, and what they say in words."""

import csv
import socket
from pathlib import Path

import pytest

from rdunet_jax.training.history import (
    EpochRow,
    History,
    StepRow,
    Validation,
    epoch_in_words,
    plot_history,
    read_rows,
)


def measure(history: History, epochs: int) -> None:
    """Two steps an epoch."""
    for step in range(1, 2 * epochs + 1):
        history.end_step(StepRow(step, 1 / step, 0.1, 0.5))
        if step % 2 == 0:
            history.end_epoch(step, step // 2, Validation(step / 100, step / 10), 1e-4)


@pytest.fixture
def saved(tmp_path: Path) -> dict[str, str]:
    """The tables of three epochs in `tmp_path`, as a checkpoint holds them."""
    with History(tmp_path, 0) as history:
        measure(history, 3)
        return history.texts


def test_a_table_comes_back_as_it_was(tmp_path: Path, saved: dict[str, str]) -> None:
    for name, text in saved.items():
        assert (tmp_path / name).read_bytes().decode() == text
    steps, bad = read_rows(tmp_path / "steps.csv", StepRow)
    assert steps[2] == StepRow(3, 1 / 3, 0.1, 0.5) and len(steps) == 6 and bad == 0
    assert [row.validation_soft_dice for row in read_rows(tmp_path / "history.csv", EpochRow)[0]] == [0.2, 0.4, 0.6]
    assert len(read_rows(tmp_path / "steps.csv", StepRow, until=4)[0]) == 4


@pytest.mark.parametrize("name", ["steps.csv", "history.csv"])
@pytest.mark.parametrize("damage", ["missing", "empty", "header", "row", "digit", "bytes"])
def test_a_damaged_table_is_restored_from_the_checkpoint(name, damage, tmp_path: Path, saved, caplog) -> None:
    path, text = tmp_path / name, saved[name]
    lines = text.splitlines(keepends=True)
    if damage == "missing":
        path.unlink()
    else:
        damaged = {
            "empty": b"",
            "header": text.replace("step", "stop", 1).encode(),
            "row": "".join(lines[:2] + lines[3:]).encode(),
            "digit": "".join([*lines[:2], lines[2].replace("0.", "7.", 1), *lines[3:]]).encode(),
            "bytes": b"\xff\x00" + text.encode(),
        }[damage]
        assert damaged != text.encode()
        path.write_bytes(damaged)
    with History(tmp_path, 6, saved) as history:
        assert history.texts == saved
    assert path.read_bytes().decode() == text
    assert caplog.text.count(f"{name}: damaged or incomplete; restored from the checkpoint of step 6") == 1


def test_rows_after_the_checkpoint_are_run_again_without_a_warning(tmp_path: Path, saved, caplog) -> None:
    with (tmp_path / "steps.csv").open("a") as file:
        file.write("7,0.1,0.1,0.5\r\n8,0.")  # a killed run leaves half a line
    with History(tmp_path, 6, saved) as history:
        assert history.texts == saved
    assert caplog.text == ""


def test_without_a_copy_what_can_be_read_is_used(tmp_path: Path, saved: dict[str, str], caplog) -> None:
    """Checkpoints of older versions hold no tables, and their history has no soft Dice."""
    rows = list(csv.reader(saved["history.csv"].splitlines()))
    (tmp_path / "history.csv").write_text("\n".join(",".join(row[:-1]) for row in rows) + "\n")
    (tmp_path / "steps.csv").write_text(saved["steps.csv"].replace("2,0.5", "2,?", 1))
    with History(tmp_path, 6) as history:
        assert len(history.steps) == 5
        assert [row.validation_soft_dice for row in history.epochs] == [None] * 3
    assert "steps.csv: 1 rows are damaged and left out" in caplog.text


@pytest.mark.parametrize("hard, counted", [
    ([0.0, 0.0, 0.0], []),
    ([0.0, 0.1, 0.0], [0.2, 0.3]),
    ([0.2, 0.0, 0.0], [0.1, 0.2, 0.3]),
])  # fmt: skip
def test_epochs_before_the_first_prediction_do_not_count(hard, counted, tmp_path: Path) -> None:
    with History(tmp_path, 0) as history:
        for epoch, dice in enumerate(hard, 1):
            history.end_step(StepRow(epoch, 1.0, 0.1, 0.5))
            history.end_epoch(epoch, epoch, Validation(dice, epoch / 10), 1e-4)
    assert history.counted_dice == pytest.approx(counted)


def test_event_files_do_not_carry_the_machines_name(tmp_path: Path) -> None:
    for _ in range(2):
        with History(tmp_path, 0) as history:
            measure(history, 1)
    files = list((tmp_path / "tensorboard").iterdir())
    assert len(files) == 2 and all(path.name.startswith("events.out.tfevents.") for path in files)
    assert all(path.stat().st_size > 500 for path in files)  # what was measured, not the first event alone
    host = socket.gethostname().encode()
    assert not any(host in path.name.encode() or host in path.read_bytes() for path in files)


def test_an_epoch_in_words() -> None:
    row = EpochRow(3, 12, 0.25, 0.5, 0.125, 1e-4, 2.0, 1.0, 0.375)
    line = "epoch 3: step 12 of 40, loss 0.2500, validation Dice 0.125 (soft 0.375), rate 0.0001, 1:01:01 left"
    assert epoch_in_words(row, 40, 3661) == line


@pytest.mark.parametrize("rates", [(1e-3, 0.0), (0.0,)])  # a cosine that ends, after two epochs or after one
def test_a_learning_rate_of_0_is_drawn_without_a_warning(rates: tuple[float, ...], tmp_path: Path) -> None:
    rows = [EpochRow(epoch, 8 * epoch, 0.5, 0.1, None, rate, 1.0, 1.0) for epoch, rate in enumerate(rates, 1)]
    plot_history(rows, tmp_path / "history.png")  # a warning is an error in the tests
    assert (tmp_path / "history.png").read_bytes().startswith(b"\x89PNG")
