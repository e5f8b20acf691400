"""The tumours of an `easy` phantom: one to three, of 20 to 50 mm, free in a lung or pressed into its surface."""

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from data_pipeline.phantom.anatomy import Anatomy, Capsules, Sections
from data_pipeline.phantom.finding import Finding, spicules
from data_pipeline.phantom.vessels import lung_points


def draw_tumours(
    rng: np.random.Generator, anatomy: Anatomy, z: Float[np.ndarray, "slices"]
) -> tuple[list[Finding], Capsules]:
    """Draw one to three tumours: free in a lung, or pressed into its surface.

    Args:
        rng: source of randomness.
        anatomy: the healthy thorax.
        z: of the slices (mm, ascending). The tumours end at least a slice from the scan's ends.

    Returns:
        The tumours, at least 5 mm apart, and the spicules that radiate from some of them.
    """
    gap = z[1] - z[0]
    largest = min(24.0, (z[-1] - z[0]) / 2 - 2 * gap)
    # Six slices or more, where the scan is long enough for that.
    smallest = min(max(14.0, 3.2 * gap), largest)
    points, depth = lung_points(rng, anatomy, 4000)
    tumours: list[Finding] = []
    for _ in range(rng.integers(1, 4)):
        on_wall = bool(rng.random() < 0.3)
        radius = rng.uniform(smallest, largest)
        while (tumour := _place(rng, anatomy, points[depth > 0.5 * radius], radius, z, on_wall, tumours)) is None:
            radius *= 0.93
        tumours.append(tumour)
    spiculated = [tumour for tumour in tumours if rng.random() < 0.6]
    none = np.zeros((0, 8), np.float32)
    return tumours, np.concatenate([none, *(tube for tumour in spiculated for tube in spicules(rng, tumour))])


def _place(
    rng: np.random.Generator,
    anatomy: Anatomy,
    centres: Float[np.ndarray, "points 3"],
    radius: float,
    z: np.ndarray,
    on_wall: bool,
    others: list[Finding],
) -> Finding | None:
    """A tumour of about that radius at one of `centres`, or None if there is no room."""
    centres = centres[(centres[:, 2] - z[0] > radius) & (z[-1] - centres[:, 2] > radius)]
    for centre in rng.permutation(centres)[:60]:
        tumour = Finding(
            centre=centre.astype(np.float64),
            axes=radius * rng.uniform(0.8, 1.15, 3),
            rotation=Rotation.random(rng=rng).as_matrix(),
            waves=rng.normal(0, 2.2, (5, 3)),
            phases=rng.uniform(0, 2 * np.pi, 5),
            amplitudes=rng.uniform(0.03, 0.08, 5),
            hounsfield=rng.uniform(25, 48),
            kind="pleural" if on_wall else "nodule",
        )
        across, deep, height = tumour.surface(12)[0].astype(np.float32).T
        sticks_out = Sections(anatomy, across, deep).lungs(height).max()
        apart = all(np.linalg.norm(centre - o.centre) > tumour.reach + o.reach + 5 for o in others)
        in_scan = height.min() > z[1] and height.max() < z[-2]
        if apart and in_scan and (1 < sticks_out < 4 if on_wall else sticks_out < -3):
            return tumour
    return None
