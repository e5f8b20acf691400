"""DICOM Segmentations (PS3.3 A.51, A.80, C.8.20): binary, fractional and label map, on the grid of a CT."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64, Shaped
from pydicom import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import ImplicitVRLittleEndian, RLELossless

from data_pipeline.contours.roi_names import matching_names
from data_pipeline.dicom.files import OversizedError, decimals, describe_error, printable, quiet_pydicom, read_dataset
from data_pipeline.dicom.geometry import AFFINE_TOLERANCE, FARTHEST_MM, CTGeometry
from data_pipeline.dicom.pixels import UnusableImageError, check_encoded, matrix
from data_pipeline.dicom.slices import SAME_DIRECTION
from data_pipeline.errors import InputError
from data_pipeline.settings import DEFAULT_ROI

MOST_VOXELS = 2**29
"""Most voxels in the frames of one file: 2048 frames of 512 x 512."""
LEAST_SHARE = 0.5
"""A voxel of a fractional segment belongs to the mask from this share of the largest value on."""
_NEOPLASM = frozenset(("108369006", "M-8FFFF", "86049000", "M-80003", "372087000", "254637007"))
"""Codes (SNOMED CT, and its older form) of neoplasm, malignant neoplasm, primary one, and cancer of the lung."""
_SAME_MM = 1e-3


@dataclass(frozen=True, eq=False)
class Segments:
    """The chosen segments as planes, each place once.

    Attributes:
        path: the file.
        planes: which pixels are tumour; of several segments, of any of them.
        positions_mm: ImagePositionPatient of each plane, ascending along the normal.
        row_cosine, column_cosine: directions in which the column and the row index grow.
        pixel_spacing_mm: distance between rows, between columns.
        thickness_mm: of a plane: SpacingBetweenSlices; without it, what fits SliceThickness and the planes.
        is_spaced: whether the file gives SpacingBetweenSlices.
        frame_of_reference_uid: empty if the file gives none.
    """

    path: Path
    planes: Bool[np.ndarray, "planes rows columns"]
    positions_mm: Float64[np.ndarray, "planes 3"]
    row_cosine: Float64[np.ndarray, "3"]
    column_cosine: Float64[np.ndarray, "3"]
    pixel_spacing_mm: tuple[float, float]
    thickness_mm: float
    is_spaced: bool
    frame_of_reference_uid: str

    def on_grid(self, geometry: CTGeometry) -> tuple[Bool[np.ndarray, "depth height width"], tuple[str, ...]]:
        """The mask on the grid of a CT, and notes.

        A voxel of the CT belongs to it if its centre is inside a voxel of the segmentation that does. On the CT's own
        grid that is the segmentation itself; on another grid it is resampling to the nearest neighbour.

        Raises:
            InputError: it is in another frame of reference, or the mask is empty.
        """
        if len({self.frame_of_reference_uid, geometry.frame_of_reference_uid} - {""}) > 1:
            raise InputError(
                "the SEG is in another frame of reference than its CT; export it again for this CT", path=self.path
            )
        mask = np.zeros(geometry.shape, bool)
        thickness = self._thickness_on(geometry)
        same = np.allclose(self.pixel_spacing_mm, geometry.pixel_spacing_mm, rtol=1e-3)
        for index in range(len(mask)):
            mask[index], on_grid = self._slice(geometry, index, thickness)
            same = same and on_grid
        if not mask.any():
            raise InputError(
                "the mask is empty on the grid of its CT; check that the SEG belongs to this CT", path=self.path
            )
        return mask, () if same else ("the SEG is on another grid; it was resampled to the nearest neighbour",)

    def _thickness_on(self, geometry: CTGeometry) -> float:
        """Thickness of a plane, mm. SliceThickness may be larger than the distance of slices, as where they overlap: a
        plane that is a slice of the CT must not reach into the next one."""
        step = geometry.spacing_mm[0]
        heights = self.positions_mm @ geometry.normal
        next_one = np.searchsorted(geometry.distances_mm, heights).clip(1, len(geometry.distances_mm) - 1)
        off = np.abs(geometry.distances_mm[[next_one - 1, next_one]] - heights).min(axis=0)
        parallel = abs(np.cross(self.row_cosine, self.column_cosine) @ geometry.normal) > 1 - SAME_DIRECTION
        are_slices = parallel and off.max() <= AFFINE_TOLERANCE * step
        return min(self.thickness_mm, step) if are_slices and not self.is_spaced else self.thickness_mm

    def _slice(
        self, geometry: CTGeometry, index: int, thickness: float
    ) -> tuple[Bool[np.ndarray, "height width"], bool]:
        """One slice of the mask, and whether its voxels coincide with those of the segmentation."""
        _, height, width = geometry.shape
        down, right = (
            mm * cosine
            for mm, cosine in zip(geometry.pixel_spacing_mm, (geometry.column_cosine, geometry.row_cosine), strict=True)
        )

        def along(axis: Float64[np.ndarray, "3"]) -> Float64[np.ndarray, "height width"]:
            """Each pixel's coordinate (mm) along an axis."""
            rows, columns = np.arange(height)[:, None] * (down @ axis), np.arange(width) * (right @ axis)
            return geometry.positions_mm[index] @ axis + rows + columns

        normal = np.cross(self.row_cosine, self.column_cosine)
        heights = self.positions_mm @ normal
        here = along(normal)
        nearest = np.searchsorted((heights[1:] + heights[:-1]) / 2, here)
        off = np.abs(heights[nearest] - here)
        inside = off <= thickness / 2 * (1 + 1e-6)
        if not inside.any():
            return np.zeros((height, width), bool), True
        place = []
        for cosine, mm in zip((self.column_cosine, self.row_cosine), self.pixel_spacing_mm, strict=True):
            place.append((along(cosine) - (self.positions_mm @ cosine)[nearest]) / mm)
        whole = [np.rint(one).astype(int) for one in place]
        for one, size in zip(whole, self.planes.shape[1:], strict=True):
            inside &= (one >= 0) & (one < size)
        rows, columns = (np.where(inside, one, 0) for one in whole)
        coincide = off[inside].max(initial=0) <= AFFINE_TOLERANCE * thickness and all(
            np.abs(one - rounded)[inside].max(initial=0) <= AFFINE_TOLERANCE
            for one, rounded in zip(place, whole, strict=True)
        )
        return self.planes[nearest, rows, columns] & inside, bool(coincide)


