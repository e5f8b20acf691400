"""The random part of a phantom patient's healthy thorax: body size, vessel and airway trees, decoys."""

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from data_pipeline.phantom.anatomy import Anatomy, Capsules, Sections

Points = Float[np.ndarray, "points 3"]


def draw_anatomy(rng: np.random.Generator, field_of_view: float, nodules: int = 6) -> Anatomy:
    """Draw a thorax that fits into a square picture of `field_of_view` mm.

    Args:
        rng: source of randomness.
        field_of_view: in mm.
        nodules: of soft tissue and under 9 mm, that are no tumours.
    """
    half_width = min(rng.uniform(0.41, 0.455) * field_of_view, 205)
    half_depth = half_width * rng.uniform(0.64, 0.72)
    fat = rng.uniform(0.05, 0.12) * half_width
    s = half_width / 180
    height = rng.uniform(235, 270) * s
    right_dome = -height / 2 + rng.uniform(45, 65) * s
    anatomy = Anatomy(
        half_width=half_width,
        half_depth=half_depth,
        fat=fat,
        cavity=(half_width - fat - rng.uniform(22, 28) * s, half_depth - fat - rng.uniform(17, 21) * s),
        lung_height=height,
        dome=(right_dome, right_dome - rng.uniform(8, 18) * s),
        lung=rng.uniform(-850, -790),
        # All within the tumours' range and drawn independently, so that no HU window separates a tumour from them.
        tissue=rng.uniform(30, 50),
        muscle=rng.uniform(30, 55),
        liver=rng.uniform(40, 62),
        table=bool(rng.random() < 0.7),
        soft=np.zeros((0, 8), np.float32),
        air=np.zeros((0, 8), np.float32),
        bone=np.zeros((0, 8), np.float32),
    )
    airways = _airways(rng, anatomy)
    walls = airways + np.array([0, 0, 0, 1.2] * 2, np.float32)
    soft = np.concatenate([_great_vessels(anatomy), walls, _lung_vessels(rng, anatomy), _decoys(rng, anatomy, nodules)])
    return replace(anatomy, soft=soft, air=airways, bone=_bones(anatomy))


def lung_points(rng: np.random.Generator, anatomy: Anatomy, count: int) -> tuple[Points, Float[np.ndarray, "points"]]:
    """Points spread evenly over the lungs, with their (approximate) distance from the lungs' surface.

    Returns:
        About `count` points (mm), and the depth of each (mm, positive).
    """
    half = np.array([*anatomy.cavity, anatomy.lung_height / 2], np.float64)
    points = rng.uniform(-half, half, (3 * count, 3)).astype(np.float32)
    depth = -Sections(anatomy, points[:, 0], points[:, 1]).lungs(points[:, 2])
    inside = depth > 0
    return points[inside], depth[inside]


def chain(points: Points, radii: Float[np.ndarray, "points"]) -> Capsules:
    """Tubes from each point to the next."""
    nodes = np.concatenate([points, radii[:, None]], axis=1).astype(np.float32)
    return np.concatenate([nodes[:-1], nodes[1:]], axis=1)


def _path(rng: np.random.Generator, start: np.ndarray, end: np.ndarray, radii: tuple[float, float]) -> Capsules:
    """A slightly winding tube in pieces of at most 8 mm: short pieces have small bounding boxes."""
    length = float(np.linalg.norm(end - start))
    pieces = max(1, int(np.ceil(length / 8)))
    along = np.linspace(0, 1, pieces + 1)[:, None]
    points = start + along * (end - start)
    points[1:-1] += rng.normal(0, min(1.2, 0.04 * length), (pieces - 1, 3))
    return chain(points, radii[0] + along[:, 0] * (radii[1] - radii[0]))


def _tree(rng: np.random.Generator, root: np.ndarray, targets: Points, tip: float) -> Capsules:
    """A tree from `root` to every target: it halves its territory at each fork.

    The radius follows Murray's law for tips of radius `tip` (mm).
    """
    tubes, open_ends = [], [(np.asarray(root, float), targets)]
    while open_ends:
        start, territory = open_ends.pop()
        count = len(territory)
        radius = tip * count ** (1 / 3)
        if count == 1:
            tubes.append(_path(rng, start, territory[0], (radius, 0.7 * tip)))
            continue
        centre = territory.mean(0)
        fork = start + rng.uniform(0.35, 0.5) * (centre - start)
        tubes.append(_path(rng, start, fork, (radius, radius)))
        axis = np.linalg.svd(territory - centre, full_matrices=False)[2][0]
        order = np.argsort((territory - centre) @ axis)
        cut = max(1, min(count - 1, round(count * rng.uniform(0.3, 0.7))))
        open_ends += [(fork, territory[order[:cut]]), (fork, territory[order[cut:]])]
    return np.concatenate(tubes)


def _hilum(anatomy: Anatomy, side: int) -> np.ndarray:
    return np.array([side * 40, 6, 14]) * anatomy.scale


def _airways(rng: np.random.Generator, anatomy: Anatomy) -> Capsules:
    """Trachea, main bronchi and some generations of bronchi (their lumen)."""
    s = anatomy.scale
    carina = np.array([0, 8, 28]) * s
    tubes = [chain(np.array([[0, -6 * s, anatomy.lung_height / 2 + 60], [0, 0, 80 * s], carina]), np.full(3, 8.0) * s)]
    for side in (-1, 1):
        hilum = _hilum(anatomy, side) + np.array([-4 * side, 6, -4]) * s
        tubes.append(chain(np.array([carina, hilum]), np.array([6.5, 5.0]) * s))
        targets = _side(rng, anatomy, side, 14, margin=25 * s)
        tubes.append(_tree(rng, hilum, targets, 0.9 * s))
    return np.concatenate(tubes)


