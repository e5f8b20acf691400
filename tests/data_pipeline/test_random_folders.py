"""Random folders of CT, PET and RTSTRUCTs against an oracle of which contour belongs to which slice.

Every CT either gets exactly the mask that its contours were drawn for, or is refused with a reason. The oracle knows
the drawings before they are written as DICOM, and fills them by ray casting (`shapes.inside`).
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from data_pipeline.contours.rtstruct import Contour
from data_pipeline.dicom.discovery import discover
from data_pipeline.dicom.geometry import CTGeometry
from data_pipeline.errors import InputError
from data_pipeline.preprocessing.fingerprints import groups_of_copies
from data_pipeline.preprocessing.patient import prepare_patient
from data_pipeline.settings import DatasetSettings
from tests.data_pipeline.dicom_files import Written, contour, save, uid, write_rtstruct, write_series
from tests.data_pipeline.shapes import inside

SETTINGS = DatasetSettings(image_size=16)
SIZE = 14
PET = dict(Modality="PT", SOPClassUID="1.2.840.10008.5.1.4.1.1.128")


@dataclass
class Folder:
    """A folder under construction, and what must come out of it.

    Attributes:
        masks: by (PatientID, SeriesInstanceUID), the mask that each CT was contoured for.
        refusal: words of which one must be in the reason if a contoured CT is refused; empty if none may be.
        twins: Patient IDs of one person.
    """

    path: Path
    generator: np.random.Generator
    masks: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)
    refusal: tuple[str, ...] = ()
    twins: list[str] = field(default_factory=list)


def series_of(folder: Folder, patient: int, number: int, **elements) -> Written:
    depth = int(folder.generator.integers(5, 8))
    stored = folder.generator.integers(0, 2000, (depth, SIZE, SIZE)).astype(np.uint16)
    stored[:, 2:12, 2:12] = folder.generator.integers(1000, 1100, (depth, 10, 10))  # contours must be in tissue
    return write_series(folder.path / f"{patient}/{number}", patient=patient, series=number, stored=stored, **elements)


def geometry_of(series: Written) -> CTGeometry:
    row, column = np.array(series.orientation[:3]), np.array(series.orientation[3:])
    shape = (len(series.uids), SIZE, SIZE)
    return CTGeometry(series.positions, row, column, series.spacing[1:], shape, series.uids, series.frame_uid)


def drawing(folder: Folder, series: Written, slices, referenced: bool = True) -> tuple[list[Dataset], np.ndarray]:
    """Triangles to pentagons on some slices, a little off their plane, in random order; and their mask."""
    generator, geometry = folder.generator, geometry_of(series)
    mask, items = np.zeros(geometry.shape, bool), []
    for index in slices:
        angles = np.sort(generator.uniform(0, 2 * np.pi, generator.integers(3, 6)))
        radius = generator.uniform(3, 4.5)
        outline = 7 + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        points = np.round(series.points(index, outline) + generator.uniform(-1, 1) * np.eye(3)[2], 4)
        items.append(contour(points, series.uids[index] if referenced else None))
        mask[index] |= inside([Contour(points, "", None, "", 0)], geometry, index)[0]
    return [items[index] for index in generator.permutation(len(items))], mask


def some_slices(folder: Folder, series: Written) -> np.ndarray:
    """With gaps."""
    depth = len(series.uids)
    return np.sort(folder.generator.choice(depth, folder.generator.integers(2, depth), replace=False))


def plain(folder: Folder, patient: int, **options) -> tuple[Written, Path]:
    """A CT and its RTSTRUCT, with another organ beside the tumour."""
    series = series_of(folder, patient, 1)
    tumour, mask = drawing(folder, series, some_slices(folder, series), options.pop("referenced", True))
    other, _ = drawing(folder, series, some_slices(folder, series))
    rois = {"Lung": other, "GTV-1": tumour} if folder.generator.integers(2) else {"GTV-1": tumour, "Lung": other}
    path = write_rtstruct(folder.path / f"{patient}/rs", rois, series, patient=patient, **options)
    folder.masks[f"PATIENT-{patient}", series.series_uid] = mask
    return series, path


def one_number(folder: Folder, patient: int) -> None:
    def edit(dataset):
        dataset.StructureSetROISequence[1].ROINumber = 1
        if folder.generator.integers(2):
            dataset.ROIContourSequence[1].ReferencedROINumber = 1

    plain(folder, patient, edit=edit)
    folder.refusal += ("ROI number",)


def one_name(folder: Folder, patient: int) -> None:
    """Two ROIs that match are merged."""
    series = series_of(folder, patient, 1)
    (one, first), (two, second) = (drawing(folder, series, some_slices(folder, series)) for _ in range(2))
    path = write_rtstruct(folder.path / f"{patient}/rs", {"GTV-1": one, "other": two}, series, patient=patient)
    dataset = pydicom.dcmread(path)
    dataset.StructureSetROISequence[1].ROIName = "GTV-1"
    save(dataset, path)
    folder.masks[f"PATIENT-{patient}", series.series_uid] = first | second


def on_the_pet(folder: Folder, patient: int) -> None:
    """Drawn on the PET of a PET/CT: the CT has no contours of its own."""
    series_of(folder, patient, 1)
    pet = series_of(folder, patient, 2, **PET)
    items, _ = drawing(folder, pet, some_slices(folder, pet))
    write_rtstruct(folder.path / f"{patient}/rs", {"GTV-1": items}, pet, patient=patient)


def beside_a_pet(folder: Folder, patient: int) -> None:
    plain(folder, patient)
    series_of(folder, patient, 2, **PET)


def two_cts(folder: Folder, patient: int) -> None:
    """Two CTs in one frame of reference, each with contours of its own."""
    plain(folder, patient)
    second = series_of(folder, patient, 2)
    items, mask = drawing(folder, second, some_slices(folder, second))
    write_rtstruct(folder.path / f"{patient}/second rs", {"GTV-1": items}, second, patient=patient)
    folder.masks[f"PATIENT-{patient}", second.series_uid] = mask


def foreign_uids(folder: Folder, patient: int) -> None:
    """References that exist nowhere: the frame of reference decides, and the position of each contour."""

    def edit(dataset):
        (study,) = dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence
        study.RTReferencedSeriesSequence[0].SeriesInstanceUID = uid(99, 1)
        for roi in dataset.ROIContourSequence:
            for index, item in enumerate(roi.ContourSequence):
                item.ContourImageSequence[0].ReferencedSOPInstanceUID = uid(99, 2, index)

    plain(folder, patient, edit=edit)
    if folder.generator.integers(2):  # then a second series in the frame leaves it open
        series_of(folder, patient, 2, **(PET if folder.generator.integers(2) else {}))
        folder.refusal += ("no RTSTRUCT refers to this CT",)


def without_references(folder: Folder, patient: int) -> None:
    plain(folder, patient, referenced=False)


def linked(folder: Folder, patient: int) -> None:
    plain(folder, patient)
    store = folder.path.parent / f"store-{patient}"
    (folder.path / f"{patient}").rename(store)
    (folder.path / f"{patient}").symlink_to(store)
    (store / "loop").symlink_to(folder.path)


def copied(folder: Folder, patient: int) -> None:
    series, path = plain(folder, patient)
    for one in (path, *folder.generator.choice(list(series.files), 2, replace=False)):
        shutil.copy(one, folder.path / f"copy of {patient} {Path(one).name}")


def under_two_ids(folder: Folder, patient: int) -> None:
    series, path = plain(folder, patient)
    for number, one in enumerate([*series.files, path]):
        dataset = pydicom.dcmread(one)
        dataset.PatientID = f"TWIN-{patient}"
        save(dataset, folder.path / f"twin-{patient}/{number}")
    folder.masks[f"TWIN-{patient}", series.series_uid] = folder.masks[f"PATIENT-{patient}", series.series_uid]
    folder.twins += [f"PATIENT-{patient}", f"TWIN-{patient}"]


CASES: tuple[Callable[[Folder, int], object], ...] = (
    plain,
    one_number,
    one_name,
    on_the_pet,
    beside_a_pet,
    two_cts,
    foreign_uids,
    without_references,
    linked,
    copied,
    under_two_ids,
)


@pytest.mark.parametrize("seed", [*range(16), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(16, 300))])
def test_every_ct_gets_its_own_mask_or_a_reason(tmp_path: Path, seed: int) -> None:
    generator = np.random.default_rng(seed)
    results = {}
    (tmp_path / "in").mkdir()
    folder = Folder(tmp_path / "in", generator)
    cases = (CASES[seed % len(CASES)], CASES[int(generator.integers(len(CASES)))])
    for patient, case in enumerate(cases, 1):
        case(folder, patient)
    found = discover(folder.path)
    fingerprints = {}
    for series in found.series:
        key = (series.patient_id, series.series_uid)
        try:
            prepared = prepare_patient(series, SETTINGS)
        except InputError as error:
            results[key] = str(error)
            allowed = folder.refusal if key in folder.masks else ("no RTSTRUCT refers to this CT",)
            if key in folder.masks and not folder.masks[key].any():
                allowed += ("contours gives a voxel",)
            assert any(words in str(error) for words in allowed), error
            continue
        np.testing.assert_array_equal(prepared.ct_mask, folder.masks[key])
        fingerprints[series.patient_id] = prepared.fingerprint
        results[key] = "equal"
    assert set(results) >= set(folder.masks)
    assert [name for group in groups_of_copies(fingerprints) for name in group] == folder.twins
    for rejection in found.rejected:
        assert rejection.reason and "\n" not in rejection.reason
