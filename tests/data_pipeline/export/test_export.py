"""What is exported, read back by other programs: SimpleITK, highdicom, and our own way in."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813 (as its own documentation calls it)
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from data_pipeline.contours.mask import mask_from_contours
from data_pipeline.contours.rtstruct import read_contours
from data_pipeline.dicom.discovery import discover
from data_pipeline.dicom.files import quiet_pydicom
from data_pipeline.dicom.volume import CTVolume, read_volume
from data_pipeline.errors import InputError
from data_pipeline.export.dicom import ROI_NAME, write_rtstruct, write_seg
from data_pipeline.export.nifti import write_nifti
from data_pipeline.export.overview import write_overview

IDENTITY = {"PatientName": "Canary^Maria", "PatientID": "CANARY-4711", "PatientBirthDate": "19010203"}


@dataclass(frozen=True)
class Kind:
    """A way in which CT series differ; the rest of a series is random."""

    orientation: tuple[float, ...] | None = None  # None: any rotation
    even: bool = True
    tilt: float = 0.0  # shift in plane for each mm along the normal


KINDS = {
    "axial": Kind((1, 0, 0, 0, 1, 0)),
    "negated rows": Kind((1, 0, 0, 0, -1, 0)),
    "negated both": Kind((-1, 0, 0, 0, -1, 0)),
    "turned": Kind((0, -1, 0, 1, 0, 0)),
    "coronal": Kind((1, 0, 0, 0, 0, -1)),
    "oblique": Kind(),
    "uneven": Kind((1, 0, 0, 0, 1, 0), even=False),
    "uneven oblique": Kind(even=False),
    "tilted": Kind((1, 0, 0, 0, 1, 0), tilt=0.3),
}
EVEN = [name for name, kind in KINDS.items() if kind.even and not kind.tilt]


def _write_series(folder: Path, kind: Kind, seed: int) -> None:
    """Six small slices, not square, stored in random order, with an identity to look for."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    axes = (
        np.linalg.qr(rng.normal(size=(3, 3)))[0] if kind.orientation is None else np.reshape(kind.orientation, (2, 3))
    )
    row, column = axes[0], axes[1]
    steps = np.full(6, rng.uniform(1, 5)) * (1 if kind.even else rng.choice([1, 2, 2.5], size=6))
    distances = np.cumsum(steps)[:, None]
    positions = rng.uniform(-300, 300, 3) + distances * (np.cross(row, column) + kind.tilt * column)
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    spacing = rng.uniform(0.4, 2, 2)
    for number, position in enumerate(rng.permutation(positions)):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ct = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        ct.SOPClassUID, ct.SOPInstanceUID, ct.Modality = CTImageStorage, generate_uid(), "CT"
        ct.StudyInstanceUID, ct.SeriesInstanceUID, ct.FrameOfReferenceUID = study, series, frame
        ct.update(IDENTITY)
        ct.PatientSex = ct.StudyDate = ct.StudyTime = ct.StudyID = ct.AccessionNumber = ct.ReferringPhysicianName = ""
        ct.PositionReferenceIndicator = ""
        ct.ImageType, ct.SeriesNumber, ct.InstanceNumber = ["ORIGINAL", "PRIMARY", "AXIAL"], 1, number + 1
        ct.ImagePositionPatient = [f"{value:.9g}" for value in position]
        ct.ImageOrientationPatient = [f"{value:.9g}" for value in (*row, *column)]
        ct.PixelSpacing = [f"{value:.9g}" for value in spacing]
        ct.SliceThickness = f"{steps[0]:.9g}"
        ct.Rows, ct.Columns, ct.SamplesPerPixel, ct.PhotometricInterpretation = 14, 11, 1, "MONOCHROME2"
        ct.BitsAllocated = ct.BitsStored = 16
        ct.HighBit, ct.PixelRepresentation = 15, 0
        ct.RescaleIntercept, ct.RescaleSlope, ct.RescaleType = -1024, 1, "HU"
        ct.PixelData = rng.integers(0, 2000, (14, 11), dtype=np.uint16).tobytes()
        ct.save_as(folder / f"{number}.dcm", enforce_file_format=True)