def _side(rng: np.random.Generator, anatomy: Anatomy, side: int, count: int, margin: float) -> Points:
    points, depth = lung_points(rng, anatomy, 40 * count)
    return points[(np.sign(points[:, 0]) == side) & (depth > margin)][:count]


def _great_vessels(anatomy: Anatomy) -> Capsules:
    """Aorta, vena cava, pulmonary trunk and arteries up to the hila, gullet."""
    s, spine = anatomy.scale, anatomy.spine_y
    top, base = anatomy.lung_height / 2 + 60, -anatomy.lung_height
    arch = np.array(
        [[-8, -18, -10], [-12, -20, 35], [-4, -14, 52], [10, 2, 56], [20, 16, 48], [20, spine / s - 16, 20]]
    )
    descending = np.array([[20 * s, spine - 16 * s, 20 * s], [14 * s, spine - 22 * s, base]])
    tubes = [
        chain(arch * s, np.full(6, 13.0) * s),
        chain(descending, np.full(2, 11.5) * s),
        chain(np.array([[-20, -14, top / s], [-22, -16, -20]]) * s, np.array([7.0, 9.0]) * s),
        chain(np.array([[14, -30, -10], [10, -16, 22]]) * s, np.array([14.0, 13.0]) * s),
        chain(np.array([[6 * s, 14 * s, top], [4 * s, spine - 30 * s, base]]), np.full(2, 7.0) * s),
        chain(np.array([[14, -8, top / s], [14, -8, 50]]) * s, np.full(2, 5.5) * s),
    ]
    for side in (-1, 1):
        hilum = _hilum(anatomy, side)
        tubes.append(chain(np.array([np.array([8, -14, 20]) * s, hilum]), np.array([12.0, 8.0]) * s))
        # Veins drain lower, into the back of the heart; lymph nodes thicken the root.
        vein = hilum + np.array([-4 * side, 4, -26]) * s
        tubes.append(chain(np.array([vein + np.array([-22 * side, -8, 0]) * s, vein]), np.array([9.0, 7.0]) * s))
        tubes.append(chain(np.array([hilum, vein]), np.array([7.0, 6.0]) * s))
    return np.concatenate(tubes)


def _lung_vessels(rng: np.random.Generator, anatomy: Anatomy) -> Capsules:
    """Arteries from each hilum and veins from below it, thinning out towards the pleura."""
    s, trees = anatomy.scale, []
    for side in (-1, 1):
        hilum = _hilum(anatomy, side)
        for root in (hilum, hilum + np.array([-4 * side, 4, -26]) * s):
            trees.append(_tree(rng, root, _side(rng, anatomy, side, 240, margin=3), rng.uniform(0.85, 1.0)))
    return np.concatenate(trees)


def _decoys(rng: np.random.Generator, anatomy: Anatomy, nodules: int) -> Capsules:
    """Dense structures in a lung that are no tumour: nodules under 9 mm, scars, plaques along the pleura."""
    points, depth = lung_points(rng, anatomy, 3000)
    tubes = []
    for i in rng.choice(np.flatnonzero(depth > 8), nodules):
        tubes.append(chain(points[[i, i]], np.full(2, rng.uniform(1.8, 4.2))))
    for i in rng.choice(np.flatnonzero(depth < 6), 4):
        scar = points[i] + np.array([[0, 0, 0], rng.normal(0, 14, 3)])
        tubes.append(_path(rng, scar[0], scar[1], (rng.uniform(1, 2), 0.6)))
    for i in rng.choice(np.flatnonzero(depth < 1.5), 3):
        # Nearest neighbours at the same depth follow the wall.
        shallow = points[depth < 1.5]
        near = shallow[np.argsort(np.linalg.norm(shallow - points[i], axis=1))[:4]]
        tubes.append(chain(near, np.full(len(near), rng.uniform(2, 4))))
    return np.concatenate(tubes)


def _bones(anatomy: Anatomy) -> Capsules:
    """Transverse and spinous processes of each vertebra, and the shoulder blades."""
    s, spine, tubes = anatomy.scale, anatomy.spine_y, []
    for z in np.arange(-9, 9) * 26 * s + 15 * s:
        for side in (-1, 1):
            process = np.array([[10 * side * s, spine + 20 * s, z], [36 * side * s, spine + 28 * s, z + 6 * s]])
            tubes.append(chain(process, np.array([5.0, 3.5]) * s))
        tip = min(spine + 50 * s, anatomy.half_depth - 12)
        tubes.append(chain(np.array([[0, spine + 32 * s, z], [0, tip, z - 14 * s]]), np.array([4.0, 3.0]) * s))
    low, high = 20 * s, anatomy.lung_height / 2
    for side in (-1, 1):
        for angle in np.radians(np.arange(32, 60, 1.3)):
            x, y = (np.array(anatomy.cavity) + 19 * s) * [np.cos(angle), np.sin(angle)]
            tubes.append(chain(np.array([[side * x, y, low], [side * x, y, high]]), np.array([2.2, 3.0]) * s))
    return np.concatenate(tubes)
