"""Grey values of a patient on the network's grid, as `rdunet prepare` stores them."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from data_pipeline.dicom.discovery import discover
from data_pipeline.dicom.volume import read_volume
from data_pipeline.errors import InputError
from data_pipeline.phantom.phantom import draw_phantom, hounsfield
from data_pipeline.preprocessing.intensity import background, to_grey
from data_pipeline.preprocessing.network_grid import to_network_grid


def grey_volume(ct: Path | None, slices: int, size: int) -> UInt8[np.ndarray, "slices size size"]:
    """The middle `slices` slices of a CT, or of a phantom if `ct` is None.

    Raises:
        InputError: the folder does not hold exactly one patient, or the CT has too few slices.
    """
    if ct is None:
        volume = hounsfield(draw_phantom(0, slices=slices))
    else:
        found = discover(ct).series
        if len(found) != 1:
            raise InputError(f"{ct}: holds {len(found)} CT series; give --ct the folder of one")
        volume = read_volume(found[0]).hounsfield
    first = (len(volume) - slices) // 2
    if first < 0:
        raise InputError(f"{ct or 'the phantom'}: has {len(volume)} slices; --slices must not be larger")
    grey = to_grey(volume[first : first + slices], "slice_minmax")
    return to_network_grid(grey, size, background("slice_minmax"))
