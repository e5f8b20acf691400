"""DICOM files of a synthetic patient: an axial CT series and an RTSTRUCT that refers to it.

Only the attributes that the standard requires are written (PS3.3 A.3, CT Image IOD; A.19, RT Structure Set IOD),
uncompressed and little endian. UIDs are derived from the caller's entropy, so that the same patient gives the same
bytes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int16
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid
from pydicom.valuerep import format_number_as_ds

DATE, TIME = "20200101", "120000"
INTERCEPT = -1024
STUDY_COMPONENT_MANAGEMENT = "1.2.840.10008.3.1.2.3.2"


@dataclass(frozen=True)
class Grid:
    """The position of an axial series' voxels.

    Attributes:
        shape: slices, rows, columns.
        spacing_mm: between slices, between rows, between columns.
        origin_mm: x, y, z of the centre of the lowest slice's first pixel (ImagePositionPatient, PS3.3 C.7.6.2.1.1).
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float]

    @property
    def x(self) -> Float[np.ndarray, "columns"]:
        """x of the columns' centres (mm, float32)."""
        return (self.origin_mm[0] + self.spacing_mm[2] * np.arange(self.shape[2])).astype(np.float32)

    @property
    def y(self) -> Float[np.ndarray, "rows"]:
        """y of the rows' centres (mm, float32)."""
        return (self.origin_mm[1] + self.spacing_mm[1] * np.arange(self.shape[1])).astype(np.float32)

    @property
    def z(self) -> Float[np.ndarray, "slices"]:
        """z of the slices, from foot to head (mm, float64)."""
        return self.origin_mm[2] + self.spacing_mm[0] * np.arange(self.shape[0])

    def crop(self, rows: slice, columns: slice) -> "Grid":
        """The part of every slice in these rows and columns."""
        x, y = self.x[columns], self.y[rows]
        origin = (float(x[0]), float(y[0]), self.origin_mm[2])
        return Grid((self.shape[0], len(y), len(x)), self.spacing_mm, origin)


@dataclass(frozen=True)
class Contour:
    """A closed outline on a slice (numbered from foot to head): x, y of its corners in mm."""

    index: int
    points: Float[np.ndarray, "points 2"]


@dataclass(frozen=True)
class Roi:
    """A region of interest: its name, the RT ROI Interpreted Type (PS3.3 C.8.8.8.1) and its contours."""

    name: str
    kind: str
    contours: Sequence[Contour]


def write_study(
    folder: Path,
    *,
    patient: str,
    entropy: str,
    grid: Grid,
    slices: Iterable[Int16[np.ndarray, "rows columns"]],
    instance_numbers: Sequence[int],
    bits_stored: int,
    rois: Sequence[Roi],
) -> None:
    """Write `folder`/<StudyUID>/<SeriesUID>/1-001.dcm and so on, in the layout of The Cancer Imaging Archive.

    Args:
        folder: the patient's folder.
        patient: PatientID and PatientName.
        entropy: text from which the UIDs are derived.
        grid: geometry of the series.
        slices: HU of each slice, from foot to head.
        instance_numbers: of each slice; they also name the files.
        bits_stored: 12 or 16.
        rois: in the order in which the RTSTRUCT lists them.
    """
    study, frame = _uid(entropy, "study"), _uid(entropy, "frame of reference")
    ct_series, rt_series = _uid(entropy, "ct"), _uid(entropy, "rtstruct")
    images = [_uid(entropy, "ct", str(i)) for i in range(grid.shape[0])]
    (folder / study / ct_series).mkdir(parents=True)
    (folder / study / rt_series).mkdir()
    ct = _ct_template(grid, bits_stored)
    _identify(ct, patient, study, ct_series, frame)
    for i, (hounsfield, number) in enumerate(zip(slices, instance_numbers, strict=True)):
        ct.SOPInstanceUID = ct.file_meta.MediaStorageSOPInstanceUID = images[i]
        ct.InstanceNumber = number
        ct.ImagePositionPatient = _decimals([*grid.origin_mm[:2], grid.z[i]])
        ct.SliceLocation = _decimals([grid.z[i]])[0]
        stored = np.clip(hounsfield - np.int16(INTERCEPT), 0, 4095).astype("<u2")
        ct.PixelData = stored.tobytes()
        ct.save_as(folder / study / ct_series / f"1-{number:03d}.dcm", enforce_file_format=True)
    rtstruct = _rtstruct(grid, study, ct_series, frame, images, rois)
    _identify(rtstruct, patient, study, rt_series, frame)
    rtstruct.SOPInstanceUID = rtstruct.file_meta.MediaStorageSOPInstanceUID = _uid(entropy, "rtstruct", "1")
    rtstruct.save_as(folder / study / rt_series / "1-001.dcm", enforce_file_format=True)


