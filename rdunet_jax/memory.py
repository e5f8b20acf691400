"""The memory of this process."""

import resource
import sys


def peak_host_bytes() -> int:
    """The most memory that this process has held so far (`ru_maxrss`, which is in KiB, but on a Mac in bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
