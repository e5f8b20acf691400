"""What identifies a patient is in no byte of what the commands write or say, DICOM exports apart."""

import base64
import gzip
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813 (as its own documentation calls it)
import tensorflow_datasets as tfds
import zstandard
from nibabel.nifti1 import Nifti1Extension
from PIL import Image, PngImagePlugin
from pydicom._dicom_dict import DicomDictionary

from rdunet_jax.networks.keras_files import write_keras_file
from rdunet_jax.networks.keras_weights import to_keras
from rdunet_jax.runs.workdir import load_trained
from tests.data_pipeline.formats.volumes import box, chest
from tests.rdunet_jax.cli.layers import layers
from tests.rdunet_jax.command import Command

DUMMY = Path(__file__).resolve().parents[3] / "data_pipeline" / "nsclc_radiomics" / "dummy_data"
NETWORK = ("--model", "tiny", "--widths", "4", "4", "--recurrent-width", "4", "--recurrent-layers", "1")
TINY = (*NETWORK, "--batch-size", "1", "--epochs", "1")
TEXT = ("AE", "LO", "LT", "PN", "SH", "ST", "UC", "UT")
PARTS = (0x0008, 0x0010, 0x0018, 0x0020, 0x0028, 0x0032, 0x0038, 0x0040, 0x3006, 0x300E)
"""Groups of elements that a CT or an RTSTRUCT may have."""
KEYWORDS = tuple(
    keyword
    for tag, (vr, _, _, retired, keyword) in DicomDictionary.items()
    if tag >> 16 in PARTS and vr in TEXT and not retired and keyword != "RescaleType"  # which says what the values are
)

pytestmark = pytest.mark.usefixtures("optax_promotion")


def plant(source: Path) -> set[bytes]:
    """A canary in every attribute of text, date, UID and private element, in names of ROIs, files and folders; returns
    what must not be seen again."""
    secrets: set[str] = set()
    for number, folder in enumerate(sorted(source.iterdir())):
        identity = f"CANARYID{number}"
        names = {f"190{number}1231"}
        for path in sorted(folder.rglob("*.dcm")):
            dataset = pydicom.dcmread(path)
            for index, keyword in enumerate(KEYWORDS):
                setattr(dataset, keyword, f"CANARY{number}A{index}")
            dataset.PatientName, dataset.PatientID = f"CANARY{number}^MARY", identity
            dataset.PatientBirthDate = f"190{number}1231"
            dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = f"190{number}1230"
            block = dataset.private_block(0x0099, f"CANARY{number}CREATOR", create=True)
            block.add_new(1, "LO", f"CANARY{number}PRIVATE")
            if "StructureSetROISequence" in dataset:
                roi, other = dataset.StructureSetROISequence[0], pydicom.Dataset()
                roi.ROIDescription, roi.ROIGenerationDescription = f"CANARY{number}ROI", f"CANARY{number}HOW"
                other.ROINumber, other.ROIName = 99, f"CANARY{number}LIVER"
                other.ReferencedFrameOfReferenceUID = roi.ReferencedFrameOfReferenceUID
                dataset.StructureSetROISequence.append(other)
            names |= {str(one.value) for one in dataset.iterall() if one.VR == "UI" and "Instance" in one.keyword}
            names.add(str(dataset.get("FrameOfReferenceUID", identity)))
            dataset.save_as(path)
            path.rename(path.with_name(f"CANARY{number}-{path.name}"))
        for inner in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
            inner.rename(inner.with_name(f"CANARY{number}-{inner.name[-6:]}"))
        folder.rename(source / identity)
        secrets |= {identity, *names, f"190{number}1230"}
    spoilt = sorted(source.rglob("*.dcm"))[-1]  # a file whose rejection is reported
    (spoilt.parent / "CANARYNAME-broken.dcm").write_bytes(spoilt.read_bytes()[:600])
    shutil.copy(spoilt, spoilt.with_name("CANARYNAME-copy.dcm"))
    return {secret.encode() for secret in secrets}


