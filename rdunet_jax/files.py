"""Files and folders that are written whole or not at all: `data_pipeline.files`, under the library's name."""

from data_pipeline.files import (
    access_faults,
    atomic_files,
    atomic_folder,
    atomic_path,
    disk_faults,
    locked,
    read_json,
    renamed_in_errors,
    sha256_of,
    write_whole,
)

__all__ = [
    "access_faults",
    "atomic_files",
    "atomic_folder",
    "atomic_path",
    "disk_faults",
    "locked",
    "read_json",
    "renamed_in_errors",
    "sha256_of",
    "write_whole",
]