def read_segments(path: Path, roi: str = DEFAULT_ROI) -> Segments:
    """Read the segments that are the tumour.

    Args:
        path: a DICOM Segmentation.
        roi: label, description, number, or code or meaning of the type of a segment, or a regular expression, as for an
            ROI. With the default, if no segment has such a name, the only one whose type is a neoplasm, unless it was
            made by a program alone.

    Raises:
        InputError: not a Segmentation; no segment matches (`quoted` lists the labels); its description is not valid; or
            its data are of another size than its header says.
    """
    try:
        with quiet_pydicom():
            dataset = read_dataset(path, pixels=True)
            segments = [one for one in dataset.SegmentSequence if int(one.SegmentNumber)]  # 0 is background (C.8.20.2)
            names = [_names(one) for one in segments]
            chosen = _chosen(segments, names, roi)
            if chosen:
                return _segments(path, dataset, chosen)
    except (OversizedError, UnusableImageError) as error:
        raise InputError(f"SEG: {error}; export it again", path=path) from error
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"not a readable SEG ({describe_error(error)}); export it again", path=path) from error
    raise InputError(
        f"no segment matches {roi!r}; use --roi with the label, number or code of one",
        path=path,
        quoted=", ".join(f"{printable(one[1])} ({one[0]})" for one in names) or "none",
    )


def _names(segment: Dataset) -> tuple[str, ...]:
    """Number, label, description, and code and meaning of the type of a segment (PS3.3 C.8.20.4)."""
    kind = (segment.get("SegmentedPropertyTypeCodeSequence") or [Dataset()])[0]
    texts = [segment.get("SegmentLabel"), segment.get("SegmentDescription"), kind.get("CodeValue")]
    return str(int(segment.SegmentNumber)), *(str(text or "") for text in (*texts, kind.get("CodeMeaning")))


def _chosen(segments: Sequence[Dataset], names: Sequence[tuple[str, ...]], roi: str) -> set[int]:
    """Numbers of the segments that are meant."""
    if matching := matching_names([[name for name in one if name] for one in names], roi):
        return {int(names[index][0]) for index in matching}
    neoplasms = [
        int(one[0])
        for one, segment in zip(names, segments, strict=True)
        if one[3] in _NEOPLASM and segment.get("SegmentAlgorithmType") != "AUTOMATIC"
    ]
    return set(neoplasms) if roi == DEFAULT_ROI and len(neoplasms) == 1 else set()