def _uid(*entropy: str) -> UID:
    return generate_uid(entropy_srcs=list(entropy))


def _decimals(values: Iterable[float]) -> list[str]:
    """Decimal strings of at most 16 characters (PS3.5 6.2)."""
    return [format_number_as_ds(float(value)) for value in values]


def _identify(dataset: Dataset, patient: str, study: UID, series: UID, frame: UID) -> None:
    """Patient, study, series, frame of reference and equipment (PS3.3 C.7.1.1, C.7.2.1, C.7.3.1, C.7.4.1, C.7.5.1)."""
    dataset.PatientName = dataset.PatientID = patient
    dataset.PatientBirthDate = dataset.PatientSex = ""
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = study, series, frame
    dataset.StudyDate, dataset.StudyTime = DATE, TIME
    dataset.ReferringPhysicianName = dataset.StudyID = dataset.AccessionNumber = ""
    dataset.PositionReferenceIndicator = ""
    dataset.Manufacturer, dataset.ManufacturerModelName = "rdunet-jax", "phantom"


def _new(sop_class: UID) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = sop_class
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def _ct_template(grid: Grid, bits_stored: int) -> Dataset:
    """What all slices share (PS3.3 C.7.6.2 Image Plane, C.7.6.3 Image Pixel, C.8.2.1 CT Image)."""
    ct = _new(CTImageStorage)
    ct.Modality, ct.SeriesNumber, ct.AcquisitionNumber = "CT", 1, 1
    ct.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ct.PatientPosition, ct.BodyPartExamined = "HFS", "CHEST"
    ct.KVP = "120"
    ct.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ct.PixelSpacing = _decimals(grid.spacing_mm[1:])
    ct.SliceThickness = _decimals(grid.spacing_mm[:1])[0]
    ct.SamplesPerPixel, ct.PhotometricInterpretation = 1, "MONOCHROME2"
    _, ct.Rows, ct.Columns = grid.shape
    ct.BitsAllocated, ct.BitsStored, ct.HighBit, ct.PixelRepresentation = 16, bits_stored, bits_stored - 1, 0
    ct.RescaleIntercept, ct.RescaleSlope, ct.RescaleType = INTERCEPT, 1, "HU"
    ct.WindowCenter, ct.WindowWidth = -600, 1500
    return ct


def _rtstruct(grid: Grid, study: UID, series: UID, frame: UID, images: Sequence[UID], rois: Sequence[Roi]) -> Dataset:
    """Structure set, contours and observations (PS3.3 C.8.8.5, C.8.8.6, C.8.8.8)."""
    rt = _new(RTStructureSetStorage)
    rt.Modality, rt.SeriesNumber, rt.OperatorsName = "RTSTRUCT", 2, ""
    rt.StructureSetLabel, rt.StructureSetDate, rt.StructureSetTime = "PHANTOM", DATE, TIME
    rt.ApprovalStatus = "UNAPPROVED"
    references = [_item(ReferencedSOPClassUID=CTImageStorage, ReferencedSOPInstanceUID=uid) for uid in images]
    in_series = _item(SeriesInstanceUID=series, ContourImageSequence=references)
    in_study = _item(
        ReferencedSOPClassUID=STUDY_COMPONENT_MANAGEMENT,
        ReferencedSOPInstanceUID=study,
        RTReferencedSeriesSequence=[in_series],
    )
    rt.ReferencedFrameOfReferenceSequence = [_item(FrameOfReferenceUID=frame, RTReferencedStudySequence=[in_study])]
    rt.StructureSetROISequence = [
        _item(ROINumber=n, ReferencedFrameOfReferenceUID=frame, ROIName=roi.name, ROIGenerationAlgorithm="AUTOMATIC")
        for n, roi in enumerate(rois, 1)
    ]
    rt.ROIContourSequence = [
        _item(
            ReferencedROINumber=n, ContourSequence=[_contour(c, grid.z[c.index], images[c.index]) for c in r.contours]
        )
        for n, r in enumerate(rois, 1)
    ]
    rt.RTROIObservationsSequence = [
        _item(ObservationNumber=n, ReferencedROINumber=n, RTROIInterpretedType=roi.kind, ROIInterpreter="")
        for n, roi in enumerate(rois, 1)
    ]
    return rt


def _contour(contour: Contour, z: float, image: UID) -> Dataset:
    corners = [f"{value:.2f}" for x, y in contour.points for value in (x, y, z)]
    return _item(
        ContourImageSequence=[_item(ReferencedSOPClassUID=CTImageStorage, ReferencedSOPInstanceUID=image)],
        ContourGeometricType="CLOSED_PLANAR",
        NumberOfContourPoints=len(contour.points),
        ContourData=corners,
    )


def _item(**elements: object) -> Dataset:
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset
