"""The tumours of a `realistic` phantom, and what looks like them but has no contour.

CT numbers are those of a scan without contrast medium. Sizes and CT numbers follow these facts:

- a nodule has at most 30 mm, a mass more (Hansell et al., Radiology 2008;246:697, glossary of the Fleischner Society);
- a solitary cavity with a wall of up to 4 mm is nearly always benign, one of 16 mm or more nearly always malignant, and
  walls between occur in both (Woodring and Fried, AJR 1983;140:473), so the walls here have 4 to 12 mm;
- a lymph node is normal up to a short axis of 10 mm (Eisenhauer et al., RECIST 1.1, Eur J Cancer 2009;45:228);
- diffuse calcification above 200 HU marks a granuloma (Khan et al., Ann Thorac Med 2010;5:67);
- nodes, vessels and lung without air have the CT number of soft tissue, 25 to 60 HU, as tumours do: no HU window
  separates them.

The contour of a tumour with a cavity is its outer surface.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial.transform import Rotation

from data_pipeline.phantom.anatomy import Anatomy, Capsules, Sections
from data_pipeline.phantom.finding import Finding, LookalikeKind, TumourKind, spicules

Values = Float[np.ndarray, " points"]

TUMOUR_KINDS: tuple[TumourKind, ...] = ("nodule", "hilar", "chest_wall", "cavity", "mediastinal", "diaphragm")
"""In this order they are the first tumours of the patients of a cohort."""
LOOKALIKE_KINDS: tuple[LookalikeKind, ...] = get_args(LookalikeKind)
WALL_MM = (4.0, 12.0)
"""Thickness of the wall around a cavity."""
_GAP_MM = 5.0
"""Between two findings."""


@dataclass(frozen=True)
class Place:
    """Where points are in a thorax: distances in mm, negative inside."""

    cavity: Values
    """Of the rib cage's inside."""
    mediastinum: Values
    """Heart included."""
    heart: Values
    diaphragm: Values
    """Negative above it."""
    lungs: Values
    spine: Values
    hilum: Values
    """From the centre of the nearer hilum."""
    midline: Values
    dorsal: Values
    """Negative behind the middle of the chest."""

    @classmethod
    def of(cls, anatomy: Anatomy, points: Float[np.ndarray, "points 3"]) -> "Place":
        x, y, z = points.astype(np.float32).T
        sections, s = Sections(anatomy, x, y), anatomy.scale
        return cls(
            cavity=sections.cavity(z),
            mediastinum=sections.mediastinum(z),
            heart=sections.heart(z),
            diaphragm=sections.diaphragm(z),
            lungs=sections.lungs(z),
            spine=np.hypot(x, y - anatomy.spine_y) - 27 * s,
            hilum=np.sqrt(np.square(np.abs(x) - 40 * s) + np.square(y - 6 * s) + np.square(z - 14 * s)),
            midline=np.abs(x),
            dorsal=-y,
        )


@dataclass(frozen=True)
class Rule:
    """How findings of one kind are drawn.

    Attributes:
        diameter_mm: least and greatest, of the ball with the same volume; drawn evenly on a logarithmic scale.
        centre: which points may be the centre, for a radius in mm.
        surface: whether points of the surface are where they should be.
        hounsfield: least and greatest CT number.
        axes: least and greatest length of the three axes, against each other.
        waves: sum of the amplitudes of the surface's waves, against the radius.
    """

    diameter_mm: tuple[float, float]
    centre: Callable[[Place, float], Bool[np.ndarray, " points"]]
    surface: Callable[[Place], bool]
    hounsfield: tuple[float, float] = (25.0, 48.0)
    axes: tuple[tuple[float, float], ...] = ((0.8, 1.15),) * 3
    waves: tuple[float, float] = (0.15, 0.4)


def _in_lung(place: Place, radius: float) -> Bool[np.ndarray, " points"]:
    return place.lungs < -radius


def _beside_wall(place: Place, radius: float) -> Bool[np.ndarray, " points"]:
    """Close to the rib cage, away from mediastinum and diaphragm."""
    return (np.abs(place.cavity + 0.5 * radius) < 0.4 * radius) & (place.mediastinum > radius) & (place.diaphragm < 0)


def _above_diaphragm(place: Place, radius: float) -> Bool[np.ndarray, " points"]:
    inside = (place.cavity < -radius) & (place.mediastinum > 0.5 * radius)
    return inside & (np.abs(place.diaphragm + 0.5 * radius) < 0.4 * radius)


