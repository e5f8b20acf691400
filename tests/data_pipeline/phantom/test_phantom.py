"""Phantom patients: the files are true DICOM, and the tumour in them is the analytic one."""

import hashlib
import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset
from pydicom.uid import UID, ExplicitVRLittleEndian
from scipy import ndimage
from skimage.morphology import disk

from data_pipeline.contours.mask import mask_from_contours
from data_pipeline.contours.rtstruct import read_contours
from data_pipeline.dicom.discovery import discover
from data_pipeline.dicom.volume import read_volume
from data_pipeline.errors import InputError
from data_pipeline.phantom import phantom as phantom_module
from data_pipeline.phantom.anatomy import Sections
from data_pipeline.phantom.finding import plane_points
from data_pipeline.phantom.phantom import (
    Phantom,
    draw_phantom,
    hounsfield,
    tumour_contours,
    tumour_mask,
    tumour_volume_mm3,
    write_phantom,
    write_phantoms,
)

# PS3.3: patient and study (C.7.1.1, C.7.2.1), series (C.7.3.1), frame of reference (C.7.4.1), image plane (C.7.6.2),
# pixels (C.7.6.3), CT image (C.8.2.1), SOP common (C.12.1). Type 1: a value; type 2: present, may be empty.
SHARED_TYPE_1 = ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality"]
SHARED_TYPE_2 = [
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
    "SeriesNumber",
    "Manufacturer",
]
CT_TYPE_1 = [
    "FrameOfReferenceUID",
    "ImageType",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelData",
    "PixelSpacing",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "RescaleIntercept",
    "RescaleSlope",
    "RescaleType",
    "PatientPosition",
]
CT_TYPE_2 = ["InstanceNumber", "AcquisitionNumber", "KVP", "SliceThickness", "PositionReferenceIndicator"]
# C.8.8.5 structure set, C.8.8.6 ROI contour, C.8.8.8 observations.
RT_TYPE_1 = ["StructureSetLabel", "StructureSetROISequence", "ROIContourSequence", "RTROIObservationsSequence"]
RT_TYPE_2 = ["StructureSetDate", "StructureSetTime", "OperatorsName"]


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.dcm"))}


def _small(number: int = 1, seed: int = 0) -> Phantom:
    return draw_phantom(seed, number=number, slices=12, matrix=128)


@pytest.fixture(scope="module")
def patient() -> Phantom:
    return _small(number=2)


