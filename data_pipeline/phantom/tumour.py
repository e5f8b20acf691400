"""The tumour of a phantom patient: a surface known in closed form, with its volume and its outlines."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation
from skimage.measure import find_contours

from data_pipeline.phantom.anatomy import Anatomy, Capsules, Sections
from data_pipeline.phantom.vessels import chain, lung_points


@dataclass(frozen=True, eq=False)
class Tumour:
    """A star-shaped tumour: an ellipsoid whose radius is multiplied by 1 + a few smooth waves over the sphere.

    With v = axes⁻¹ Rᵀ (p - centre), p is inside where |v| < 1 + Σ amplitude sin(wave · v/|v| + phase).

    Attributes:
        centre, axes: in mm.
        rotation: R, from the ellipsoid's axes to the patient's.
        waves, phases, amplitudes: of the waves, dimensionless.
        hounsfield: mean CT number (HU).
    """

    centre: Float[np.ndarray, "3"]
    axes: Float[np.ndarray, "3"]
    rotation: Float[np.ndarray, "3 3"]
    waves: Float[np.ndarray, "waves 3"]
    phases: Float[np.ndarray, "waves"]
    amplitudes: Float[np.ndarray, "waves"]
    hounsfield: float

    @property
    def reach(self) -> float:
        """Radius of a ball around `centre` that contains the tumour (mm)."""
        return float(self.axes.max() * (1 + self.amplitudes.sum()))

    def _bumps(self, direction: Float[np.ndarray, "*points 3"]) -> Float[np.ndarray, "*points"]:
        return 1 + np.sin(direction @ self.waves.T + self.phases) @ self.amplitudes

    def level(self, points: Float[np.ndarray, "*points 3"]) -> Float[np.ndarray, "*points"]:
        """Implicit surface: 0 on it, negative inside, about the distance in mm near it."""
        scaled = (points - self.centre) @ self.rotation / self.axes
        radius = np.sqrt(np.square(scaled).sum(-1)) + 1e-9
        return (radius - self._bumps(scaled / radius[..., None])) * self.axes.mean()

    def surface(self, polar: int = 24) -> tuple[Float[np.ndarray, "points 3"], Float[np.ndarray, "points"]]:
        """Points on the surface (mm), and the volume in mm3 of the cone from `centre` to each.

        The cones are a Gauss-Legendre by trapezium rule on the sphere: ∫ (1 + waves)³ / 3 dΩ times the axes' product.
        """
        cosine, weight = np.polynomial.legendre.leggauss(polar)
        angle = np.arange(2 * polar) * np.pi / polar
        sine = np.sqrt(1 - cosine**2)[:, None]
        across = [sine * np.cos(angle), sine * np.sin(angle), np.repeat(cosine[:, None], 2 * polar, 1)]
        direction = np.stack(across, axis=-1).reshape(-1, 3)
        bumps = self._bumps(direction)
        points = self.centre + (bumps[:, None] * direction * self.axes) @ self.rotation.T
        return points, np.repeat(weight, 2 * polar) * np.pi / polar * bumps**3 / 3 * self.axes.prod()

    def section(self, z: float, step_mm: float = 1.0) -> list[Float[np.ndarray, "points 2"]]:
        """Level curves on the plane at z: corners x, y in mm, in order, the first not repeated.

        Args:
            z: in mm.
            step_mm: grid of the marching squares that find the curves, so about the distance between corners. Each
                corner is then moved onto the surface.
        """
        if abs(z - self.centre[2]) > self.reach:
            return []
        x, y = (np.arange(c - self.reach - step_mm, c + self.reach + 2 * step_mm, step_mm) for c in self.centre[:2])
        curves = find_contours(self.level(plane_points(x, y, z)), 0.0)
        return [self._onto_surface(np.array([x[0], y[0]]) + curve[:-1, ::-1] * step_mm, z) for curve in curves]

    def _onto_surface(self, corners: Float[np.ndarray, "points 2"], z: float) -> Float[np.ndarray, "points 2"]:
        """Newton's method along the level's in-plane gradient."""
        points = np.column_stack([corners, np.full(len(corners), z)])
        nudge = 1e-4 * np.eye(3)[:2, None]
        for _ in range(4):
            gradient = ((self.level(points + nudge) - self.level(points - nudge)) / 2e-4).T
            points[:, :2] -= gradient * (self.level(points) / np.square(gradient).sum(1))[:, None]
        return points[:, :2]


def plane_points(x: np.ndarray, y: np.ndarray, z: float) -> Float[np.ndarray, "rows columns 3"]:
    """Points of a raster: y down the rows, x along the columns (mm)."""
    return np.stack(np.broadcast_arrays(x[None, :], y[:, None], z), axis=-1)


def draw_tumours(
    rng: np.random.Generator, anatomy: Anatomy, z: Float[np.ndarray, "slices"]
) -> tuple[list[Tumour], Capsules]:
    """Draw one to three tumours: free in a lung, or pressed into its wall.

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
    tumours: list[Tumour] = []
    for _ in range(rng.integers(1, 4)):
        on_wall = bool(rng.random() < 0.3)
        radius = rng.uniform(smallest, largest)
        while (tumour := _place(rng, anatomy, points[depth > 0.5 * radius], radius, z, on_wall, tumours)) is None:
            radius *= 0.93
        tumours.append(tumour)
    spiculated = [tumour for tumour in tumours if rng.random() < 0.6]
    none = np.zeros((0, 8), np.float32)
    return tumours, np.concatenate([none, *(tube for tumour in spiculated for tube in _spicules(rng, tumour))])


def _place(
    rng: np.random.Generator,
    anatomy: Anatomy,
    centres: Float[np.ndarray, "points 3"],
    radius: float,
    z: np.ndarray,
    on_wall: bool,
    others: list[Tumour],
) -> Tumour | None:
    """A tumour of about that radius at one of `centres`, or None if there is no room."""
    centres = centres[(centres[:, 2] - z[0] > radius) & (z[-1] - centres[:, 2] > radius)]
    for centre in rng.permutation(centres)[:60]:
        tumour = Tumour(
            centre=centre.astype(np.float64),
            axes=radius * rng.uniform(0.8, 1.15, 3),
            rotation=Rotation.random(rng=rng).as_matrix(),
            waves=rng.normal(0, 2.2, (5, 3)),
            phases=rng.uniform(0, 2 * np.pi, 5),
            amplitudes=rng.uniform(0.03, 0.08, 5),
            hounsfield=rng.uniform(25, 48),
        )
        across, deep, height = tumour.surface(12)[0].astype(np.float32).T
        sticks_out = Sections(anatomy, across, deep).lungs(height).max()
        apart = all(np.linalg.norm(centre - o.centre) > tumour.reach + o.reach + 5 for o in others)
        in_scan = height.min() > z[1] and height.max() < z[-2]
        if apart and in_scan and (1 < sticks_out < 4 if on_wall else sticks_out < -3):
            return tumour
    return None


def _spicules(rng: np.random.Generator, tumour: Tumour) -> Iterable[Capsules]:
    """Thin strands from the surface into the lung; they are not part of the tumour."""
    for tip in rng.choice(tumour.surface()[0], 12):
        ray = tip - tumour.centre
        ends = (
            tumour.centre
            + np.array([[0.9], [rng.uniform(1.2, 1.5)]]) * ray
            + np.array([[0.0], [1.0]]) * rng.normal(0, 2, 3)
        )
        yield chain(ends, np.array([1.0, 0.4]))
