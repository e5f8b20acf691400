"""Files and folders that are written whole or not at all: `data_pipeline.files`, under the library's name."""

from data_pipeline.files import atomic_folder, atomic_path, disk_faults, locked, write_whole

__all__ = ["atomic_folder", "atomic_path", "disk_faults", "locked", "write_whole"]
