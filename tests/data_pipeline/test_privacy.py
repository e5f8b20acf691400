"""Pseudonyms."""

from pathlib import Path

import pytest

from data_pipeline.errors import InputError
from data_pipeline.privacy import load_key, pseudonym


def test_a_key_is_drawn_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "key"
    key = load_key(path)
    assert load_key(path) == key
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_key(tmp_path / "other") != key


def test_a_new_key_is_announced_and_a_damaged_one_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "key"
    key = load_key(path)
    assert "a new key of pseudonyms" in caplog.text and [one.name for one in tmp_path.iterdir()] == ["key"]
    caplog.clear()
    whole = path.read_bytes()
    for at in range(len(whole.splitlines()[0])):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(InputError, match="damaged"):
            load_key(path)
    path.write_bytes(whole.splitlines()[0])  # as earlier versions wrote it
    assert load_key(path) == key and not caplog.text


def test_pseudonyms_depend_on_patient_and_key_and_show_neither() -> None:
    one, other = b"k" * 32, b"l" * 32
    assert pseudonym("LUNG1-001", one) == pseudonym("LUNG1-001", one)
    assert len({pseudonym("LUNG1-001", one), pseudonym("LUNG1-002", one), pseudonym("LUNG1-001", other)}) == 3
    assert "LUNG1" not in pseudonym("LUNG1-001", one)


def test_a_short_or_unreadable_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "short").write_text("abc")
    with pytest.raises(InputError, match="short: not a pseudonym key"):
        load_key(tmp_path / "short")
    with pytest.raises(InputError, match="cannot be read or made"):
        load_key(tmp_path / "short" / "below")
    (tmp_path / "zeros").write_bytes(bytes(100))
    with pytest.raises(InputError, match="zeros: not a pseudonym key"):
        load_key(tmp_path / "zeros")
