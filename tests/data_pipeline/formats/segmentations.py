"""DICOM Segmentations for the tests, written by highdicom."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from data_pipeline.dicom.files import quiet_pydicom
from data_pipeline.dicom.volume import CTVolume
from data_pipeline.export.source import source_headers


def write_seg(
    path: Path,
    volume: CTVolume,
    files: Sequence[Path],
    masks: dict[str, np.ndarray],
    kind: str = "BINARY",
    algorithm: str = "MANUAL",
    typed: Any = codes.SCT.Neoplasm,
    **options: Any,
) -> Path:
    """Write the masks (depth, height, width), by label, of a CT or of another volume in its frame of reference."""
    segments = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=label,
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=typed,
            algorithm_type=algorithm,
            algorithm_identification=(
                None
                if algorithm == "MANUAL"
                else hd.AlgorithmIdentificationSequence("x", codes.DCM.ArtificialIntelligence, "1")
            ),
        )
        for number, label in enumerate(masks, 1)
    ]
    pixels = np.stack(list(masks.values()), axis=-1)
    if kind == "LABELMAP":
        pixels = (pixels * np.arange(1, len(masks) + 1)).max(axis=-1).astype(np.uint8)
    with quiet_pydicom():
        segmentation = hd.seg.Segmentation(
            source_images=source_headers(volume.geometry, files),
            pixel_array=pixels,
            segmentation_type=kind,
            segment_descriptions=segments,
            series_instance_uid=generate_uid(),
            series_number=1,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer="x",
            manufacturer_model_name="x",
            software_versions="1",
            device_serial_number="1",
            **{"transfer_syntax_uid": ExplicitVRLittleEndian, **options},
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        segmentation.save_as(path)
    return path
