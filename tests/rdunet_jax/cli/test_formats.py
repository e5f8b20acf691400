"""`rdunet prepare` and `rdunet segment` on volume files: what they write, what they print, what they refuse."""

import csv
import json
import shlex
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (as its own documentation calls it)

from data_pipeline.loading import Dataset
from data_pipeline.phantom.phantom import draw_phantom, hounsfield, tumour_mask
from rdunet_jax.cli import main as command_line
from rdunet_jax.config import InferenceConfig, TrainConfig
from rdunet_jax.networks.models import create_model, model_config
from rdunet_jax.runs.workdir import RunConfig
from rdunet_jax.training.checkpointing import Checkpoints
from rdunet_jax.training.step import create_state
from tests.data_pipeline.formats.volumes import box, chest, save, write_dicom
from tests.rdunet_jax.command import Command, one_line
from tests.test_docs import ROOT, commands

SHAPE = (9, 20, 22)


def write_cases(root: Path, count: int, axes: str = "RAS") -> None:
    """A Decathlon folder of small patients that differ."""
    for number in range(1, count + 1):
        name = f"lung_{number:03d}.nii.gz"
        save(root / "imagesTr" / name, chest(seed=number), axes=axes)
        save(root / "labelsTr" / name, box(SHAPE), axes=axes)
    (root / "dataset.json").write_text(json.dumps({"labels": {"0": "background", "1": "cancer"}}))


def test_every_format_makes_the_same_data_set(rdunet: Command, tmp_path: Path) -> None:
    """The same masks on the CT's grid, the same slices, the same split; hashes of the examples too."""
    sources = {"dicom": tmp_path / "dicom", "msd": tmp_path / "msd", "table": tmp_path / "table.csv"}
    rows = []
    write_cases(tmp_path / "msd", 3, axes="LAS")
    for number in range(1, 4):
        write_dicom(tmp_path / "dicom" / str(number), chest(seed=number), patient=number)
        image = save(tmp_path / "files" / f"{number}.nrrd", chest(seed=number), axes="PIR")
        mask = save(tmp_path / "files" / f"{number}m.mha", box(SHAPE) * 255, axes="SAL")
        rows.append(f"{image},{mask.relative_to(tmp_path)},PATIENT-{number}\n")
    sources["table"].write_text("image,mask,patient\n" + "".join(rows))
    for name in ("lung_001", "lung_002", "lung_003"):
        for folder in ("imagesTr", "labelsTr"):
            path = tmp_path / "msd" / folder / f"{name}.nii.gz"
            path.rename(path.with_name(f"PATIENT-{int(name[-1])}.nii.gz"))
    arrays, splits, hashes = {}, {}, set()
    for name, source in sources.items():
        result = rdunet(
            "prepare", source, "--data-dir", tmp_path / name, "--image-size", 16, "--workers", 1, "--keep-ids"
        )
        assert result.status == 0, result.error
        data = Dataset(tmp_path / name)
        splits[name] = data.split_sha256
        hashes.add(data.dataset_sha256)
        arrays[name] = [
            (one.name, one.image, one.mask, one.ct_mask)
            for part in ("train", "validation", "test")
            for one in data.patients(part)
        ]
        kinds = {entry.mask_source for entry in data.account.patients.values()}
        assert kinds == ({"RTSTRUCT"} if name == "dicom" else {"labels"})
    assert len(hashes) == 1
    for name in ("msd", "table"):
        assert splits[name] == splits["dicom"]
        for got, expected in zip(arrays[name], arrays["dicom"], strict=True):
            for one, other in zip(got, expected, strict=True):
                np.testing.assert_array_equal(one, other)


def test_what_is_wrong_with_a_file_is_reported_without_its_name(rdunet: Command, tmp_path: Path) -> None:
    source = tmp_path / "CANARY"
    write_cases(source, 3)
    for number, name in enumerate(("imagesTr/CANARY_a", "labelsTr/CANARY_b", "imagesTr/CANARY_c", "imagesTr/CANARY_d")):
        save(source / f"{name}.nii.gz", chest(seed=10 + number))
    for name in ("a", "d"):
        save(source / "labelsTr" / f"CANARY_{name}.nii.gz", box(SHAPE) * (name == "d"))
    (source / "imagesTr" / "CANARY_d.nii.gz").write_bytes(b"\x1f\x8b CANARY")
    result = rdunet("prepare", source, "--data-dir", tmp_path / "data", "--image-size", 16, "--workers", 1)
    assert result.status == 0, result.error
    report = (next((tmp_path / "data").rglob("report.json"))).read_text()
    for word in (
        "the mask is empty; check that it belongs to this CT",
        "no mask belongs to this CT",
        "labels without their image in imagesTr",
        "not a readable NIfTI file (",
    ):
        assert word in report and word in result.out, word
    assert "CANARY" not in report + result.out.replace(str(tmp_path), "") and "lung_" not in report
    everything = b"".join(path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file())
    assert b"CANARY" not in everything and b"lung_0" not in everything


def untrained(workdir: Path) -> None:
    """A run whose network was never trained. At its threshold of 0 every voxel is tumour."""
    network = model_config("tiny", widths=(2, 2), recurrent_width=2, recurrent_layers=1)
    run = RunConfig(network, TrainConfig(), InferenceConfig(threshold=0.0, dilation_diameter=1), "hu_window", 16)
    run.save(workdir)
    checkpoints = Checkpoints(workdir / "checkpoints")
    checkpoints.save(1, create_state(create_model(network), run.train, (8, 16, 16)))
    checkpoints.close()


