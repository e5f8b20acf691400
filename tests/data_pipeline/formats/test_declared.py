"""Volume files that are damaged, hostile or of another kind: one line, before anything is decoded."""

import bz2
import gzip
import re
import resource
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (as its own documentation calls it)

from data_pipeline.errors import InputError
from data_pipeline.formats.declared import check_declared
from data_pipeline.formats.volume_file import read_stored
from tests.data_pipeline.formats.volumes import SUFFIXES, chest, save

SECRET = "CANARY"


def refused(path: Path) -> str:
    """The one line with which a file is refused, without its name in the reason."""
    with pytest.raises(InputError) as error:
        read_stored(path)
    assert "\n" not in str(error.value) and SECRET not in error.value.reason
    return error.value.reason


def nifti(path: Path, shape: tuple[int, ...], data: bytes = b"", dtype: type = np.int16, code: int = 1) -> Path:
    """A NIfTI-1 file with this header and these voxels."""
    header = nib.Nifti1Header()
    header.set_data_dtype(dtype)
    header["dim"][: len(shape) + 1] = (len(shape), *shape)
    header["pixdim"][1:4] = 1
    header["qform_code"], header["vox_offset"], header["magic"] = code, 352, b"n+1\0"
    content = header.binaryblock + b"\0" * 4 + data
    path.write_bytes(gzip.compress(content, 1) if path.name.endswith(".gz") else content)
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_two_and_four_dimensions_are_refused(tmp_path: Path, suffix: str) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(chest()[0]), str(tmp_path / f"{SECRET}2{suffix}"))
    assert "is no 3-D volume, but 2-D" in refused(tmp_path / f"{SECRET}2{suffix}")
    four = sitk.JoinSeries([sitk.GetImageFromArray(chest())] * 2)
    sitk.WriteImage(four, str(tmp_path / f"{SECRET}4{suffix}"))
    assert "is no 3-D volume, but 4-D" in refused(tmp_path / f"{SECRET}4{suffix}")
    save(tmp_path / f"{SECRET}1{suffix}", chest()[:1])
    assert "is no 3-D volume, but 2-D" in refused(tmp_path / f"{SECRET}1{suffix}")


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_truncated_files_are_refused(tmp_path: Path, suffix: str, compress: bool) -> None:
    path = save(tmp_path / f"{SECRET}{suffix}", chest(seed=3), compress)
    content = path.read_bytes()
    assert check_declared(path).shape == (22, 20, 9)
    for keep in (0, 1, 100, 351, len(content) // 2, len(content) - 40):
        path.write_bytes(content[:keep])
        refused(path)


def test_gzipped_odd_files_are_refused(tmp_path: Path) -> None:
    content = save(tmp_path / "a.nii", chest()).read_bytes()
    odd: dict[str, bytes] = {
        "text.nii.gz": gzip.compress(b"no volume"),
        "twice.nii.gz": gzip.compress(gzip.compress(content)),
        "empty.nii.gz": gzip.compress(b""),
        "zip.nii.gz": b"PK\x03\x04" + content,
        "crc.nii.gz": gzip.compress(content)[:-8] + b"\0" * 8,
        "part.nii.gz": gzip.compress(content)[:-2000],
        "mask.nrrd": gzip.compress(content),
        "a.mha": content,
        "b.nii": content.replace(b"n+1", b"ni1"),
    }
    for name, packed in odd.items():
        (tmp_path / name).write_bytes(packed)
        refused(tmp_path / name)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_absurd_headers_are_refused_at_once(tmp_path: Path, suffix: str) -> None:
    started = time.monotonic()
    for number, shape in enumerate([(32767, 32767, 32767), (30000, 30000, 2), (512, 512, 700), (-5, 20, 20)]):
        refused(nifti(tmp_path / f"{SECRET}{number}{suffix}", shape, b"\0" * 1000))
    assert "is truncated" in refused(nifti(tmp_path / f"short{suffix}", (20, 20, 20), b"\0" * 15_999))
    assert "more than its header" in refused(nifti(tmp_path / f"long{suffix}", (20, 20, 20), b"\0" * 2_000_000))
    assert "does not say how its axes are placed" in refused(
        nifti(tmp_path / f"lost{suffix}", (20, 20, 20), b"\0" * 16_000, code=0)
    )
    refused(nifti(tmp_path / f"rgb{suffix}", (20, 20, 20), b"\0" * 64_000, dtype=np.complex64))
    for offset in (-1e9, 1e30, np.nan):
        path = nifti(tmp_path / f"offset{suffix}", (20, 20, 20), b"\0" * 16_000)
        content = gzip.decompress(path.read_bytes()) if suffix == ".nii.gz" else path.read_bytes()
        content = content[:108] + struct.pack("<f", offset) + content[112:]
        path.write_bytes(gzip.compress(content) if suffix == ".nii.gz" else content)
        refused(path)
    assert time.monotonic() - started < 20


def bombs(folder: Path) -> dict[str, Callable[[], bytes]]:
    """Small files that unpack to far more than they declare, or declare far more than they hold."""
    zeros = b"\0" * 2**27
    nrrd = "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: {}\nencoding: {}\n\n"
    met = (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nCompressedData = True\nDimSize = {}\n"
        "ElementType = MET_SHORT\nElementDataFile = {}\n"
    )
    return {
        "a.nrrd": lambda: nrrd.format("20 20 20", "gzip").encode() + gzip.compress(zeros, 1),
        "b.nrrd": lambda: nrrd.format("20 20 20", "bzip2").encode() + bz2.compress(zeros, 1),
        "c.nrrd": lambda: nrrd.format("9000000 9000000 9000000", "gzip").encode() + gzip.compress(b"x"),
        "d.nrrd": lambda: nrrd.format("20 20 20", "hex").encode() + b"0" * 32_000,
        "e.nrrd": lambda: nrrd.format("20 20 20\nsizes: 900000 900000 90000", "raw").encode() + b"0" * 16_000,
        "f.nrrd": lambda: nrrd.format("20 20 20\ndata file: /etc/passwd", "raw").encode(),
        "g.mha": lambda: met.format("20 20 20", "LOCAL").encode() + zlib.compress(zeros, 1),
        "h.mha": lambda: met.format("900000 900000 900000", "LOCAL").encode() + zlib.compress(b"x"),
        "i.mha": lambda: met.format("20 20 20", "/etc/passwd").encode(),
        "j.mha": lambda: b"A = " + b"x" * 3_000_000,
        "k.nii.gz": lambda: nifti(folder / "k0.nii.gz", (20, 20, 20), zeros).read_bytes(),
    }


@pytest.mark.parametrize("name", sorted(bombs(Path())))
def test_bombs_are_refused_in_little_memory(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(bombs(tmp_path)[name]())
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    refused(tmp_path / name)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**16  # kB
    assert time.monotonic() - started < 10


def test_random_damage_is_one_error_and_nothing_on_the_terminal(tmp_path: Path, capfd) -> None:
    rng = np.random.default_rng(0)
    for suffix in SUFFIXES:
        content = save(tmp_path / f"a{suffix}", chest(4, 18, 18)).read_bytes()
        for _ in range(40):
            damaged = bytearray(content)
            for at in rng.integers(0, min(len(content), 400), 4):
                damaged[at] = rng.integers(256)
            (tmp_path / f"b{suffix}").write_bytes(damaged)
            try:
                read_stored(tmp_path / f"b{suffix}")
            except InputError as error:
                assert "\n" not in str(error)
    assert capfd.readouterr() == ("", "")


NRRD_PLACES: dict[str, tuple[bytes, bytes]] = {
    "no directions": (rb"space directions:.*\n", b""),
    "no origin": (rb"space origin:.*\n", b""),
    "a scanner's axes": (b"left-posterior-superior", b"scanner-xyz"),
    "no patient's axes": (b"left-posterior-superior", b"3D-left-handed"),
}
MHA_PLACES: dict[str, tuple[bytes, bytes]] = {
    "no spacing": (rb"ElementSpacing = .*\n", b""),
    "no axes": (rb"TransformMatrix = .*\n", b""),
    "no origin": (rb"Offset = .*\n", b""),
}


def changed(path: Path, pattern: bytes, replacement: bytes) -> Path:
    content, count = re.subn(pattern, replacement, save(path, chest()).read_bytes(), count=1)
    assert count
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("how", NRRD_PLACES)
def test_a_nrrd_that_does_not_place_its_axes_is_refused(tmp_path: Path, how: str) -> None:
    """Its readers take what is missing for 1 mm, the origin, and axes of a patient."""
    assert "does not say how its axes are placed" in refused(changed(tmp_path / "a.nrrd", *NRRD_PLACES[how]))


@pytest.mark.parametrize("how", MHA_PLACES)
def test_a_metaimage_that_does_not_place_its_axes_is_refused(tmp_path: Path, how: str) -> None:
    assert "does not say how its axes are placed" in refused(changed(tmp_path / "a.mha", *MHA_PLACES[how]))


@pytest.mark.parametrize("space", [b"RAS", b"LPS", b"left-anterior-superior"])
def test_spaces_of_a_patient_are_read(tmp_path: Path, space: bytes) -> None:
    """Axes that run to the right instead of the left, or to the front instead of the back, mirror the image."""
    path = changed(tmp_path / "a.nrrd", b"left-posterior-superior", space)
    lps = save(tmp_path / "b.nrrd", chest())
    read, plain = read_stored(path), read_stored(lps)
    flips = tuple(axis for axis, mirrored in ((2, space == b"RAS"), (1, space != b"LPS")) if mirrored)
    np.testing.assert_array_equal(np.flip(read.values, flips), plain.values)


@pytest.mark.parametrize(
    ("name", "after", "units"),
    [
        ("a.nrrd", rb"(space directions:.*\n)", rb'\1space units: "cm" "cm" "cm"\n'),
        ("a.mha", rb"(Offset = .*\n)", rb"\1DistanceUnits = um\n"),
    ],
)
def test_axes_in_another_unit_are_refused(tmp_path: Path, name: str, after: bytes, units: bytes) -> None:
    assert re.search("its axes are in (cm|um); export it again in mm", refused(changed(tmp_path / name, after, units)))


def test_axes_said_to_be_in_millimetres_are_read(tmp_path: Path) -> None:
    units = rb'\1space units: "mm" "mm" "mm"\n'
    read_stored(changed(tmp_path / "a.nrrd", rb"(space directions:.*\n)", units))
