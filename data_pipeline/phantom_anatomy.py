"""The healthy thorax of a phantom patient: implicit surfaces in mm, and their CT numbers on an axial plane.

Coordinates are DICOM patient coordinates (PS3.3 C.7.6.2.1.1) with the origin in the middle of the chest: x to the
patient's left, y to the back, z to the head, all in mm. A surface is a function that is negative inside and grows by
about one per mm; `coverage` turns it into the partial volume of a pixel.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

Plane = Float[np.ndarray, "rows columns"]
Capsules = Float[np.ndarray, "capsules 8"]
"""Tapered tubes: x, y, z, radius of one end, then of the other (mm)."""

AIR, FAT, MUSCLE, LIVER, CARTILAGE, MARROW, CORTEX = -1000.0, -100.0, 50.0, 58.0, 110.0, 230.0, 520.0
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
        tissue: CT number of heart, vessels and other soft tissue (HU).
        table: whether the couch is in the picture.
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
    table: bool
    soft: Capsules
    air: Capsules
    bone: Capsules

    @property
    def scale(self) -> float:
        """Size against a patient 360 mm wide."""
        return self.half_width / 180

    @property
    def spine_y(self) -> float:
        """y of the vertebral bodies' centres (mm)."""
        return 0.62 * self.cavity[1]


def coverage(distance: NDArray[np.floating], width: float) -> NDArray[np.floating]:
    """Share of a pixel inside a surface `distance` mm away (negative: inside), for an edge `width` mm wide."""
    return np.clip(0.5 - distance / width, 0, 1)


def _paint(image: Plane, distance: Plane, hounsfield: float | Plane, width: float) -> None:
    image += coverage(distance, width) * (hounsfield - image)


def _reach(x: np.ndarray, y: np.ndarray, half_width: float, half_depth: float) -> tuple[np.ndarray, np.ndarray]:
    """Distance from the centre, and that of a superellipse's rim in the same direction (mm)."""
    across, deep = np.square(x / half_width), np.square(y / half_depth)
    radius = np.sqrt(np.square(x) + np.square(y)) + np.float32(1e-3)
    return radius, radius / np.sqrt(np.sqrt(np.square(across) + np.square(deep) + across * deep) + np.float32(1e-9))


class Sections:
    """An anatomy over fixed in-plane points; what does not depend on z is computed once.

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
        side = np.where(x < 0, np.float32(-1), np.float32(1))
        steep = np.square((x - side * 0.52 * a.cavity[0]) / (0.6 * a.cavity[0])) + np.square(y / a.cavity[1])
        self._floor = np.where(x < 0, *np.float32(a.dome)) - np.float32(60 * s) * steep
        column = np.abs(x) - (22 * s + 14 * s * y / np.float32(a.cavity[1]))
        vertebra = (np.hypot(x / (26 * s), (y - a.spine_y) / (24 * s)) - 1) * (24 * s)
        self._medial = np.minimum(column, vertebra)
        self._heart = np.square((x - 22 * s) / (60 * s)) + np.square((y + 24 * s) / (48 * s))

    def cavity(self, z: float | np.ndarray) -> np.ndarray:
        """Surface of the rib cage's inside: a dome that closes at the lungs' apex."""
        below_apex = np.clip((self.anatomy.lung_height / 2 - z) / self.anatomy.lung_height, 0, 1)
        return self._cavity_radius - np.sqrt(1 - (1 - below_apex) ** 3) * self._cavity_reach

    def heart(self, z: float | np.ndarray) -> np.ndarray:
        """Surface of the pericardium."""
        s = self.anatomy.scale
        return (np.sqrt(self._heart + ((z + 48 * s) / (56 * s)) ** 2) - 1) * (48 * s)

    def lungs(self, z: float | np.ndarray) -> np.ndarray:
        """Surface of both lungs: the cavity without mediastinum, heart and what lies under the diaphragm."""
        beside = np.maximum(self.cavity(z), -np.minimum(self._medial, self.heart(z)))
        return np.maximum(beside, 0.75 * (self._floor - z))

    def background(self) -> Plane:
        """Air, couch, skin and fat: the same on every plane (HU)."""
        a = self.anatomy
        image = np.full(np.broadcast_shapes(self.x.shape, self.y.shape), AIR, np.float32)
        radius, reach = _reach(self.x, self.y, a.half_width, a.half_depth)
        if a.table:
            bow = self.y - (a.half_depth + 8) + np.square(self.x) / 1400
            couch = np.maximum(np.abs(bow) - 10, np.abs(self.x) - 0.95 * a.half_width)
            _paint(image, couch, -120.0, self.edge)
            _paint(image, couch + 2, -920.0, self.edge)
        self._depth = radius - reach
        _paint(image, self._depth, 10.0, self.edge)
        _paint(image, self._depth + 2, FAT, self.edge)
        return image

    def hounsfield(self, z: float, texture: Plane, background: Plane) -> Plane:
        """CT numbers on the plane at z, without noise.

        Args:
            z: in mm.
            texture: float32 of mean 0 and deviation 1, smooth over some millimetres.
            background: from `background`.

        Returns:
            float32 in HU.
        """
        a, s, edge = self.anatomy, self.anatomy.scale, self.edge
        image = background.copy()
        cavity, heart = self.cavity(z), self.heart(z)
        wall = np.minimum(self._depth + a.fat + 4 * texture, cavity - 15)
        _paint(image, wall, MUSCLE - 110 * np.clip(texture - 1, 0, 1), edge)
        organs = np.where(self.x < 0, np.float32(LIVER), np.float32(a.tissue)) + 4 * texture
        _paint(image, cavity, FAT + coverage(z - self._floor, 4.0) * (organs - FAT), edge)
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
        disc = np.mod(z, 26 * s) < 5 * s
        vertebra = (np.hypot(self.x / (18 * s), (self.y - a.spine_y) / (15 * s)) - 1) * (15 * s)
        _paint(image, vertebra, 90.0 if disc else CORTEX, edge)
        _paint(image, vertebra + 2, 75.0 if disc else MARROW - 40 + 25 * texture, edge)
        canal = np.hypot(self.x, self.y - a.spine_y - 23 * s) - 8 * s
        _paint(image, np.abs(canal - 2.5) - 2.5, 60.0 if disc else CORTEX - 60, edge)
        _paint(image, canal, 25.0, edge)
        # The breastbone lies in front of the cavity, which narrows to the top.
        top = np.clip((a.lung_height / 2 - z) / a.lung_height, 0, 1)
        sternum_y = -a.cavity[1] * np.sqrt(1 - (1 - top) ** 3) - 7
        if 0.12 < top < 0.75:
            sternum = (np.hypot(self.x / (20 * s), (self.y - sternum_y) / 6.5) - 1) * 6.5
            _paint(image, sternum, CORTEX, edge)
            _paint(image, sternum + 2, MARROW - 60, edge)


def tube_coverage(tubes: Capsules, x: np.ndarray, y: np.ndarray, z: float, edge: float) -> Plane:
    """Share of each pixel that lies in a tube on the plane at z.

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
