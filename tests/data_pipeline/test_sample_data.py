"""The sample patients: what is kept of the wheel, what is refused, and (slow) the real download."""

import hashlib
import io
import subprocess
import sys
import zipfile
from pathlib import Path

import pydicom
import pytest
from rich.console import Console

from data_pipeline import sample_data
from data_pipeline.errors import InputError
from data_pipeline.sample_data import LICENCE_NOTICE, fetch_sample_data

FOLDER = "cerr/datasets/radiomics_phantom_dicom/"
DATA = {"pat_1/DCM_IMG_00000.dcm": "ct", "pat_1/DCM_RS_00001.dcm": "contours", "pat_2/DCM_IMG_00000.dcm": "ct"}
TEXT = {"README_LICENSE.txt": "CC BY-NC 3.0"}
UNWANTED = [
    "cerr/__init__.py",
    "pat_9/DCM_IMG_00000.dcm",
    f"{FOLDER}__init__.py",
    f"{FOLDER}pat_1/../../../escaped.dcm",
    f"{FOLDER}/absolute/pat_1/x.dcm",
    f"{FOLDER}pat_1\\..\\x.dcm",
    f"{FOLDER}pat_1/deeper/x.dcm",
]


def _wheel(path: Path, names: dict[str, str]) -> tuple[Path, str]:
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in names.items():
            wheel.writestr(name, content)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def wheel(tmp_path: Path) -> tuple[Path, str]:
    names = {FOLDER + name: content for name, content in (DATA | TEXT).items()}
    return _wheel(tmp_path / "sample.whl", names | dict.fromkeys(UNWANTED, "unwanted"))


def _files(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


def test_only_the_data_and_their_licence_are_kept(tmp_path: Path, wheel: tuple[Path, str]) -> None:
    output = tmp_path / "made" / "sample"
    folders = fetch_sample_data(output, archive=wheel[0], sha256=wheel[1])
    assert folders == [output / "pat_1", output / "pat_2"]
    files = _files(output)
    assert files.pop("SHA256SUMS").splitlines()[0].endswith("  README_LICENSE.txt")
    assert files == DATA | TEXT
    assert {path.name for path in tmp_path.iterdir()} == {"sample.whl", "made"}
    assert [path.name for path in output.parent.iterdir()] == ["sample"]


def test_a_complete_sample_is_left_alone_and_said_so(tmp_path: Path, wheel: tuple[Path, str]) -> None:
    first = fetch_sample_data(tmp_path / "sample", archive=wheel[0], sha256=wheel[1])
    said = io.StringIO()
    again = fetch_sample_data(tmp_path / "sample", archive=tmp_path / "none", console=Console(file=said, width=400))
    assert again == first
    assert "already holds the complete sample" in said.getvalue()


@pytest.mark.parametrize("damage", ["missing", "changed", "foreign list"])
def test_a_folder_in_use_is_refused(tmp_path: Path, wheel: tuple[Path, str], damage: str) -> None:
    output = tmp_path / "sample"
    fetch_sample_data(output, archive=wheel[0], sha256=wheel[1])
    if damage == "missing":
        (output / "pat_2" / "DCM_IMG_00000.dcm").unlink()
    elif damage == "changed":
        (output / "pat_2" / "DCM_IMG_00000.dcm").write_text("c t")
    else:
        (output / "SHA256SUMS").write_text(f"{hashlib.sha256(b'ct').hexdigest()}  ../sample/pat_1/DCM_IMG_00000.dcm\n")
    before = _files(output)
    with pytest.raises(InputError, match=r"sample: already exists and is not an empty folder; name another"):
        fetch_sample_data(output, archive=wheel[0], sha256=wheel[1])
    assert _files(output) == before


def test_a_wrong_wheel_leaves_nothing(tmp_path: Path, wheel: tuple[Path, str]) -> None:
    output = tmp_path / "sample"
    with pytest.raises(InputError, match=r"sample\.whl: SHA-256 is .*download it again"):
        fetch_sample_data(output, archive=wheel[0])
    with pytest.raises(InputError, match=r"none: cannot be read"):
        fetch_sample_data(output, archive=tmp_path / "none")
    text = tmp_path / "text.whl"
    text.write_text("not a zip")
    with pytest.raises(InputError, match=r"text\.whl: is not a readable zip"):
        fetch_sample_data(output, archive=text, sha256=hashlib.sha256(text.read_bytes()).hexdigest())
    other, digest = _wheel(tmp_path / "other.whl", {"other/__init__.py": ""})
    with pytest.raises(InputError, match=r"other\.whl: holds no cerr/"):
        fetch_sample_data(output, archive=other, sha256=digest)
    assert not output.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"sample.whl", "text.whl", "other.whl"}


@pytest.mark.parametrize(
    ("stderr", "message"),
    [
        (
            "WARNING: Retrying\nERROR: No matching distribution found for x\n",
            r"\(No matching distribution found for x\)",
        ),
        ("/usr/bin/python3: No module named pip\n", "has no pip"),
        ("", r"\(exit status 1\)"),
    ],
)
def test_a_failing_pip_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stderr: str, message: str) -> None:
    def failing(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[:4] == [sys.executable, "-m", "pip", "download"]
        return subprocess.CompletedProcess(command, 1, "", stderr)

    monkeypatch.setattr(sample_data.subprocess, "run", failing)
    with pytest.raises(InputError, match=message) as caught:
        fetch_sample_data(tmp_path / "sample")
    assert "\n" not in str(caught.value)
    assert not any(tmp_path.iterdir())


def test_the_notice_names_licence_and_source() -> None:
    assert "CC BY-NC 3.0" in LICENCE_NOTICE
    assert "doi:10.17195/candat.2016.08.1" in LICENCE_NOTICE


@pytest.mark.slow
def test_the_real_download(tmp_path: Path) -> None:
    try:
        folders = fetch_sample_data(tmp_path / "sample")
    except InputError as error:
        if "pip could not download" not in str(error):
            raise
        pytest.skip(f"no package index within reach: {error}")
    counts = []
    for folder in folders:
        headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in sorted(folder.iterdir())]
        (contours,) = (header for header in headers if header.Modality == "RTSTRUCT")
        assert [roi.ROIName for roi in contours.StructureSetROISequence] == ["GTV-1"]
        shape = {(header.Rows, header.Columns) for header in headers if header.Modality == "CT"}
        counts.append((len(headers) - 1, *shape.pop(), len(contours.ROIContourSequence[0].ContourSequence)))
        assert not shape
    # slices, rows, columns, contours of GTV-1, as first counted in the wheel
    assert counts == [(60, 201, 204, 26), (41, 138, 141, 7), (46, 137, 136, 12), (56, 172, 178, 23)]
    assert "Attribution-NonCommercial 3.0" in (tmp_path / "sample" / "README_LICENSE.txt").read_text()
