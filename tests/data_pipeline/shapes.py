"""Planar shapes with a known area, a CT geometry in any orientation to draw them on, and an oracle for their masks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_pipeline.contours.rtstruct import Contour
from data_pipeline.dicom.geometry import CTGeometry


@dataclass(frozen=True, eq=False)
class Shape:
    """Polygons in a plane (mm) that combine by even-odd, and the area of what they enclose (mm2)."""

    polygons: tuple[np.ndarray, ...]
    area: float


def regular(count: int, radius: float, centre: Any = (0, 0), phase: float = 0.1) -> np.ndarray:
    angles = phase + 2 * np.pi * np.arange(count) / count
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * radius + np.asarray(centre)


def regular_area(count: int, radius: float) -> float:
    return count / 2 * radius**2 * np.sin(2 * np.pi / count)


def disk(radius: float, phase: float) -> Shape:
    return Shape((regular(60, radius, phase=phase),), regular_area(60, radius))


def ring(radius: float, phase: float) -> Shape:
    inner = 0.55 * radius
    outline = regular(40, radius, phase=phase), regular(24, inner, centre=(0.2 * radius, 0), phase=phase)
    return Shape(outline, regular_area(40, radius) - regular_area(24, inner))


def star(radius: float, phase: float) -> Shape:
    tips, waist = 5, 0.4 * radius
    points = np.empty((2 * tips, 2))
    points[0::2] = regular(tips, radius, phase=phase)
    points[1::2] = regular(tips, waist, phase=phase + np.pi / tips)
    return Shape((points,), tips * radius * waist * np.sin(np.pi / tips))


def keyhole_ring(radius: float, phase: float) -> Shape:
    """A ring as one contour: in along a cut, around the hole backwards, and out along the same cut."""
    outer, inner = regular(32, radius, phase=phase), regular(20, 0.5 * radius, phase=phase)[::-1]
    path = np.concatenate([outer, outer[:1], inner[-1:], inner[:-1], inner[-1:]])
    return Shape((path,), regular_area(32, radius) - regular_area(20, 0.5 * radius))


def two_islands(radius: float, phase: float) -> Shape:
    away = 0.55 * radius * np.array([np.cos(phase), np.sin(phase)])
    return Shape(
        (regular(16, 0.4 * radius, away), regular(9, 0.45 * radius, -away)),
        regular_area(16, 0.4 * radius) + regular_area(9, 0.45 * radius),
    )


def sliver(radius: float, phase: float) -> Shape:
    along, across = np.array([np.cos(phase), np.sin(phase)]), np.array([-np.sin(phase), np.cos(phase)])
    half = 0.03 * radius
    corners = np.array([along * radius, across * half, -along * radius, -across * half])
    return Shape((corners,), 2 * radius * half)


SHAPES = {shape.__name__: shape for shape in (disk, ring, star, keyhole_ring, two_islands, sliver)}


def rotation(generator: np.random.Generator) -> np.ndarray:
    """A random right-handed rotation: rows are the row cosine, the column cosine and the normal."""
    q, r = np.linalg.qr(generator.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q if np.linalg.det(q) > 0 else -q


def random_geometry(
    generator: np.random.Generator, *, depth: int = 3, height: int = 26, width: int = 21, uneven: bool = False
) -> CTGeometry:
    """Any orientation, spacing and shear; slices unevenly spaced on demand."""
    row, column, normal = rotation(generator)
    steps = np.full(depth, generator.uniform(0.5, 6)) * (generator.uniform(0.5, 3, depth) if uneven else 1)
    shear = generator.uniform(-0.3, 0.3, 2)
    drift = normal + shear[0] * row + shear[1] * column
    positions = generator.uniform(-400, 400, 3) + np.cumsum(steps)[:, None] * drift
    between_rows, between_columns = generator.uniform(0.4, 2, 2)
    uids = tuple(f"1.2.{index}" for index in range(depth))
    return CTGeometry(positions, row, column, (between_rows, between_columns), (depth, height, width), uids, "1.3")


def plain_geometry(depth: int = 3, height: int = 26, width: int = 21) -> CTGeometry:
    """Pixels and slices of 1 mm at the origin: the point (x, y, z) is (slice z, row y, column x)."""
    positions = np.stack([np.zeros(depth), np.zeros(depth), np.arange(depth)], axis=1).astype(float)
    uids = tuple(f"1.2.{index}" for index in range(depth))
    return CTGeometry(positions, np.eye(3)[0], np.eye(3)[1], (1.0, 1.0), (depth, height, width), uids, "1.3")


def drawn(geometry: CTGeometry, slice_index: int, pixels: Any, number: int = 0, **fields: Any) -> Contour:
    """A contour with vertices at (row, column) of a slice."""
    rows, columns = np.asarray(pixels, float).T[:, :, None]
    between_rows, between_columns = geometry.pixel_spacing_mm
    points = (
        geometry.positions_mm[slice_index]
        + rows * between_rows * geometry.column_cosine
        + columns * between_columns * geometry.row_cosine
    )
    values: dict[str, Any] = {
        "geometric_type": "CLOSED_PLANAR",
        "sop_instance_uid": geometry.sop_instance_uids[slice_index],
    }
    return Contour(points, **{**values, "roi_name": "GTV-1", "number": number, "roi_number": 1, **fields})


def inside(
    contours: Sequence[Contour],
    geometry: CTGeometry,
    slice_index: int,
    rows: tuple[int, int] | None = None,
    columns: tuple[int, int] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The oracle: for each pixel centre whether it is inside (even-odd), and its distance to the nearest edge, mm.

    Shares nothing with the rasteriser: each centre is placed in the patient by DICOM's formula, contours and centres
    are projected onto two axes that have nothing to do with rows and columns, and a ray is cast along one of them.
    """
    (top, bottom), (left, right) = rows or (0, geometry.shape[1]), columns or (0, geometry.shape[2])
    row, column = np.mgrid[top:bottom, left:right][..., None]
    between_rows, between_columns = geometry.pixel_spacing_mm
    centres = (
        geometry.positions_mm[slice_index]
        + row * between_rows * geometry.column_cosine
        + column * between_columns * geometry.row_cosine
    )
    a = 0.6 * geometry.row_cosine + 0.8 * geometry.column_cosine
    b = 0.8 * geometry.row_cosine - 0.6 * geometry.column_cosine
    u, v = centres @ a, centres @ b
    parity, distance = np.zeros(u.shape, bool), np.full(u.shape, np.inf)
    for contour in contours:
        pu, pv = contour.points_mm @ a, contour.points_mm @ b
        for u0, v0, u1, v1 in zip(pu, pv, np.roll(pu, -1), np.roll(pv, -1), strict=True):
            length2 = (u1 - u0) ** 2 + (v1 - v0) ** 2
            along = np.clip(((u - u0) * (u1 - u0) + (v - v0) * (v1 - v0)) / (length2 or 1), 0, 1)
            distance = np.minimum(distance, np.hypot(u - u0 - along * (u1 - u0), v - v0 - along * (v1 - v0)))
            if v0 != v1:
                parity ^= ((v0 <= v) != (v1 <= v)) & (u < u0 + (v - v0) / (v1 - v0) * (u1 - u0))
    return parity, distance