@pytest.fixture(scope="module")
def folder(patient: Phantom, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantom(patient, tmp_path_factory.mktemp("phantoms"))


@pytest.fixture(scope="module")
def datasets(folder: Path) -> tuple[list[FileDataset], FileDataset]:
    """CT slices from foot to head, and the RTSTRUCT."""
    every = [pydicom.dcmread(path) for path in folder.rglob("*.dcm")]
    images = sorted((d for d in every if d.Modality == "CT"), key=lambda d: d.ImagePositionPatient[2])
    (structures,) = (d for d in every if d.Modality == "RTSTRUCT")
    return images, structures


def test_a_patient_depends_on_seed_and_number_only(tmp_path: Path) -> None:
    small = {"slices": (8, 10), "matrix": 32}
    seen: list[Path] = []
    one = write_phantoms(tmp_path / "one", count=1, workers=2, on_patient=seen.append, **small)
    more = write_phantoms(tmp_path / "more", count=2, workers=1, **small)
    other = write_phantoms(tmp_path / "other", count=1, workers=1, seed=1, **small)
    assert seen == one
    assert [path.name for path in more] == ["PHANTOM-001", "PHANTOM-002"]
    assert _files(one[0]) == _files(more[0])
    assert not _files(more[0]).keys() & _files(more[1]).keys()
    assert not _files(more[0]).keys() & _files(other[0]).keys()
    assert not set(_files(more[0]).values()) & set(_files(other[0]).values())


@pytest.mark.parametrize(
    ("seed", "number", "slices", "matrix", "pixels", "mask"),
    [
        (0, 1, 12, 64, "6ee5710c528f8db6", "c3bf4d5e21a3ac7e"),
        (3, 2, (16, 20), 96, "0d140680d9409235", "1b28c9df3b189d6e"),
        (7, 5, None, 32, "34ee4188b467dc75", "0fb95830eaece24c"),
    ],
)
def test_easy_phantoms_keep_their_pixels(seed, number, slices, matrix, pixels, mask) -> None:
    """Published scores are of these pixels; they are the same with and without AVX2 and AVX-512."""
    phantom = draw_phantom(seed, number=number, slices=slices, matrix=matrix)
    assert hashlib.sha256(hounsfield(phantom).tobytes()).hexdigest().startswith(pixels)
    assert hashlib.sha256(tumour_mask(phantom).tobytes()).hexdigest().startswith(mask)


def test_the_truth_is_beside_the_study(folder: Path, patient: Phantom) -> None:
    truth = json.loads((folder / "truth.json").read_text())
    assert (truth["seed"], truth["number"], truth["level"]) == (0, 2, "easy")
    assert truth["lookalikes"] == []
    assert [one["kind"] for one in truth["tumours"]] == [tumour.kind for tumour in patient.tumours]
    assert sum(one["volume_mm3"] for one in truth["tumours"]) == pytest.approx(tumour_volume_mm3(patient), abs=0.1)


def test_patients_vary_within_the_promised_ranges() -> None:
    patients = [draw_phantom(5, number=number) for number in range(1, 17)]
    counts = [p.grid.shape[0] for p in patients]
    gaps = [p.grid.spacing_mm[0] for p in patients]
    pixels = [p.grid.spacing_mm[1] for p in patients]
    assert min(counts) >= 40
    assert max(counts) <= 120
    assert len(set(counts)) > 10
    assert set(gaps) <= {2.0, 2.5, 3.0, 4.0, 5.0}
    assert len(set(gaps)) > 3
    assert min(pixels) >= 0.7
    assert max(pixels) <= 0.98
    in_order = [p.instance_numbers == tuple(sorted(p.instance_numbers)) for p in patients]
    assert any(in_order)
    assert not all(in_order)
    for p in patients:
        assert sorted(p.instance_numbers) == list(range(1, p.grid.shape[0] + 1))
        assert p.grid.shape[1:] == (512, 512)
        for tumour in p.tumours:
            z = tumour.surface()[0][:, 2]
            assert p.grid.z[0] < z.min()
            assert z.max() < p.grid.z[-1]
            assert ((p.grid.z > z.min()) & (p.grid.z < z.max())).sum() >= 5
            diameter = (tumour.surface()[1].sum() * 6 / np.pi) ** (1 / 3)
            assert 15 < diameter < 55
    assert any(len(p.tumours) == 2 for p in patients)


def test_too_few_slices_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 8 slices, not 7"):
        draw_phantom(0, slices=7)


def test_every_required_attribute_is_there(datasets: tuple[list[FileDataset], FileDataset]) -> None:
    images, structures = datasets
    for dataset in (*images, structures):
        type_1, type_2 = (CT_TYPE_1, CT_TYPE_2) if dataset.Modality == "CT" else (RT_TYPE_1, RT_TYPE_2)
        assert [k for k in SHARED_TYPE_1 + type_1 if dataset.get(k) in (None, "", [])] == []
        assert [k for k in SHARED_TYPE_2 + type_2 if k not in dataset] == []
        assert dataset.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
        assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
        uids = [e.value for e in dataset.iterall() if e.VR == "UI"]
        assert all(UID(uid).is_valid for uid in uids)


def test_pixels_are_the_phantoms(datasets: tuple[list[FileDataset], FileDataset], patient: Phantom) -> None:
    images, _ = datasets
    stored = np.stack([image.pixel_array for image in images]).astype(int)
    np.testing.assert_array_equal(stored - 1024, hounsfield(patient))
    assert stored.max() < 4096
    assert [image.InstanceNumber for image in images] == list(patient.instance_numbers)
    assert len({image.SOPInstanceUID for image in images}) == len(images)
    assert len({(i.StudyInstanceUID, i.SeriesInstanceUID, i.FrameOfReferenceUID) for i in images}) == 1


def test_contours_name_the_slice_they_lie_on(datasets: tuple[list[FileDataset], FileDataset]) -> None:
    images, structures = datasets
    height = {image.SOPInstanceUID: float(image.ImagePositionPatient[2]) for image in images}
    assert structures.StudyInstanceUID == images[0].StudyInstanceUID
    assert structures.SeriesInstanceUID != images[0].SeriesInstanceUID
    (frame,) = structures.ReferencedFrameOfReferenceSequence
    assert frame.FrameOfReferenceUID == images[0].FrameOfReferenceUID
    series = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == images[0].SeriesInstanceUID
    assert {item.ReferencedSOPInstanceUID for item in series.ContourImageSequence} == height.keys()
    names = {roi.ROINumber: roi.ROIName for roi in structures.StructureSetROISequence}
    assert set(names.values()) == {"GTV-1", "Lung-Left", "Lung-Right", "Spinal-Cord"}
    assert [roi.ReferencedROINumber for roi in structures.ROIContourSequence] == list(names)
    for roi in structures.ROIContourSequence:
        assert roi.ContourSequence
        for contour in roi.ContourSequence:
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            assert len(points) == contour.NumberOfContourPoints >= 3
            assert set(points[:, 2]) == {height[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]}


def test_written_corners_lie_on_the_analytic_surface(folder: Path, patient: Phantom) -> None:
    (path,) = (
        p for p in folder.rglob("*.dcm") if pydicom.dcmread(p, specific_tags=["Modality"]).Modality == "RTSTRUCT"
    )
    corners = np.concatenate([contour.points_mm for contour in read_contours(path)])
    nearest = np.min([np.abs(tumour.level(corners)) for tumour in patient.tumours], axis=0)
    # Coordinates are written to 0.01 mm; the level grows by up to some 1.5 per mm.
    assert nearest.max() < 0.015


def _area(points: np.ndarray) -> float:
    x, y = points.T
    return 0.5 * abs(float(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))))


