"""`rdunet segment` on CTs that are unusual: what it writes, what it prints, what it refuses, and its status."""

import csv
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.uid import UID

from data_pipeline.contours.mask import mask_from_contours
from data_pipeline.contours.rtstruct import read_contours
from data_pipeline.dicom.discovery import discover
from data_pipeline.dicom.files import quiet_pydicom
from data_pipeline.dicom.volume import read_volume
from data_pipeline.export.dicom import ROI_NAME
from data_pipeline.privacy import load_key, pseudonym
from rdunet_jax.config import InferenceConfig, PostprocessingConfig, TrainConfig
from rdunet_jax.inference.sliding_window import SlidingWindow
from rdunet_jax.networks.models import create_model, model_config
from rdunet_jax.runs.chosen_postprocessing import ChosenPostprocessing
from rdunet_jax.runs.training_data import DataIdentity, TrainingData
from rdunet_jax.runs.workdir import RunConfig, load_trained
from rdunet_jax.training.checkpointing import Checkpoints
from rdunet_jax.training.step import create_state
from tests.data_pipeline.dicom_files import write_series
from tests.rdunet_jax.command import Command, Result, one_line

TISSUE = np.full((9, 12, 10), 1100, np.uint16)
TISSUE[:, :2] = 24  # air around the body
UNEVEN = np.array([0, 3, 6, 12, 15, 21, 24, 27, 30.0])
"""z in mm: gaps of 3 and 6, as in LUNG1-014."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose network was never trained. At its threshold of 0 every voxel is tumour, so that volumes are known."""
    workdir = tmp_path_factory.mktemp("run")
    network = model_config("tiny", widths=(2, 2), recurrent_width=2, recurrent_layers=1)
    run = RunConfig(network, TrainConfig(), InferenceConfig(threshold=0.0, dilation_diameter=1), "hu_window", 16)
    run.save(workdir)
    checkpoints = Checkpoints(workdir / "checkpoints")
    checkpoints.save(1, create_state(create_model(network), run.train, (8, 16, 16)))
    checkpoints.close()
    return workdir


