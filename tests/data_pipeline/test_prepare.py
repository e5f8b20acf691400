"""DICOM to data set: the builder, its account, its loaders, and what happens to input that cannot be used."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import tensorflow_datasets as tfds

from data_pipeline.contours.mask import mask_from_contours
from data_pipeline.contours.rtstruct import read_contours
from data_pipeline.dicom.discovery import discover
from data_pipeline.dicom.volume import read_volume
from data_pipeline.errors import InputError
from data_pipeline.loading import Dataset
from data_pipeline.nsclc_radiomics import Builder
from data_pipeline.nsclc_radiomics.report import table_2
from data_pipeline.prepare import index_file, prepare_dataset
from data_pipeline.preprocessing.network_grid import mask_to_network_grid
from data_pipeline.preprocessing.patches import patch_starts
from data_pipeline.preprocessing.patient import prepare_image
from data_pipeline.settings import DatasetSettings, PrepareOptions, Sampling
from data_pipeline.splits import write_split
from tests.data_pipeline.dicom_files import contour, write_rtstruct, write_series

DUMMY = Path(__file__).resolve().parents[2] / "data_pipeline" / "nsclc_radiomics" / "dummy_data"
SETTINGS = DatasetSettings(image_size=32)
ONE = PrepareOptions(workers=1)
KEEP = PrepareOptions(workers=1, keep_ids=True)
ALL = Sampling("all")
TISSUE = np.full((9, 12, 10), 1100, np.uint16)
TISSUE[:, :, 0] = 24  # air, as in every chest CT


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # the pseudonyms' key is drawn there
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory):
    data_dir = tmp_path_factory.mktemp("prepared")
    folder, account = prepare_dataset(DUMMY, data_dir, SETTINGS, KEEP)
    return data_dir, folder, account


@pytest.mark.parametrize("intensity", ["slice_minmax", "hu_window"])
def test_examples_are_what_the_dicom_holds(intensity, tmp_path: Path) -> None:
    settings = DatasetSettings(intensity=intensity, image_size=32)
    prepare_dataset(DUMMY, tmp_path, settings, KEEP)
    data = Dataset(tmp_path)
    assert (data.intensity, data.image_size) == (intensity, 32)
    found = {patient.patient_id: patient for patient in discover(DUMMY).series}
    for split, (name,) in data.account.splits.items():
        (example,) = data.patients(split)
        volume = read_volume(found[name])
        mask, _ = mask_from_contours(read_contours(found[name].rtstructs[0]), volume.geometry)
        np.testing.assert_array_equal(example.image, prepare_image(volume, intensity, 32))
        np.testing.assert_array_equal(example.ct_mask, mask)
        np.testing.assert_array_equal(example.mask, mask_to_network_grid(mask, 32))
        assert example.spacing_mm == pytest.approx(volume.geometry.spacing_mm)
        starts = patch_starts(mask.any(axis=(1, 2)), "tumour_run")  # pyright: ignore[reportArgumentType]
        patches = list(data.patches(split))
        assert len(patches) == len(starts) == data.patch_count(split)
        for start, (image, patch_mask) in zip(starts, patches, strict=True):
            np.testing.assert_array_equal(image, example.image[start : start + 8])
            np.testing.assert_array_equal(patch_mask, example.mask[start : start + 8])


def test_a_data_set_holds_every_slice_once(prepared) -> None:
    data_dir, folder, account = prepared
    builder: Any = tfds.builder_from_directory(str(next(data_dir.glob("nsclc_radiomics/*/*/"))))
    for split, names in account.splits.items():
        slices = [(one["patient"].decode(), int(one["start"])) for one in builder.as_data_source(split)]
        assert slices == [(name, index) for name in names for index in range(account.patients[name].slices)]
        assert all(one["image"].shape == (1, 32, 32) for one in builder.as_data_source(split))
        assert all(one["image"].shape == (0, 32, 32) for one in builder.as_data_source(f"{split}_patients"))
    for entry in account.patients.values():
        lengths = [last - first + 1 for first, last in entry.tumour_runs]
        assert sum(lengths) == entry.tumour_slices == entry.holds_tumour.sum()
    assert '"tumour_runs"' in (folder / "report.json").read_text()


@pytest.mark.parametrize("selection", ["tumour_run", "all"])
def test_the_builder_makes_patches_for_users_of_tfds(selection, prepared, tmp_path: Path) -> None:
    data = Dataset(prepared[0])
    builder: Any = Builder(
        source=DUMMY, settings=SETTINGS, selection=selection, options=KEEP, data_dir=str(tmp_path),
        file_format="array_record",
    )  # fmt: skip
    builder.download_and_prepare()
    assert builder.account is not None and builder.account.dataset_sha256 == data.dataset_sha256
    for split in ("train", "validation", "test"):
        patches = data.patches(split, Sampling(selection))
        for (image, mask), example in zip(patches, builder.as_data_source(split), strict=True):
            np.testing.assert_array_equal(example["image"], image)
            np.testing.assert_array_equal(example["mask"], mask)
        (whole,), (patient,) = builder.as_data_source(f"{split}_patients"), data.patients(split)
        np.testing.assert_array_equal(whole["image"], patient.image)
        np.testing.assert_array_equal(whole["ct_mask"], patient.ct_mask)
    with pytest.raises(InputError, match=r"holds the patches of the TFDS builder.*rdunet prepare SOURCE"):
        Dataset(tmp_path).patch_count("train")


def test_the_builder_s_first_config_is_of_patches() -> None:
    assert [config.name for config in Builder.BUILDER_CONFIGS[::4]] == ["slice_minmax_256_patches", "slice_minmax_256"]


def test_the_account_counts_slices_and_contours(prepared) -> None:
    _, folder, account = prepared
    counts = table_2(account)
    records = account.patients
    assert sum(row["patients"] for row in counts.values()) == len(records) == 3
    assert sum(row["tumour_slices"] + row["other_slices"] for row in counts.values()) == 30
    for record in records.values():
        contours = record.contours
        # pixels of 14 mm: some end of a tumour slips between the pixel centres, and is accounted for
        assert contours.used + len(contours.rejected) == contours.total
        assert contours.used >= record.tumour_slices > 0
    report = json.loads((folder / "report.json").read_text())
    assert report["patients"] == json.loads(json.dumps(account.to_json()["patients"]))
    assert Dataset(folder.parents[2]).account == account
    assert "26951" in (folder / "report.md").read_text()  # the paper's count, to compare with


@pytest.fixture(scope="module")
def all_train(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The three patients of 10 slices, all for training."""
    folder = tmp_path_factory.mktemp("all_train")
    prepare_dataset(DUMMY, folder, replace(SETTINGS, test_share=0, validation_share=0), KEEP)
    return Dataset(folder)


