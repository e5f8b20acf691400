"""One phantom in every format gives the same mask and the same arrays; RTSTRUCT and SEG are compared."""

import json
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.dicom.discovery import discover
from data_pipeline.dicom.volume import read_volume
from data_pipeline.errors import InputError
from data_pipeline.formats.scans import find_scans
from data_pipeline.phantom.phantom import write_phantoms
from data_pipeline.preprocessing.patient import PreparedPatient, prepare_patient
from data_pipeline.settings import DatasetSettings
from tests.data_pipeline.formats.segmentations import write_seg
from tests.data_pipeline.formats.volumes import box, chest, save, write_dicom

SETTINGS = DatasetSettings(image_size=64)


def only(source: Path, settings: DatasetSettings = SETTINGS) -> PreparedPatient:
    (scan,) = find_scans(source).series
    return prepare_patient(scan, settings)


def test_one_phantom_in_five_formats(tmp_path: Path) -> None:
    (folder,) = write_phantoms(tmp_path / "dicom", count=1, slices=12, matrix=128, workers=1)
    expected = only(folder)
    (series,) = discover(folder).series
    volume, mask = read_volume(series), expected.ct_mask.astype(np.uint8)
    spacing, origin = volume.geometry.spacing_mm, volume.geometry.positions_mm[0]
    place = {"spacing": spacing, "origin": origin}
    seg = tmp_path / "seg"
    for file in series.files:
        (seg / file.name).parent.mkdir(parents=True, exist_ok=True)
        (seg / file.name).write_bytes(file.read_bytes())
    write_seg(seg / "seg.dcm", volume, series.files, {"Lung": 1 - mask, "GTV-1": mask})
    for suffix, axes in ((".nii.gz", "RAS"), (".nrrd", "PIR"), (".mha", "LPS")):
        save(tmp_path / suffix / f"image{suffix}", volume.hounsfield, axes=axes, **place)
        save(tmp_path / suffix / f"mask{suffix}", mask, axes=axes, **place)
        (tmp_path / suffix / "table.csv").write_text(f"image,mask,patient\nimage{suffix},mask{suffix},P\n")
    save(tmp_path / "msd" / "imagesTr" / "lung_001.nii.gz", volume.hounsfield, axes="LAS", **place)
    save(tmp_path / "msd" / "labelsTr" / "lung_001.nii.gz", mask, axes="LAS", **place)
    (tmp_path / "msd" / "dataset.json").write_text(json.dumps({"labels": {"0": "background", "1": "cancer"}}))
    sources = {"seg": seg, "msd": tmp_path / "msd"}
    sources |= {suffix: tmp_path / suffix / "table.csv" for suffix in (".nii.gz", ".nrrd", ".mha")}
    assert expected.ct_mask.any()
    for name, source in sources.items():
        got = only(source)
        np.testing.assert_array_equal(got.ct_mask, expected.ct_mask, name)
        np.testing.assert_array_equal(got.mask, expected.mask, name)
        np.testing.assert_array_equal(got.image, expected.image, name)
        assert got.spacing_mm == pytest.approx(expected.spacing_mm, rel=1e-5)
        assert got.fingerprint.slices == expected.fingerprint.slices  # the same person, whatever the format
        assert got.record.tumour_runs == expected.record.tumour_runs
        assert got.record.contours.mask_centroid_mm == pytest.approx(
            expected.record.contours.mask_centroid_mm, abs=1e-2
        )
        assert got.record.mask_source == ("SEG" if name == "seg" else "labels")
    assert expected.record.mask_source == "RTSTRUCT"


def test_rtstruct_and_seg_that_differ_are_reported_with_their_dice(tmp_path: Path) -> None:
    write_dicom(tmp_path, chest())
    (series,) = discover(tmp_path).series
    volume, mask = read_volume(series), box((9, 20, 22))
    write_seg(tmp_path / "seg.dcm", volume, series.files, {"GTV-1": mask})
    assert only(tmp_path).record.notes == () and only(tmp_path).record.mask_source == "RTSTRUCT"
    other = np.roll(mask, 1, axis=2)
    write_seg(tmp_path / "seg.dcm", volume, series.files, {"GTV-1": other})
    dice = 2 * (mask & other).sum() / (mask.sum() + other.sum())
    assert only(tmp_path).record.notes == (
        f"the RTSTRUCT and the SEG of this CT differ: Dice {dice:.4f}; the RTSTRUCT is used",
    )
    write_seg(tmp_path / "seg.dcm", volume, series.files, {"Lung": other}, algorithm="AUTOMATIC")
    (note,) = only(tmp_path).record.notes
    assert note.startswith("the SEG of this CT is not compared with the RTSTRUCT: no segment matches")
    (got,) = (only(tmp_path, DatasetSettings(image_size=64, roi="lung")),)
    assert got.record.mask_source == "SEG" and np.array_equal(got.ct_mask, other.astype(bool))
    assert got.record.notes[0].startswith("the RTSTRUCT of this CT cannot be used, so the SEG is: no ROI matches")


def test_masks_that_cannot_be_used(tmp_path: Path) -> None:
    image = save(tmp_path / "imagesTr" / "a.nii.gz", chest())
    with pytest.raises(InputError, match="no mask belongs to this CT"):
        only(tmp_path)
    for mask, place, message in (
        (box((9, 20, 22)) * 0, {}, "the mask is empty"),
        (box((9, 20, 22)), {"origin": (-20, 30, 50)}, "another grid"),
        (np.arange(9 * 20 * 22).reshape(9, 20, 22) % 440 < 40, {}, "of the tumour mask is air"),
    ):
        save(tmp_path / "labelsTr" / "a.nii.gz", mask.astype(np.uint8), **place)
        with pytest.raises(InputError, match=message) as error:
            only(tmp_path)
        assert str(image.parent) not in error.value.reason
