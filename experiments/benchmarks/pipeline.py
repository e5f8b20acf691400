"""Speed and memory of the data pipeline, compared with other libraries.

    python -m venv .rasterisers && .rasterisers/bin/pip install -c constraints.txt '.[rasterisers]'
    .rasterisers/bin/python -m experiments.benchmarks.pipeline rasterise
    python -m experiments.benchmarks.pipeline read
    python -m experiments.benchmarks.pipeline prepare        # 2 GB of disk
    python -m experiments.benchmarks.pipeline index          # 100,000 small files

`rasterise` needs a separate environment, because rt-utils installs a package `tests` that would hide this project's.

Programs that are compared run in turn, because the speed of a machine drifts; ratios are of medians. Expected on 2
cores: rasterisation more than 3 times as fast as the faster library, reading within 1.15 of the time of pydicom's
decoding, time per patient and memory of `prepare` independent of the number of patients.
"""

if not __package__:
    raise SystemExit("error: run this in the checkout as: python -m experiments.benchmarks.pipeline")

import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import psutil
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import UID
from rich.progress import Progress

from data_pipeline.contours.mask import mask_from_contours
from data_pipeline.contours.rtstruct import read_contours
from data_pipeline.dicom.discovery import discover
from data_pipeline.dicom.volume import read_volume
from data_pipeline.phantom.phantom import write_phantoms
from data_pipeline.prepare import prepare_dataset
from data_pipeline.settings import DatasetSettings, PrepareOptions
from experiments.benchmarks.timing import machine_in_words, take_turns, versions_in_words
from experiments.common import script

console = script.make_console()


