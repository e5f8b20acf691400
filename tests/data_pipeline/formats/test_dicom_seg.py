"""DICOM Segmentations of every kind give the mask that was written, and are resampled by the stated rule."""

import re
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.sr.codedict import codes
from pydicom.uid import JPEGLSLossless, RLELossless

from data_pipeline.dicom.discovery import CTSeries, discover
from data_pipeline.dicom.volume import CTVolume, read_volume
from data_pipeline.errors import InputError
from data_pipeline.formats.dicom_seg import read_segments
from tests.data_pipeline.formats.segmentations import write_seg
from tests.data_pipeline.formats.volumes import chest, write_dicom

SHAPE = (9, 20, 22)


@pytest.fixture
def ct(tmp_path: Path) -> tuple[CTVolume, CTSeries]:
    write_dicom(tmp_path, chest(), with_rtstruct=False)
    (series,) = discover(tmp_path).series
    return read_volume(series), series


def random_mask(seed: int, share: float = 0.3) -> np.ndarray:
    mask = np.random.default_rng(seed).random(SHAPE) < share
    mask[[0, 4]] = False
    return mask


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("BINARY", {}),
        ("BINARY", {"omit_empty_frames": False}),
        ("FRACTIONAL", {"fractional_type": "PROBABILITY"}),
        ("FRACTIONAL", {"fractional_type": "OCCUPANCY", "transfer_syntax_uid": RLELossless}),
        ("FRACTIONAL", {"fractional_type": "OCCUPANCY", "transfer_syntax_uid": JPEGLSLossless}),
        ("LABELMAP", {}),
        ("LABELMAP", {"transfer_syntax_uid": RLELossless}),
    ],
)
def test_every_kind_gives_the_mask_back(tmp_path: Path, ct, kind: str, options: dict) -> None:
    volume, series = ct
    first, second = random_mask(1), random_mask(2)
    if kind == "LABELMAP":
        second &= ~first
    masks = {"GTV-1": first, "Lung": second}
    if kind == "FRACTIONAL":  # half of the largest value is in, a little less is out
        levels = np.random.default_rng(3).choice([0.5, 0.6, 1.0], SHAPE)
        masks = {name: np.where(mask, levels, np.where(levels > 0.9, 0.49, 0.0)) for name, mask in masks.items()}
    else:
        masks = {name: mask.astype(np.uint8) for name, mask in masks.items()}
    path = write_seg(tmp_path / "seg.dcm", volume, series.files, masks, kind, **options)
    for roi, expected in (("gtv-1", first), ("1", first), ("lung", second), ("2", second), (".*", first | second)):
        mask, notes = read_segments(path, roi).on_grid(volume.geometry)
        np.testing.assert_array_equal(mask, expected)
        assert notes == ()
    (found,) = discover(tmp_path).series
    assert found.segs == (path,) and found.mask_files == (path,)


def test_a_segment_goes_by_code_and_by_type(tmp_path: Path, ct) -> None:
    volume, series = ct
    masks = {"anything": random_mask(1).astype(np.uint8)}
    path = write_seg(tmp_path / "a.dcm", volume, series.files, masks)
    for roi in ("108369006", "Neoplasm", "neo.*", r"gtv[-_ ]?1"):
        assert read_segments(path, roi).planes.any()
    for name, options in {"b": {"algorithm": "AUTOMATIC"}, "c": {"typed": codes.SCT.Lung}}.items():
        path = write_seg(tmp_path / name, volume, series.files, masks, **options)
        with pytest.raises(InputError, match=r"no segment matches .* use --roi with the label.*: anything \(1\)"):
            read_segments(path)