@dataclass(frozen=True)
class Sample:
    volume: CTVolume
    files: tuple[Path, ...]

    def masks(self, count: int) -> list[np.ndarray]:
        """Noise of all densities (so islands and holes of any form), some slices empty."""
        rng = np.random.default_rng(count)
        shape = self.volume.geometry.shape
        densities = rng.choice([0.02, 0.3, 0.6, 0.9, 1], size=(count, 1, 1, 1)) * rng.choice(
            [0, 1], (count, shape[0], 1, 1)
        )
        densities[:, 2] = 0.5  # never an empty mask
        return list(rng.random((count, *shape)) < densities)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Sample]:
    made = {}
    for seed, (name, kind) in enumerate(KINDS.items()):
        folder = tmp_path_factory.mktemp("series") / "ct"
        _write_series(folder, kind, seed)
        (patient,) = discover(folder).series
        made[name] = Sample(read_volume(patient), patient.files)
    return made


@cache
def _real(folder: Path) -> tuple[Sample, np.ndarray]:
    """A real patient and the mask of its GTV-1."""
    (patient,) = discover(folder).series
    volume = read_volume(patient)
    mask, _ = mask_from_contours(read_contours(patient.rtstructs[0]), volume.geometry)
    return Sample(volume, patient.files), mask


def _assert_simpleitk_agrees(sample: Sample, mask: np.ndarray, path: Path) -> None:
    """The NIfTI and the DICOM series, both read by SimpleITK, hold the same voxels at the same places."""
    uids = {str(pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID): file for file in sample.files}
    series = sitk.ReadImage([str(uids[uid]) for uid in sample.volume.geometry.sop_instance_uids])
    nifti = sitk.ReadImage(str(path))
    assert nifti.GetPixelID() == sitk.sitkUInt8
    np.testing.assert_array_equal(sitk.GetArrayFromImage(series), sample.volume.hounsfield)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(nifti), mask)
    for corner in np.ndindex(2, 2, 2):
        index = [int(side * (size - 1)) for side, size in zip(corner, series.GetSize(), strict=True)]
        ours, theirs = nifti.TransformIndexToPhysicalPoint(index), series.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose(ours, theirs, atol=2e-3)  # mm; NIfTI holds float32


@pytest.mark.parametrize("name", EVEN)
def test_nifti_lies_where_simpleitk_puts_the_series(samples: dict[str, Sample], name: str, tmp_path: Path) -> None:
    sample = samples[name]
    mask = sample.masks(20)[0]
    write_nifti(mask, sample.volume.geometry, tmp_path / "mask.nii.gz")
    _assert_simpleitk_agrees(sample, mask, tmp_path / "mask.nii.gz")


@pytest.mark.parametrize("name", ["lung1_001", "ibsi1_lung_ct"])
def test_nifti_of_a_real_patient(real_patients: Path, name: str, tmp_path: Path) -> None:
    sample, mask = _real(real_patients / name)
    write_nifti(mask.astype(np.uint8), sample.volume.geometry, tmp_path / "mask.nii.gz")
    _assert_simpleitk_agrees(sample, mask, tmp_path / "mask.nii.gz")
    image = nib.load(tmp_path / "mask.nii.gz")
    assert isinstance(image, nib.Nifti1Image)
    assert image.shape == sample.volume.geometry.shape[::-1]
    assert image.header.get_xyzt_units()[0] == "mm"
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 1)
    assert nib.aff2axcodes(image.affine) == ("L", "P", "S")
    np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-4)