def written(folder: Path) -> dict[str, bytes]:
    """All files under a folder, and the decoded examples of the data set among them."""
    found = {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for info in folder.rglob("dataset_info.json"):
        builder = tfds.builder_from_directory(str(info.parent))
        for split in builder.info.splits:
            for number, example in enumerate(builder.as_data_source(split)):  # pyright: ignore[reportCallIssue] (its decorator)
                found[f"{split} {number}"] = b" ".join(
                    value.tobytes() if isinstance(value, np.ndarray) else str(value).encode()
                    for value in example.values()
                )
    return found


def leaks(where: str, content: bytes, secrets: Iterable[bytes]) -> list[str]:
    """Canaries in a file's name and in all layers of its content."""
    pattern = re.compile(b"|".join([b"CANARY[A-Z0-9]*", *map(re.escape, secrets)]))
    found = {match[0] for part in (where.encode(), *layers(content)) for match in pattern.finditer(part)}
    return [f"{where}: {one!r}" for one in sorted(found)]


@pytest.mark.slow
def test_no_identity_leaves_the_dicom(rdunet: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "CANARYHOST")
    source, output = tmp_path / "source", tmp_path / "output"
    shutil.copytree(DUMMY, source)
    secrets = plant(source)
    assert len(secrets) > 30 and len(KEYWORDS) > 250
    data, work = ("--data-dir", output / "data"), ("--workdir", output / "run")
    scores = output / "run" / "evaluation" / "test"
    printed = ""
    for command in (
        ("prepare", source, *data, "--image-size", 16, "--workers", 1),
        ("prepare", source, *data, "--image-size", 16, "--workers", 1, "--overwrite", "--roi", "gtv.*"),
        ("train", *data, *work, *TINY),
        ("choose-postprocessing", *data, *work),
        ("evaluate", *data, *work, "--shard", "1/1"),
        ("evaluate", *data, *work, "--html", "--protocol", "authors_code"),
        ("evaluate", *data, *work, "--html"),
        ("compare", scores, scores),
        ("segment", source, *work, "--output", output / "masks", "--html", "--probabilities"),
        ("segment", source / "CANARYID0", *work, "--output", output / "one", "--html", "--chosen-postprocessing"),
    ):
        result = rdunet(*command)
        assert result.status == 0, result.error
        printed += result.out
    network = load_trained(output / "run")
    write_keras_file(tmp_path / "x.weights.h5", to_keras(network.variables, network.config.model))
    imported = ("--workdir", output / "imported", *NETWORK, "--gate", "hard_sigmoid")
    result = rdunet("import-weights", tmp_path / "x.weights.h5", *imported)
    assert result.status == 0, result.error
    everything = written(output) | written(tmp_path / "home") | {"printed": (printed + result.out).encode()}
    for name in ("page.html", "report.csv", "mask.nii.gz", ".npz", "overview.png", "manifest.ocdbt", ".json"):
        assert any(where.endswith(name) for where in everything), name
    secrets.add(os.fsencode(tmp_path / "source"))
    found = [leak for where, content in everything.items() for leak in leaks(where, content, secrets)]
    assert not found


@pytest.mark.slow  # Beam starts processes and a service of its own
def test_no_identity_is_in_the_logs_of_beam_or_what_its_workers_write(
    rdunet: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In processes of their own, whose standard streams are read to the end; temporary files count too."""
    pytest.importorskip("apache_beam")
    source, output, temporary = tmp_path / "source", tmp_path / "output", tmp_path / "temporary"
    shutil.copytree(DUMMY, source)
    secrets = plant(source)
    temporary.mkdir()
    beam = ("--beam", "runner=DirectRunner", "direct_num_workers=2", "direct_running_mode=multi_processing")
    data, work = ("--data-dir", output / "data"), ("--workdir", output / "run")
    said = b""
    for status, command in (
        (0, ("prepare", source, *data, "--image-size", 16, *beam)),
        (0, ("train", *data, *work, *TINY)),
        (1, ("segment", source, *work, "--output", output / "masks", "--html", "--probabilities", *beam)),
    ):
        if command[0] == "segment":  # one CT fails
            spoilt = sorted((source / "CANARYID1").rglob("*.dcm"))[0]
            spoilt.write_bytes(spoilt.read_bytes()[:-500])
        done = subprocess.run(
            [sys.executable, "-c", "from rdunet_jax.cli.main import main; main()", *map(str, command)],
            env=os.environ | {"TMPDIR": str(temporary), "PYTHONPATH": str(DUMMY.parents[2])},
            capture_output=True,
            check=False,
        )
        said += done.stdout + done.stderr
        assert done.returncode == status, said.decode()
    assert not list(temporary.iterdir())
    everything = written(output) | written(tmp_path / "home") | {"said": said}
    for name in ("page.html", "report.csv", "probabilities.nii.gz", "report.json"):
        assert any(where.endswith(name) for where in everything), name
    secrets.add(os.fsencode(tmp_path / "source"))
    assert not [leak for where, content in everything.items() for leak in leaks(where, content, secrets)]


def plant_volumes(root: Path) -> set[bytes]:
    """A Decathlon folder with a canary in every text of the headers, in the names of files and labels; returns more
    that must not be seen."""
    for number in range(3):
        name = f"CANARY{number}_lung.nii.gz"
        for folder, values in (("imagesTr", chest(seed=number)), ("labelsTr", box((9, 20, 22)))):
            image = nib.Nifti1Image(values.transpose(2, 1, 0), np.diag([-0.7, -0.8, 3, 1]))
            image.set_qform(image.affine, code="scanner")
            image.header["descrip"], image.header["aux_file"] = f"CANARY{number}DESCRIP", f"CANARY{number}AUX"
            image.header["intent_name"], image.header["db_name"] = "CANARYINTENT", "CANARYDB"
            image.header.extensions.append(Nifti1Extension("comment", f"CANARY{number}COMMENT".encode()))
            (root / folder).mkdir(parents=True, exist_ok=True)
            nib.save(image, root / folder / name)
    spoilt = root / "imagesTr" / "CANARYbroken.nii.gz"
    spoilt.write_bytes(b"\x1f\x8bCANARY")
    shutil.copy(root / "labelsTr" / "CANARY0_lung.nii.gz", root / "labelsTr" / "CANARYbroken.nii.gz")
    shutil.copy(root / "labelsTr" / "CANARY0_lung.nii.gz", root / "labelsTr" / "CANARYalone.nii.gz")
    other = sitk.GetImageFromArray(chest(seed=9))
    other.SetMetaData("CANARYKEY", "CANARYVALUE")
    sitk.WriteImage(other, str(root / "imagesTr" / "CANARY9_lung.nrrd"))
    labels = {"0": "background", "1": "CANARYLABEL"}
    (root / "dataset.json").write_text(json.dumps({"name": "CANARYNAME", "labels": labels}))
    return {b"_lung"}


@pytest.mark.slow
def test_no_identity_leaves_the_volume_files(rdunet: Command, tmp_path: Path) -> None:
    source, output = tmp_path / "CANARYSOURCE", tmp_path / "output"
    secrets = plant_volumes(source)
    data, work = ("--data-dir", output / "data"), ("--workdir", output / "run")
    printed = ""
    for status, command in (
        (0, ("prepare", source, *data, "--image-size", 16, "--workers", 1)),
        (0, ("train", *data, *work, *TINY)),
        (1, ("segment", source, *work, "--output", output / "masks", "--html")),
        (0, ("segment", source / "imagesTr" / "CANARY0_lung.nii.gz", *work, "--output", output / "one")),
    ):
        result = rdunet(*command)
        assert result.status == status, result.error
        printed += result.out
    everything = written(output) | written(tmp_path / "home") | {"printed": printed.encode()}
    for name in ("page.html", "report.csv", "mask.nii.gz", "report.json", "metadata.json"):
        assert any(where.endswith(name) for where in everything), name
    assert not [leak for where, content in everything.items() for leak in leaks(where, content, secrets)]
    refused = rdunet("prepare", source, "--data-dir", output / "none", "--roi", "none", "--workers", 1)
    assert refused.status == 2 and not leaks("printed", refused.error.replace(str(source), "").encode(), secrets)


def test_what_cannot_be_used_does_not_say_whose_it_is(rdunet: Command, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(DUMMY, source)
    secrets = plant(source)
    for path in source.rglob("*.dcm"):
        path.write_bytes(path.read_bytes()[:-500])
    work = ("--workdir", tmp_path / "run", "--output", tmp_path / "masks")
    for command in (
        ("prepare", source, "--data-dir", tmp_path / "data"),
        ("prepare", source, "--data-dir", tmp_path / "data", "--roi", "none"),
        ("segment", source, *work),
        ("train", "--data-dir", tmp_path / "data", "--workdir", tmp_path / "run"),
    ):
        result = rdunet(*command)
        assert result.status == 2 and not leaks("printed", (result.out + result.error).encode(), secrets)


@pytest.mark.slow
def test_dicom_exports_alone_keep_patient_and_study(rdunet: Command, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(DUMMY, source)
    plant(source)
    work = ("--workdir", tmp_path / "run")
    for command in (
        ("prepare", source, "--data-dir", tmp_path / "data", "--image-size", 16, "--workers", 1),
        ("train", "--data-dir", tmp_path / "data", *work, *TINY),
        ("segment", source / "CANARYID0", *work, "--output", tmp_path / "masks", "--format", "seg", "rtstruct", "sr"),
    ):
        result = rdunet(*command)
        assert result.status == 0 and "CANARY" not in result.out, result.error
    files = {path.name: path for path in (tmp_path / "masks").iterdir()}
    assert set(files) == {"seg.dcm", "rtstruct.dcm", "sr.dcm", "overview.png", "report.json"}
    for name in ("seg.dcm", "rtstruct.dcm", "sr.dcm"):
        exported = pydicom.dcmread(files[name])
        assert exported.PatientID == "CANARYID0"
        for secret in (b"CREATOR", b"PRIVATE", b"CANARY0ROI", b"LIVER", b".dcm"):
            assert secret not in files[name].read_bytes(), secret


def test_canaries_are_found_in_every_layer() -> None:
    secret = b"CANARY7"
    memory, picture, text = io.BytesIO(), io.BytesIO(), PngImagePlugin.PngInfo()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x", secret)
    text.add_text("Comment", secret.decode(), zip=True)
    Image.new("L", (4, 4)).save(picture, "PNG", pnginfo=text)
    pixels = io.BytesIO()
    Image.frombytes("L", (len(secret), 1), secret).save(pixels, "PNG")
    hidden = [memory.getvalue(), gzip.compress(secret), picture.getvalue(), b"head" + pixels.getvalue() + b"tail"]
    hidden += [b"x" + zstandard.compress(secret * 9), b'{"a":"' + base64.b64encode(gzip.compress(secret * 5)) + b'"}']
    hidden.append(gzip.compress(base64.b64encode(pixels.getvalue())))
    for content in hidden:
        assert leaks("x", content, []), content
    assert leaks("CANARY", b"", []) and not leaks("x", b"nothing", [b"secret"])