def medians(programs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each program."""
    return {name: statistics.median(seconds) for name, seconds in take_turns(programs, rounds).items()}


def print_machine() -> None:
    """Prints the machine and the versions that the figures above were measured with."""
    packages = ("numpy", "pydicom", "rt-utils", "dcmrtstruct2nii", "tensorflow-datasets")
    console.print(f"{machine_in_words()}, {versions_in_words(*packages)}")


def rasterise(rounds: int = 7) -> None:
    """RTSTRUCT file to mask, with the CT read already: ours, rt-utils, dcmrtstruct2nii.

    Args:
        rounds: Timed runs of each.
    """
    import SimpleITK

    # dcmrtstruct2nii 5 calls dcmread by its name in pydicom 2.
    setattr(pydicom, "read_file", pydicom.dcmread)  # noqa: B010
    convert = import_module("dcmrtstruct2nii.adapters.convert.rtstructcontour2mask").DcmPatientCoords2Mask()
    contours = import_module("dcmrtstruct2nii.adapters.input.contours.rtstructinputadapter").RtStructInputAdapter()
    RTStruct = import_module("rt_utils.rtstruct").RTStruct
    load_series = import_module("rt_utils.image_helper").load_sorted_image_series

    with tempfile.TemporaryDirectory() as folder:
        write_phantoms(Path(folder), count=1, slices=60, workers=1)
        (patient,) = discover(Path(folder)).series
        geometry = read_volume(patient).geometry
        series = load_series(str(patient.files[0].parent))
        reader = SimpleITK.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(patient.files[0].parent)))
        image = reader.Execute()
        for count in (60, 300):
            path = _with_contours(patient.rtstructs[0], geometry.positions_mm, geometry.sop_instance_uids, count)

            def ours(path: Path = path) -> np.ndarray:
                return mask_from_contours(read_contours(path), geometry)[0]

            def rt_utils(path: Path = path) -> np.ndarray:
                return RTStruct(series, pydicom.dcmread(path)).get_roi_mask_by_name("GTV-1")

            def dcmrtstruct2nii(path: Path = path) -> np.ndarray:
                (roi,) = [one for one in contours.ingest(str(path)) if one["name"] == "GTV-1"]
                return SimpleITK.GetArrayFromImage(convert.convert(roi["sequence"], image, 0, 1)) > 0

            # The fill rules differ a little: check that all fill the same shapes before anything is timed.
            masks = [ours(), np.moveaxis(rt_utils(), -1, 0), dcmrtstruct2nii()]
            sizes = [int(mask.sum()) for mask in masks]
            if max(sizes) > 1.2 * min(sizes):
                raise AssertionError(f"the programs do not compute the same: {sizes} voxels")
            found = medians({"ours": ours, "rt-utils": rt_utils, "dcmrtstruct2nii": dcmrtstruct2nii}, rounds)
            shown = ", ".join(f"{name} {1000 * value:.0f} ms" for name, value in found.items())
            fastest = min(value for name, value in found.items() if name != "ours")
            console.print(
                f"{count} contours: {shown}; the faster library takes {fastest / found['ours']:.1f} x our time"
            )
    print_machine()


def _with_contours(rtstruct: Path, positions: np.ndarray, uids: tuple[str, ...], count: int) -> Path:
    """A copy of an RTSTRUCT with `count` wavy outlines of 100 points that do not overlap."""
    dataset = pydicom.dcmread(rtstruct)
    contours, angles = [], np.linspace(0, 2 * np.pi, 100, endpoint=False)
    for number in range(count):
        index, place = number % len(positions), number // len(positions)
        radius = 20 + 3 * np.sin(5 * angles + number)
        points = np.broadcast_to(positions[index], (100, 3)) + np.stack(
            [60 + 55 * place + radius * np.cos(angles), 150 + radius * np.sin(angles), 0 * angles], axis=1
        )
        item, reference = Dataset(), Dataset()
        reference.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        reference.ReferencedSOPInstanceUID = uids[index]
        item.ContourImageSequence = [reference]
        item.ContourGeometricType, item.NumberOfContourPoints = "CLOSED_PLANAR", 100
        item.ContourData = [f"{value:.4f}" for value in points.ravel()]
        contours.append(item)
    dataset.ROIContourSequence[0].ContourSequence = contours
    path = rtstruct.with_name(f"{count}.dcm")
    dataset.save_as(path)
    return path


def read(source: Path | None = None, rounds: int = 5) -> None:
    """Files of a CT to a volume in HU, compared with pydicom decoding the same files.

    Args:
        source: Folder with the DICOM files of one CT (None: a phantom of 120 slices).
        rounds: Timed runs of each.
    """
    with tempfile.TemporaryDirectory() as folder:
        if source is None:
            write_phantoms(Path(folder), count=1, slices=120, workers=1)
        (patient,) = discover(source or Path(folder)).series
        found = medians(
            {
                "ours": lambda: read_volume(patient),
                "pydicom": lambda: [pydicom.dcmread(path).pixel_array for path in patient.files],
            },
            rounds,
        )
        console.print(
            f"{len(patient.files)} slices: ours {found['ours']:.2f} s, pydicom {found['pydicom']:.2f} s, "
            f"ratio {found['ours'] / found['pydicom']:.2f}"
        )
    print_machine()


def prepare(patients: int = 300, image_size: int = 256) -> None:
    """Time and memory of `rdunet prepare` for different numbers of patients: phantoms of 8 slices of 512 x 512 pixels.

    Args:
        patients: Number of patients of the largest run; a sixth and a third of it are run too.
        image_size: Rows and columns of a slice in the data set, in pixels.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        originals = write_phantoms(folder / "originals", count=6, slices=8)
        source = folder / "source"
        for number in range(patients):
            _copy_patient(originals[number % len(originals)], source / f"{number:04d}", number)
            if number + 1 not in (patients // 6, patients // 3, patients):
                continue
            started, process = time.perf_counter(), psutil.Process()
            with _PeakMemory(process) as peak:
                prepare_dataset(
                    source, folder / "data", DatasetSettings(image_size=image_size), PrepareOptions(keep_ids=True)
                )
            seconds = time.perf_counter() - started
            shutil.rmtree(folder / "data")
            console.print(
                f"{number + 1} patients of 8 slices: {seconds:.0f} s, {seconds / (number + 1):.3f} s a patient, "
                f"peak memory of all processes {peak.bytes / 2**20:.0f} MiB"
            )
    print_machine()


class _PeakMemory:
    """Peak sum of the resident memory of a process and its children, sampled ten times per second."""

    def __init__(self, process: psutil.Process) -> None:
        self._process, self.bytes = process, 0

    def __enter__(self) -> "_PeakMemory":
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(0.1):
            total = 0
            for one in [self._process, *self._process.children(recursive=True)]:
                try:
                    total += one.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.bytes = max(self.bytes, total)


def _copy_patient(original: Path, folder: Path, number: int) -> None:
    """Writes a copy of a patient with other UIDs and another Patient ID."""
    folder.mkdir(parents=True)
    for index, path in enumerate(sorted(original.rglob("*.dcm"))):
        dataset = pydicom.dcmread(path)
        for element in dataset.iterall():
            if element.VR == "UI" and element.keyword.endswith("InstanceUID"):
                element.value = f"{str(element.value)[:50]}.{number}"
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.PatientID = f"PHANTOM-{number:04d}"
        dataset.save_as(folder / f"{index:03d}.dcm")


def index(files: int = 100_000, workers: int = 2) -> None:
    """Files per second when headers are read, and when they are read again from the index.

    Args:
        files: Number of CT files, in series of 100.
        workers: Number of processes that read.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (original,) = write_phantoms(folder / "original", count=1, slices=8, matrix=64, workers=1)
        path = next(one for one in sorted(original.rglob("*.dcm")) if pydicom.dcmread(one).Modality == "CT")
        dataset = pydicom.dcmread(path)
        (folder / "source").mkdir()
        for number in range(files):
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID(f"1.2.3.{number}")
            dataset.SeriesInstanceUID = f"1.2.4.{number // 100}"
            dataset.save_as(folder / "source" / f"{number:06d}")
        for what in ("read", "read again from the index"):
            started = time.perf_counter()
            with Progress(console=console, transient=True) as progress:
                found = discover(folder / "source", index=folder / "index.json", workers=workers, progress=progress)
            seconds = time.perf_counter() - started
            series = len(found.series)
            console.print(
                f"{files} files, {series} series, {what}: {seconds:.0f} s, {files / seconds:,.0f} files per second"
            )
    print_machine()


if __name__ == "__main__":
    script.run({"rasterise": rasterise, "read": read, "prepare": prepare, "index": index}, __doc__)