def test_another_grid_is_resampled_to_the_nearest_neighbour(tmp_path: Path, ct) -> None:
    """Against a loop over voxels: the value of the voxel of the segmentation in which the centre is."""
    volume, _ = ct
    place = {"spacing": (1.7, 1.1, 1.3), "origin": (-21.3, 28.1, 7.9), "series": 2}
    write_dicom(tmp_path / "other", chest(12, 14, 13), with_rtstruct=False, **place)
    other = next(one for one in discover(tmp_path).series if len(one.files) == 12)
    fine = read_volume(other)
    mask = np.random.default_rng(0).random((12, 14, 13)) < 0.4
    mask[[2, 3, 8]] = False  # frames that are left out leave no trace in their neighbours
    path = write_seg(tmp_path / "seg.dcm", fine, other.files, {"GTV-1": mask.astype(np.uint8)})
    got, notes = read_segments(path).on_grid(volume.geometry)
    assert notes == ("the SEG is on another grid; it was resampled to the nearest neighbour",)
    grid = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1).reshape(-1, 3).astype(float)
    index = fine.geometry.to_index(volume.geometry.to_patient(grid))
    nearest = np.rint(index).astype(int)
    inside = ((nearest >= 0) & (nearest < mask.shape)).all(axis=1)
    expected = np.zeros(len(grid), bool)
    expected[inside] = mask[tuple(nearest[inside].T)]
    safe = (np.abs(index - nearest) < 0.499).all(axis=1)  # not on the border of two voxels
    assert safe.mean() > 0.9
    np.testing.assert_array_equal(got.ravel()[safe], expected[safe])


@pytest.mark.parametrize("slices", [[5], [2, 4], [2, 6], [3, 4]])
def test_a_thickness_above_the_distance_of_slices_reaches_no_other_slice(tmp_path: Path, ct, slices: list) -> None:
    """Slices of 6 mm that overlap by half, in a file that gives SliceThickness alone and no empty frames."""
    volume, series = ct
    mask = np.zeros(SHAPE, np.uint8)
    mask[slices, 5:9, 5:9] = 1
    path = write_seg(tmp_path / "seg.dcm", volume, series.files, {"GTV-1": mask})
    stored = pydicom.dcmread(path)
    measures = stored.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    del measures.SpacingBetweenSlices
    measures.SliceThickness = 6
    stored.save_as(path)
    got, notes = read_segments(path).on_grid(volume.geometry)
    np.testing.assert_array_equal(got, mask)
    assert notes == ()


def test_what_cannot_be_placed_is_refused(tmp_path: Path, ct) -> None:
    volume, series = ct
    mask = {"GTV-1": random_mask(1).astype(np.uint8)}
    path = write_seg(tmp_path / "seg.dcm", volume, series.files, mask)

    def spoilt(name: str, edit) -> Path:
        dataset = pydicom.dcmread(path)
        edit(dataset)
        dataset.save_as(tmp_path / name)
        return tmp_path / name

    def far(dataset) -> None:
        for frame in dataset.PerFrameFunctionalGroupsSequence:
            frame.PlanePositionSequence[0].ImagePositionPatient = [500, 500, 500]

    def shorten(dataset) -> None:
        dataset.PixelData = dataset.PixelData[:-20]

    def many(dataset) -> None:
        dataset.NumberOfFrames = 2_000_000_000

    def strip(dataset) -> None:
        del dataset.PerFrameFunctionalGroupsSequence

    for edit, message in (
        (far, "the mask is empty on the grid"),
        (lambda d: setattr(d, "FrameOfReferenceUID", "1.2.3"), "another frame"),
    ):
        with pytest.raises(InputError, match=message):
            read_segments(spoilt("placed.dcm", edit)).on_grid(volume.geometry)
    for edit, message in ((shorten, "bytes of pixels"), (many, "it claims"), (strip, "not a readable SEG")):
        with pytest.raises(InputError, match=message):
            read_segments(spoilt("read.dcm", edit))
    with pytest.raises(InputError, match="not a readable SEG"):
        read_segments(series.files[0])
    (tmp_path / "short.dcm").write_bytes(path.read_bytes()[:700])
    with pytest.raises(InputError, match="SEG"):
        read_segments(tmp_path / "short.dcm")


def test_highdicom_reads_the_same_mask(tmp_path: Path, ct) -> None:
    volume, series = ct
    mask = np.zeros(SHAPE, np.uint8)
    mask[2:7, 4:9, 5:11] = 1
    path = write_seg(tmp_path / "seg.dcm", volume, series.files, {"GTV-1": mask})
    array = hd.seg.segread(path).get_volume(combine_segments=True).array
    got, _ = read_segments(path).on_grid(volume.geometry)
    np.testing.assert_array_equal(got[2:7].sum(axis=(1, 2)), np.asarray(array).sum(axis=(1, 2)))
    assert re.match(r"\d", hd.__version__)
