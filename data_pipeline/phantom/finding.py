"""A tumour of a phantom patient, or what looks like one: a surface in closed form, with its volume and outlines."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from skimage.measure import find_contours

from data_pipeline.phantom.anatomy import Capsules
from data_pipeline.phantom.vessels import chain

TumourKind = Literal["nodule", "pleural", "cavity", "hilar", "mediastinal", "diaphragm", "chest_wall"]
"""Free in the lung, pressed into its surface, with a cavity, at the hilum, in the mediastinum, across the diaphragm,
through the inside of the rib cage."""
LookalikeKind = Literal["lymph_node", "atelectasis", "granuloma", "vessel"]


@dataclass(frozen=True, eq=False)
class Finding:
    """A star-shaped body: an ellipsoid whose radius is multiplied by 1 + a few smooth waves over the sphere.

    With v = axes⁻¹ Rᵀ (p - centre), p is inside where |v| < 1 + Σ amplitude sin(wave · v/|v| + phase).

    Attributes:
        centre, axes: in mm.
        rotation: R, from the ellipsoid's axes to the patient's.
        waves, phases, amplitudes: of the waves, dimensionless.
        hounsfield: mean CT number of the solid part (HU).
        kind: what it represents.
        cavity: share of the radius, from the centre, that is filled with air; 0 is solid.
    """

    centre: Float[np.ndarray, "3"]
    axes: Float[np.ndarray, "3"]
    rotation: Float[np.ndarray, "3 3"]
    waves: Float[np.ndarray, "waves 3"]
    phases: Float[np.ndarray, "waves"]
    amplitudes: Float[np.ndarray, "waves"]
    hounsfield: float
    kind: TumourKind | LookalikeKind = "nodule"
    cavity: float = 0.0

    @property
    def volume_mm3(self) -> float:
        """Volume inside the surface, a cavity included, exact to about 1e-6."""
        return float(self.surface(64)[1].sum())

    @property
    def diameter_mm(self) -> float:
        """Of the ball with the same volume (mm)."""
        return (6 / np.pi * self.volume_mm3) ** (1 / 3)

    @property
    def half_height(self) -> float:
        """Upper bound of the distance of its points from `centre` along z (mm)."""
        return float(np.linalg.norm(self.rotation[2] * self.axes) * (1 + self.amplitudes.sum()))

    @property
    def reach(self) -> float:
        """Radius of a ball around `centre` that contains the body (mm)."""
        return float(self.axes.max() * (1 + self.amplitudes.sum()))

    def _bumps(self, direction: Float[np.ndarray, "*points 3"]) -> Float[np.ndarray, "*points"]:
        return 1 + np.sin(direction @ self.waves.T + self.phases) @ self.amplitudes

    def level(self, points: Float[np.ndarray, "*points 3"], scale: float = 1.0) -> Float[np.ndarray, "*points"]:
        """Implicit surface: 0 on it, negative inside, about the distance in mm near it.

        Args:
            points: in mm.
            scale: of the surface, from its centre; `cavity` gives the surface of the cavity.
        """
        scaled = (points - self.centre) @ self.rotation / self.axes
        radius = np.sqrt(np.square(scaled).sum(-1)) + 1e-9
        return (radius - scale * self._bumps(scaled / radius[..., None])) * self.axes.mean()

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


def spicules(rng: np.random.Generator, tumour: Finding) -> Iterator[Capsules]:
    """Thin strands from the surface into the lung; they are not part of the tumour."""
    for tip in rng.choice(tumour.surface()[0], 12):
        ray = tip - tumour.centre
        ends = (
            tumour.centre
            + np.array([[0.9], [rng.uniform(1.2, 1.5)]]) * ray
            + np.array([[0.0], [1.0]]) * rng.normal(0, 2, 3)
        )
        yield chain(ends, np.array([1.0, 0.4]))