def test_masks_of_volume_files_come_in_their_own_order(rdunet: Command, tmp_path: Path) -> None:
    """A SEG is refused with a reason, and one damaged file does not stop the others."""
    write_cases(tmp_path / "msd", 3)
    untrained(tmp_path / "run")
    run = ("--workdir", tmp_path / "run")
    for suffix, axes in ((".nii.gz", "PSR"), (".nrrd", "LPS")):
        image = save(tmp_path / f"CANARY{suffix}", chest(seed=99), axes=axes)
        output = tmp_path / f"out{suffix}"
        result = rdunet("segment", image, *run, "--output", output, "--format", "nifti", "seg")
        assert result.status == 0, result.error
        assert "note: seg will not be written: a DICOM export refers to the DICOM files of its CT" in result.out
        mask, source = sitk.ReadImage(str(output / "mask.nii.gz")), sitk.ReadImage(str(image))
        assert mask.GetSize() == source.GetSize()
        for name in ("Origin", "Spacing", "Direction"):
            assert np.allclose(getattr(mask, f"Get{name}")(), getattr(source, f"Get{name}")(), atol=1e-4), name
        assert b"CANARY" not in nib.Nifti1Image.load(output / "mask.nii.gz").header.binaryblock
        report = json.loads((output / "report.json").read_text())
        assert report["ct"]["slices"] == 9 and "CANARY" not in (output / "report.json").read_text()
    (tmp_path / "msd" / "imagesTr" / "lung_002.nii.gz").write_bytes(b"no volume")
    result = rdunet("segment", tmp_path / "msd", *run, "--output", tmp_path / "all")
    assert result.status == 1
    with (tmp_path / "all" / "report.csv").open() as file:
        assert [row["status"] for row in csv.DictReader(file)].count("failed") == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.nii.gz", "not a readable NIfTI file"),
        ("a.csv", "has no column image"),
        ("two.nrrd", "is no 3-D volume, but 2-D"),
        ("four.nii", "is no 3-D volume, but 4-D"),
    ],
)
def test_sources_that_cannot_be_read_are_refused_in_one_line(
    rdunet: Command, tmp_path: Path, name: str, message: str
) -> None:
    flat = sitk.GetImageFromArray(chest()[0])
    if name == "two.nrrd":
        sitk.WriteImage(flat, str(tmp_path / name))
    elif name == "four.nii":
        sitk.WriteImage(sitk.JoinSeries([sitk.GetImageFromArray(chest())] * 2), str(tmp_path / name))
    else:
        (tmp_path / name).write_text("a,b\n1,2\n")
    found = rdunet("prepare", tmp_path / name, "--data-dir", tmp_path / "data")
    assert message in found.error or "no mask belongs to this CT" in found.error
    one_line(found)
    assert not (tmp_path / "data").exists()


@pytest.mark.slow
def test_the_commands_of_the_readme_run_on_task06(tmp_path: Path, monkeypatch, optax_promotion) -> None:
    """Phantoms in the layout of MSD Task06: label 1 = cancer, axes RAS and LAS, 0.6 to 1 mm in plane, 0.6 to 2.5 mm
    between slices. Only the source of the README's commands is changed."""
    root = tmp_path / "Task06_Lung"
    rng = np.random.default_rng(0)
    for number in range(1, 5):
        phantom = draw_phantom(6, number=number, slices=14, matrix=64)
        between, plane = rng.choice([0.625, 1.0, 1.25, 2.5]), rng.uniform(0.6, 1.0)
        for folder, values in (("imagesTr", hounsfield(phantom)), ("labelsTr", tumour_mask(phantom).astype(np.uint8))):
            place = {"spacing": (between, plane, plane), "axes": ("RAS", "LAS")[number % 2]}
            save(root / folder / f"lung_{number:03d}.nii.gz", values, **place)
        (root / "labelsTr" / f"._lung_{number:03d}.nii.gz").write_bytes(b"of macOS")
    description = {
        "name": "Lung",
        "tensorImageSize": "3D",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "cancer"},
        "training": [{"image": f"./imagesTr/lung_{n:03d}.nii.gz"} for n in range(1, 5)],
    }
    (root / "dataset.json").write_text(json.dumps(description))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    lines = [line for line in commands(ROOT / "README.md") if line.startswith("rdunet")][1:]
    assert [shlex.split(line)[1] for line in lines] == ["prepare", "train", "evaluate", "segment"]
    for line in lines:
        if " prepare " in line:
            line += " --image-size 32"  # the README's 256 takes minutes
        line = line.replace("sample/pat_1", "Task06_Lung/imagesTr/lung_001.nii.gz").replace("sample", "Task06_Lung")
        monkeypatch.setattr(sys, "argv", shlex.split(line))
        command_line.main()
    mask = sitk.ReadImage("segmentation/mask.nii.gz")
    image = sitk.ReadImage(str(root / "imagesTr" / "lung_001.nii.gz"))
    assert mask.GetSize() == image.GetSize() and np.allclose(mask.GetDirection(), image.GetDirection(), atol=1e-4)
    assert (tmp_path / "run" / "evaluation" / "test" / "summary.json").is_file()
