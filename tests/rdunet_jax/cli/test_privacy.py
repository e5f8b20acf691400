"""What identifies a patient is in no byte of what the commands write or say, DICOM exports apart."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
import tensorflow_datasets as tfds

import rdunet_jax.cli.main as cli

DUMMY = Path(__file__).resolve().parents[3] / "data_pipeline" / "nsclc_radiomics" / "dummy_data"
TINY = ("--model", "tiny", "--widths", "4", "4", "4", "--recurrent-width", "4", "--batch-size", "1", "--epochs", "1")

pytestmark = pytest.mark.usefixtures("optax_promotion")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def plant(source: Path) -> set[bytes]:
    """Canaries in every file, folder name and file name; returns what must not be seen again."""
    secrets: set[str] = set()
    for number, folder in enumerate(sorted(source.iterdir())):
        name, identity, birth = f"CANARYNAME{number}", f"CANARYID{number}", f"190{number}1231"
        secrets |= {name, identity, birth}
        for path in sorted(folder.rglob("*.dcm")):
            dataset = pydicom.dcmread(path)
            dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = f"{name}^MARY", identity, birth
            secrets |= {str(one.value) for one in dataset.iterall() if one.VR == "UI" and "Instance" in one.keyword}
            secrets.add(str(dataset.get("FrameOfReferenceUID", identity)))
            dataset.save_as(path)
        folder.rename(source / identity)
    spoilt = sorted(source.rglob("*.dcm"))[-1]  # a file whose rejection is reported
    (spoilt.parent / "CANARYNAME-broken.dcm").write_bytes(spoilt.read_bytes()[:600])
    return {secret.encode() for secret in secrets}


def written(folder: Path) -> dict[str, bytes]:
    """All files under a folder, and the decoded examples of the data set among them."""
    found = {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for info in folder.rglob("dataset_info.json"):
        builder = tfds.builder_from_directory(str(info.parent))
        for split in builder.info.splits:
            for number, example in enumerate(builder.as_data_source(split)):
                found[f"{split} {number}"] = b" ".join(
                    value.tobytes() if isinstance(value, np.ndarray) else str(value).encode()
                    for value in example.values()
                )
    return found


def test_no_identity_leaves_the_dicom(tmp_path: Path, monkeypatch, capfd) -> None:
    source, output = tmp_path / "source", tmp_path / "output"
    shutil.copytree(DUMMY, source)
    secrets = plant(source)
    assert len(secrets) > 30
    data, work = ("--data-dir", output / "data"), ("--workdir", output / "run")
    for command in (
        ("prepare", source, *data, "--image-size", 16, "--workers", 1),
        ("train", *data, *work, *TINY),
        ("evaluate", *data, *work, "--html"),
        ("segment", source, *work, "--output", output / "masks", "--html"),
    ):
        monkeypatch.setattr(sys, "argv", ["rdunet", *map(str, command)])
        cli.main()
    told = capfd.readouterr()
    everything = written(output) | {"stdout": told.out.encode(), "stderr": told.err.encode()}
    assert len(everything) > 20
    assert any(where.endswith("page.html") for where in everything)
    for where, content in everything.items():
        name_and_content = where.removeprefix(str(tmp_path)).encode() + content
        assert not {secret for secret in secrets if secret in name_and_content}, where
        assert b"CANARY" not in name_and_content, where


def test_dicom_exports_alone_keep_patient_and_study(tmp_path: Path, monkeypatch, capfd) -> None:
    source = tmp_path / "source"
    shutil.copytree(DUMMY, source)
    plant(source)
    work = ("--workdir", tmp_path / "run")
    for command in (
        ("prepare", source, "--data-dir", tmp_path / "data", "--image-size", 16, "--workers", 1),
        ("train", "--data-dir", tmp_path / "data", *work, *TINY),
        ("segment", source / "CANARYID0", *work, "--output", tmp_path / "masks", "--format", "seg", "rtstruct"),
    ):
        monkeypatch.setattr(sys, "argv", ["rdunet", *map(str, command)])
        cli.main()
    assert "CANARY" not in capfd.readouterr().out
    files = {path.name: path for path in (tmp_path / "masks").iterdir()}
    assert set(files) == {"seg.dcm", "rtstruct.dcm", "overview.png", "report.json"}
    for name in ("seg.dcm", "rtstruct.dcm"):
        assert pydicom.dcmread(files[name]).PatientID == "CANARYID0"