def test_nifti_of_tilted_slices_keeps_the_shear(samples: dict[str, Sample], tmp_path: Path) -> None:
    geometry = samples["tilted"].volume.geometry
    write_nifti(np.zeros(geometry.shape, bool), geometry, tmp_path / "mask.nii")
    image = nib.load(tmp_path / "mask.nii")
    assert isinstance(image, nib.Nifti1Image)
    np.testing.assert_allclose(image.affine, geometry.affine_ras, rtol=1e-5, atol=1e-4)
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 0)


def test_nifti_refuses_what_it_cannot_say(samples: dict[str, Sample], tmp_path: Path) -> None:
    geometry = samples["uneven"].volume.geometry
    with pytest.raises(InputError, match="not evenly spaced"):
        write_nifti(np.zeros(geometry.shape, bool), geometry, tmp_path / "mask.nii.gz")
    with pytest.raises(InputError, match=r"let it end in \.nii\.gz"):
        write_nifti(np.zeros(geometry.shape, bool), geometry, tmp_path / "mask.png")
    with pytest.raises(InputError, match="use the CT's own grid"):
        write_nifti(np.zeros((3, 3, 3), bool), geometry, tmp_path / "mask.nii.gz")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("count", [4, pytest.param(25, marks=pytest.mark.slow)])  # slow: 200 in all
@pytest.mark.parametrize("name", KINDS)
def test_rtstruct_and_seg_give_the_mask_back(samples: dict[str, Sample], name: str, count: int, tmp_path: Path) -> None:
    sample = samples[name]
    geometry = sample.volume.geometry
    for mask in sample.masks(count):
        write_rtstruct(mask, geometry, sample.files, tmp_path / "rtstruct.dcm")
        back, account = mask_from_contours(read_contours(tmp_path / "rtstruct.dcm", ROI_NAME), geometry)
        np.testing.assert_array_equal(back, mask)
        assert account.used == account.total and not account.repaired
        assert account.polygon_volume_mm3 == pytest.approx(mask.sum() * geometry.voxel_volume_mm3, rel=1e-6)

        write_seg(mask, geometry, sample.files, tmp_path / "seg.dcm")
        seg = hd.seg.segread(tmp_path / "seg.dcm")
        planes = seg.get_pixels_by_source_instance(
            list(geometry.sop_instance_uids), combine_segments=True, assert_missing_frames_are_empty=True
        )
        np.testing.assert_array_equal(planes, mask)


def test_seg_frames_lie_on_their_slices(samples: dict[str, Sample], tmp_path: Path) -> None:
    for name in ("oblique", "uneven", "tilted"):
        sample = samples[name]
        geometry = sample.volume.geometry
        mask = np.zeros(geometry.shape, bool)
        mask[[1, 4], 3:9, 2:8] = True
        write_seg(mask, geometry, sample.files, tmp_path / "seg.dcm")
        frames = pydicom.dcmread(tmp_path / "seg.dcm").PerFrameFunctionalGroupsSequence
        assert len(frames) == 2
        for frame in frames:
            uid = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
            index = geometry.sop_instance_uids.index(uid)
            assert index in (1, 4)
            position = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
            np.testing.assert_allclose(position, geometry.positions_mm[index], atol=1e-6)


def test_real_contours_survive_the_way_out_and_back(real_patients: Path, tmp_path: Path) -> None:
    sample, mask = _real(real_patients / "ibsi1_lung_ct")
    geometry = sample.volume.geometry
    write_rtstruct(mask, geometry, sample.files, tmp_path / "rtstruct.dcm")
    back, _ = mask_from_contours(read_contours(tmp_path / "rtstruct.dcm", ROI_NAME), geometry)
    np.testing.assert_array_equal(back, mask)