@dataclass(frozen=True)
class Segmented:
    result: Result
    output: Path

    @property
    def status(self) -> int:
        return self.result.status

    @property
    def out(self) -> str:
        return self.result.out

    @property
    def error(self) -> str:
        return self.result.error

    def report(self, folder: str = "") -> dict[str, Any]:
        return json.loads((self.output / folder / "report.json").read_text())

    def rows(self) -> list[dict[str, str]]:
        with (self.output / "report.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    def files(self) -> list[str]:
        return sorted(str(path.relative_to(self.output)) for path in self.output.rglob("*") if path.is_file())


@pytest.fixture
def segment(trained: Path, tmp_path: Path, rdunet: Command):
    """Runs `rdunet segment` on tmp_path/in."""

    def run(*arguments: object, source: Path = tmp_path / "in", workdir: Path = trained) -> Segmented:
        output = tmp_path / "a" / "b" / "c" / "out"
        return Segmented(rdunet("segment", source, "--workdir", workdir, "--output", output, *arguments), output)

    return run


def write_ct(folder: Path, patient: int = 1, **options: Any) -> None:
    write_series(folder, **{"stored": TISSUE, "patient": patient, **options})


def positions(z: Sequence[float] | np.ndarray) -> np.ndarray:
    return np.column_stack([np.full(len(z), -20.0), np.full(len(z), 30.0), z])


def test_one_ct(segment, tmp_path: Path) -> None:
    write_ct(tmp_path / "in")
    result = segment("--html")
    assert result.status == 0
    assert result.files() == ["mask.nii.gz", "overview.png", "page.html", "report.json"]
    report = result.report()
    assert report["status"] == "segmented" and report["warnings"] == [] and report["not_written"] == {}
    assert report["files"] == {"nifti": "mask.nii.gz", "picture": "overview.png", "page": "page.html"}
    hashes = {name: hashlib.sha256((result.output / name).read_bytes()).hexdigest() for name in result.files()}
    assert report["files_sha256"] == {name: hashes[name] for name in report["files"].values()}
    assert len(report["inputs_sha256"]) == 64 and report["versions"]["numpy"] == np.__version__
    page = (result.output / "page.html").read_text()
    assert '"sides":["R","L"]' in page and '"caption":"Lesions"' in page and '"Longest diameter (mm)":"11.5"' in page
    assert '"name":"patient","scores":{"Tumour (ml)":"1.8","Lesions":1}' in page
    millilitres = 9 * 12 * 10 * 3.0 * 0.8 * 0.7 / 1000
    assert report["tumour_ml"] == pytest.approx(millilitres, abs=1e-4)
    (lesion,) = report["lesions"]
    # the first pixel's centre is at (-20, 30, 5)
    assert lesion["centroid_mm"] == pytest.approx([-20 + 4.5 * 0.7, 30 + 5.5 * 0.8, 5 + 4 * 3.0], abs=0.01)
    assert (lesion["first_slice"], lesion["last_slice"], lesion["voxels"]) == (1, 9, TISSUE.size)
    # between the middles of the pixel edges: 12 rows of 0.8 mm and 10 columns of 0.7, less a corner of half a pixel
    diagonal = max(np.hypot(12 * 0.8, 9 * 0.7), np.hypot(11 * 0.8, 10 * 0.7))
    assert lesion["longest_diameter_mm"] == pytest.approx(diagonal, abs=0.01) and lesion["diameter_slice"] == 1
    assert lesion["mean_hu"] == pytest.approx(TISSUE.mean() - 1024, abs=0.1)
    assert report["ct"]["spacing_mm"] == [3.0, 0.8, 0.7] and report["network"]["step"] == 1
    assert f"tumour: {millilitres:.1f} ml on 9 of 9 slices, 1 lesion (" in result.out


def test_a_zip_file_and_a_chosen_postprocessing(segment, trained: Path, tmp_path: Path) -> None:
    write_ct(tmp_path / "CANARY")
    shutil.make_archive(str(tmp_path / "in"), "zip", tmp_path / "CANARY")
    assert segment("--chosen-postprocessing", source=tmp_path / "in.zip").status == 2  # none was chosen
    workdir = trained_on(trained, tmp_path / "chosen", ["OTHER"])
    chosen = PostprocessingConfig(0.0, 3, "square")
    ChosenPostprocessing(chosen, 1, load_trained(workdir).weights_sha256, "0" * 64, ("PATIENT-1",)).save(workdir)
    result = segment("--chosen-postprocessing", source=tmp_path / "in.zip", workdir=workdir)
    assert result.status == 0 and "mask.nii.gz" in result.files()
    report = result.report()
    assert report["network"]["postprocessing"] == asdict(chosen) and report["seen_by_network"] == "selected"
    assert segment(source=tmp_path / "in.zip", workdir=workdir).report()["seen_by_network"] == "not_found"


def test_all_that_choose_postprocessing_picks_is_accepted(segment, tmp_path: Path) -> None:
    write_ct(tmp_path / "in")
    result = segment("--threshold", "histogram", "--kernel", "square", "--dilation-diameter", 3)
    assert result.status == 0
    chosen = PostprocessingConfig("histogram", 3, "square")
    assert result.report()["network"]["postprocessing"] == asdict(chosen)


def test_components_are_removed_by_flags_and_reported(segment, tmp_path: Path) -> None:
    """The network's mask is the whole CT: one component, whose volume is that of its uneven slices."""
    write_ct(tmp_path / "in", positions=positions(UNEVEN))
    millilitres = 33 * 120 * 0.8 * 0.7 / 1000  # slices of 33 mm in all: 2.22 ml; of 3 mm each it were 1.81
    flags = ("--format", "seg", "--fill-holes", "--largest-component", "--min-component-ml")
    result = segment(*flags, 2.2)
    assert result.status == 0, result.error
    report = result.report()
    assert report["tumour_ml"] == pytest.approx(millilitres, abs=1e-4)
    chosen = PostprocessingConfig(0.0, 1, fill_holes=True, largest_component=True, min_component_ml=2.2)
    assert report["network"]["postprocessing"] == asdict(chosen)
    assert "holes filled in each slice, no components below 2.2 ml, the largest component alone" in result.out
    result = segment(*flags, 2.3)
    report = result.report()
    note = "post-processing removed 1 of 1 components (2.22 ml), and nothing is left"
    assert (result.status, report["tumour_ml"]) == (0, 0) and note in report["warnings"] and note in result.out


def test_a_mask_is_restricted_to_the_lungs(
    segment, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for the network finds all that is dense: a nodule in a lung, and a bone away from the lungs."""
    rows, columns = np.mgrid[:100, :100] * 3.0 - 150
    stored = np.full((8, 100, 100), 24, np.uint16)  # air: the rescale intercept is -1024
    stored[:, rows**2 + columns**2 < 140**2] = 1064
    stored[:, (rows / 70) ** 2 + ((columns - 60) / 45) ** 2 < 1] = 174
    nodule, bone = np.hypot(rows, columns - 60) < 12, np.hypot(rows - 20, columns + 80) < 15
    stored[:, nodule | bone] = 1524
    write_ct(tmp_path / "in", stored=stored, spacing=(5.0, 3.0, 3.0))
    dense = SlidingWindow(lambda variables, window: (window > 250).astype(np.float32))
    monkeypatch.setattr("rdunet_jax.workflows.segment_ct.sliding_window", lambda network: dense)
    workdir = tmp_path / "fine"
    shutil.copytree(trained, workdir)
    replace(RunConfig.load(workdir), image_size=512).save(workdir)
    assert len(segment(workdir=workdir).report()["lesions"]) == 2
    result = segment("--lungs-only", workdir=workdir)
    assert result.status == 0, result.error
    (lesion,) = result.report()["lesions"]
    assert lesion["voxels"] == 8 * nodule.sum()
    assert "post-processing removed 1 of 2 components" in result.out and "that touch the lungs" in result.out


def test_a_ct_without_lungs_keeps_its_mask_and_says_so(segment, tmp_path: Path) -> None:
    write_ct(tmp_path / "in")
    result = segment("--lungs-only")
    report = result.report()
    note = "no lungs were found in the CT, so the mask is not restricted to them"
    assert report["tumour_slices"] == 9 and note in report["warnings"] and f"note: {note}" in result.out


def test_windows_are_set_by_flags_and_reported(segment, tmp_path: Path) -> None:
    write_ct(tmp_path / "in")
    result = segment("--stride", 4, "--window-weights", "gaussian", "--flip")
    assert result.status == 0, result.error
    network = result.report()["network"]
    assert (network["stride"], network["window_weights"], network["flip"]) == (4, "gaussian", True)
    assert "stride of 4 slices, gaussian window weights, averaged with the mirror image" in result.out


NONSENSE = (
    ("--stride", 0),
    ("--stride", 9),
    ("--threshold", "nan"),
    ("--threshold", 2),
    ("--dilation-diameter", 4),
    ("--kernel", "ball"),
    ("--min-component-ml", -1),
    ("--min-component-ml", "nan"),
    ("--format",),
    ("--format", "png"),
)


@pytest.mark.parametrize("nonsense", NONSENSE)
def test_nonsense_is_refused(segment, tmp_path: Path, nonsense: tuple[object, ...]) -> None:
    write_ct(tmp_path / "in")
    result = segment(*nonsense)
    assert result.status == 2 and not result.output.exists()


def test_uneven_slices_get_every_format_that_can_hold_them(segment, tmp_path: Path) -> None:
    write_ct(tmp_path / "in", positions=positions(UNEVEN))
    result = segment("--format", "nifti", "seg", "rtstruct")
    assert result.status == 0
    assert result.files() == ["overview.png", "report.json", "rtstruct.dcm", "seg.dcm"]
    report = result.report()
    assert list(report["not_written"]) == ["nifti"] and "evenly spaced" in report["not_written"]["nifti"]
    # before the network runs
    assert result.out.index("nifti will not be written") < result.out.index("tumour:")
    thickness = np.array([3, 3, 4.5, 4.5, 4.5, 4.5, 3, 3, 3])  # half the distance between a slice's neighbours
    assert report["tumour_ml"] == pytest.approx(thickness.sum() * 120 * 0.8 * 0.7 / 1000, abs=1e-4)
    (series,) = discover(tmp_path / "in").series
    geometry = read_volume(series).geometry
    mask, _ = mask_from_contours(read_contours(result.output / "rtstruct.dcm", ROI_NAME), geometry)
    assert mask.all()
    hd = pytest.importorskip("highdicom", reason="not installed on Python 3.14")
    frames = hd.seg.segread(result.output / "seg.dcm").PerFrameFunctionalGroupsSequence
    assert sorted(float(one.PlanePositionSequence[0].ImagePositionPatient[2]) for one in frames) == UNEVEN.tolist()


def test_probabilities_are_the_ones_that_the_mask_was_made_of(segment, tmp_path: Path) -> None:
    write_ct(tmp_path / "in")
    result = segment("--probabilities", "--threshold", 0.5)
    assert result.status == 0 and "probabilities.nii.gz" in result.files()
    image = nib.Nifti1Image.from_filename(result.output / "probabilities.nii.gz")
    mask = nib.Nifti1Image.from_filename(result.output / "mask.nii.gz")
    assert image.get_data_dtype() == np.float32
    np.testing.assert_array_equal(np.asarray(image.dataobj) > 0.5, np.asarray(mask.dataobj))
    np.testing.assert_array_equal(image.affine, mask.affine)
    write_ct(tmp_path / "in", positions=positions(UNEVEN))
    result = segment("--probabilities", "--format", "seg")
    assert result.status == 0 and "seg.dcm" in result.files() and "probabilities.nii.gz" not in result.files()
    assert list(result.report()["not_written"]) == ["probabilities"]


def test_a_structured_report_holds_the_measures_of_report_json(segment, tmp_path: Path) -> None:
    pytest.importorskip("highdicom", reason="not installed on Python 3.14")
    write_ct(tmp_path / "in")
    result = segment("--format", "sr")
    assert result.status == 0 and result.files() == ["overview.png", "report.json", "sr.dcm"]
    report = result.report()
    assert report["warnings"] == [] and report["files"]["sr"] == "sr.dcm"
    (lesion,) = report["lesions"]
    text = str(pydicom.dcmread(result.output / "sr.dcm"))
    for name in ("volume_ml", "longest_diameter_mm", "perpendicular_diameter_mm", "mean_hu"):
        assert re.search(rf"Numeric Value +DS: '?{lesion[name]:g}", text), name


def test_uneven_slices_without_a_dicom_format(segment, tmp_path: Path) -> None:
    """No mask can be written: picture and report are, and say so. An earlier mask does not stay beside them."""
    write_ct(tmp_path / "in")
    assert "mask.nii.gz" in segment().files()
    write_ct(tmp_path / "in", positions=positions(UNEVEN))
    result = segment()
    assert result.status == 0 and result.files() == ["overview.png", "report.json"]
    assert "export as DICOM" in result.out and "no mask is written" in result.out
    assert any("no mask is written" in warning for warning in result.report()["warnings"])


def test_files_of_another_ct_or_network_do_not_stay_and_those_of_the_same_do(segment, tmp_path: Path) -> None:
    write_ct(tmp_path / "in")
    assert segment("--format", "rtstruct", "--probabilities").status == 0
    assert segment().files() == ["mask.nii.gz", "overview.png", "probabilities.nii.gz", "report.json", "rtstruct.dcm"]
    write_ct(tmp_path / "other", patient=2, stored=TISSUE + 1)
    assert segment(source=tmp_path / "other").files() == ["mask.nii.gz", "overview.png", "report.json"]
    assert segment("--probabilities", source=tmp_path / "other").status == 0
    changed = segment("--format", "rtstruct", "--dilation-diameter", 3, source=tmp_path / "other")
    assert changed.files() == ["overview.png", "report.json", "rtstruct.dcm"]
    (changed.output / "report.json").unlink()
    own = changed.output / "mask.nii.gz"
    own.write_bytes(b"a file of the user's own")
    assert segment("--format", "rtstruct").status == 0 and own.read_bytes() == b"a file of the user's own"


def test_a_seg_without_the_library_that_writes_it(segment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Python 3.14, for which a dependency of highdicom has no wheel."""
    monkeypatch.setattr("data_pipeline.export.dicom.find_spec", lambda name: None)
    write_ct(tmp_path / "in")
    result = segment("--format", "seg", "rtstruct")
    assert result.status == 0 and result.files() == ["overview.png", "report.json", "rtstruct.dcm"]
    assert "note: seg will not be written: DICOM SEG and SR need highdicom; use Python 3.11 to 3.13" in result.out
    assert list(result.report()["not_written"]) == ["seg"]


def no_air(index: int, image: Any) -> None:
    image.RescaleIntercept = 40


@pytest.mark.parametrize(
    "options, words",
    [
        ({"orientation": (1, 0, 0, 0, 0, -1)}, "coronal"),
        ({"orientation": (0, 1, 0, 0, 0, -1)}, "sagittal"),
        ({"edit": no_air}, "not a chest CT in Hounsfield units"),
    ],
)
def test_what_is_no_axial_chest_ct_is_refused(segment, tmp_path: Path, options: dict[str, Any], words: str) -> None:
    write_ct(tmp_path / "in", **options)
    result = segment()
    one_line(result.result, words)
    assert not result.output.exists()


def test_what_was_dropped_rejected_and_ignored_is_reported(segment, tmp_path: Path) -> None:
    write_ct(tmp_path / "in" / "ct", positions=positions([0, 3, 6, 12, 15, 18, 21, 24, 27]))
    write_ct(tmp_path / "in" / "mr", series=2, Modality="MR", SOPClassUID=UID("1.2.840.10008.5.1.4.1.1.4"))

    def enhance(index: int, image: Any) -> None:
        image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.2.1")

    write_ct(tmp_path / "in" / "enhanced", series=3, edit=enhance)
    (tmp_path / "in" / "notes.txt").write_text("nothing")
    result = segment("--format", "seg")
    report = result.report()
    assert result.status == 0
    (rejected,) = report["source"]["rejected"]
    assert rejected["count"] == 9 and "enhanced" in rejected["reason"] and rejected["files"] == []
    assert report["source"]["ignored"] == {"MR": 9, "not DICOM": 1}
    (warning,) = report["warnings"]
    assert "1 slices are missing" in warning
    for words in (warning, "rejected: 9 files: enhanced", "9 MR, 1 not DICOM"):
        assert words in result.out
    assert len(segment("--format", "seg", "--keep-ids").report()["source"]["rejected"][0]["files"]) == 9


def test_a_cohort_is_not_lost_to_one_patient(segment, tmp_path: Path, monkeypatch) -> None:
    for patient in (1, 2, 3):
        write_ct(tmp_path / "in" / f"CANARY{patient}", patient)
    (damaged := next((tmp_path / "in" / "CANARY2").iterdir())).write_bytes(damaged.read_bytes()[:-100])
    result = segment()
    assert result.status == 1
    rows = result.rows()
    assert [row["status"] for row in rows] == ["segmented", "failed", "segmented"]
    assert rows[1]["failure"] == result.report(rows[1]["folder"])["failure"] != ""
    assert f"failed: {rows[1]['failure']}" in result.out
    for row in (rows[0], rows[2]):
        assert nib.Nifti1Image.from_filename(result.output / row["folder"] / "mask.nii.gz").shape == (10, 12, 9)
        assert float(row["tumour_ml"]) == pytest.approx(1.8144) and row["lesions"] == "1"
    everything = result.out + result.error + str(result.files()) + (result.output / "report.csv").read_text()
    assert "CANARY" not in everything and "PATIENT-" not in everything

    def fail(*arguments: object) -> None:
        raise RuntimeError("Canary^2")

    # also to a defect of ours
    monkeypatch.setattr("rdunet_jax.workflows.segment_ct.measure_lesions", fail)
    result = segment("--probabilities")  # other settings, so that all are segmented again
    one_line(result.result, "none of its 3 CT series")
    assert "RuntimeError" in result.out
    assert "Canary" not in result.out + result.error


def test_a_single_ct_that_cannot_be_used_is_one_line(segment, tmp_path: Path) -> None:
    write_ct(tmp_path / "in" / "CANARY")
    (damaged := next((tmp_path / "in" / "CANARY").iterdir())).write_bytes(damaged.read_bytes()[:-100])
    result = segment()
    error = one_line(result.result)
    assert error.startswith(f"error: {tmp_path / 'in'}: ") and "CANARY" not in error
    assert not result.output.exists()


HOSTILE = (
    "x/../../../../ESCAPED",
    "/tmp/rdunet-escaped",
    "[/bold]x",
    "..",
    "a\nb",
    "\x1b[31mred",
    "=1+1",
    ":smile:",
    "",
)


def test_hostile_patient_ids_are_names_of_files(segment, tmp_path: Path) -> None:
    for number, identity in enumerate(HOSTILE, 1):
        write_ct(tmp_path / "in" / str(number), number, PatientID=identity)
    before = set(tmp_path.rglob("*"))
    result = segment("--keep-ids")
    assert result.status == 0
    new = set(tmp_path.rglob("*")) - before - set(result.output.parents)
    assert all(path.is_relative_to(result.output) for path in new)
    assert not Path("/tmp/rdunet-escaped").exists()
    assert len(result.rows()) == len(HOSTILE)
    assert len(result.files()) == 3 * len(HOSTILE) + 1
    assert "\x1b" not in result.out and "☺" not in result.out and "😄" not in result.out
    assert all(row["patient"][0] not in "=+-@" for row in result.rows())


def test_a_file_that_cannot_be_written_withholds_no_other(segment, tmp_path: Path) -> None:
    write_ct(tmp_path / "in")
    output = segment().output
    (output / "mask.nii.gz").unlink()
    (output / "mask.nii.gz").mkdir()
    result = segment("--format", "nifti", "seg")
    assert result.status == 1 and "nifti cannot be written" in result.out
    assert result.report()["status"] == "incomplete"
    assert set(result.report()["files"]) == {"seg", "picture"} and (output / "seg.dcm").exists()


@pytest.mark.parametrize("patients", [1, 2])
def test_a_full_disk_is_one_line(segment, tmp_path: Path, monkeypatch, patients: int) -> None:
    for patient in range(1, patients + 1):
        write_ct(tmp_path / "in" / str(patient), patient)

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("nibabel.save", full)
    result = segment()
    one_line(result.result, "No space left")


def trained_on(run: Path, workdir: Path, trained: Sequence[str] = (), selected: Sequence[str] = ()) -> Path:
    """The run as a link, with a list of its patients."""
    workdir.mkdir()
    for path in run.iterdir():
        (workdir / path.name).symlink_to(path)
    TrainingData((DataIdentity("hu_window_16", "0" * 64, "1" * 64),), tuple(trained), tuple(selected)).save(workdir)
    return workdir


@pytest.mark.parametrize("use", ["trained", "selected"])
@pytest.mark.parametrize("kept", [False, True])
def test_a_patient_of_the_run_is_marked(segment, trained: Path, tmp_path: Path, use: str, kept: bool) -> None:
    write_ct(tmp_path / "in")
    (tmp_path / "home/.config/rdunet").mkdir(parents=True)
    key = load_key(tmp_path / "home/.config/rdunet/pseudonym.key")
    name = ("PATIENT-1" if kept else pseudonym("PATIENT-1", key)) + ".ct2"
    workdir = trained_on(trained, tmp_path / "known", **{use: [name]})
    result = segment("--html", workdir=workdir)
    assert result.status == 0
    assert result.report()["seen_by_network"] == use
    (warning,) = result.report()["warnings"]
    assert f"note: {warning}" in result.out and warning[1:] in (result.output / "page.html").read_text()

    other = trained_on(trained, tmp_path / "other", **{use: ["P-0123456789", "PATIENT-11"]})
    result = segment(workdir=other)
    assert result.report()["seen_by_network"] == "not_found" and result.report()["warnings"] == []


def test_an_unknown_patient_is_not_called_new(segment, trained: Path, tmp_path: Path) -> None:
    write_ct(tmp_path / "in")
    assert segment().report()["seen_by_network"] == "unknown"  # the run has no list
    workdir = trained_on(trained, tmp_path / "known", ["P-0123456789"])
    assert segment(workdir=workdir).report()["seen_by_network"] == "unknown"  # there is no key


def test_nothing_of_a_damaged_header_is_printed(segment, tmp_path: Path) -> None:
    """pydicom warns of such values, and quotes them."""

    def spoil(index: int, image: Any) -> None:
        image.add_new("StudyDate", "DA", "CANARY-DATE")
        image.add_new("ReferringPhysicianName", "PN", "CANARY=" * 5)
        image.add_new("PatientBirthDate", "DA", "CANARY-BIRTH")
        image.add_new("AccessionNumber", "SH", "CANARY-" * 10)

    with quiet_pydicom():
        write_ct(tmp_path / "in", edit=spoil)
    result = segment("--format", "seg", "rtstruct")
    assert result.status == 0 and "CANARY" not in result.out
