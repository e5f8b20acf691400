"""Measures of the lesions as a DICOM structured report: template TID 1500, Measurement Report (PS3.16).

It is marked as made by software, preliminary and not verified. Like SEG and RTSTRUCT it holds the patient and the study
of the CT.
"""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int16, Shaped
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from data_pipeline.contours.outlines import outlines
from data_pipeline.dicom.files import quiet_pydicom
from data_pipeline.dicom.geometry import CTGeometry
from data_pipeline.export.dicom import DESCRIPTION, SOFTWARE, header_faults, require_highdicom
from data_pipeline.export.lesions import Component, find_lesions, measure_lesion, volume_ml
from data_pipeline.export.source import prepare_export
from data_pipeline.files import atomic_path

MOST_LESIONS = 100
"""The report lists so many lesions, the largest; the volume of all is in it in any case."""


def write_structured_report(
    mask: Shaped[np.ndarray, "depth height width"],
    hounsfield: Int16[np.ndarray, "depth height width"],
    geometry: CTGeometry,
    source_files: Sequence[Path],
    path: Path,
) -> None:
    """Write the measures of a mask's lesions as a Comprehensive SR (PS3.3 A.35.3).

    A group for the whole tumour holds the volume. Then each lesion has a group (TID 1411) with its outlines on the CT's
    slices, which follow the pixels' edges, and the measures of `lesions.Lesion`: volume, longest diameter (long axis,
    method RECIST 1.1), the one perpendicular to it (short axis) and mean HU.

    Args:
        mask: bool or 0 and 1, on the grid of `geometry`.
        hounsfield: the CT, HU.
        geometry: position of the mask's pixels, and the SOP instance UID of each slice.
        source_files: the CT's files in any order; all slices of `geometry` must be among them.
        path: the file to write (`.dcm`).

    Raises:
        InputError: the mask has another shape, a slice's file is missing, unreadable or lacks what a report must refer
            to, highdicom is not installed, or `path` cannot be written.
    """
    require_highdicom()
    marked, headers = prepare_export(mask, geometry, source_files, path)
    with header_faults("a structured report cannot refer to this CT", "leave out the format sr", source_files):
        groups = [_whole_tumour(volume_ml(marked, geometry))]
        for number, component in enumerate(find_lesions(marked, geometry)[:MOST_LESIONS], 1):
            groups.append(_lesion(number, component, hounsfield, geometry, headers))
        report = _report(groups, headers)
    with atomic_path(path) as temporary, quiet_pydicom():
        report.save_as(temporary)


def _report(groups: Sequence[Any], headers: Sequence[Dataset]) -> Dataset:
    import highdicom as hd  # absent on Python 3.14

    device = hd.sr.DeviceObserverIdentifyingAttributes(uid=generate_uid(), name=SOFTWARE, model_name=SOFTWARE)
    observer = hd.sr.ObserverContext(codes.DCM.Device, device)
    content = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=observer),
        procedure_reported=codes.LN.CTUnspecifiedBodyRegion,
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    report = hd.sr.ComprehensiveSR(
        evidence=headers,
        content=content,
        series_instance_uid=generate_uid(),
        series_number=302,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer=SOFTWARE,
        is_complete=True,
        series_description=DESCRIPTION,
        specific_character_set=None,  # set below, because highdicom refuses some that DICOM defines
    )
    report.ManufacturerModelName, report.SoftwareVersions = SOFTWARE, version(SOFTWARE)
    if "SpecificCharacterSet" in headers[0]:
        report.SpecificCharacterSet = headers[0].SpecificCharacterSet
    return report


def _whole_tumour(millilitres: float) -> Any:
    import highdicom as hd

    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(uid=generate_uid(), identifier="All lesions"),
        measurements=[hd.sr.Measurement(codes.SCT.Volume, millilitres, codes.UCUM.CubicCentimeter)],
        **_finding(),
    )


def _lesion(
    number: int,
    component: Component,
    hounsfield: Int16[np.ndarray, "depth height width"],
    geometry: CTGeometry,
    headers: Sequence[Dataset],
) -> Any:
    import highdicom as hd

    measures = measure_lesion(component, hounsfield, geometry)
    first, *corner = (part.start for part in component.box)
    regions = [
        _region(points + np.array(corner), headers[first + index])
        for index, plane in enumerate(component.mask)
        for points in outlines(plane)
    ]
    millimetre, recist = codes.UCUM.Millimeter, codes.DCM.RECIST1Point1
    long_axis, short_axis = measures.longest_diameter_mm, measures.perpendicular_diameter_mm
    measurements = [
        hd.sr.Measurement(codes.SCT.Volume, measures.volume_ml, codes.UCUM.CubicCentimeter),
        hd.sr.Measurement(codes.SCT.LongAxis, long_axis, millimetre, method=recist),
        hd.sr.Measurement(codes.SCT.ShortAxis, short_axis, millimetre),
        hd.sr.Measurement(
            codes.DCM.AttenuationCoefficient, measures.mean_hu, codes.UCUM.HounsfieldUnit, derivation=codes.SCT.Mean
        ),
    ]
    return hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(uid=generate_uid(), identifier=f"Lesion {number}"),
        referenced_regions=regions,
        measurements=measurements,
        **_finding(),
    )


def _finding() -> dict[str, Any]:
    """What every group says of its finding, and who made it."""
    import highdicom as hd

    return {
        "finding_category": codes.SCT.MorphologicallyAbnormalStructure,
        "finding_type": codes.SCT.Neoplasm,
        "finding_sites": [hd.sr.FindingSite(codes.SCT.Lung)],
        "algorithm_id": hd.sr.AlgorithmIdentification(name="RDUNET", version=version(SOFTWARE)),
    }


def _region(points: Shaped[np.ndarray, "points 2"], header: Dataset) -> Any:
    """A closed polyline of (row, column) index points, in which whole numbers are pixel centres.

    In an SR (column, row) = (0, 0) is the outer corner of the first pixel (PS3.3 C.18.6.1.2).
    """
    import highdicom as hd

    closed = np.concatenate([points, points[:1]])[:, ::-1] + 0.5
    image = hd.sr.SourceImageForRegion(header.SOPClassUID, header.SOPInstanceUID)
    return hd.sr.ImageRegion(hd.sr.GraphicTypeValues.POLYLINE, closed, image)