def test_contour_areas_are_those_of_the_cross_sections(patient: Phantom) -> None:
    tumour, step = patient.tumours[0], 0.1
    x, y = (np.arange(c - tumour.reach, c + tumour.reach, step) for c in tumour.centre[:2])
    sections = [z for z in patient.grid.z if tumour.section(z)]
    assert len(sections) >= 4
    for z in sections:
        counted = (tumour.level(plane_points(x, y, z)) < 0).sum() * step**2
        outlined = sum(_area(points) for points in tumour.section(z))
        # A chord of 1 mm cuts off about 1 mm³ / 12 R of area; pixels err by about a step's share of the rim's root.
        assert outlined == pytest.approx(counted, rel=4e-3, abs=0.5)


def test_cross_sections_add_up_to_the_volume(patient: Phantom) -> None:
    tumour, step = patient.tumours[0], 0.25
    heights = np.arange(tumour.centre[2] - tumour.reach, tumour.centre[2] + tumour.reach, step)
    stacked = step * sum(_area(points) for z in heights for points in tumour.section(float(z)))
    exact = tumour.surface(64)[1].sum()
    assert stacked == pytest.approx(exact, rel=2e-3)
    assert tumour.surface(48)[1].sum() == pytest.approx(exact, rel=1e-6)


def test_a_ball_has_the_volume_of_a_ball(patient: Phantom) -> None:
    tumour = patient.tumours[0]
    ball = type(tumour)(
        tumour.centre, np.full(3, 10.0), tumour.rotation, tumour.waves, tumour.phases, np.zeros(5), 40.0
    )
    assert ball.surface()[1].sum() == pytest.approx(4 / 3 * np.pi * 1000, rel=1e-12)
    np.testing.assert_allclose(ball.level(ball.surface()[0]), 0, atol=1e-7)
    (circle,) = ball.section(tumour.centre[2] + 6)
    np.testing.assert_allclose(np.linalg.norm(circle - tumour.centre[:2], axis=1), 8, atol=1e-6)


def test_tissues_have_their_ct_numbers() -> None:
    """Medians over the inside of each organ, and the spread of values in it."""
    patient = draw_phantom(0, number=4, slices=30, matrix=128)
    grid, anatomy = patient.grid, patient.anatomy
    sections = Sections(anatomy, grid.x[None, :], grid.y[:, None])
    volume = hounsfield(patient)
    lung, heart = (np.stack([surface(float(z)) for z in grid.z]) for surface in (sections.lungs, sections.heart))
    tumour = np.asarray(ndimage.binary_erosion(tumour_mask(patient)), bool)
    spine = np.hypot(grid.x[None, :] / 12, (grid.y[:, None] - anatomy.spine_y) / 9) < anatomy.scale
    depth = np.hypot(grid.x[None, :] / anatomy.half_width, grid.y[:, None] / anatomy.half_depth)
    assert np.median(volume[:, :5]) == pytest.approx(-1000, abs=3)
    assert -870 < np.median(volume[lung < -8]) < -740
    assert 25 < np.median(volume[(heart < -10) & (lung > 5)]) < 55
    assert 20 < np.median(volume[tumour]) < 50
    assert 100 < np.median(volume[:, spine]) < 400
    assert volume.max() > 300
    assert volume.min() >= -1024
    # Fat is below the skin.
    assert (volume[:, (depth < 1) & (depth > 0.9)] < -50).mean() > 0.5
    # Noise, and lung texture besides.
    assert 8 < volume[(heart < -10) & (lung > 5)].std() < 30
    assert volume[lung < -8].std() > 25


