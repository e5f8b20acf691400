"""Files made to do harm, each given to a command in a process of its own, whose time and memory are measured.

python -m tests.rdunet_jax.cli.hostile FOLDER        # prints what became of every case, as JSON
"""

# h5py does not say whether a name is a group or a data set.
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false

import io
import json
import os
import shutil
import signal
import struct
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGLSLossless, RLELossless

from rdunet_jax.config import InferenceConfig, TrainConfig
from rdunet_jax.networks.keras_files import write_keras_file
from rdunet_jax.networks.keras_weights import to_keras
from rdunet_jax.networks.models import create_model, model_config
from rdunet_jax.runs.workdir import RunConfig
from rdunet_jax.training.checkpointing import Checkpoints
from rdunet_jax.training.step import create_state
from tests.data_pipeline.dicom_files import contour, save, write_rtstruct, write_series
from tests.torture.world import begin

SECONDS = 60
TISSUE = np.full((9, 12, 10), 1100, np.uint16)
TISSUE[:, :2] = 24  # air around the body
SQUARE = ((3, 2), (3, 8), (9, 8), (9, 2))
NETWORK = model_config("tiny", widths=(2, 2), recurrent_width=2, recurrent_layers=1)
Arguments = list[object]


@dataclass(frozen=True)
class Case:
    """A hostile input.

    Attributes:
        make: writes it into an empty folder and returns the arguments of the command that reads it.
        says: what the command must print, apart from status 0, 1 or 2 and one line of error.
    """

    make: Callable[[Path], Arguments]
    says: str


@dataclass(frozen=True)
class Outcome:
    """What became of a case; `files` are what it wrote into its output, `outside` what it wrote elsewhere."""

    status: int
    out: str
    err: str
    seconds: float
    mib: float
    files: list[str]
    outside: list[str]


def patient(folder: Path, *, contours: Sequence[Dataset] | None = None, roi: str = "GTV-1", **options: Any) -> Any:
    """A CT of 9 slices with an RTSTRUCT; `options` go to `write_series`."""
    structure = options.pop("structure", None)
    series = write_series(folder / "ct", **{"stored": TISSUE, **options})
    drawn = contours if contours is not None else [contour(series.points(index, SQUARE)) for index in range(2, 6)]
    number = options.get("patient", 1)
    write_rtstruct(folder / "rs.dcm", {roi: drawn}, series, patient=number, edit=structure)
    return series


def prepare(folder: Path, *more: object) -> Arguments:
    return ["prepare", folder / "in", "--data-dir", folder / "out", "--image-size", 16, "--workers", 1, *more]


def segment(folder: Path, *more: object) -> Arguments:
    return ["segment", folder / "in", "--workdir", folder.parent / "run", "--output", folder / "out", *more]


def prepared(*more: object, **options: Any) -> Callable[[Path], Arguments]:
    """`prepare` of one patient whose images or contours are not as they should be."""

    def make(folder: Path) -> Arguments:
        patient(folder / "in", **options)
        return prepare(folder, *more)

    return make


def segmented(*more: object, **options: Any) -> Callable[[Path], Arguments]:
    """`segment` of one such patient."""

    def make(folder: Path) -> Arguments:
        patient(folder / "in", **options)
        return segment(folder, *more)

    return make


def with_element(keyword: str, value: Any, at: int | None = None) -> dict[str, Any]:
    """Sets an element in every image, or in one."""

    def edit(index: int, image: Dataset) -> None:
        if at in (None, index):
            setattr(image, keyword, value)

    return {"edit": edit}


def with_stream(syntax: str, frame: bytes) -> dict[str, Any]:
    """Compressed data in place of the pixels."""

    def edit(_: int, image: Dataset) -> None:
        image.file_meta.TransferSyntaxUID = syntax
        image.PixelData = encapsulate([frame])
        image["PixelData"].is_undefined_length = True

    return {"edit": edit}


def named(*identities: str, command: Callable[..., Arguments] = prepare) -> Callable[[Path], Arguments]:
    """A patient of each ID, with identities kept."""

    def make(folder: Path) -> Arguments:
        for number, identity in enumerate(identities, 1):
            tissue = TISSUE + np.uint16(number)  # else they would be one person's
            patient(folder / "in" / str(number), patient=number, stored=tissue, PatientID=identity)
        return command(folder, "--keep-ids")

    return make