def test_batches_are_shuffled_by_epoch_and_resume_anywhere(all_train: Dataset) -> None:
    data = all_train
    assert data.patch_count("train", ALL) == 9  # 3 patients of 10 slices

    def take(start: int, count: int, seed: int = 0) -> list[bytes]:
        batches = data.batches("train", batch_size=2, seed=seed, start=start, sampling=ALL)
        return [np.ascontiguousarray(next(batches)["image"]).tobytes() for _ in range(count)]

    twelve = take(0, 12)
    assert take(5, 7) == twelve[5:]
    assert take(0, 12) == twelve
    assert twelve[:4] != twelve[4:8]  # another order in the second epoch (4 whole batches of 9 patches)
    assert take(0, 4, seed=1) != twelve[:4]
    batch = next(data.batches("train", batch_size=2, seed=0))
    assert batch["image"].shape == batch["mask"].shape == (2, 8, 32, 32, 1)
    with pytest.raises(InputError, match="9 patches"):
        data.batches("train", batch_size=10, seed=0, sampling=ALL)


@pytest.mark.parametrize("depth", [4, 8, 9])
def test_a_batch_names_its_patients_and_slices(depth: int, all_train: Dataset) -> None:
    """Patches of any depth are cut from one data set, each once an epoch."""
    data, sampling, count = all_train, replace(ALL, depth=depth), 10 - depth + 1
    whole = {one.name: one for one in data.patients("train")}
    batches = data.batches("train", batch_size=3, seed=0, sampling=sampling)
    seen = set()
    for batch in (next(batches) for _ in range(count)):
        assert set(batch) == {"image", "mask", "patient", "start"} and batch["start"].dtype == np.int32
        assert batch["image"].dtype == batch["mask"].dtype == np.uint8
        for name, start, image, mask in zip(
            *(batch[key] for key in ("patient", "start", "image", "mask")), strict=True
        ):
            slices = slice(start, start + depth)
            np.testing.assert_array_equal(image[..., 0], whole[name].image[slices])
            np.testing.assert_array_equal(mask[..., 0], whole[name].mask[slices])
            seen.add((str(name), int(start)))
    assert seen == {(name, start) for name in data.patient_names("train") for start in range(count)}
    assert data.patch_count("train", replace(ALL, depth=11)) == 0
    assert data.patient_names("train") == tuple(whole) and data.patient_names("test") == ()


