"""What a volume file declares, compared with what it holds, before anything decodes it.

A header of a few bytes may declare terabytes, and a small compressed file may unpack to them. So the header is read
first, and compressed voxels are unpacked once without being kept, up to the declared size.
"""

import bz2
import gzip
import math
import os
import re
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from data_pipeline.errors import InputError
from data_pipeline.formats.suffixes import KIND, suffix_of

MOST_BYTES = 3 * 2**29
"""Most bytes of voxels in a volume file: 1.5 GiB, 700 slices of 1024 x 1024 at 16 bits."""
MOST_HEADER_BYTES = 2**20
_SURPLUS_BYTES = 2**20  # after the voxels, which some writers append
_CHUNK = 2**20
_FAULTS = (OSError, EOFError, ValueError, KeyError, OverflowError, zlib.error)

_NRRD_BYTES = {
    1: "signed char, int8, int8_t, uchar, unsigned char, uint8, uint8_t",
    2: "short, short int, signed short, signed short int, int16, int16_t, ushort, unsigned short, unsigned short int, "
    "uint16, uint16_t",
    4: "int, signed int, int32, int32_t, uint, unsigned int, uint32, uint32_t, float",
    8: "longlong, long long, long long int, signed long long, signed long long int, int64, int64_t, ulonglong, "
    "unsigned long long, unsigned long long int, uint64, uint64_t, double",
}
_MET_BYTES = {
    1: "MET_CHAR, MET_UCHAR",
    2: "MET_SHORT, MET_USHORT",
    4: "MET_INT, MET_UINT, MET_LONG, MET_ULONG, MET_FLOAT",
    8: "MET_LONG_LONG, MET_ULONG_LONG, MET_DOUBLE",
}
_MET_PLACE = (
    {"elementspacing", "elementsize"},
    {"transformmatrix", "rotation", "orientation"},
    {"offset", "position", "origin"},
)
"""Fields that place the axes; each group holds the names of one."""
_NRRD_SPACES = ["left-posterior-superior", "lps", "right-anterior-superior", "ras", "left-anterior-superior", "las"]
"""Those that name the sides of a patient. In others, such as `scanner-xyz`, left and right are not known."""


@dataclass(frozen=True)
class Declared:
    """What a header says.

    Attributes:
        shape: sizes of all axes, without trailing ones of size 1 beyond the third.
        voxel_bytes: of one voxel as stored.
        offset: where the voxels begin: in the file, or of a NIfTI file in what it unpacks to.
        packing: how the voxels are compressed; empty if they are not.
        placed: whether it says how the axes are placed in the patient.
    """

    shape: tuple[int, ...]
    voxel_bytes: int
    offset: int
    packing: str
    placed: bool


def check_declared(path: Path) -> Declared:
    """Read the header of a volume file and compare it with the size of the file.

    Raises:
        InputError: the file is damaged or truncated, is no volume of three dimensions, declares more than `MOST_BYTES`,
            holds more than it declares, does not say how its axes are placed in the patient, or not in mm.
    """
    suffix = suffix_of(path)
    kind = KIND[suffix]
    readers: dict[str, Callable[[Path], Declared]] = {"NIfTI": _nifti, "NRRD": _nrrd, "MetaImage": _metaimage}
    try:
        declared = readers[kind](path)
        _check_shape(path, declared)
        _check_held(path, declared)
    except InputError:
        raise
    except _FAULTS as error:
        raise InputError(
            f"not a readable {kind} file ({type(error).__name__}); copy or export it again", path=path
        ) from error
    if not declared.placed:
        raise InputError(
            "does not say how its axes are placed in the patient (NIfTI: qform or sform; NRRD: a space of the patient "
            "and space directions; MetaImage: ElementSpacing, TransformMatrix and Offset); export it again with them",
            path=path,
        )
    return declared


def _check_shape(path: Path, declared: Declared) -> None:
    shape = declared.shape
    sizes = " x ".join(map(str, shape)) or "nothing"
    # What is before the voxels of a compressed file would be unpacked too.
    if not 0 <= declared.offset <= MOST_BYTES or min(shape, default=0) < 1:
        raise ValueError("header")
    if len(shape) != 3 or min(shape) < 2:
        real = sum(size > 1 for size in shape)
        raise InputError(f"is no 3-D volume, but {real}-D ({sizes}); export one CT as one volume", path=path)
    if math.prod(shape) * declared.voxel_bytes > MOST_BYTES:
        raise InputError(
            f"declares {sizes} voxels, more than {MOST_BYTES / 2**30:g} GiB; export one CT as one volume", path=path
        )


def _check_held(path: Path, declared: Declared) -> None:
    """Refuse a file that holds fewer or far more bytes than it declares."""
    needed = math.prod(declared.shape) * declared.voxel_bytes
    with path.open("rb") as file:
        if declared.packing == "":
            held = os.fstat(file.fileno()).st_size - declared.offset
        elif declared.packing == "gzip file":
            held = _unpacked(gzip.GzipFile(fileobj=file), declared.offset + needed) - declared.offset
        else:
            file.seek(declared.offset)
            if declared.packing == "zlib":
                held = _inflated(file, needed)
            else:
                opened = gzip.GzipFile(fileobj=file) if declared.packing == "gzip" else bz2.BZ2File(file)
                held = _unpacked(opened, needed)
    if not needed <= held <= needed + _SURPLUS_BYTES:
        what = "is truncated" if held < needed else "holds more than its header declares"
        raise InputError(f"{what} ({needed} bytes of voxels declared); copy or export it again", path=path)