def test_rtstruct_refers_to_its_series_and_says_what_it_is(samples: dict[str, Sample], tmp_path: Path) -> None:
    sample = samples["axial"]
    geometry = sample.volume.geometry
    mask = np.zeros(geometry.shape, bool)
    mask[2, 3:9, 2:8] = True
    write_rtstruct(mask, geometry, sample.files, tmp_path / "rtstruct.dcm")
    structures, ct = pydicom.dcmread(tmp_path / "rtstruct.dcm"), pydicom.dcmread(sample.files[0])
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert structures[keyword].value == ct[keyword].value
    assert structures.SeriesInstanceUID != ct.SeriesInstanceUID
    (frame,) = structures.ReferencedFrameOfReferenceSequence
    series = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == ct.SeriesInstanceUID
    assert [str(one.ReferencedSOPInstanceUID) for one in series.ContourImageSequence] == [*geometry.sop_instance_uids]
    (roi,) = structures.StructureSetROISequence
    assert (roi.ROIName, roi.ROIGenerationAlgorithm) == ("RDUNET-GTV", "AUTOMATIC")
    assert structures.ApprovalStatus == "UNAPPROVED"
    (contour,) = structures.ROIContourSequence[0].ContourSequence
    assert contour.ContourGeometricType == "CLOSED_PLANAR" and contour.NumberOfContourPoints == 4
    assert contour.ContourImageSequence[0].ReferencedSOPInstanceUID == geometry.sop_instance_uids[2]
    assert max(len(str(value)) for value in contour.ContourData) <= 16
    (patient,) = discover(sample.files[0].parent).series  # and our own way in pairs the two
    assert not patient.rtstructs
    (sample.files[0].parent / "rtstruct.dcm").write_bytes((tmp_path / "rtstruct.dcm").read_bytes())
    (patient,) = discover(sample.files[0].parent).series
    assert [path.name for path in patient.rtstructs] == ["rtstruct.dcm"]
    (sample.files[0].parent / "rtstruct.dcm").unlink()


def test_an_empty_mask_is_exported_as_such(samples: dict[str, Sample], tmp_path: Path) -> None:
    sample = samples["axial"]
    mask = np.zeros(sample.volume.geometry.shape, bool)
    write_rtstruct(mask, sample.volume.geometry, sample.files, tmp_path / "rtstruct.dcm")
    with pytest.raises(InputError, match="has no contours"):
        read_contours(tmp_path / "rtstruct.dcm", ROI_NAME)
    write_seg(mask, sample.volume.geometry, sample.files, tmp_path / "seg.dcm")
    assert not hd.seg.segread(tmp_path / "seg.dcm").pixel_array.any()