def _between_lungs(place: Place, radius: float) -> Bool[np.ndarray, " points"]:
    """In the mediastinum, outside heart and spine."""
    inside = (place.mediastinum < -2) & (place.heart > 3) & (place.spine > 0.5 * radius)
    return inside & (place.cavity < -radius) & (place.diaphragm < -radius)


def _at_base(place: Place, radius: float) -> Bool[np.ndarray, " points"]:
    """At the pleura of a lower lobe, behind."""
    return (np.abs(place.lungs + 2) < 4) & (place.dorsal < 0) & (place.diaphragm > -3 * radius) & (place.spine > 0)


TUMOURS: dict[TumourKind, Rule] = {
    "nodule": Rule((5.0, 30.0), _in_lung, lambda at: at.lungs.max() < -1),
    "cavity": Rule((20.0, 50.0), lambda at, r: at.lungs < -0.6 * r, lambda at: at.lungs.max() < 3),
    "hilar": Rule(
        (25.0, 55.0),
        lambda at, r: (at.hilum < 24) & (at.midline > 0.9 * r),
        lambda at: at.mediastinum.min() < -3 and at.lungs.min() < -4 and at.midline.min() > 6 and at.spine.min() > 0,
    ),
    "mediastinal": Rule(
        (20.0, 50.0),
        _between_lungs,
        lambda at: at.cavity.max() < -2 and at.diaphragm.max() < -2 and at.spine.min() > 0 and at.heart.min() > -8,
    ),
    "diaphragm": Rule(
        (15.0, 45.0),
        _above_diaphragm,
        lambda at: 2 < at.diaphragm.max() < 12 and at.cavity.max() < 0 and at.mediastinum.min() > 0,
    ),
    "chest_wall": Rule(
        (15.0, 50.0),
        _beside_wall,
        lambda at: 2 < at.cavity.max() < 12 and at.diaphragm.max() < 0 and at.mediastinum.min() > 0,
    ),
}
LOOKALIKES: dict[LookalikeKind, Rule] = {
    "lymph_node": Rule((5.0, 10.0), _between_lungs, lambda at: True, axes=((0.75, 0.9), (0.9, 1.1), (1.1, 1.5))),
    "atelectasis": Rule(
        (20.0, 40.0),
        _at_base,
        lambda at: at.lungs.min() < -5,
        hounsfield=(30.0, 60.0),
        axes=((0.25, 0.4), (1.0, 1.4), (1.0, 1.4)),
    ),
    "granuloma": Rule((3.0, 10.0), _in_lung, lambda at: True, (200.0, 900.0), ((0.9, 1.1),) * 3, (0.0, 0.1)),
    "vessel": Rule(
        (8.0, 14.0),
        lambda at, r: (at.lungs < -12) & (at.mediastinum < 60),
        lambda at: at.lungs.max() < 0,
        hounsfield=(30.0, 50.0),
        axes=((0.9, 1.1), (0.9, 1.1), (4.0, 6.0)),
        waves=(0.0, 0.05),
    ),
}


def draw_findings(
    rng: np.random.Generator, anatomy: Anatomy, z: Float[np.ndarray, " slices"], number: int
) -> tuple[list[Finding], list[Finding], Capsules]:
    """Draw one to three tumours, and look-alikes.

    The first tumour is of kind `number` in the cycle `TUMOUR_KINDS`, the others of any kind. A nodule replaces a kind
    for which the scan has no room, such as the diaphragm in a scan that ends above it.

    Args:
        rng: source of randomness.
        anatomy: the healthy thorax.
        z: of the slices (mm, ascending). The tumours end at least a slice from the scan's ends, and at least one slice
            cuts each of them.
        number: of the patient in the cohort, from 1.

    Returns:
        The tumours, the look-alikes, all at least 5 mm apart, and the spicules that radiate from some tumours.
    """
    half = np.array([*anatomy.cavity, anatomy.lung_height / 2])
    points = rng.uniform(-half, half, (40_000, 3)) * [1, 1, 1.15]
    points = points[(points[:, 2] > z[1]) & (points[:, 2] < z[-2])]
    scene = _Scene(rng, anatomy, z, points, Place.of(anatomy, points))
    kinds: list[TumourKind] = [TUMOUR_KINDS[(number - 1) % len(TUMOUR_KINDS)]]
    kinds += [TUMOUR_KINDS[i] for i in rng.integers(len(TUMOUR_KINDS), size=rng.choice(3, p=[0.6, 0.3, 0.1]))]
    tumours = [found for kind in kinds if (found := scene.tumour(kind))]
    counts = {"lymph_node": rng.integers(3, 7), "vessel": rng.integers(1, 4), "granuloma": rng.integers(0, 3)}
    counts["atelectasis"] = rng.integers(2)
    lookalikes = [
        found
        for kind in LOOKALIKE_KINDS
        for _ in range(counts[kind])
        if (found := scene.place(kind, LOOKALIKES[kind], attempts=3))
    ]
    spiculated = [t for t in tumours if t.kind in ("nodule", "cavity") and t.diameter_mm > 10 and rng.random() < 0.6]
    none = np.zeros((0, 8), np.float32)
    return tumours, lookalikes, np.concatenate([none, *(tube for t in spiculated for tube in spicules(rng, t))])


