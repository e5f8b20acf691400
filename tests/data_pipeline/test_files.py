"""Whole or not at all: what is on disk after success, after an error and after Ctrl-C."""

from pathlib import Path

import pytest

from data_pipeline.errors import InputError
from data_pipeline.files import atomic_folder, atomic_path, is_temporary


def test_file_appears_only_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "made" / "mask.nii.gz"
    with atomic_path(target) as temporary:
        temporary.write_bytes(b"half")
        assert not target.exists()
        assert temporary.parent == target.parent
        assert temporary.name.endswith(".nii.gz")
        assert is_temporary(temporary)
    assert target.read_bytes() == b"half"
    assert not is_temporary(target)
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("interruption", [RuntimeError, KeyboardInterrupt])
def test_old_file_survives_an_interrupted_write(tmp_path: Path, interruption: type[BaseException]) -> None:
    target = tmp_path / "report.json"
    target.write_text("old")
    with pytest.raises(interruption), atomic_path(target) as temporary:
        temporary.write_text("new, but unfinished")
        raise interruption
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_folder_appears_only_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "sample"
    target.mkdir()  # an empty folder may be there already
    with atomic_folder(target) as temporary:
        (temporary / "pat_1").mkdir()
        (temporary / "pat_1" / "file").write_text("x")
        assert not any(target.iterdir())
    assert (target / "pat_1" / "file").read_text() == "x"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("interruption", [RuntimeError, KeyboardInterrupt])
def test_interrupted_folder_leaves_nothing(tmp_path: Path, interruption: type[BaseException]) -> None:
    with pytest.raises(interruption), atomic_folder(tmp_path / "sample") as temporary:
        (temporary / "file").write_text("x")
        raise interruption
    assert not any(tmp_path.iterdir())


def test_folder_in_use_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(InputError, match="not an empty folder"), atomic_folder(tmp_path):
        pytest.fail("the block must not run")
    with pytest.raises(InputError, match="not an empty folder"), atomic_folder(tmp_path / "mine"):
        pytest.fail("the block must not run")
    assert (tmp_path / "mine").read_text() == "x"


def test_impossible_places_are_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="folder cannot be made"), atomic_path(tmp_path / "file" / "mask.png"):
        pytest.fail("the block must not run")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="cannot be written"), atomic_path(tmp_path / "folder") as temporary:
        temporary.write_text("x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_the_current_folder_cannot_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for write in (atomic_folder, atomic_path):
        with (
            pytest.raises(InputError, match=r"\.: cannot be replaced; name a file or folder inside it"),
            write(Path(".")),
        ):
            pass
