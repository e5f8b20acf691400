"""The healthy thorax of a phantom patient: implicit surfaces in mm, and their CT numbers on an axial plane.

Coordinates are DICOM patient coordinates (PS3.3 C.7.6.2.1.1) with the origin in the middle of the chest: x to the
patient's left, y to the back, z to the head, all in mm. A surface is a function that is negative inside and grows by
about one per mm; `coverage` turns it into the partial volume of a pixel.
"""

from dataclasses import dataclass
from functools import cached_property, reduce

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

Plane = Float[np.ndarray, "rows columns"]
Capsules = Float[np.ndarray, "capsules 8"]
"""Tapered tubes: x, y, z, radius of one end, then of the other (mm)."""

AIR, FAT, CARTILAGE, MARROW, CORTEX = -1000.0, -100.0, 110.0, 230.0, 520.0
EDGE_MM = 1.3
"""Width of an edge where pixels are finer than that: the scanner's blur."""


@dataclass(frozen=True, eq=False)
class Anatomy:
    """One patient's thorax without tumours.

    Attributes:
        half_width, half_depth: of the body (mm).
        fat: depth of the muscles under the skin (mm).
        cavity: half width, half depth of the rib cage's inside (mm).
        lung_height: from the apex at z = lung_height / 2 down to the diaphragm's rim (mm).
        dome: z of the diaphragm's top under the right and the left lung (mm).
        lung: CT number of lung tissue at mid-chest (HU).
        tissue, muscle, liver: CT numbers of heart, vessels and the like, of muscle, and of the liver (HU).
        table: whether the scanner's table is in the picture.
        soft, air, bone: tubes of soft tissue (vessels, airway walls, decoys), of air (airways) and of bone.
    """

    half_width: float
    half_depth: float
    fat: float
    cavity: tuple[float, float]
    lung_height: float
    dome: tuple[float, float]
    lung: float
    tissue: float
    muscle: float
    liver: float
    table: bool
    soft: Capsules
    air: Capsules
    bone: Capsules

    @property
    def scale(self) -> float:
        """Size against a patient 360 mm wide."""
        return self.half_width / 180

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, right, front and back of a box that holds patient and couch (mm)."""
        return (
            -self.half_width - 3,
            self.half_width + 3,
            -self.half_depth - 3,
            self.half_depth + (22 if self.table else 3),
        )

    @property
    def spine_y(self) -> float:
        """y of the vertebral bodies' centres (mm)."""
        return 0.62 * self.cavity[1]


def coverage(distance: NDArray[np.floating], width: float) -> NDArray[np.floating]:
    """Share of a pixel inside a surface `distance` mm away (negative: inside), for an edge `width` mm wide."""
    share = 0.5 - distance / width
    return np.clip(share, 0, 1, out=share)


def _paint(image: Plane, distance: Plane, hounsfield: float | np.ndarray, width: float) -> None:
    share = coverage(distance, width)
    share *= hounsfield - image
    image += share


def _smooth_union(surfaces: list[np.ndarray], blend: float) -> np.ndarray:
    """Inside any of the surfaces, their meeting rounded over about `blend` mm."""
    return -blend * reduce(np.logaddexp, [-surface / blend for surface in surfaces])


def _reach(x: np.ndarray, y: np.ndarray, half_width: float, half_depth: float) -> tuple[np.ndarray, np.ndarray]:
    """Distance from the centre, and that of a superellipse's rim in the same direction (mm)."""
    across, deep = np.square(x / half_width), np.square(y / half_depth)
    radius = np.sqrt(np.square(x) + np.square(y)) + np.float32(1e-3)
    return radius, radius / np.sqrt(np.sqrt(np.square(across) + np.square(deep) + across * deep) + np.float32(1e-9))