def nested_sequences(levels: int) -> Callable[[Path], Arguments]:
    """A sequence in a sequence in a sequence, of undefined length, at the end of an image's header."""

    def make(folder: Path) -> Arguments:
        series = patient(folder / "in")
        path = series.files[0]
        whole = path.read_bytes()
        at = whole.index(b"\x28\x00\x02\x00US")  # before the image's description
        begin_item = b"\x20\x00\x99\x99SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
        end_item = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
        path.write_bytes(whole[:at] + begin_item * levels + end_item * levels + whole[at:])
        return prepare(folder)

    return make


def many_contours(count: int) -> Callable[[Path], Arguments]:
    """As many triangles on one slice."""

    def make(folder: Path) -> Arguments:
        series = write_series(folder / "in" / "ct", stored=TISSUE)
        one = contour(series.points(3, SQUARE[:3]))
        path = write_rtstruct(folder / "in" / "rs.dcm", {"GTV-1": [one] * 2}, series)
        from pydicom import dcmread
        from pydicom.filebase import DicomBytesIO
        from pydicom.filewriter import write_sequence_item

        buffer = DicomBytesIO()
        buffer.is_little_endian, buffer.is_implicit_VR = True, False
        write_sequence_item(buffer, one, ["iso8859"])
        item = buffer.getvalue()
        dataset = dcmread(path)
        dataset.ROIContourSequence[0].ContourSequence = []
        save(dataset, path)
        whole = path.read_bytes()
        at = whole.index(b"\x06\x30\x40\x00SQ\0\0\0\0\0\0")  # the empty sequence of contours
        size = len(item) * count
        rest = whole[at + 12 :]
        head = bytearray(whole[:at])
        for tag in (b"\x06\x30\x39\x00SQ\0\0", b"\xfe\xff\x00\xe0"):  # the lengths of what is around it grow
            place = head.rindex(tag) + len(tag)
            length = struct.unpack_from("<I", head, place)[0]
            if length != 0xFFFFFFFF:
                struct.pack_into("<I", head, place, length + size)
        path.write_bytes(bytes(head) + whole[at : at + 8] + struct.pack("<I", size) + item * count + rest)
        return prepare(folder)

    return make


def contours_at(value: str) -> Callable[[Path], Arguments]:
    """A contour with one coordinate that is none of a patient."""

    def make(folder: Path) -> Arguments:
        series = write_series(folder / "in" / "ct", stored=TISSUE)
        drawn = [contour(series.points(index, SQUARE)) for index in range(2, 6)]
        data = [str(one) for one in drawn[1].ContourData]
        drawn[1].add_new("ContourData", "LO", "\\".join([value, *data[1:]]))
        write_rtstruct(folder / "in" / "rs.dcm", {"GTV-1": drawn}, series)
        return prepare(folder)

    return make


def zipped(write: Callable[[zipfile.ZipFile], None], command: Callable[..., Arguments] = prepare):
    """A zip file as the source."""

    def make(folder: Path) -> Arguments:
        with zipfile.ZipFile(folder / "in", "w", zipfile.ZIP_DEFLATED) as archive:
            write(archive)
        return command(folder)

    return make


def large_member(archive: zipfile.ZipFile) -> None:
    with archive.open("a.dcm", "w", force_zip64=True) as member:
        for _ in range(512):
            member.write(bytes(1 << 20))


def zip_in_zip(archive: zipfile.ZipFile) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as one:
        large_member(one)
    archive.writestr("inner.zip", inner.getvalue())


def outside(archive: zipfile.ZipFile) -> None:
    archive.writestr("../../../ESCAPED.dcm", bytes(128) + b"DICM")


def overlapping(folder: Path) -> Arguments:
    """Many entries of the directory that share one member's data (a "better zip bomb")."""
    packed = zlib.compressobj(9, wbits=-15)
    data = packed.compress(bytes(32 << 20)) + packed.flush()
    crc = zlib.crc32(bytes(32 << 20))
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 8, 0, 0, crc, len(data), 32 << 20, 1, 0) + b"a"
    entry = struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 8, 0, 0, crc, len(data), 32 << 20, 1, 0, 0, 0, 0, 0, 0)
    count = 20_000
    directory = (entry + b"a") * count
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, len(directory), len(local) + len(data), 0)
    (folder / "in").write_bytes(local + data + directory + end)
    return prepare(folder)


