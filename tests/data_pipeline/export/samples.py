"""Small CT series of every kind of geometry, with random masks, and the real patients."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from data_pipeline.contours.mask import mask_from_contours
from data_pipeline.contours.rtstruct import read_contours
from data_pipeline.dicom.discovery import discover
from data_pipeline.dicom.volume import CTVolume, read_volume

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


def write_small_series(folder: Path, kind: Kind, seed: int) -> None:
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
        path = folder / f"{number}.dcm"
        ct = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
        ct.SOPClassUID, ct.SOPInstanceUID, ct.Modality = CTImageStorage, generate_uid(), "CT"
        ct.StudyInstanceUID, ct.SeriesInstanceUID, ct.FrameOfReferenceUID = study, series, frame
        for keyword, value in IDENTITY.items():
            setattr(ct, keyword, value)
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
        ct.save_as(path, enforce_file_format=True)


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


@cache
def real_sample(folder: Path) -> tuple[Sample, np.ndarray]:
    """A real patient and the mask of its GTV-1."""
    (patient,) = discover(folder).series
    volume = read_volume(patient)
    mask, _ = mask_from_contours(read_contours(patient.rtstructs[0]), volume.geometry)
    return Sample(volume, patient.files), mask
