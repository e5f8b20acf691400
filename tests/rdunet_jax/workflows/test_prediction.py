"""The grid of a CT that probabilities come back to, beside the one that the network saw."""

from dataclasses import replace

import numpy as np

from data_pipeline.dicom.volume import CTVolume
from data_pipeline.preprocessing.patient import prepare_image
from rdunet_jax.workflows.prediction import ct_grid_of_volume
from tests.data_pipeline.shapes import plain_geometry


def test_a_resampled_ct_comes_back_to_its_own_slices_where_positions_are_rounded() -> None:
    """Slices of 1.25 mm whose positions were cut to 0.1 mm: gaps of 1.2 and 1.3 mm."""
    depth = 240
    z = np.floor(np.arange(depth) * 12.5) / 10
    geometry = replace(
        plain_geometry(depth, 8, 8), positions_mm=np.stack([0 * z, 0 * z, z], axis=1), pixel_spacing_mm=(0.8, 0.8)
    )
    hounsfield = np.broadcast_to(np.arange(depth, dtype=np.int16)[:, None, None], geometry.shape).copy()
    volume = CTVolume(hounsfield, geometry, "", "", "", ())
    voxel = (0.8, 0.8, 3.0)
    seen = prepare_image(volume, "hu_window", 8, voxel)
    back = ct_grid_of_volume(volume, 8, False, voxel).values(seen.astype(np.float32))
    inner = slice(2, -2)  # the ends are half a voxel of 3 mm from the last slice of the grid
    # Values are slice numbers: two linear interpolations give them back but for rounding to whole numbers.
    np.testing.assert_allclose(back[inner, 4, 4], np.arange(depth)[inner], atol=0.51)
