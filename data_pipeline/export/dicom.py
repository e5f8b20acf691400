"""Masks on the CT's own grid → what a planning system or an archive takes: DICOM RT Structure Set and Segmentation.

Both are marked as made by software and not reviewed. Both hold the patient and the study of the CT, because archives
and viewers file an object under them. So these exports, and no others, carry identity.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Shaped
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from data_pipeline.contours.outlines import outlines
from data_pipeline.dicom.files import describe_error, quiet_pydicom
from data_pipeline.dicom.geometry import CTGeometry
from data_pipeline.errors import InputError
from data_pipeline.export.source import OPTIONAL, TYPE_2, prepare_export
from data_pipeline.files import atomic_path
from data_pipeline.settings import PREDICTION_COLOUR

ROI_NAME = "RDUNET-GTV"

SOFTWARE = "rdunet-jax"
DESCRIPTION = "Segmented by a neural network, not reviewed"


def write_rtstruct(
    mask: Shaped[np.ndarray, "depth height width"], geometry: CTGeometry, source_files: Sequence[Path], path: Path
) -> None:
    """Write a mask as an RT Structure Set (PS3.3 A.19) with the one ROI `RDUNET-GTV`.

    The contours follow the pixels' edges (`outlines`). Their area is therefore the mask's own, and pixel centres are
    half a pixel away from them, so that the even-odd rule at pixel centres gives the mask back exactly. An empty mask
    gives the ROI without contours.

    Args:
        mask: bool or 0 and 1, on the grid of `geometry`.
        geometry: position of the mask's pixels, and the SOP instance UID of each slice.
        source_files: the CT's files in any order; all slices of `geometry` must be among them.
        path: the file to write (`.dcm`).

    Raises:
        InputError: the mask has another shape, a slice's file is missing, unreadable or without its UIDs, or `path`
            cannot be written.
    """
    mask, headers = prepare_export(mask, geometry, source_files, path)
    row_mm, column_mm = geometry.pixel_spacing_mm
    pixel_axes = np.stack([row_mm * geometry.column_cosine, column_mm * geometry.row_cosine])
    contours = [
        _contour(position + points @ pixel_axes, header)
        for plane, position, header in zip(mask, geometry.positions_mm, headers, strict=True)
        for points in outlines(plane)
    ]
    with atomic_path(path) as temporary, quiet_pydicom():
        _structure_set(headers, contours).save_as(temporary, enforce_file_format=True)


def write_seg(
    mask: Shaped[np.ndarray, "depth height width"], geometry: CTGeometry, source_files: Sequence[Path], path: Path
) -> None:
    """Write a mask as a binary DICOM Segmentation (PS3.3 A.51) with the one segment `RDUNET-GTV`.

    Every frame has the position of the CT slice it was drawn on, and refers to it, so that slices may be unevenly
    spaced. Slices without tumour are left out, except that an empty mask keeps all of them, because a Segmentation must
    have a frame. Where the CT has no valid SliceThickness, the median distance between its slices is written,
    because readers (highdicom among them) require a value.

    Args:
        mask: bool or 0 and 1, on the grid of `geometry`.
        geometry: position of the mask's pixels, and the SOP instance UID of each slice.
        source_files: the CT's files in any order; all slices of `geometry` must be among them.
        path: the file to write (`.dcm`).

    Raises:
        InputError: the mask has another shape, a slice's file is missing, unreadable or lacks what a Segmentation must
            refer to, highdicom is not installed, or `path` cannot be written.
    """
    require_highdicom()
    mask, headers = prepare_export(mask, geometry, source_files, path)
    with header_faults("a DICOM SEG cannot refer to this CT", "export NIfTI or RTSTRUCT", source_files):
        segmentation = _segmentation(mask, headers)
    with atomic_path(path) as temporary, quiet_pydicom():
        segmentation.save_as(temporary)


@contextmanager
def header_faults(problem: str, way_out: str, source_files: Sequence[Path]) -> Iterator[None]:
    """Headers that highdicom cannot use become an InputError of the CT's folder; its remarks are not shown."""
    try:
        with quiet_pydicom():
            yield
    except Exception as error:  # unusual headers fail in many ways, with texts that may quote the patient's name
        raise InputError(f"{problem} ({describe_error(error)}); {way_out}", path=source_files[0].parent) from error


def require_highdicom() -> None:
    """Check for the library that writes DICOM SEG and SR; Python 3.14 is installed without it.

    Raises:
        InputError: it is not installed.
    """
    if find_spec("highdicom") is None:
        raise InputError("DICOM SEG and SR need highdicom; use Python 3.11 to 3.13, or export NIfTI or RTSTRUCT")


