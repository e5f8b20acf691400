"""What other software reads in the exports: plain pydicom, dcmqi's programs, SimpleITK; neither ours nor highdicom."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813 (as its own documentation calls it)
from skimage.draw import polygon2mask

from data_pipeline.export.dicom import write_rtstruct, write_seg
from data_pipeline.export.lesions import measure_lesions
from data_pipeline.export.structured_report import write_structured_report
from tests.data_pipeline.export.samples import KINDS, Sample

pytest.importorskip("highdicom", reason="not installed on Python 3.14")
EVEN = [name for name, kind in KINDS.items() if kind.even and not kind.tilt]


def planes_of(sample: Sample) -> dict[str, tuple[int, pydicom.Dataset]]:
    """Slice number and header by SOP instance UID, from the CT's own files."""
    headers = [pydicom.dcmread(file, stop_before_pixels=True) for file in sample.files]
    row, column = np.reshape(headers[0].ImageOrientationPatient, (2, 3)).astype(float)
    normal = np.cross(row, column)
    headers.sort(key=lambda header: float(np.array(header.ImagePositionPatient, float) @ normal))
    return {str(header.SOPInstanceUID): (index, header) for index, header in enumerate(headers)}


@pytest.mark.parametrize("name", KINDS)
def test_seg_by_plain_pydicom(samples: dict[str, Sample], name: str, tmp_path: Path) -> None:
    """Frames go where their own position says, not where their reference says; they must agree."""
    sample = samples[name]
    for mask in sample.masks(3):
        write_seg(mask, sample.volume.geometry, sample.files, tmp_path / "seg.dcm")
        seg = pydicom.dcmread(tmp_path / "seg.dcm")
        found, planes = np.zeros_like(mask), planes_of(sample)
        frames = seg.pixel_array.reshape(-1, seg.Rows, seg.Columns)
        for frame, group in zip(frames, seg.PerFrameFunctionalGroupsSequence, strict=True):
            uid = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
            index, header = planes[uid]
            assert group.PlanePositionSequence[0].ImagePositionPatient == header.ImagePositionPatient
            found[index] = frame
        shared, (_, header) = seg.SharedFunctionalGroupsSequence[0], next(iter(planes.values()))
        assert shared.PlaneOrientationSequence[0].ImageOrientationPatient == header.ImageOrientationPatient
        assert shared.PixelMeasuresSequence[0].PixelSpacing == header.PixelSpacing
        np.testing.assert_array_equal(found, mask)


def contours_of(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Referenced image and points (mm) of each contour."""
    for contour in pydicom.dcmread(path).ROIContourSequence[0].get("ContourSequence", ()):
        yield contour.ContourImageSequence[0].ReferencedSOPInstanceUID, np.reshape(contour.ContourData, (-1, 3))


@pytest.mark.parametrize("name", KINDS)
def test_rtstruct_by_plain_pydicom(samples: dict[str, Sample], name: str, tmp_path: Path) -> None:
    """Contours become masks by the equation of PS3.3 C.7.6.2.1.1 and scikit-image's polygons, united."""
    sample = samples[name]
    planes = planes_of(sample)
    for mask in sample.masks(3):
        write_rtstruct(mask, sample.volume.geometry, sample.files, tmp_path / "rtstruct.dcm")
        found = np.zeros_like(mask)
        for uid, points in contours_of(tmp_path / "rtstruct.dcm"):
            index, header = planes[uid]
            row, column = np.reshape(header.ImageOrientationPatient, (2, 3)).astype(float)
            offsets = points.astype(float) - np.array(header.ImagePositionPatient, float)
            assert np.abs(offsets @ np.cross(row, column)).max() < 1e-4  # mm: in the plane, as decimals go
            pixels = np.column_stack([offsets @ column, offsets @ row]) / np.array(header.PixelSpacing, float)
            found[index] |= polygon2mask(mask.shape[1:], pixels.round(4))
        np.testing.assert_array_equal(found, mask)


def run(program: str, *arguments: object) -> str:
    path = Path(sys.executable).parent / program
    if not path.exists():
        pytest.skip("dcmqi has no wheel for this platform")
    done = subprocess.run([path, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", EVEN)
def test_seg_by_dcmqi(samples: dict[str, Sample], name: str, tmp_path: Path) -> None:
    """`segimage2itkimage` makes a volume; each of its voxels is where the CT has it, as SimpleITK reads the CT."""
    sample = samples[name]
    mask = sample.masks(3)[1]
    write_seg(mask, sample.volume.geometry, sample.files, tmp_path / "seg.dcm")
    run("segimage2itkimage", "--inputDICOM", tmp_path / "seg.dcm", "--outputDirectory", tmp_path, "-t", "nrrd")
    (path,) = tmp_path.glob("*.nrrd")
    theirs = sitk.ReadImage(str(path))
    uids = {str(pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID): str(file) for file in sample.files}
    ct = sitk.ReadImage([uids[uid] for uid in planes_of(sample)])
    found = np.zeros_like(mask)
    for z, y, x in np.argwhere(sitk.GetArrayFromImage(theirs)).tolist():
        place = ct.TransformPhysicalPointToContinuousIndex(theirs.TransformIndexToPhysicalPoint((x, y, z)))
        np.testing.assert_allclose(place, np.rint(place), atol=1e-3)  # of a voxel: headers hold some nine digits
        column, row, index = np.rint(place).astype(int)
        found[index, row, column] = True
    np.testing.assert_array_equal(found, mask)


def items(container: pydicom.Dataset, value: str) -> list[pydicom.Dataset]:
    return [item for item in container.get("ContentSequence", ()) if item.ValueType == value]


def code(item: pydicom.Dataset) -> str:
    return item.ConceptNameCodeSequence[0].CodeMeaning


@pytest.mark.parametrize("name", ["axial", "oblique", "uneven", "tilted"])
def test_structured_report_by_plain_pydicom(samples: dict[str, Sample], name: str, tmp_path: Path) -> None:
    sample = samples[name]
    volume, planes = sample.volume, planes_of(sample)
    mask = sample.masks(4)[2]
    write_structured_report(mask, volume.hounsfield, volume.geometry, sample.files, tmp_path / "sr.dcm")
    report = pydicom.dcmread(tmp_path / "sr.dcm")
    assert (report.Modality, report.CompletionFlag, report.VerificationFlag) == ("SR", "COMPLETE", "UNVERIFIED")
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    (measurements,) = (item for item in items(report, "CONTAINER") if code(item) == "Imaging Measurements")
    whole, *groups = items(measurements, "CONTAINER")
    lesions = measure_lesions(mask, volume.hounsfield, volume.geometry)
    assert len(groups) == len(lesions)
    numbers = [{code(item): float(item.MeasuredValueSequence[0].NumericValue) for item in items(group, "NUM")}
               for group in groups]  # fmt: skip
    for found, lesion in zip(numbers, lesions, strict=True):
        assert found == {
            "Volume": lesion.volume_ml,
            "Long axis": lesion.longest_diameter_mm,
            "Short axis": lesion.perpendicular_diameter_mm,
            "Attenuation Coefficient": lesion.mean_hu,
        }
    (total,) = items(whole, "NUM")
    assert float(total.MeasuredValueSequence[0].NumericValue) == pytest.approx(
        sum(one["Volume"] for one in numbers), abs=1e-4 * len(lesions)
    )
    found = np.zeros_like(mask)
    for group in groups:
        for region in items(group, "SCOORD"):
            points = np.reshape(region.GraphicData, (-1, 2))
            assert region.GraphicType == "POLYLINE" and (points[0] == points[-1]).all()
            index, _ = planes[items(region, "IMAGE")[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID]
            inside = polygon2mask(mask.shape[1:], points[:, ::-1] - 0.5)
            assert not (found[index] & inside).any()
            found[index] |= inside
    np.testing.assert_array_equal(found, mask)


def test_structured_report_by_dcmqi(samples: dict[str, Sample], tmp_path: Path) -> None:
    """`tid1500reader` finds every lesion's measures."""
    sample = samples["oblique"]
    volume, mask = sample.volume, sample.masks(4)[2]
    write_structured_report(mask, volume.hounsfield, volume.geometry, sample.files, tmp_path / "sr.dcm")
    run("tid1500reader", "--inputDICOM", tmp_path / "sr.dcm", "--outputMetadata", tmp_path / "sr.json")
    whole, *groups = json.loads((tmp_path / "sr.json").read_text())["Measurements"]
    lesions = measure_lesions(mask, volume.hounsfield, volume.geometry)
    found = [[float(one["value"]) for one in group["measurementItems"]] for group in groups]
    assert found == [
        [one.volume_ml, one.longest_diameter_mm, one.perpendicular_diameter_mm, one.mean_hu] for one in lesions
    ]
    assert whole["TrackingIdentifier"] == "All lesions" and groups[0]["Finding"]["CodeMeaning"] == "Neoplasm"


def test_structured_report_of_an_empty_mask(samples: dict[str, Sample], tmp_path: Path) -> None:
    sample = samples["axial"]
    volume = sample.volume
    nothing = np.zeros(volume.geometry.shape, bool)
    write_structured_report(nothing, volume.hounsfield, volume.geometry, sample.files, tmp_path / "sr.dcm")
    (measurements,) = (
        item
        for item in items(pydicom.dcmread(tmp_path / "sr.dcm"), "CONTAINER")
        if code(item) == "Imaging Measurements"
    )
    (whole,) = items(measurements, "CONTAINER")
    (volume_item,) = items(whole, "NUM")
    assert float(volume_item.MeasuredValueSequence[0].NumericValue) == 0