def understated(folder: Path) -> Arguments:
    """A member that unpacks to more than its declared size."""
    make = zipped(large_member)
    arguments = make(folder)
    whole = bytearray((folder / "in").read_bytes())
    at = whole.rindex(b"PK\1\2")
    struct.pack_into("<I", whole, at + 24, 1000)
    (folder / "in").write_bytes(whole)
    return arguments


def weights(spoil: Callable[[h5py.File], None], name: str = "in.weights.h5") -> Callable[[Path], Arguments]:
    """A Keras file with something that does not belong in it."""

    def make(folder: Path) -> Arguments:
        state = create_state(create_model(NETWORK), TrainConfig(), (8, 16, 16))
        write_keras_file(folder / name, to_keras(state.variables, NETWORK))
        with h5py.File(folder / name, "a") as file:
            spoil(file)
        return imported(folder, name)

    return make


def imported(folder: Path, name: str) -> Arguments:
    sizes = ["--model", "tiny", "--widths", 2, 2, "--recurrent-width", 2, "--recurrent-layers", 1]
    return ["import-weights", folder / name, "--workdir", folder / "out", *sizes, "--gate", "sigmoid"]


def first(file: h5py.File) -> str:
    """Name of the first array of weights."""
    found: list[str] = []
    file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
    return found[0]


def compound(file: h5py.File) -> None:
    name = first(file)
    shape = file[name].shape
    del file[name]
    file.create_dataset(name, shape, np.dtype([("a", "f4"), ("b", "f8")]))


def references(file: h5py.File) -> None:
    name = first(file)
    shape = file[name].shape
    del file[name]
    file.create_dataset(name, shape, h5py.ref_dtype)


def huge_doubles(file: h5py.File) -> None:
    name = first(file)
    values = np.full(file[name].shape, 1e300)
    del file[name]
    file[name] = values


def complex_values(file: h5py.File) -> None:
    name = first(file)
    values = file[name][()].astype(complex)
    del file[name]
    file[name] = values


def endless_ranks(file: h5py.File) -> None:
    name = first(file)
    del file[name]
    file.create_dataset(name, (1,) * 32, "f4", data=np.zeros((1,) * 32, "f4"))


def deep_groups(file: h5py.File) -> None:
    group = file
    for _ in range(3000):
        group = group.create_group("g")


def many_groups(file: h5py.File) -> None:
    for number in range(50_000):
        file.create_group(f"layers/x{number}/vars")


def bombed_filter(file: h5py.File) -> None:
    """512 MB of zeros in a few kilobytes, as a layer that the network does not have."""
    file.create_dataset(
        "layers/zzz/vars/0", (1 << 27,), "f4", chunks=(1 << 24,), compression="gzip", data=np.zeros(1 << 27, "f4")
    )


def keras_zip(config: str | Callable[[zipfile.ZipFile], None]) -> Callable[[Path], Arguments]:
    """A `.keras` archive with a configuration that is none."""

    def make(folder: Path) -> Arguments:
        with zipfile.ZipFile(folder / "in.keras", "w", zipfile.ZIP_DEFLATED) as archive:
            if isinstance(config, str):
                archive.writestr("config.json", config)
                archive.writestr("model.weights.h5", empty_hdf5())
            else:
                config(archive)
        return imported(folder, "in.keras")

    return make


def empty_hdf5() -> bytes:
    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        file.create_group("layers")
    return memory.getvalue()


def large_config(archive: zipfile.ZipFile) -> None:
    with archive.open("config.json", "w", force_zip64=True) as member:
        for _ in range(1024):
            member.write(b" " * (1 << 20))


def settings_of(text: str) -> Callable[[Path], Arguments]:
    """A run whose settings are someone else's."""

    def make(folder: Path) -> Arguments:
        patient(folder / "in")
        (folder / "run").mkdir()
        (folder / "run" / "config.json").write_text(text)
        arguments = segment(folder)
        arguments[3] = folder / "run"
        return arguments

    return make


def split_of(text: str) -> Callable[[Path], Arguments]:
    def make(folder: Path) -> Arguments:
        patient(folder / "in")
        (folder / "split.json").write_text(text)
        return prepare(folder, "--split-file", folder / "split.json")

    return make


def key_of(content: bytes) -> Callable[[Path], Arguments]:
    def make(folder: Path) -> Arguments:
        patient(folder / "in")
        (folder / "key").write_bytes(content)
        return prepare(folder, "--key", folder / "key")

    return make