def _segmentation(mask: Bool[np.ndarray, "depth height width"], headers: Sequence[Dataset]) -> Dataset:
    import highdicom as hd  # absent on Python 3.14, and needed for no other format

    segment = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label=ROI_NAME,
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Neoplasm,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name="RDUNET", family=codes.DCM.ArtificialIntelligence, version=version(SOFTWARE), source=SOFTWARE
        ),
        anatomic_regions=[codes.SCT.Lung],
    )
    segmentation = hd.seg.Segmentation(
        source_images=headers,
        pixel_array=mask.astype(np.uint8),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[segment],
        series_instance_uid=generate_uid(),
        series_number=300,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer=SOFTWARE,
        manufacturer_model_name=SOFTWARE,
        software_versions=version(SOFTWARE),
        device_serial_number="0",
        content_label="RDUNET",
        content_description=DESCRIPTION,
        series_description=DESCRIPTION,
        omit_empty_frames=bool(mask.any()),
        specific_character_set=None,  # set below, because highdicom refuses some that DICOM defines
    )
    if "SpecificCharacterSet" in headers[0]:
        segmentation.SpecificCharacterSet = headers[0].SpecificCharacterSet
    return segmentation


def _reference(header: Dataset) -> Dataset:
    return _dataset(ReferencedSOPClassUID=header.SOPClassUID, ReferencedSOPInstanceUID=header.SOPInstanceUID)


def _dataset(**elements: object) -> Dataset:
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def _contour(points_mm: Float[np.ndarray, "points 3"], header: Dataset) -> Dataset:
    """One item of the Contour Sequence (PS3.3 C.8.8.6)."""
    return _dataset(
        ContourImageSequence=[_reference(header)],
        ContourGeometricType="CLOSED_PLANAR",
        NumberOfContourPoints=len(points_mm),
        # Full precision would not fit into the 16 characters of a decimal string (PS3.5 6.2); nine places do.
        ContourData=[np.format_float_positional(one, precision=9, trim="-") for one in points_mm.ravel()],
    )


def _structure_set(headers: Sequence[Dataset], contours: Sequence[Dataset]) -> Dataset:
    """The structure set of PS3.3 A.19.3: Structure Set, ROI Contour and RT ROI Observations modules (C.8.8.5, 6, 8)."""
    first = headers[0]
    now = datetime.now()
    series = _dataset(
        SeriesInstanceUID=first.SeriesInstanceUID, ContourImageSequence=[_reference(header) for header in headers]
    )
    # Detached Study Management: retired, but the class that readers expect in a reference to a study.
    study = _dataset(
        ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1",
        ReferencedSOPInstanceUID=first.StudyInstanceUID,
        RTReferencedSeriesSequence=[series],
    )
    frame = _dataset(FrameOfReferenceUID=first.FrameOfReferenceUID, RTReferencedStudySequence=[study])
    roi = _dataset(
        ROINumber=1,
        ReferencedFrameOfReferenceUID=first.FrameOfReferenceUID,
        ROIName=ROI_NAME,
        ROIDescription=DESCRIPTION,
        ROIGenerationAlgorithm="AUTOMATIC",
        ROIGenerationDescription=DESCRIPTION,
    )
    roi_contour = _dataset(ReferencedROINumber=1, ROIDisplayColor=list(bytes.fromhex(PREDICTION_COLOUR[1:])))
    if contours:
        roi_contour.ContourSequence = list(contours)
    observation = _dataset(ObservationNumber=1, ReferencedROINumber=1, RTROIInterpretedType="GTV", ROIInterpreter="")
    dataset = _dataset(
        SOPClassUID=RTStructureSetStorage,
        SOPInstanceUID=generate_uid(),
        InstanceCreationDate=now.strftime("%Y%m%d"),
        InstanceCreationTime=now.strftime("%H%M%S"),
        Modality="RTSTRUCT",
        SeriesInstanceUID=generate_uid(),
        SeriesNumber=301,
        SeriesDescription=DESCRIPTION,
        OperatorsName="",
        Manufacturer=SOFTWARE,
        ManufacturerModelName=SOFTWARE,
        SoftwareVersions=version(SOFTWARE),
        InstanceNumber=1,
        StructureSetLabel="RDUNET",
        StructureSetName=DESCRIPTION,
        StructureSetDate=now.strftime("%Y%m%d"),
        StructureSetTime=now.strftime("%H%M%S"),
        ReferencedFrameOfReferenceSequence=[frame],
        StructureSetROISequence=[roi],
        ROIContourSequence=[roi_contour],
        RTROIObservationsSequence=[observation],
        ApprovalStatus="UNAPPROVED",
    )
    for keyword in (*TYPE_2, *OPTIONAL, "StudyInstanceUID", "FrameOfReferenceUID", "SpecificCharacterSet"):
        if keyword in first:
            dataset[keyword] = first[keyword]
    dataset.file_meta = FileMetaDataset()
    # Implicit, because explicit lengths of decimal strings end at 64 kB: a contour of some 2,000 points (C.8.8.6).
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    return dataset