def _segments(path: Path, dataset: Dataset, chosen: set[int]) -> Segments:
    pixels = _pixels(dataset)
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    frames = dataset.PerFrameFunctionalGroupsSequence
    if len(frames) != len(pixels):
        raise UnusableImageError(f"it describes {len(frames)} frames and holds {len(pixels)}")
    kind = str(dataset.SegmentationType)
    places: dict[float, tuple[np.ndarray, np.ndarray]] = {}
    orientation, spacing, measured = _plane_of(frames[0], shared)
    normal = np.cross(orientation[:3], orientation[3:])
    for frame, values in zip(frames, pixels, strict=True):
        if (
            kind != "LABELMAP"
            and int(_group(frame, shared, "SegmentIdentification").ReferencedSegmentNumber) not in chosen
        ):
            continue
        other, its_spacing, _ = _plane_of(frame, shared)
        if np.abs(other - orientation).max() > SAME_DIRECTION or not np.allclose(its_spacing, spacing, rtol=1e-4):
            raise UnusableImageError("its frames have several orientations or pixel spacings")
        position = decimals(_group(frame, shared, "PlanePosition"), "ImagePositionPatient")
        if position.shape != (3,) or not (np.abs(position) < FARTHEST_MM).all():
            raise UnusableImageError("the position of a frame is not valid")
        if kind == "LABELMAP":
            tumour = np.isin(values, sorted(chosen))
        elif kind == "FRACTIONAL":
            tumour = values >= LEAST_SHARE * int(dataset.MaximumFractionalValue)
        else:
            tumour = values != 0
        place = round(float(position @ normal) / _SAME_MM) * _SAME_MM
        before = places.get(place)
        places[place] = position, tumour if before is None else tumour | before[1]
    if not places:
        raise UnusableImageError("the segment has no frame")
    heights = sorted(places)
    gap, (between, thick) = float(np.diff(heights).min(initial=np.inf)), measured
    thickness = between if between > 0 else min(gap, thick if thick > 0 else np.inf)
    return Segments(
        path,
        planes=np.stack([places[height][1] for height in heights]),
        positions_mm=np.stack([places[height][0] for height in heights]),
        row_cosine=orientation[:3],
        column_cosine=orientation[3:],
        pixel_spacing_mm=(float(spacing[0]), float(spacing[1])),
        thickness_mm=thickness if np.isfinite(thickness) else float(max(spacing)),
        is_spaced=between > 0,
        frame_of_reference_uid=str(dataset.get("FrameOfReferenceUID") or ""),
    )


def _group(frame: Dataset, shared: Dataset, name: str) -> Dataset:
    """The item of a functional group of a frame, its own or the one that all share (PS3.3 C.7.6.16)."""
    for groups in (frame, shared):
        if items := groups.get(f"{name}Sequence"):
            return items[0]
    raise UnusableImageError(f"a frame has no {name}Sequence")


def _plane_of(
    frame: Dataset, shared: Dataset
) -> tuple[Float64[np.ndarray, "6"], Float64[np.ndarray, "2"], tuple[float, float]]:
    """Cosines, pixel spacing, and SpacingBetweenSlices and SliceThickness (0 where they are not given)."""
    measures = _group(frame, shared, "PixelMeasures")
    orientation = decimals(_group(frame, shared, "PlaneOrientation"), "ImageOrientationPatient")
    spacing = decimals(measures, "PixelSpacing")
    if orientation.shape != (6,) or spacing.shape != (2,):
        raise UnusableImageError("orientation or pixel spacing is incomplete")
    axes = orientation.reshape(2, 3)
    if not (np.abs(axes @ axes.T - np.eye(2)).max() < SAME_DIRECTION and (spacing > 0).all()):  # False for NaN too
        raise UnusableImageError("orientation or pixel spacing is not valid")
    between, thick = (
        abs(float(next(iter(decimals(measures, keyword)), 0.0)))
        for keyword in ("SpacingBetweenSlices", "SliceThickness")
    )
    return (axes / np.linalg.norm(axes, axis=1, keepdims=True)).ravel(), spacing, (between, thick)


def _pixels(dataset: Dataset) -> Shaped[np.ndarray, "frames rows columns"]:
    """The stored values of all frames, once their number has been compared with the size of the data."""
    (rows, columns), count = matrix(dataset), int(dataset.get("NumberOfFrames") or 1)
    bits = int(dataset.BitsAllocated)
    if not 0 < count * rows * columns <= MOST_VOXELS or bits not in (1, 8, 16):
        raise UnusableImageError(f"it claims {count} frames of {rows} x {columns} pixels of {bits} bits")
    if int(dataset.get("SamplesPerPixel") or 1) != 1:
        raise UnusableImageError("its frames are not grey")
    syntax = dataset.file_meta.get("TransferSyntaxUID") or ImplicitVRLittleEndian
    if not syntax.is_encapsulated:
        expected = -(-count * rows * columns * bits // 8)
        if len(dataset.PixelData) < expected:
            raise UnusableImageError(f"it holds {len(dataset.PixelData)} bytes of pixels, its header says {expected}")
        if bits == 1:
            packed = np.frombuffer(dataset.PixelData, np.uint8, expected)
            return np.unpackbits(packed, bitorder="little", count=count * rows * columns).reshape(count, rows, columns)
    else:
        if bits == 1:
            raise UnusableImageError("its frames of one bit are compressed, which is not supported")
        for stream in generate_frames(dataset.PixelData, number_of_frames=count):
            check_encoded(rows, columns, syntax, stream)
        if syntax == RLELossless:
            dataset.pixel_array_options(decoding_plugin="pydicom")  # as for slices
    return np.asarray(dataset.pixel_array).reshape(count, rows, columns)