@pytest.mark.parametrize("write", [write_rtstruct, write_seg])
def test_dicom_exports_refuse_the_wrong_ct_in_one_line(samples: dict[str, Sample], tmp_path: Path, write) -> None:
    sample = samples["axial"]
    geometry = sample.volume.geometry
    mask = np.ones(geometry.shape, bool)
    nameless = pydicom.dcmread(sample.files[0])
    del nameless.FrameOfReferenceUID
    nameless.save_as(tmp_path / "nameless.dcm")
    (tmp_path / "text.dcm").write_text("text")
    for files, message in (
        (sample.files[1:], r"1 of 6 slices are missing"),
        ((), r"6 of 6 slices are missing"),
        ((tmp_path / "nameless.dcm", *sample.files[1:]), r"nameless\.dcm: DICOM exports need its UIDs"),
        ((tmp_path / "text.dcm", *sample.files), r"text\.dcm: no readable CT slice"),
        ((tmp_path / "none.dcm", *sample.files), r"none\.dcm: no readable CT slice"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            write(mask, geometry, files, tmp_path / "out.dcm")
        assert "\n" not in str(caught.value) and "anary" not in str(caught.value)
    with pytest.raises(InputError, match="the CT's own grid"):
        write(mask[1:], geometry, sample.files, tmp_path / "out.dcm")
    assert not (tmp_path / "out.dcm").exists()


def test_seg_of_an_unusual_header_is_refused_without_quoting_it(samples: dict[str, Sample], tmp_path: Path) -> None:
    sample = samples["axial"]
    odd = []
    for file in sample.files:
        ct = pydicom.dcmread(file)
        del ct.PixelSpacing
        ct.save_as(tmp_path / file.name)
        odd.append(tmp_path / file.name)
    with pytest.raises(InputError, match="a DICOM SEG cannot refer to this CT") as caught:
        write_seg(np.ones(sample.volume.geometry.shape, bool), sample.volume.geometry, odd, tmp_path / "out.dcm")
    assert "\n" not in str(caught.value) and "anary" not in str(caught.value)


PATIENT_AND_STUDY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
    "PositionReferenceIndicator",
)
ODD = {  # what anonymizers and other software write, none of it allowed (PS3.3 C.7.1.1, PS3.5 6.2)
    "PatientSex": "Female",
    "PatientBirthDate": "1950-13",
    "StudyDate": "REMOVED",
    "StudyTime": "99:99",
    "AccessionNumber": "one\\two",
    "SliceThickness": "0",
    "SpecificCharacterSet": "UTF8",
}


@pytest.mark.parametrize("change", [*PATIENT_AND_STUDY, "SliceThickness", "all removed", "odd values", "SOPClassUID"])
@pytest.mark.parametrize("write", [write_rtstruct, write_seg])
def test_an_anonymized_ct_is_exported(samples: dict[str, Sample], tmp_path: Path, write, change: str, capfd) -> None:
    sample = samples["uneven"]
    geometry = sample.volume.geometry
    removed = {"all removed": (*PATIENT_AND_STUDY, "SliceThickness"), "odd values": ()}.get(change, (change,))
    anonymized = []
    for file in sample.files:
        with quiet_pydicom():
            ct = pydicom.dcmread(file)
            for keyword in removed:
                delattr(ct, keyword)
            for keyword, value in ODD.items() if change == "odd values" else ():
                setattr(ct, keyword, value)
            ct.save_as(tmp_path / file.name)
        anonymized.append(tmp_path / file.name)
    mask = np.zeros(geometry.shape, bool)
    mask[2:4, 3:9, 2:8] = True
    write(mask, geometry, anonymized, tmp_path / "out.dcm")
    assert capfd.readouterr() == ("", "")  # no warning, which would quote values of the file
    out = pydicom.dcmread(tmp_path / "out.dcm")
    for keyword in PATIENT_AND_STUDY:
        if keyword in removed or (change == "odd values" and keyword in ODD):
            assert not out.get(keyword), keyword
        elif keyword in IDENTITY:
            assert out[keyword].value == IDENTITY[keyword]
    if write is write_seg:
        seg = hd.seg.segread(tmp_path / "out.dcm")
        planes = seg.get_pixels_by_source_instance(
            list(geometry.sop_instance_uids), combine_segments=True, assert_missing_frames_are_empty=True
        )
        np.testing.assert_array_equal(planes, mask)
        measures = out.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        no_thickness = "SliceThickness" in removed or change == "odd values"
        expected = geometry.spacing_mm[0] if no_thickness else pydicom.dcmread(sample.files[0]).SliceThickness
        assert float(measures.SliceThickness) == pytest.approx(float(expected))


@pytest.mark.parametrize("name", ["Müller^Jürgen", "Яковлев^Иван"])
@pytest.mark.parametrize("write", [write_rtstruct, write_seg])
def test_names_in_other_alphabets_are_kept(samples: dict[str, Sample], tmp_path: Path, write, name: str) -> None:
    sample = samples["axial"]
    files = []
    for file in sample.files:
        ct = pydicom.dcmread(file)
        ct.SpecificCharacterSet = "ISO_IR 192" if name < "Я" else "ISO_IR 144"
        ct.PatientName = name
        ct.save_as(tmp_path / file.name)
        files.append(tmp_path / file.name)
    write(np.ones(sample.volume.geometry.shape, bool), sample.volume.geometry, files, tmp_path / "out.dcm")
    assert str(pydicom.dcmread(tmp_path / "out.dcm").PatientName) == name


def _picture(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG" and set(image.info) <= {"Software", "dpi"}
        return np.asarray(image.convert("RGB")).astype(int)


def _colored(picture: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """Where the picture has this color, below the legend."""
    return (np.abs(picture - color).max(axis=2) < 30)[100:]


ORANGE, BLUE = (230, 159, 0), (86, 180, 233)


def test_overview_of_a_real_patient(real_patients: Path, tmp_path: Path) -> None:
    sample, mask = _real(real_patients / "ibsi1_lung_ct")
    hounsfield, geometry = sample.volume.hounsfield, sample.volume.geometry
    write_overview(hounsfield, geometry, tmp_path / "one.png", mask)
    write_overview(hounsfield, geometry, tmp_path / "both.png", np.roll(mask, 6, axis=2), mask)
    one, both = _picture(tmp_path / "one.png"), _picture(tmp_path / "both.png")
    assert _colored(one, ORANGE).sum() > 2000 and not _colored(one, BLUE).any()
    assert _colored(both, ORANGE).sum() > 2000 and _colored(both, BLUE).sum() > 2000
    assert one.shape[1] > 2000  # four panels in a row


def test_overview_turns_any_storage_the_usual_way(samples: dict[str, Sample], tmp_path: Path) -> None:
    """The same anatomy, stored upright, upside down and turned by 90 degrees, gives the same picture."""
    geometry = samples["axial"].volume.geometry
    rng = np.random.default_rng(0)
    row_mm, column_mm = geometry.pixel_spacing_mm
    _, height, width = geometry.shape
    hounsfield = rng.integers(-1000, 200, geometry.shape).astype(np.int16)
    mask = np.zeros(geometry.shape, bool)
    mask[1:5, 2:6, 3:9] = True
    x, y, _ = np.eye(3)

    def stored(name: str, row: np.ndarray, column: np.ndarray, spacing: tuple[float, float], turn) -> np.ndarray:
        shape = turn(mask).shape
        turned = type(geometry)(
            geometry.positions_mm,
            row,
            column,
            spacing,
            shape,
            geometry.sop_instance_uids,
            geometry.frame_of_reference_uid,
        )
        write_overview(turn(hounsfield), turned, tmp_path / name, turn(mask))
        return _picture(tmp_path / name)

    upright = stored("a.png", x, y, (row_mm, column_mm), lambda volume: volume)
    reversed_ = stored("b.png", -x, -y, (row_mm, column_mm), lambda volume: volume[:, ::-1, ::-1])
    # The column index runs to the patient's front, the row index to his left.
    turned = stored("c.png", -y, x, (column_mm, row_mm), lambda volume: volume[:, ::-1].transpose(0, 2, 1))
    np.testing.assert_array_equal(reversed_, upright)
    np.testing.assert_array_equal(turned, upright)
    assert height != width and row_mm != column_mm


@pytest.mark.parametrize("slices", [0, 1, 2, 3, 5])
def test_overview_with_few_tumour_slices(samples: dict[str, Sample], tmp_path: Path, slices: int) -> None:
    sample = samples["axial"]
    mask = np.zeros(sample.volume.geometry.shape, np.uint8)
    mask[:slices, 4:9, 4:8] = 1
    write_overview(sample.volume.hounsfield, sample.volume.geometry, tmp_path / "picture.png", mask)
    assert _colored(_picture(tmp_path / "picture.png"), ORANGE).any() == bool(slices)


def test_overview_refuses_another_grid(samples: dict[str, Sample], tmp_path: Path, unchecked_shapes) -> None:
    volume = samples["axial"].volume
    with pytest.raises(InputError, match="use the CT's own grid"):
        write_overview(volume.hounsfield, volume.geometry, tmp_path / "picture.png", np.zeros((2, 2, 2), bool))
    assert not any(tmp_path.iterdir())
