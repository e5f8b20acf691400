"""Checkpoints that are damaged, unfinished or read while they are written."""

import hashlib
import json
import logging
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from rdunet_jax.errors import RunError
from rdunet_jax.training import stored_steps as stored_steps_module
from rdunet_jax.training.checkpointing import Checkpoints
from rdunet_jax.training.stored_steps import CHECKSUMS, restore_best, stored_steps

SCORES = {1: 0.5, 2: 0.9, 3: 0.7, 4: 0.6}


def state(step: int) -> dict[str, np.ndarray]:
    """Weights that differ from step to step, and compress badly enough to be most of the bytes."""
    return {"step": np.array(step), "weights": np.random.default_rng(step).random((20, 20), np.float32)}


def write(folder: Path) -> Path:
    """Four steps are saved; the best (2) and the latest two (3, 4) are kept."""
    checkpoints = Checkpoints(folder)
    for step, score in SCORES.items():
        checkpoints.save(step, state(step), score, score, {"steps.csv": f"step\n{step}\n"})
    checkpoints.close()
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("run") / "checkpoints")


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "checkpoints"))


def restored_step(restored: tuple | None) -> int:
    """The step of a restored state, whose weights must be those of that step."""
    assert restored is not None
    found = restored[0]
    step = int(found["step"])
    np.testing.assert_array_equal(found["weights"], state(step)["weights"])
    return step


def content(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
    }


def test_the_best_and_the_latest_two_are_kept(folder: Path) -> None:
    assert [one.step for one in stored_steps(folder)] == [2, 3, 4]
    assert all(one.is_sound for one in stored_steps(folder))
    restored = restore_best(folder, state(0))
    assert restored_step(restored) == 2 and restored is not None and restored[2]
    latest = Checkpoints(folder).restore_latest(state(0))
    assert restored_step(latest) == 4 and latest is not None and latest[1].text("steps.csv") == "step\n4\n"


def lose_default(step: Path) -> None:
    shutil.rmtree(step / "default")


def spoil_metrics(step: Path) -> None:
    (step / "metrics" / "metrics").write_bytes(b"\xff{")


def lose_metrics(step: Path) -> None:
    shutil.rmtree(step / "metrics")


def halve_all(step: Path) -> None:
    for path in step.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def spoil_checksums(step: Path) -> None:
    (step / CHECKSUMS).write_text("{}")


FAULTS = [lose_default, spoil_metrics, lose_metrics, halve_all, spoil_checksums]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("step, best, latest", [(4, 2, 3), (3, 2, 4), (2, 3, 4)])
def test_a_damaged_checkpoint_gives_way_with_a_warning(fault, step, best, latest, folder: Path, caplog) -> None:
    fault(folder / str(step))
    before = content(folder)
    restored = restore_best(folder, state(0))
    assert restored_step(restored) == best
    assert restored is not None and not restored[2]  # the damaged one may have been the best
    assert f"checkpoints/{step}: damaged" in caplog.text
    assert content(folder) == before  # a reader changes nothing
    caplog.clear()
    checkpoints = Checkpoints(folder)
    assert restored_step(checkpoints.restore_latest(state(0))) == latest
    assert f"renamed to damaged-{step}" in caplog.text
    assert (folder / f"damaged-{step}").is_dir()
    checkpoints.save(5, state(5), 0.1, 0.1)  # training goes on beside it
    checkpoints.close()
    assert [one.step for one in stored_steps(folder) if one.is_sound][-1] == 5


def test_where_every_checkpoint_is_damaged_none_is_touched(folder: Path) -> None:
    for path in folder.iterdir():
        halve_all(path)
    before = content(folder)
    with pytest.raises(RunError, match=r"cannot be read as a checkpoint .*restore the folder from a copy"):
        restore_best(folder, state(0))
    with pytest.raises(RunError, match="cannot be read as a checkpoint"):
        Checkpoints(folder).restore_latest(state(0))
    assert content(folder) == before


def test_one_without_checksums_is_not_trusted_unless_there_is_nothing_else(folder: Path, caplog) -> None:
    (folder / "2" / CHECKSUMS).unlink()
    (folder / "4" / CHECKSUMS).unlink()
    restored = restore_best(folder, state(0))
    assert restored_step(restored) == 3
    assert restored is not None and not restored[2]  # one of those may have been the best
    for step in (2, 4):
        assert (
            f"checkpoints/{step}: damaged (not finished: no checksums.json); another checkpoint is used" in caplog.text
        )
    caplog.clear()
    checkpoints = Checkpoints(folder)
    assert restored_step(checkpoints.restore_latest(state(0))) == 3
    assert (folder / "damaged-2").exists() and (folder / "damaged-4").exists()
    assert "no checksums.json); renamed to damaged-2" in caplog.text and "renamed to damaged-4" in caplog.text
    (folder / "damaged-2").rename(folder / "2")
    (folder / "3" / CHECKSUMS).unlink()
    caplog.clear()
    assert restored_step(restore_best(folder, state(0))) == 2
    assert "no checkpoint has checksums" in caplog.text and "damaged" not in caplog.text