@dataclass
class _Scene:
    """A thorax that fills with findings."""

    rng: np.random.Generator
    anatomy: Anatomy
    z: np.ndarray
    points: np.ndarray
    at: Place
    """Of `points`, the possible centres."""

    def __post_init__(self) -> None:
        self.findings: list[Finding] = []
        tubes = self.anatomy.air[self.anatomy.air[:, 3] >= 6 * self.anatomy.scale]
        self._windpipe = np.linspace(tubes[:, :3], tubes[:, 4:7], 20).reshape(-1, 3)

    def tumour(self, kind: TumourKind) -> Finding | None:
        """One of this kind, else a nodule, else None."""
        return self.place(kind, TUMOURS[kind]) or self.place("nodule", TUMOURS["nodule"])

    def place(self, kind: TumourKind | LookalikeKind, rule: Rule, attempts: int = 12) -> Finding | None:
        """Adds a finding, smaller ones where there is no room for the size that was drawn; None if there is none."""
        low, high = rule.diameter_mm
        diameter = float(np.exp(self.rng.uniform(np.log(low), np.log(high))))
        for _ in range(attempts):
            in_scan = np.abs(self.points[:, 2] - self.z.mean()) < (self.z[-2] - self.z[1]) / 2 - 0.3 * diameter
            allowed = self.points[in_scan & rule.centre(self.at, diameter / 2)]
            for centre in self.rng.permutation(allowed)[:25]:
                finding = self._draw(kind, rule, centre, diameter)
                if self._fits(finding, rule):
                    self.findings.append(finding)
                    return finding
            diameter = max(low, 0.85 * diameter)
        return None

    def _draw(self, kind: TumourKind | LookalikeKind, rule: Rule, centre: np.ndarray, diameter: float) -> Finding:
        """A finding of that volume."""
        rng, centre = self.rng, centre.copy()
        if diameter < 2 * (self.z[1] - self.z[0]):  # it could be between two slices
            centre[2] = self.z[np.abs(self.z - centre[2]).argmin()]
        turn = Rotation.random(rng=rng)
        if kind == "vessel":  # it crosses the slices
            turn = Rotation.from_rotvec(rng.normal(0, 0.15, 3) * [1, 1, 0])
        amplitudes = rng.dirichlet(np.full(5, 4.0)) * rng.uniform(*rule.waves)
        draft = Finding(
            centre=centre,
            axes=np.array([rng.uniform(*axis) for axis in rule.axes]),
            rotation=turn.as_matrix(),
            waves=rng.normal(0, 2.2, (5, 3)),
            phases=rng.uniform(0, 2 * np.pi, 5),
            amplitudes=amplitudes,
            hounsfield=rng.uniform(*rule.hounsfield),
            kind=kind,
        )
        wall = min(rng.uniform(*WALL_MM), 0.35 * diameter)
        cavity = 1 - wall / (diameter / 2) if kind == "cavity" else 0.0
        # 24 polar angles give the volume to 0.1%.
        scale = diameter / (6 / np.pi * draft.surface(24)[1].sum()) ** (1 / 3)
        return replace(draft, axes=draft.axes * scale, cavity=cavity)

    def _fits(self, finding: Finding, rule: Rule) -> bool:
        """Whether its surface is where it should be, in the scan and apart from the other findings."""
        if any(
            np.linalg.norm(finding.centre - other.centre) < finding.reach + other.reach + _GAP_MM
            for other in self.findings
        ):
            return False
        below, above = finding.centre[2] - self.z[1], self.z[-2] - finding.centre[2]
        if min(below, above) < finding.half_height or finding.level(self._windpipe).min() < 9 * self.anatomy.scale:
            return False
        return rule.surface(Place.of(self.anatomy, finding.surface(12)[0]))
