"""Zip files as a source: unpacked safely, within limits, and gone afterwards."""

import stat
import zipfile
from pathlib import Path

import pytest

from data_pipeline.dicom import archive
from data_pipeline.dicom.archive import opened_source
from data_pipeline.dicom.discovery import discover
from data_pipeline.errors import InputError
from tests.data_pipeline.dicom_files import write_series


def test_a_zip_is_unpacked_and_removed(tmp_path: Path) -> None:
    series = write_series(tmp_path / "in")
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as packed:
        packed.mkdir("PATIENT 1")
        for path in series.files:
            packed.write(path, f"PATIENT 1/ct/{path.name}")
    with opened_source(tmp_path / "in.zip") as folder:
        (found,) = discover(folder).series
        assert found.series_uid == series.series_uid and len(found.files) == 4
        assert found.files[0].name == "000000-PATIENT_1_ct_004"
    assert not folder.exists()


def test_folders_and_single_files_are_used_in_place(tmp_path: Path) -> None:
    series = write_series(tmp_path)
    for source in (tmp_path, series.files[0]):
        with opened_source(source) as files:
            assert files == source


def test_members_stay_inside_the_folder(tmp_path: Path) -> None:
    """Absolute and climbing names, equal names, links and devices."""
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as packed:
        for name in ("/etc/passwd", "../../escaped", "same", "..", "\u00fc/\n"):
            packed.writestr(name, "text")
        with pytest.warns(UserWarning, match="Duplicate name"):
            packed.writestr("same", "text")
        for kind in (stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR):
            link = zipfile.ZipInfo(f"link{kind}")
            link.external_attr = (kind | 0o777) << 16
            packed.writestr(link, "/etc/passwd")
    with opened_source(tmp_path / "in.zip") as folder:
        names = sorted(path.name for path in folder.iterdir())
        assert names == [
            "000000-_etc_passwd",
            "000001-.._.._escaped",
            "000002-same",
            "000003-..",
            "000004-___",
            "000005-same",
        ]
        assert all(path.read_text() == "text" and not path.is_symlink() for path in folder.iterdir())
    assert not (tmp_path.parent / "escaped").exists()


def bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("zeros", bytes(100 * 2**20))


def encrypted(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("file", "text")
    content = bytearray(path.read_bytes())
    content[6] |= 1  # the flag of encryption, in the local header and in the directory
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)


def damaged(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("file", "text " * 100)
    content = bytearray(path.read_bytes())
    content[60] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    zipfile.ZipFile(path, "w").close()


def text(path: Path) -> None:
    path.write_text("text")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (bomb, "this is no archive of CT images"),
        (encrypted, "encrypted"),
        (damaged, "damaged"),
        (empty, "an empty zip file"),
        (text, "neither a folder, a DICOM file nor a zip file"),
    ],
)
def test_archives_that_cannot_be_used_are_one_line(tmp_path: Path, make, message) -> None:
    make(tmp_path / "in.zip")
    with pytest.raises(InputError, match=message) as error, opened_source(tmp_path / "in.zip"):
        pass
    assert str(tmp_path / "in.zip") in str(error.value) and "\n" not in str(error.value)


def test_the_number_of_members_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MOST_MEMBERS", 2)
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as packed:
        for number in range(3):
            packed.writestr(str(number), "text")
    with pytest.raises(InputError, match="more than 2 files"), opened_source(tmp_path / "in.zip"):
        pass


def test_messages_name_the_archive_and_not_the_temporary_folder(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as packed:
        packed.writestr("note.txt", "text")
    with (
        pytest.raises(InputError, match="holds no DICOM CT series, but 1 not DICOM") as error,
        opened_source(tmp_path / "in.zip") as folder,
    ):
        discover(folder)
    assert str(error.value).startswith(f"{tmp_path / 'in.zip'}: ")