def test_a_validation_patient_shorter_than_a_patch_is_kept_whole(tmp_path: Path) -> None:
    for number in range(3):
        stored = (TISSUE if number else TISSUE[:5]) + np.uint16(number)  # equal slices are copies of one person
        series = write_series(tmp_path / "in" / f"{number}", patient=number, stored=stored)
        square = contour(series.points(2, [(3, 3 + number), (3, 8), (8, 8), (8, 3)]))
        write_rtstruct(tmp_path / "in" / f"{number}" / "rs", {"GTV-1": [square]}, series)
    names = sorted(f"PATIENT-{number}" for number in range(3))
    frozen = tmp_path / "split.json"
    write_split({"train": names[1:2], "validation": names[:1], "test": names[2:]}, frozen)
    prepare_dataset(tmp_path / "in", tmp_path / "out", SETTINGS, replace(KEEP, split_file=frozen))
    data = Dataset(tmp_path / "out")
    (short,) = data.patients("validation")
    assert (data.patient_count("validation"), short.image.shape[0]) == (1, 5)
    assert (data.patch_count("validation"), list(data.patches("validation"))) == (0, [])
    assert data.patch_count("validation", Sampling(depth=5)) == 1
    with pytest.raises(InputError, match="0 patches in the split 'validation'"):
        data.batches("validation", batch_size=1, seed=0)


def test_patients_are_under_pseudonyms_unless_asked_otherwise(tmp_path: Path) -> None:
    _, account = prepare_dataset(DUMMY, tmp_path, SETTINGS, ONE)
    assert all(name.startswith("P-") for name in account.patients)
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and "home" not in path.parts)
    assert b"PHANTOM" not in written


def test_one_broken_patient_is_reported_and_the_others_are_prepared(tmp_path: Path) -> None:
    source = shutil.copytree(DUMMY, tmp_path / "source")
    ct = next(patient for patient in discover(source).series if patient.patient_id == "PHANTOM-002")
    for path in ct.files:
        path.write_bytes(path.read_bytes()[:-600])  # the pixels' end is missing
    _, account = prepare_dataset(source, tmp_path / "data", SETTINGS, KEEP)
    assert list(account.patients) == ["PHANTOM-001", "PHANTOM-003"]
    (rejection,) = account.rejected
    assert rejection.patient == "PHANTOM-002"
    assert str(tmp_path) not in rejection.reason


def test_a_mask_outside_the_body_is_rejected(tmp_path: Path) -> None:
    source = shutil.copytree(DUMMY, tmp_path / "source")
    ct = next(patient for patient in discover(source).series if patient.patient_id == "PHANTOM-003")
    for path in ct.files:  # the scanner saw nothing but air
        dataset = pydicom.dcmread(path)
        dataset.PixelData = np.full((dataset.Rows, dataset.Columns), 24, np.uint16).tobytes()
        dataset.save_as(path)
    _, account = prepare_dataset(source, tmp_path / "data", SETTINGS, KEEP)
    assert list(account.patients) == ["PHANTOM-001", "PHANTOM-002"]
    assert "is air" in account.rejected[0].reason


def rename_roi(source: Path) -> None:
    for patient in discover(source).series:
        for path in patient.rtstructs:
            dataset = pydicom.dcmread(path)
            for roi in dataset.StructureSetROISequence:
                roi.ROIName = roi.ROIName.replace("GTV-1", "GTV-2")
            dataset.save_as(path)


def remove_rtstructs(source: Path) -> None:
    for patient in discover(source).series:
        for path in patient.rtstructs:
            path.unlink()


