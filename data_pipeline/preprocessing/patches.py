"""Which runs of consecutive slices are training patches."""

import numpy as np
from jaxtyping import Bool, Int

from data_pipeline.settings import PatchSelection

PATCH_DEPTH = 8


def patch_starts(
    tumour_slices: Bool[np.ndarray, " depth"], selection: PatchSelection, patch_depth: int = PATCH_DEPTH
) -> Int[np.ndarray, " patches"]:
    """First slices of a patient's patches, at stride 1.

    Args:
        tumour_slices: which slices hold tumour.
        selection: `tumour_run`, as the Keras code: the run from the first to the last tumour slice, gaps filled and, if
            shorter than a patch, lengthened by the slices that follow (at the end of a scan, that precede), is cut into
            patches. `any_tumour`, as the paper words it: every patch with at least one tumour slice. `all`: every one.
    Returns:
        Ascending starts; none for a scan shorter than a patch, nor, but for `all`, without tumour.
    """
    depth = len(tumour_slices)
    tumour = np.flatnonzero(tumour_slices)
    last_start = depth - patch_depth
    if selection == "all":
        return np.arange(max(last_start + 1, 0))
    if not len(tumour) or last_start < 0:
        return np.arange(0)
    first, last = int(tumour[0]), int(tumour[-1])
    if selection == "tumour_run":
        start = min(first, last_start)
        return np.arange(start, max(last - patch_depth + 1, start) + 1)
    starts = np.arange(last_start + 1)
    return starts[hold_tumour(tumour_slices, starts, patch_depth)]


def hold_tumour(
    tumour_slices: Bool[np.ndarray, " depth"], starts: Int[np.ndarray, " patches"], patch_depth: int
) -> Bool[np.ndarray, " patches"]:
    """Which of the patches with these first slices hold at least one tumour slice."""
    counts = np.concatenate(([0], np.cumsum(tumour_slices)))
    return counts[starts + patch_depth] > counts[starts]