def _unpacked(file: gzip.GzipFile | bz2.BZ2File, needed: int) -> int:
    """Bytes that a stream unpacks to, counted no further than a little beyond what is needed."""
    total = 0
    try:
        while total <= needed + _SURPLUS_BYTES and (piece := file.read(_CHUNK)):
            total += len(piece)
    except EOFError:  # a truncated stream
        pass
    return total


def _inflated(file: BinaryIO, needed: int) -> int:
    inflate, total = zlib.decompressobj(), 0
    packed = file.read(_CHUNK)
    while packed and not inflate.eof and total <= needed + _SURPLUS_BYTES:
        total += len(inflate.decompress(packed, _CHUNK))
        packed = inflate.unconsumed_tail or file.read(_CHUNK)
    return total


def _without_ones(shape: list[int]) -> tuple[int, ...]:
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    return tuple(shape)


def _nifti(path: Path) -> Declared:
    """A NIfTI-1 or NIfTI-2 file of one part; its name says whether it is compressed, as readers take it."""
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    packed = suffix_of(path) == ".nii.gz"
    head = _head(path)
    try:
        kind, length = (Nifti2Header, 540) if nifti_version(path) == 2 else (Nifti1Header, 348)
        header = kind(head[:length], check=False)  # its checks write to the terminal
        shape, voxel = list(map(int, header.get_data_shape())), header.get_data_dtype()
    except (HeaderDataError, WrapStructError) as error:
        raise ValueError("header") from error
    if not bytes(header["magic"]).startswith(b"n+") or voxel.kind not in "iuf":
        raise ValueError("header")
    return Declared(
        _without_ones(shape),
        voxel.itemsize,
        int(header["vox_offset"]),
        "gzip file" if packed else "",
        int(header["qform_code"]) > 0 or int(header["sform_code"]) > 0,
    )


def nifti_version(path: Path) -> int:
    """1 or 2, by the length of the header, which is the first number of the file."""
    return 2 if 540 in (int.from_bytes(_head(path)[:4], order) for order in ("little", "big")) else 1


def _head(path: Path) -> bytes:
    """The first bytes of a NIfTI file, unpacked: as many as the longer header has."""
    with path.open("rb") as file:
        return (gzip.GzipFile(fileobj=file) if suffix_of(path) == ".nii.gz" else file).read(540)


def _fields(path: Path, separators: str, end: Callable[[bytes], bool]) -> tuple[dict[str, str], int]:
    """Fields of a header of text, with names in lower case without blanks, and where the header ends."""
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        while line := file.readline(MOST_HEADER_BYTES):
            if file.tell() > MOST_HEADER_BYTES:
                break
            name, found, value = line.decode("latin-1").partition(separators)
            name = name.strip().lower().replace(" ", "")
            if name in fields:
                raise ValueError("twice")  # readers may take the other one
            if found and not value.startswith("="):  # `:=` is a key of the writer's own
                fields[name] = value.strip()
            if end(line):
                return fields, file.tell()
    raise ValueError("header")


def _bytes_of(table: dict[int, str], name: str) -> int:
    for size, names in table.items():
        if name in names.split(", "):
            return size
    raise ValueError("type")


def _nrrd(path: Path) -> Declared:
    """A NRRD file with its voxels (http://teem.sourceforge.net/nrrd/format.html)."""
    fields, offset = _fields(path, ":", lambda line: not line.strip())
    if fields.keys() & {"datafile", "byteskip", "lineskip"}:
        raise InputError("is a header with its voxels in another file; save it as one file (.nrrd, .mha)", path=path)
    packing = {"raw": "", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2"}[fields["encoding"].lower()]
    shape = _without_ones([int(size) for size in fields["sizes"].split()])
    _check_units(re.findall('"([^"]*)"', fields.get("spaceunits", "")), path)
    placed = fields.get("space", "").lower() in _NRRD_SPACES and fields.get("spacedirections", "").count("(") == 3
    return Declared(shape, _bytes_of(_NRRD_BYTES, fields["type"]), offset, packing, placed and "spaceorigin" in fields)


def _check_units(units: Iterable[str], path: Path) -> None:
    """Refuse axes that are not in millimetres; readers of NRRD and MetaImage take them as if they were."""
    if others := set(units) - {"mm"}:
        raise InputError(f"its axes are in {', '.join(sorted(others)) or 'no unit'}; export it again in mm", path=path)


def _metaimage(path: Path) -> Declared:
    """A MetaImage file with its voxels (https://itk.org/Wiki/ITK/MetaIO/Documentation)."""
    fields, offset = _fields(path, "=", lambda line: line.lower().replace(b" ", b"").startswith(b"elementdatafile"))
    if fields["elementdatafile"] != "LOCAL" or fields.get("headersize", "0") not in ("0", "-1"):
        raise InputError("is a header with its voxels in another file; save it as one file (.nrrd, .mha)", path=path)
    channels = int(fields.get("elementnumberofchannels", "1"))
    packing = "zlib" if fields.get("compresseddata", "").lower() in ("true", "1") else ""
    shape = _without_ones([int(size) for size in fields["dimsize"].split()] + ([channels] if channels > 1 else []))
    _check_units([unit] if (unit := fields.get("distanceunits", "")) else [], path)
    placed = all(fields.keys() & one for one in _MET_PLACE)
    return Declared(shape, _bytes_of(_MET_BYTES, fields["elementtype"]), offset, packing, placed)