def remove_all(source: Path) -> None:
    shutil.rmtree(source)
    source.mkdir()
    (source / "notes.txt").write_text("no DICOM here")


@pytest.mark.parametrize(
    ("spoil", "message"), [(remove_all, "DICOM"), (remove_rtstructs, "RTSTRUCT"), (rename_roi, "no ROI matches")]
)
def test_input_that_cannot_be_used_leaves_nothing_behind(spoil, message: str, tmp_path: Path) -> None:
    source = shutil.copytree(DUMMY, tmp_path / "source")
    spoil(source)
    with pytest.raises(InputError, match=message) as error:
        prepare_dataset(source, tmp_path / "data", SETTINGS, ONE)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "data").exists()


def test_a_data_set_is_not_overwritten_by_accident(prepared, tmp_path: Path) -> None:
    data_dir, folder, _ = prepared
    before = (folder / "report.json").read_bytes()
    with pytest.raises(InputError, match="--overwrite"):
        prepare_dataset(DUMMY, data_dir, SETTINGS, KEEP)
    assert (folder / "report.json").read_bytes() == before
    prepare_dataset(DUMMY, data_dir, SETTINGS, PrepareOptions(keep_ids=True, workers=1, overwrite=True))
    assert (folder / "report.json").read_bytes() == before


def test_loading_names_what_there_is(prepared, tmp_path: Path) -> None:
    data_dir, _, _ = prepared
    with pytest.raises(InputError, match="rdunet prepare"):
        Dataset(tmp_path)
    with pytest.raises(InputError, match="slice_minmax_32"):
        Dataset(data_dir, "slice_minmax_256")
    assert Dataset(data_dir, "slice_minmax_32").patient_count("train") == 1


def test_real_patients(real_patients: Path, tmp_path: Path) -> None:
    _, account = prepare_dataset(real_patients, tmp_path, DatasetSettings(), PrepareOptions(keep_ids=True))
    by_slices = {record.slices: record for record in account.patients.values()}
    # volumes of the polygons as the data's own notes state them; 0.5%: pixel centres against exact areas
    for slices, tumour, volume_mm3 in ((134, 21, 156_346), (60, 26, 358_661)):
        record = by_slices[slices]
        contours = record.contours
        assert (record.tumour_slices, contours.used, contours.total) == (tumour, tumour, tumour)
        assert contours.mask_volume_mm3 == pytest.approx(volume_mm3, rel=0.005)
        assert contours.polygon_volume_mm3 == pytest.approx(volume_mm3, rel=1e-4)
        shift = np.subtract(contours.mask_centroid_mm, contours.polygon_centroid_mm)
        assert np.abs(shift).max() < 0.5 * min(record.spacing_mm)


def examples(data_dir: Path) -> list[tuple]:
    """Everything a data set holds, in its order."""
    builder = tfds.builder_from_directory(str(next(data_dir.glob("nsclc_radiomics/*/*/"))))
    return [
        (split, *(value.tobytes() if isinstance(value, np.ndarray) else value for value in example.values()))
        for split in sorted(builder.info.splits)
        for example in builder.as_data_source(split)  # pyright: ignore[reportCallIssue]
    ]


def test_one_or_two_workers_make_the_same_data_set(prepared, tmp_path: Path) -> None:
    data_dir, _, account = prepared
    _, other = prepare_dataset(DUMMY, tmp_path, SETTINGS, PrepareOptions(keep_ids=True, workers=2))
    assert other.dataset_sha256 == account.dataset_sha256
    assert examples(tmp_path) == examples(data_dir)
    assert other == account


@pytest.mark.slow  # Beam starts processes and a service of its own
@pytest.mark.filterwarnings("ignore::Warning")  # Beam's own
def test_beam_makes_the_same_data_set(prepared, tmp_path: Path) -> None:
    pytest.importorskip("apache_beam")
    data_dir, _, account = prepared
    options = ("runner=DirectRunner", "direct_num_workers=2", "direct_running_mode=multi_processing")
    _, other = prepare_dataset(DUMMY, tmp_path, SETTINGS, PrepareOptions(keep_ids=True, beam=options))
    assert other == account
    assert examples(tmp_path) == examples(data_dir)


