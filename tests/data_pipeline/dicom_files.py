"""DICOM series and RTSTRUCTs made for tests: small, complete, and wrong only where a test says so."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, RTStructureSetStorage

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


@dataclass(frozen=True)
class Written:
    """A series on disk: slices in the order of `positions`, whatever their file names."""

    files: tuple[Path, ...]
    uids: tuple[str, ...]
    positions: np.ndarray
    series_uid: str
    study_uid: str
    frame_uid: str
    orientation: tuple[float, ...] = AXIAL
    spacing: tuple[float, float, float] = (3.0, 0.8, 0.7)
    stored: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def points(self, slice_index: int, rows_columns: Any) -> np.ndarray:
        """Patient coordinates of (row, column) on a slice, from the DICOM formula (PS3.3 C.7.6.2.1.1)."""
        row_cosine, column_cosine = np.array(self.orientation[:3]), np.array(self.orientation[3:])
        rows, columns = np.asarray(rows_columns, float).T[:, :, None]
        _, between_rows, between_columns = self.spacing
        return (
            self.positions[slice_index] + column_cosine * between_rows * rows + row_cosine * between_columns * columns
        )


def uid(*numbers: int) -> str:
    """A UID of our own making; the same numbers give the same UID."""
    return UID("1.2.826.0.1.3680043.8.498." + ".".join(str(number) for number in numbers))


def write_series(
    folder: Path,
    *,
    depth: int = 4,
    height: int = 12,
    width: int = 10,
    spacing: tuple[float, float, float] = (3.0, 0.8, 0.7),
    orientation: Sequence[float] = AXIAL,
    origin: Sequence[float] = (-20.0, 30.0, 5.0),
    positions: np.ndarray | None = None,
    stored: np.ndarray | None = None,
    patient: int = 1,
    series: int = 1,
    prefix: str = "",
    edit: Any = None,
    **elements: Any,
) -> Written:
    """Write a CT series, slices ascending along the normal, and their files in the opposite order.

    Args:
        positions: ImagePositionPatient of each slice, instead of `origin` and `spacing`.
        stored: pixel values, uint16 or int16, (depth, height, width); random if None.
        patient, series: make the UIDs.
        edit: called with (slice index, dataset) before each file is written.
        elements: keyword and value of elements to set in every file, or to delete, if None.
    """
    folder.mkdir(parents=True, exist_ok=True)
    depth = depth if stored is None else len(stored)
    if positions is None:
        normal = np.cross(orientation[:3], orientation[3:])
        positions = np.asarray(origin, float) + np.arange(depth)[:, None] * spacing[0] * normal
    if stored is None:
        generator = np.random.default_rng(patient * 100 + series)
        stored = generator.integers(0, 2000, (len(positions), height, width)).astype(np.uint16)
    files = []
    for index, (position, pixels) in enumerate(zip(positions, stored, strict=True)):
        image = _dataset(CTImageStorage, "CT", uid(patient, series, 3, index), patient)
        image.StudyInstanceUID = uid(patient, 1)
        image.SeriesInstanceUID = uid(patient, series, 2)
        image.FrameOfReferenceUID = uid(patient, 4)
        image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        image.InstanceNumber = 1
        image.ImagePositionPatient = [float(f"{value:.10g}") for value in position]
        image.ImageOrientationPatient = [float(f"{value:.12g}") for value in orientation]
        image.PixelSpacing = list(spacing[1:])
        image.Rows, image.Columns = pixels.shape
        image.SamplesPerPixel = 1
        image.PhotometricInterpretation = "MONOCHROME2"
        image.BitsAllocated = image.BitsStored = pixels.dtype.itemsize * 8
        image.HighBit = image.BitsStored - 1
        image.PixelRepresentation = int(pixels.dtype.kind == "i")
        image.RescaleIntercept, image.RescaleSlope = -1024, 1
        image.PixelData = pixels.tobytes()
        for keyword, value in elements.items():
            setattr(image, keyword, value)
            if value is None:
                delattr(image, keyword)
        if edit is not None:
            edit(index, image)
        files.append(folder / f"{prefix}{len(positions) - index:03d}")
        save(image, files[-1])
    return Written(
        tuple(files),
        tuple(uid(patient, series, 3, index) for index in range(len(positions))),
        np.asarray(positions, float),
        uid(patient, series, 2),
        uid(patient, 1),
        uid(patient, 4),
        tuple(orientation),
        spacing,
        stored,
    )


def contour(
    points_mm: np.ndarray, image: str | None = None, kind: str | None = "CLOSED_PLANAR", **elements: Any
) -> Dataset:
    """An item of a Contour Sequence."""
    item = Dataset()
    if image is not None:
        reference = Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = CTImageStorage, image
        item.ContourImageSequence = [reference]
    if kind is not None:
        item.ContourGeometricType = kind
    item.NumberOfContourPoints = len(points_mm)
    item.ContourData = [f"{value:.10g}" for value in np.asarray(points_mm).ravel()]
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item


def write_rtstruct(
    path: Path,
    rois: Mapping[str, Sequence[Dataset] | None],
    series: Written,
    *,
    patient: int = 1,
    frame: str | None = None,
    edit: Any = None,
) -> Path:
    """Write an RTSTRUCT drawn on `series`; an ROI of None is listed, but absent from the contours."""
    dataset = _dataset(RTStructureSetStorage, "RTSTRUCT", uid(patient, 9, len(path.name)), patient)
    dataset.StudyInstanceUID = series.study_uid
    dataset.SeriesInstanceUID = uid(patient, 8)
    referenced_series, study, referenced_frame = Dataset(), Dataset(), Dataset()
    referenced_series.SeriesInstanceUID = series.series_uid
    study.RTReferencedSeriesSequence = [referenced_series]
    referenced_frame.FrameOfReferenceUID = frame or series.frame_uid
    referenced_frame.RTReferencedStudySequence = [study]
    dataset.ReferencedFrameOfReferenceSequence = [referenced_frame]
    dataset.StructureSetROISequence, dataset.ROIContourSequence = [], []
    for number, (name, contours) in enumerate(rois.items(), start=1):
        roi = Dataset()
        roi.ROINumber, roi.ROIName = number, name
        roi.ReferencedFrameOfReferenceUID = frame or series.frame_uid
        dataset.StructureSetROISequence.append(roi)
        if contours is not None:
            item = Dataset()
            item.ReferencedROINumber, item.ContourSequence = number, list(contours)
            dataset.ROIContourSequence.append(item)
    if edit is not None:
        edit(dataset)
    save(dataset, path)
    return path


def save(dataset: Dataset, path: Path) -> None:
    """Write a dataset as a DICOM file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