DEEP = "[" * 100_000
REPLY = "data set SHA-256"
CASES: dict[str, Case] = {
    # headers that lie
    "frames": Case(prepared(**with_element("NumberOfFrames", 2**31 - 1)), "single-frame"),
    "rows": Case(prepared(**with_element("Rows", 65535)), "its header says 1310700"),
    "no rows": Case(prepared(**with_element("Rows", 0)), "claims 0 x"),
    "samples": Case(prepared(**with_element("SamplesPerPixel", 65535)), "single-frame"),
    "RLE segments": Case(prepared(**with_stream(RLELossless, b"\xff" * 64)), "error: "),
    "RLE of nothing": Case(prepared(**with_stream(RLELossless, bytes(2))), "error: "),
    "JPEG-LS of a line": Case(
        prepared(**with_stream(JPEGLSLossless, b"\xff\xd8\xff\xf7\x00\x0b\x10\x00\x0c\x00\x0a\x01\x01\x11\x00")),
        "error: ",
    ),
    "spacing of nothing": Case(prepared(**with_element("PixelSpacing", [0, 0])), "error: "),
    "spacing not a number": Case(prepared(**with_element("PixelSpacing", ["nan", "nan"])), "error: "),
    "huge spacing": Case(prepared(**with_element("PixelSpacing", ["1e300", "1e300"])), "error: "),
    "tiny spacing": Case(prepared(**with_element("PixelSpacing", ["1e-300", "1e-300"])), "error: "),
    "huge position": Case(prepared(**with_element("ImagePositionPatient", ["0", "0", "1e300"], at=3)), "error: "),
    "position not a number": Case(prepared(**with_element("ImagePositionPatient", ["nan", "0", "0"])), "error: "),
    "huge slope": Case(prepared(**with_element("RescaleSlope", "1e300")), "error: "),
    "slope not a number": Case(prepared(**with_element("RescaleSlope", "nan")), "error: "),
    "nested sequences": Case(nested_sequences(400), "error: "),
    "deeply nested sequences": Case(nested_sequences(20_000), "error: "),
    "many contours": Case(many_contours(110_000), "the ROI has more than 100000 contours"),
    "a million contours": Case(many_contours(1_000_000), "more than 500000 sequence items"),
    "contour at infinity": Case(contours_at("inf"), REPLY),
    "contour nowhere": Case(contours_at("nan"), REPLY),
    "contour far away": Case(contours_at("1e308"), REPLY),
    "contour of words": Case(contours_at("CANARY"), REPLY),
    # archives
    "zip of zeros": Case(zipped(large_member), "times its size"),
    "zip in a zip": Case(zipped(zip_in_zip), "archive"),
    "zip that points outside": Case(zipped(outside), "error: "),
    "zip whose members overlap": Case(overlapping, "times its size"),
    "zip that understates": Case(understated, "error: "),
    "zip for segment": Case(zipped(large_member, segment), "times its size"),
    # names
    "dots": Case(named("..", ".", "..."), REPLY),
    "devices": Case(named("CON", "nul.txt", "COM1"), REPLY),
    "slashes": Case(named("a/b", "a\\b", "/etc/passwd"), REPLY),
    "long": Case(named("x" * 5000, "x" * 5001), REPLY),
    "look-alikes": Case(named("PATIENT", "P\u0410TIENT", "PATIENT\u200b"), REPLY),
    "equal after cleaning": Case(named("a b", "a_b", "a\u00e4b"), REPLY),
    "equal but for case": Case(named("abc", "ABC", "aBc"), REPLY),
    "right to left": Case(named("\u202etxt.exe", "\u0000", " "), REPLY),
    "formulas": Case(named("=cmd|'/c calc'!A0", "@SUM(1)", "+1", command=segment), "table: "),
    "scripts": Case(named("<script>alert(1)</script>", "[link=x]y[/link]", "{{7*7}}", command=segment), "table: "),
    "names of segment": Case(named("..", "CON", "a/../../b", command=segment), "table: "),
    "ROI of codes": Case(prepared("--keep-ids", roi="\x1b[2J\x1b]0;x\x07[red]GTV"), "no ROI matches"),
    "ROI of markup": Case(prepared("--keep-ids", roi="<img src=x onerror=alert(1)>[/]|`"), "no ROI matches"),
    "ROI of a book": Case(prepared("--keep-ids", roi="G" * 100_000), "no ROI matches"),
    # weights
    "compound": Case(weights(compound), "error: "),
    "references": Case(weights(references), "error: "),
    "huge doubles": Case(weights(huge_doubles), "not finite"),
    "complex": Case(weights(complex_values), "error: "),
    "32 axes": Case(weights(endless_ranks), "error: "),
    "deep groups": Case(weights(deep_groups), "groups inside each other"),
    "many groups": Case(weights(many_groups), ""),
    "zeros": Case(weights(bombed_filter), "error: "),
    "deep configuration": Case(keras_zip(DEEP), "recursion"),
    "configuration of a number": Case(keras_zip("1e999"), "error: "),
    "configuration of spaces": Case(keras_zip(large_config), "error: "),
    # settings and other JSON
    "deep settings": Case(settings_of(DEEP), "cannot be read as a run's settings"),
    "settings of a list": Case(settings_of("[]"), "cannot be read as a run's settings"),
    "settings of endless digits": Case(settings_of('{"model": ' + "9" * 100_000 + "}"), "as a run's settings"),
    "deep split": Case(split_of(DEEP), "not a split file"),
    "split of numbers": Case(split_of('{"train": 1, "validation": 2, "test": 3, "sha256": 4}'), "not a split file"),
    "key of zeros": Case(key_of(bytes(100)), "error: "),
    "key of a gigabyte": Case(lambda folder: large_key(folder), "error: "),
}