def test_a_reader_waits_for_a_checkpoint_that_is_being_written(folder: Path, monkeypatch, caplog) -> None:
    """A training writes the checksums last; one that begins while the reader waits is none of its business."""
    checksums = (folder / "4" / CHECKSUMS).read_bytes()
    (folder / "4" / CHECKSUMS).unlink()

    def write(seconds: float) -> None:
        if not (folder / "4" / CHECKSUMS).exists():
            (folder / "4" / CHECKSUMS).write_bytes(checksums)
            shutil.copytree(folder / "4" / "default", folder / "5" / "default", dirs_exist_ok=True)

    monkeypatch.setattr("time.sleep", write)
    restored = restore_best(folder, state(0))
    assert restored_step(restored) == 2 and restored is not None and restored[2]
    assert "damaged" not in caplog.text


def test_a_reader_waits_for_a_checkpoint_that_is_being_removed(folder: Path, monkeypatch, caplog) -> None:
    """A training removes a checkpoint file by file; a reader that meets half of it looks again."""
    lose_default(folder / "3")
    monkeypatch.setattr("time.sleep", lambda seconds: shutil.rmtree(folder / "3", ignore_errors=True))
    restored = restore_best(folder, state(0))
    assert restored_step(restored) == 2 and restored is not None and restored[2]
    assert "damaged" not in caplog.text


def test_a_reader_looks_again_where_a_training_replaced_what_it_chose(folder: Path, monkeypatch, caplog) -> None:
    """All that were there at the look are removed ahead of the read; those written meanwhile serve."""
    read, kept = stored_steps_module.read_state, folder.parent / "kept"
    shutil.copytree(folder, kept)
    for step in (2, 3):
        shutil.rmtree(folder / str(step))

    def replaced(path: Path, like):
        if kept.exists():
            shutil.rmtree(folder / "4")
            (kept / "3").rename(folder / "3")
            (kept / "2").rename(folder / "2")
            shutil.rmtree(kept)
        return read(path, like)

    monkeypatch.setattr(stored_steps_module, "read_state", replaced)
    restored = restore_best(folder, state(0))
    assert restored_step(restored) == 2 and restored is not None and restored[2]
    assert not caplog.text


def test_a_checkpoint_of_another_network_is_named(folder: Path) -> None:
    other = {"step": np.array(0), "weights": np.zeros((3, 3), np.float32)}
    with pytest.raises(RunError, match=r"cannot be read as a checkpoint of this network"):
        restore_best(folder, other)


def test_of_equal_dice_the_earlier_is_the_best_and_older_versions_come_last(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, state(step), 0.5, 0.9)
    checkpoints.close()
    assert Checkpoints(tmp_path).best_step == 1
    metrics = tmp_path / "1" / "metrics" / "metrics"
    metrics.write_text(json.dumps({"dice": 0.9, "step": 1}))
    (tmp_path / "1" / CHECKSUMS).unlink()
    assert Checkpoints(tmp_path).best_step == 2


def flip_bits(written: Path, tmp_path: Path, count: int, caplog: pytest.LogCaptureFixture) -> None:
    """Flips one bit at a time anywhere in the checkpoints; each must be noticed or without effect."""
    draw, noticed = random.Random(0), 0
    folder = Path(shutil.copytree(written, tmp_path / "flipped"))
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]
    for _ in range(count):
        path = draw.choice(files)
        sound = path.read_bytes()
        position = draw.randrange(len(sound) * 8)
        flipped = bytearray(sound)
        flipped[position // 8] ^= 1 << position % 8
        path.write_bytes(flipped)
        caplog.clear()
        step = restored_step(restore_best(folder, state(0)))
        warned = any(record.levelno >= logging.WARNING for record in caplog.records)
        assert step == 2 or warned, f"bit {position} of {path.relative_to(folder)}: step {step} without a warning"
        noticed += warned
        path.write_bytes(sound)
    print(f"{noticed} of {count} flips noticed; none gave other weights without a warning")
    assert noticed > 0.9 * count  # all but those in white space


def test_no_flipped_bit_gives_other_weights_in_silence(written: Path, tmp_path: Path, caplog, monkeypatch) -> None:
    monkeypatch.setattr("rdunet_jax.training.stored_steps._PAUSE_SECONDS", 0)
    flip_bits(written, tmp_path, 40, caplog)


@pytest.mark.slow
def test_no_flipped_bit_of_300_gives_other_weights_in_silence(
    written: Path, tmp_path: Path, caplog, monkeypatch
) -> None:
    monkeypatch.setattr("rdunet_jax.training.stored_steps._PAUSE_SECONDS", 0)
    flip_bits(written, tmp_path, 300, caplog)