class Sections:
    """An anatomy over fixed in-plane points; everything that does not depend on z is computed once.

    Args:
        anatomy: the patient.
        x, y: float32 coordinates that broadcast against each other (mm): a row and a column for a whole plane, or
            two equally long vectors for scattered points.
        pixel: pixel spacing (mm), 0 for points.
    """

    def __init__(self, anatomy: Anatomy, x: np.ndarray, y: np.ndarray, pixel: float = 0.0) -> None:
        self.anatomy, self.x, self.y, self.edge = anatomy, x, y, max(EDGE_MM, pixel)
        a, s = anatomy, anatomy.scale
        self._cavity_radius, self._cavity_reach = _reach(x, y, *a.cavity)
        right = x < 0
        dome_x = np.where(right, np.float32(-0.52), np.float32(0.52)) * a.cavity[0]
        steep = np.square((x - dome_x) / (0.6 * a.cavity[0])) + np.square(y / a.cavity[1])
        ripple = 4 * s * (np.sin(x / (19 * s)) + np.sin(y / (16 * s) + x / (40 * s)))
        self._floor = np.where(right, np.float32(a.dome[0]), np.float32(a.dome[1])) - 60 * s * steep + ripple
        # The mediastinum without the heart: septum, great vessels, descending aorta, vertebrae and what is behind them.
        self._medial = _smooth_union(
            [
                np.abs(x) - 5 * s + 0 * y,
                (np.hypot((x - 1 * s) / (33 * s), (y + 8 * s) / (40 * s)) - 1) * (34 * s),
                np.hypot(x - 18 * s, y - a.spine_y + 18 * s) - 17 * s,
                np.hypot(x, y - a.spine_y) - 25 * s,
                np.maximum(np.abs(x) - 30 * s, a.spine_y - y),
            ],
            4 * s,
        )
        self._heart = np.square((x - 22 * s) / (60 * s)) + np.square((y + 24 * s) / (48 * s))

    def cavity(self, z: float | np.ndarray) -> np.ndarray:
        """Surface of the rib cage's inside: a dome that closes at the lungs' apex."""
        return self._cavity_radius - self._narrowing(z) * self._cavity_reach

    def _narrowing(self, z: float | np.ndarray) -> float | np.ndarray:
        """Width of the cavity at z against its greatest: 0 at the apex."""
        below_apex = np.clip((self.anatomy.lung_height / 2 - z) / self.anatomy.lung_height, 0, 1)
        # Not a float64 scalar: it would turn all planes into float64.
        return np.sqrt(1 - (1 - below_apex) ** 3).astype(np.float32)

    def heart(self, z: float | np.ndarray) -> np.ndarray:
        """Surface of the pericardium."""
        s = self.anatomy.scale
        return (np.sqrt(self._heart + ((z + 48 * s) / (56 * s)) ** 2) - 1) * (48 * s)

    def lungs(self, z: float | np.ndarray) -> np.ndarray:
        """Surface of both lungs: the cavity without mediastinum, heart and everything below the diaphragm."""
        return np.maximum(np.maximum(self.cavity(z), -self.mediastinum(z)), self.diaphragm(z))

    def mediastinum(self, z: float | np.ndarray) -> np.ndarray:
        """Surface of the mediastinum with heart, spine and what is behind it."""
        return np.minimum(self._medial, self.heart(z))

    def diaphragm(self, z: float | np.ndarray) -> np.ndarray:
        """Surface of the diaphragm: negative above it."""
        return 0.75 * (self._floor - z)

    @cached_property
    def _skin(self) -> Plane:
        """Surface of the body: the same on every plane."""
        radius, reach = _reach(self.x, self.y, self.anatomy.half_width, self.anatomy.half_depth)
        return radius - reach

    @cached_property
    def _background(self) -> Plane:
        """Air, couch, skin and fat: the same on every plane (HU)."""
        a = self.anatomy
        image = np.full(np.broadcast_shapes(self.x.shape, self.y.shape), AIR, np.float32)
        if a.table:
            bow = self.y - (a.half_depth + 8) + np.square(self.x) / 1400
            couch = np.maximum(np.abs(bow) - 10, np.abs(self.x) - 0.95 * a.half_width)
            _paint(image, couch, -120.0, self.edge)
            _paint(image, couch + 2, -920.0, self.edge)
        _paint(image, self._skin, 10.0, self.edge)
        _paint(image, self._skin + 2, FAT, self.edge)
        return image

    def hounsfield(self, z: float, texture: Plane) -> Plane:
        """CT numbers on the plane at z, without noise.

        Args:
            z: in mm.
            texture: float32 of mean 0 and deviation 1, smooth over some millimetres.

        Returns:
            float32 in HU.
        """
        a, s, edge = self.anatomy, self.anatomy.scale, self.edge
        image = self._background.copy()
        cavity, heart = self.cavity(z), self.heart(z)
        wall = np.minimum(self._skin + a.fat + 1.5 * texture, cavity - 15)
        _paint(image, wall, a.muscle - 120 * np.clip(texture - 1.4 + cavity / 70, 0, 1), edge)
        between = FAT + 110 * np.clip(0.7 * texture, 0, 1)
        organs = np.where(self.x < 0, np.float32(a.liver), np.float32(a.tissue)) + 4 * texture
        _paint(image, cavity, between + coverage(z - self._floor, 4.0) * (organs - between), edge)
        _paint(image, heart + 5, a.tissue + 3 * texture, edge)
        lung = coverage(self.lungs(z), edge)
        fissure = np.abs(z - 0.9 * self.y - 12 * s - 5 * np.sin(self.x / 17)) / 1.35
        parenchyma = a.lung + 22 * texture + 30 * self.y / np.float32(a.cavity[1]) + 170 * np.clip(1.2 - fissure, 0, 1)
        image += lung * (parenchyma - image)
        x, y = self.x.ravel(), self.y.ravel()
        for tubes, hounsfield in ((a.soft, a.tissue), (a.air, AIR)):
            image += tube_coverage(tubes, x, y, z, edge) * (hounsfield - image)
        self._paint_bones(image, z, cavity, texture)
        return image

    def _paint_bones(self, image: Plane, z: float, cavity: Plane, texture: Plane) -> None:
        a, s, edge = self.anatomy, self.anatomy.scale, self.edge
        # Ribs slope down to the front, so that a plane cuts them obliquely; in front they go over into cartilage.
        along = (np.mod(z - 0.5 * self.y, 27 * s) - 13.5 * s) / 1.12
        rib = (np.sqrt(np.square((cavity - 7.5) / 4.5) + np.square(along / 6)) - 1) * 5
        bony = coverage(-0.7 * a.cavity[1] - self.y, 10)
        _paint(image, rib, CARTILAGE + bony * (CORTEX - CARTILAGE), edge)
        _paint(image, rib + 2, CARTILAGE + bony * (MARROW - CARTILAGE) + 25 * texture, edge)
        x, y = self.x.ravel(), self.y.ravel()
        image += tube_coverage(a.bone, x, y, z, edge) * (350 - image)
        # Vertebral body with discs between, spinal canal in a ring of bone.
        disc = z % (26 * s) < 5 * s
        part, x, y = self._window(image, 30 * s, a.spine_y - 20 * s, a.spine_y + 40 * s)
        speckle = self._window(texture, 30 * s, a.spine_y - 20 * s, a.spine_y + 40 * s)[0]
        vertebra = (np.hypot(x / (18 * s), (y - a.spine_y) / (15 * s)) - 1) * (15 * s)
        _paint(part, vertebra, 90.0 if disc else CORTEX, edge)
        _paint(part, vertebra + 2, 75.0 if disc else MARROW - 40 + 25 * speckle, edge)
        canal = np.hypot(x, y - a.spine_y - 23 * s) - 8 * s
        _paint(part, np.abs(canal - 2.5) - 2.5, 60.0 if disc else CORTEX - 60, edge)
        _paint(part, canal, 25.0, edge)
        # The breastbone touches the cavity, which narrows to the top.
        front = -a.cavity[1] * float(self._narrowing(z)) - 7
        if 0.4 * a.lung_height > z > -0.25 * a.lung_height:
            part, x, y = self._window(image, 25 * s, front - 9, front + 9)
            sternum = (np.hypot(x / (20 * s), (y - front) / 6.5) - 1) * 6.5
            _paint(part, sternum, CORTEX, edge)
            _paint(part, sternum + 2, MARROW - 60, edge)

    def _window(
        self, image: Plane, half_width: float, front: float, back: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A view of the picture's middle, with its x (one row) and y (one column)."""
        columns = slice(*np.searchsorted(self.x[0], [-half_width, half_width]))
        rows = slice(*np.searchsorted(self.y[:, 0], [front, back]))
        return image[rows, columns], self.x[:, columns], self.y[rows]


def tube_coverage(tubes: Capsules, x: np.ndarray, y: np.ndarray, z: float, edge: float) -> Plane:
    """Share of each pixel that is inside a tube on the plane at z.

    Args:
        tubes: see `Capsules`.
        x, y: evenly spaced pixel centres along a row and down a column (mm).
        z: of the plane (mm).
        edge: width of an edge (mm).

    Returns:
        float32 of shape (len(y), len(x)). Only the pixels in the tubes' bounding boxes are computed, all boxes at once.
    """
    cover = np.zeros((len(y), len(x)), np.float32)
    ends = tubes.reshape(-1, 2, 4)
    margin = ends[:, :, 3].max(1) + edge / 2
    ends = ends[(ends[:, :, 2].min(1) - margin < z) & (z < ends[:, :, 2].max(1) + margin)]
    margin = ends[:, :, 3].max(1)[:, None] + edge / 2
    step, size = np.array([x[1] - x[0], y[1] - y[0]]), np.array([len(x), len(y)])
    first = np.clip(np.ceil((ends[:, :, :2].min(1) - margin - [x[0], y[0]]) / step), 0, size).astype(np.int32)
    last = np.clip(np.floor((ends[:, :, :2].max(1) + margin - [x[0], y[0]]) / step) + 1, first, size).astype(np.int32)
    columns, rows = (last - first).T
    area = columns * rows
    tube = np.repeat(np.arange(len(ends)), area)
    within = np.arange(len(tube)) - np.repeat(np.cumsum(area) - area, area)
    down, right = np.divmod(within, columns[tube])
    column, row = first[tube, 0] + right, first[tube, 1] + down
    start, axis = ends[:, 0], ends[:, 1] - ends[:, 0]
    offset = [x[column] - start[tube, 0], y[row] - start[tube, 1], np.float32(z) - start[tube, 2]]
    square = np.square(axis[:, :3]).sum(1) + np.float32(1e-6)
    share = np.clip(sum(offset[i] * axis[tube, i] for i in range(3)) / square[tube], 0, 1)
    distance = np.sqrt(sum(np.square(offset[i] - share * axis[tube, i]) for i in range(3)))
    radius = start[tube, 3] + share * axis[tube, 3]
    # A tube thinner than an edge fills no pixel.
    value = coverage(distance - radius, edge) * np.minimum(1, 2 * radius / edge)
    np.maximum.at(cover.ravel(), row * len(x) + column, value.astype(np.float32))
    return cover