def test_another_size_makes_another_hash(prepared, tmp_path: Path) -> None:
    _, _, account = prepared
    _, other = prepare_dataset(DUMMY, tmp_path, replace(SETTINGS, image_size=16), KEEP)
    assert other.dataset_sha256 != account.dataset_sha256
    assert other.split_sha256 == account.split_sha256


def test_a_split_file_freezes_the_split(prepared, tmp_path: Path) -> None:
    _, folder, account = prepared
    other_seed = replace(SETTINGS, seed=1)
    _, drawn = prepare_dataset(DUMMY, tmp_path / "a", other_seed, replace(KEEP, split_file=tmp_path / "split.json"))
    assert drawn.splits != account.splits
    _, again = prepare_dataset(DUMMY, tmp_path / "b", SETTINGS, replace(KEEP, split_file=tmp_path / "split.json"))
    assert again.splits == drawn.splits
    _, same = prepare_dataset(DUMMY, tmp_path / "c", other_seed, replace(KEEP, split_file=folder / "split.json"))
    assert same.splits == account.splits


def test_all_cts_of_a_person_are_in_one_part(tmp_path: Path) -> None:
    for number in range(12):
        series = write_series(tmp_path / "in" / f"{number}", patient=number // 2, series=number, stored=TISSUE)
        square = contour(series.points(4, [(3, 3), (3, 8), (8, 8), (8, 3)]))
        write_rtstruct(tmp_path / "in" / f"{number}" / "rs", {"GTV-1": [square]}, series)
    _, account = prepare_dataset(tmp_path / "in", tmp_path / "out", SETTINGS, KEEP)
    assert len(account.patients) == 12 and "PATIENT-3.ct2" in account.patients
    parts = [{name.removesuffix(".ct2") for name in names} for names in account.splits.values()]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 6


def test_several_rois_are_merged_on_demand(tmp_path: Path) -> None:
    series = write_series(tmp_path / "in" / "ct", stored=TISSUE)
    squares = {
        f"GTV-{number}": [contour(series.points(4, [(row, 2), (row, 6), (row + 3, 6), (row + 3, 2)]))]
        for number, row in ((1, 1), (2, 6))
    }
    write_rtstruct(tmp_path / "in" / "rs", squares, series)
    voxels = []
    for roi in (SETTINGS.roi, r"gtv-\d"):
        _, account = prepare_dataset(tmp_path / "in", tmp_path / roi[-2:], replace(SETTINGS, roi=roi), ONE)
        (record,) = account.patients.values()
        voxels.append(record.contours.mask_voxels)
    assert voxels[1] == 2 * voxels[0]


def test_headers_are_read_once_and_remembered_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index holds digests beside their key, so it must not travel with a data set."""
    prepare_dataset(DUMMY, tmp_path / "data", SETTINGS, KEEP)
    index = index_file(DUMMY)
    assert index is not None and index.is_relative_to(tmp_path / "home") and len(list(index.parent.iterdir())) == 1
    assert index.parent.stat().st_mode & 0o777 == 0o700
    content = index.read_bytes()
    assert not [path for path in (tmp_path / "data").rglob("*") if "index" in path.name]
    old = tmp_path / "data" / "dicom_index.json"  # where earlier versions kept it
    old.write_text('{"format":"rdunet DICOM index 1","key":"00","files":{}}')
    monkeypatch.setattr("data_pipeline.dicom.headers._read_header", None)
    prepare_dataset(DUMMY, tmp_path / "data", replace(SETTINGS, image_size=16), KEEP)
    assert index.read_bytes() == content and not old.exists()
    old.write_text("the user's own")
    prepare_dataset(DUMMY, tmp_path / "data", replace(SETTINGS, image_size=24), KEEP)
    assert old.exists()


@pytest.mark.slow
def test_a_killed_prepare_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.data_pipeline.kill_prepare", str(DUMMY), str(tmp_path), "20"]
    run = subprocess.run(command, cwd=DUMMY.parents[2], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]
    report = json.loads(run.stdout)
    # The moments are drawn over the time that a first run took; where the machine is quicker later, some come too late.
    assert report["killed"] >= 8 and report["finished"] + report["killed"] == 20
    assert len(set(report["hashes"])) == 1 and len(report["hashes"]) == 21