def test_noise_has_the_spectrum_of_ct() -> None:
    """Air shows the noise alone: reconstruction leaves less of it at low frequencies, and its kernel at high ones."""
    wide = draw_phantom(0, slices=8)
    corner = next(phantom_module.hounsfield_slices(wide))[:100, :100].astype(float)
    assert corner.std() == pytest.approx(wide.noise, rel=0.1)
    power = np.square(np.abs(np.fft.fft2((corner - corner.mean()) * np.outer(np.hanning(100), np.hanning(100)))))
    along = np.fft.fftfreq(100, wide.grid.spacing_mm[1])
    frequency = np.hypot(along[:, None], along)
    low, middle, high = (
        power[(frequency > a) & (frequency < b)].mean() for a, b in ((0.02, 0.06), (0.15, 0.25), (0.6, 0.7))
    )
    # 0.3 by the formula; the cut at -1024 HU whitens it.
    assert low < 0.8 * middle
    assert high < 0.3 * middle


def test_edges_are_partial_volume() -> None:
    patient = draw_phantom(0, number=4, slices=12)
    tumour = patient.tumours[0]
    grid = patient.grid
    index = int(np.argmin(np.abs(grid.z - tumour.centre[2])))
    plane = hounsfield(patient)[index]
    level = tumour.level(plane_points(grid.x, grid.y, grid.z[index]))
    inside, edge, outside = (
        float(np.median(plane[(level > low) & (level < high)])) for low, high in ((-4, -2), (-0.15, 0.15), (2, 3))
    )
    assert outside < -600
    assert inside > 0
    assert -700 < edge < -150


def _dice(one: np.ndarray, other: np.ndarray) -> float:
    both = np.logical_and(one, other).sum((1, 2))
    return float(np.mean(2 * both / (one.sum((1, 2)) + other.sum((1, 2)))))


def test_no_threshold_finds_the_tumours() -> None:
    """Slice-wise Dice on the tumours' own slices, for every window and the best clean-up after it."""
    lows = (-900, -600, -300, -100, 0, 20, 40)
    highs = (-300, 40, 60, 80, 5000)
    sizes = (1, 2, 4)
    cleanups = [(ndimage.binary_opening, size) for size in sizes] + [(ndimage.binary_dilation, size) for size in sizes]
    scores: dict[tuple, list[float]] = {}
    for number in (1, 2, 3, 4):
        patient = draw_phantom(11, number=number, slices=30, matrix=128)
        truth = tumour_mask(patient)
        index = np.flatnonzero(truth.any((1, 2)))
        truth, volume = truth[index], hounsfield(patient)[index]
        for low, high in product(lows, highs):
            window = (volume > low) & (volume < high)
            scores.setdefault((low, high), []).append(_dice(window, truth))
            for cleanup, size in cleanups if low >= 0 or high == 5000 else ():
                cleaned = cleanup(window, np.asarray(disk(size))[None])
                scores.setdefault((low, high, cleanup, size), []).append(_dice(cleaned, truth))
    best = max(np.mean(values) for values in scores.values())
    assert 0.02 < best < 0.2


def test_the_way_back_gives_the_analytic_mask(tmp_path: Path) -> None:
    written = [draw_phantom(2, number=number, slices=(16, 20), matrix=256) for number in (1, 2)]
    for phantom in written:
        write_phantom(phantom, tmp_path)
    found = discover(tmp_path)
    assert not found.rejected
    assert [patient.patient_id for patient in found.series] == [phantom.name for phantom in written]
    for phantom, patient in zip(written, found.series, strict=True):
        volume = read_volume(patient)
        np.testing.assert_array_equal(volume.hounsfield, hounsfield(phantom))
        mask, account = mask_from_contours(read_contours(patient.rtstructs[0]), volume.geometry)
        assert account.used == account.total == len(tumour_contours(phantom))
        truth = tumour_mask(phantom)
        # Only centres within 0.01 mm or a chord's sagitta of the surface can change sides.
        assert (mask ^ truth).sum() <= 0.01 * truth.sum()
        # Slices of 4 to 5 mm sample a ball of 20 to 40 mm.
        assert account.polygon_volume_mm3 == pytest.approx(tumour_volume_mm3(phantom), rel=0.04)
        assert account.mask_volume_mm3 == pytest.approx(account.polygon_volume_mm3, rel=0.01)


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stops(phantom: Phantom) -> Iterator[np.ndarray]:
        yield np.zeros(phantom.grid.shape[1:], np.int16)
        raise KeyboardInterrupt

    monkeypatch.setattr(phantom_module, "hounsfield_slices", stops)
    with pytest.raises(KeyboardInterrupt):
        write_phantom(_small(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_patient_that_is_there_is_kept(folder: Path, patient: Phantom) -> None:
    before = _files(folder)
    with pytest.raises(InputError, match="PHANTOM-002: already exists"):
        write_phantom(patient, folder.parent)
    assert _files(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