def large_key(folder: Path) -> Arguments:
    arguments = key_of(b"")(folder)
    os.truncate(folder / "key", 3 << 30)
    return arguments


def make_run(workdir: Path) -> None:
    """A run whose network was never trained."""
    run = RunConfig(NETWORK, TrainConfig(), InferenceConfig(threshold=0.0, dilation_diameter=1), "hu_window", 16)
    run.save(workdir)
    checkpoints = Checkpoints(workdir / "checkpoints")
    checkpoints.save(1, create_state(create_model(NETWORK), run.train, (8, 16, 16)))
    checkpoints.close()


def limited(work: list[str] | Callable[[], object], log: Path) -> tuple[int, float, float]:
    """Runs a command or a function; returns status, seconds of processor time, and peak memory in MiB."""
    child, until = begin(work, log), time.monotonic() + 3 * SECONDS
    while True:
        done, status, usage = os.wait4(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
        if time.monotonic() > until:
            os.killpg(child, signal.SIGKILL)
        time.sleep(0.01)


def main(root: Path, names: Sequence[str]) -> dict[str, Outcome]:
    """Runs the cases in `root`, each in a folder of its own."""
    os.environ["HOME"] = str(root / "home")
    base = root / "a" / "b" / "c"  # a name with ../../.. would leave it, and be seen
    base.mkdir(parents=True)
    made = limited(lambda: make_run(base / "run"), base / "log")
    assert made[0] == 0, (base / "log.err").read_text()
    outcomes = {}
    for name in names:
        folder = base / name.replace(" ", "_")
        folder.mkdir()

        def work(folder: Path = folder, name: str = name) -> None:
            (folder / "arguments.json").write_text(json.dumps(list(map(str, CASES[name].make(folder)))))

        status, *_ = limited(work, folder / "log")
        assert status == 0, (name, (folder / "log.err").read_text())
        before = _files(root)
        status, seconds, mib = limited(json.loads((folder / "arguments.json").read_text()), folder / "log")
        out, err = ((folder / f"log.{end}").read_text(errors="replace") for end in ("out", "err"))
        written = [str(path.relative_to(folder)) for path in sorted(folder.glob("out/**/*"))]
        own = tuple(f"a/b/c/{folder.name}/{kind}" for kind in ("out/", "log.", "cache/", "split.json"))
        outside = [path for path in _files(root) - before if not path.startswith((*own, "home/.config/rdunet/"))]
        outcomes[name] = Outcome(status, out, err, seconds, mib, written, outside)
        shutil.rmtree(folder / "in", ignore_errors=True)
    return outcomes


def _files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


if __name__ == "__main__":
    results = main(Path(sys.argv[1]), sys.argv[2:] or list(CASES))
    print(json.dumps({name: asdict(outcome) for name, outcome in results.items()}))
