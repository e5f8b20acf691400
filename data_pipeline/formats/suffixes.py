"""Names of volume files: NIfTI, NRRD and MetaImage, one whole volume a file."""

from pathlib import Path

IMAGE_IO = {".nii.gz": "NiftiImageIO", ".nii": "NiftiImageIO", ".nrrd": "NrrdImageIO", ".mha": "MetaImageIO"}
"""Suffix of a volume file to the reader of SimpleITK for it."""
KIND = {".nii.gz": "NIfTI", ".nii": "NIfTI", ".nrrd": "NRRD", ".mha": "MetaImage"}
"""Suffix to the name of the format."""
DETACHED = (".mhd", ".nhdr", ".hdr", ".img")
"""Headers whose voxels are in a second file, which may be any file on the disk; they are not read."""
TABLE = ".csv"


def suffix_of(path: Path) -> str:
    """The suffix of a volume file, in lower case; empty for any other file, and for hidden ones.

    macOS leaves a hidden `._name.nii.gz` beside each file of an archive; the public Decathlon archives hold them.
    """
    name = path.name.lower()
    return next((suffix for suffix in IMAGE_IO if name.endswith(suffix) and not name.startswith(".")), "")


def stem_of(path: Path) -> str:
    """The name of a volume file without its suffix."""
    return path.name[: len(path.name) - len(suffix_of(path))]


def is_file_source(path: Path) -> bool:
    """Whether a file is a source of its own: a volume file, or a table of them."""
    return bool(suffix_of(path)) or path.suffix.lower() == TABLE