def _dataset(sop_class: str, modality: str, sop_instance: str, patient: int) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Modality = sop_class, sop_instance, modality
    dataset.PatientID = f"PATIENT-{patient}"
    dataset.PatientName = f"Canary^{patient}"
    return dataset


def jpeg_lossless(image: np.ndarray) -> bytes:
    """ISO 10918-1 process 14, selection value 1 (predict from the left), all 17 size categories coded in 5 bits."""
    predicted = np.empty(image.shape, int)
    predicted[:, 1:], predicted[1:, 0], predicted[0, 0] = image[:, :-1], image[:-1, 0], 1 << 15
    bits = []
    for difference in ((image - predicted + 32768) % 65536 - 32768).ravel():
        size = int(abs(difference)).bit_length()
        bits.append(f"{size:05b}")
        if 0 < size < 16:
            bits.append(f"{difference if difference > 0 else difference + (1 << size) - 1:0{size}b}")
    packed = "".join(bits)
    packed += "1" * (-len(packed) % 8)
    data = int(packed, 2).to_bytes(len(packed) // 8, "big").replace(b"\xff", b"\xff\x00")
    rows, columns = (n.to_bytes(2, "big") for n in image.shape)
    return b"".join(
        [
            b"\xff\xd8",
            b"\xff\xc3\x00\x0b\x10%b%b\x01\x01\x11\x00" % (rows, columns),
            b"\xff\xc4\x00\x24\x00" + bytes([0, 0, 0, 0, 17, *[0] * 11]) + bytes(range(17)),
            b"\xff\xda\x00\x08\x01\x01\x00\x01\x00\x00" + data + b"\xff\xd9",
        ]
    )
