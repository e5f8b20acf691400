"""Phantom patients: seeded synthetic thoraxes with analytic tumours, written as DICOM CT and RTSTRUCT.

The tumour of a phantom is a known surface, so that contours, masks, volumes and scores can be checked against exact
values, and the demo and the tests need no data of patients. At the level `easy` the tumours have 20 to 50 mm and are in
the lungs; at the level `realistic` there are nodules from 5 mm, masses at the hilum, in the mediastinum, at the
diaphragm and the chest wall, cavities, and look-alikes without a contour.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from jaxtyping import Bool, Int16
from scipy import ndimage
from skimage.measure import find_contours

from data_pipeline.errors import InputError
from data_pipeline.phantom.anatomy import AIR, Anatomy, Plane, Sections, coverage
from data_pipeline.phantom.easy import draw_tumours
from data_pipeline.phantom.finding import Finding, plane_points
from data_pipeline.phantom.realistic import draw_findings
from data_pipeline.phantom.study import Contour, Grid, Roi, write_study
from data_pipeline.phantom.vessels import draw_anatomy
from data_pipeline.processes import worker_pool
from data_pipeline.settings import PhantomLevel

SLICES = (40, 120)
SLICE_SPACINGS_MM = (2.0, 2.5, 3.0, 4.0, 5.0)


@dataclass(frozen=True, eq=False)
class Phantom:
    """An analytic patient.

    Attributes:
        seed, number, level: of the cohort, of the patient in it, and of both; they determine all the rest.
        grid: geometry of the CT series.
        anatomy: the healthy thorax.
        tumours: one or more, all of them `GTV-1`.
        lookalikes: what resembles a tumour and has no contour.
        noise: standard deviation (HU).
        instance_numbers: of the slices from foot to head.
        bits_stored: 12 or 16.
    """

    seed: int
    number: int
    level: PhantomLevel
    grid: Grid
    anatomy: Anatomy
    tumours: tuple[Finding, ...]
    lookalikes: tuple[Finding, ...]
    noise: float
    instance_numbers: tuple[int, ...]
    bits_stored: int

    @property
    def name(self) -> str:
        """PatientID and name of the patient's folder."""
        return f"PHANTOM-{self.number:03d}"


def draw_phantom(
    seed: int,
    *,
    number: int = 1,
    slices: int | tuple[int, int] | None = None,
    matrix: int = 512,
    level: PhantomLevel = "easy",
) -> Phantom:
    """Draw one patient.

    Args:
        seed: of the cohort.
        number: of the patient in the cohort, from 1; it names the patient.
        slices: how many, or between which numbers (inclusive) to draw how many; 40 to 120 by default.
        matrix: rows and columns. The field of view does not depend on it, so that small ones are quick previews.
        level: kinds of tumours and look-alikes.

    Raises:
        ValueError: fewer than 8 slices.
    """
    fewest, most = (slices, slices) if isinstance(slices, int) else slices or SLICES
    if fewest < 8:
        raise ValueError(f"a phantom needs at least 8 slices, not {fewest}")
    rng = np.random.default_rng((seed, number))
    count = int(rng.integers(fewest, most + 1))
    field_of_view = int(rng.integers(360, 501))
    # At the level `realistic` nodules of that size are tumours.
    anatomy = draw_anatomy(rng, field_of_view, nodules=6 if level == "easy" else 0)
    # A scan covers most of the chest if the number of slices allows it.
    gap = rng.choice([s for s in SLICE_SPACINGS_MM if 150 <= s * count <= 300] or [_nearest_spacing(count)])
    pixel, extent = field_of_view / matrix, gap * (count - 1)
    slack = max(0.0, anatomy.lung_height - extent) / 2
    middle = rng.uniform(-0.6, 0.6) * slack - 5
    corner = np.round(rng.uniform(-0.02, 0.02, 2) * field_of_view) - (field_of_view - pixel) / 2
    bottom = np.round(middle - extent / 2)
    grid = Grid(
        (count, matrix, matrix), (float(gap), pixel, pixel), (float(corner[0]), float(corner[1]), float(bottom))
    )
    numbers = np.arange(1, count + 1)
    order = rng.integers(3)
    numbers = (numbers, numbers[::-1], rng.permutation(numbers))[order]
    lookalikes = []
    if level == "easy":
        tumours, spicules = draw_tumours(rng, anatomy, grid.z)
    else:
        tumours, lookalikes, spicules = draw_findings(rng, anatomy, grid.z, number)
    return Phantom(
        seed=seed,
        number=number,
        level=level,
        grid=grid,
        anatomy=replace(anatomy, soft=np.concatenate([anatomy.soft, spicules])),
        tumours=tuple(tumours),
        lookalikes=tuple(lookalikes),
        noise=rng.uniform(10, 20),
        instance_numbers=tuple(numbers.tolist()),
        bits_stored=int(rng.choice([12, 16])),
    )


def _nearest_spacing(count: int) -> float:
    return min(SLICE_SPACINGS_MM, key=lambda spacing: abs(spacing * count - 220))


def hounsfield_slices(phantom: Phantom) -> Iterator[Int16[np.ndarray, "rows columns"]]:
    """CT numbers of each slice, from foot to head: int16 in HU, at least -1024.

    Each slice is the mean of two planes a half slice apart, for partial volume along z.
    """
    grid, gap = phantom.grid, phantom.grid.spacing_mm[0]
    left, right, front, back = phantom.anatomy.bounds
    rows = slice(*np.searchsorted(grid.y, [front, back]))
    columns = slice(*np.searchsorted(grid.x, [left, right]))
    body = grid.crop(rows, columns)
    sections = Sections(phantom.anatomy, body.x[None, :], body.y[:, None], grid.spacing_mm[2])
    for index, texture in enumerate(_textures(phantom, body)):
        noise = np.random.default_rng((phantom.seed, phantom.number, 1 + index))
        image = AIR + phantom.noise * _noise(noise, grid)
        for z in grid.z[index] + np.array([-gap, gap]) / 4:
            plane = sections.hounsfield(float(z), texture)
            for finding in (*phantom.lookalikes, *phantom.tumours):
                _paint_finding(plane, finding, body, float(z), texture, sections)
            image[rows, columns] += (plane - AIR) / 2
        yield np.clip(np.rint(image), -1024, 3071).astype(np.int16)


def hounsfield(phantom: Phantom) -> Int16[np.ndarray, "slices rows columns"]:
    """The whole CT volume, from foot to head: int16 in HU."""
    return np.stack(list(hounsfield_slices(phantom)))


def tumour_mask(phantom: Phantom) -> Bool[np.ndarray, "slices rows columns"]:
    """Voxels whose centre is inside a tumour."""
    grid = phantom.grid
    mask = np.zeros(grid.shape, bool)
    for tumour in phantom.tumours:
        rows, columns = _box(tumour, grid)
        for index in np.flatnonzero(np.abs(grid.z - tumour.centre[2]) < tumour.reach):
            mask[index, rows, columns] |= tumour.level(plane_points(grid.x[columns], grid.y[rows], grid.z[index])) < 0
    return mask


def tumour_volume_mm3(phantom: Phantom) -> float:
    """Volume inside the analytic surfaces, exact to about 1e-6."""
    return float(sum(tumour.volume_mm3 for tumour in phantom.tumours))


def tumour_contours(phantom: Phantom) -> list[Contour]:
    """The tumours' outlines on the slices' planes; every corner is on the analytic surface."""
    return [
        Contour(index, points)
        for tumour in phantom.tumours
        for step in [min(1.0, tumour.diameter_mm / 12)]
        for index, z in enumerate(phantom.grid.z)
        for points in tumour.section(float(z), step)
    ]


def truth(phantom: Phantom) -> dict[str, object]:
    """What `truth.json` holds: seed, number and level, and kind, place and size of each tumour and look-alike."""

    def described(findings: Iterable[Finding]) -> list[dict[str, object]]:
        return [
            {
                "kind": finding.kind,
                "centre_mm": finding.centre.round(2).tolist(),
                "diameter_mm": round(finding.diameter_mm, 2),
                "volume_mm3": round(finding.volume_mm3, 2),
            }
            for finding in findings
        ]

    return {
        "seed": phantom.seed,
        "number": phantom.number,
        "level": phantom.level,
        "tumours": described(phantom.tumours),
        "lookalikes": described(phantom.lookalikes),
    }


def _box(tumour: Finding, grid: Grid, margin: float = 0.0) -> tuple[slice, slice]:
    """Rows and columns around a tumour."""
    reach, (x, y, _) = tumour.reach + margin, tumour.centre
    rows = slice(*np.searchsorted(grid.y, [y - reach, y + reach]))
    return rows, slice(*np.searchsorted(grid.x, [x - reach, x + reach]))


def _paint_finding(image: Plane, finding: Finding, grid: Grid, z: float, texture: Plane, sections: Sections) -> None:
    edge = sections.edge
    if abs(z - finding.centre[2]) > finding.reach + edge:
        return
    rows, columns = _box(finding, grid, edge)
    points, part = plane_points(grid.x[columns], grid.y[rows], z), image[rows, columns]
    cover = coverage(finding.level(points), edge).astype(np.float32)
    if finding.kind == "atelectasis":  # collapsed lung ends at the pleura
        cover *= coverage(sections.lungs(z)[rows, columns], edge)
    part += cover * (finding.hounsfield + 5 * texture[rows, columns] - part)
    if finding.cavity:
        hollow = coverage(finding.level(points, finding.cavity), edge).astype(np.float32)
        part += hollow * (AIR - part)


def _textures(phantom: Phantom, grid: Grid) -> Iterator[Plane]:
    """A random field of deviation 1, smooth over some 5 mm, on each slice of `grid`."""
    rng = np.random.default_rng((phantom.seed, phantom.number, 0))
    _, rows, columns = grid.shape
    nodes = [max(2, round(size * grid.spacing_mm[1] / 3.5)) for size in (rows, columns)]
    field = rng.standard_normal((grid.shape[0], *nodes), dtype=np.float32)
    field = ndimage.gaussian_filter(field, (5 / grid.spacing_mm[0], 1.3, 1.3))
    for plane in field / field.std():
        yield np.asarray(ndimage.zoom(plane, (rows / nodes[0], columns / nodes[1]), order=1))


def _noise(rng: np.random.Generator, grid: Grid) -> Plane:
    """One plane of CT noise of deviation 1: back-projection leaves a power of f · exp(-2 (f / 0.45 per mm)²)."""
    rows, columns = grid.shape[1:]
    frequency = np.hypot(
        np.fft.fftfreq(rows, grid.spacing_mm[1])[:, None], np.fft.rfftfreq(columns, grid.spacing_mm[2])
    )
    amplitude = (np.sqrt(frequency) * np.exp(-np.square(frequency / 0.45))).astype(np.float32)
    spectrum = rng.standard_normal((*amplitude.shape, 2), dtype=np.float32).view(np.complex64)[..., 0] * amplitude
    noise = np.fft.irfft2(spectrum, (rows, columns))
    return noise / noise.std()


def write_phantom(phantom: Phantom, output: Path) -> Path:
    """Write a patient's CT series and RTSTRUCT into `output`/PHANTOM-<number>/<StudyUID>/<SeriesUID>/.

    `truth.json` beside them names the kind, place (DICOM patient coordinates) and size of each finding. The folder
    appears only when it is complete.

    Returns:
        The patient's folder.

    Raises:
        InputError: the folder exists already.
    """
    target = Path(output) / phantom.name
    if target.exists():
        raise InputError("already exists; remove it, or choose another output folder", path=target)
    target.parent.mkdir(parents=True, exist_ok=True)
    grid, level = phantom.grid, "" if phantom.level == "easy" else f" {phantom.level}"
    with TemporaryDirectory(prefix=f".{phantom.name}-", dir=target.parent) as temporary:
        draft = Path(temporary) / phantom.name
        write_study(
            draft,
            patient=phantom.name,
            entropy=f"rdunet-jax phantom {phantom.seed} {phantom.number} {grid}{level}",
            grid=grid,
            slices=hounsfield_slices(phantom),
            instance_numbers=phantom.instance_numbers,
            bits_stored=phantom.bits_stored,
            rois=_rois(phantom),
        )
        (draft / "truth.json").write_text(json.dumps(truth(phantom), indent=1) + "\n")
        draft.rename(target)
    return target


def _rois(phantom: Phantom) -> list[Roi]:
    """The tumour, and organs as distractors; every third patient lists it last."""
    grid, anatomy = phantom.grid, phantom.anatomy
    step = 5.0  # coarse outlines, because pydicom is slow at each number
    x, y = (np.arange(-half, half + step, step).astype(np.float32) for half in anatomy.cavity)
    sections = Sections(anatomy, x[None, :], y[:, None])
    lungs: tuple[list[Contour], list[Contour]] = ([], [])
    for index, z in enumerate(grid.z):
        for curve in find_contours(np.pad(sections.lungs(float(z)), 1, constant_values=step), 0.0):
            if len(curve) > 15:
                points = np.array([x[0], y[0]]) + (curve[:-1, ::-1] - 1) * step
                lungs[int(points[:, 0].mean() < 0)].append(Contour(index, points))
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    canal = np.array([0, anatomy.spine_y + 23 * anatomy.scale])
    cord = 6 * anatomy.scale * np.stack([np.cos(angle), np.sin(angle)], 1) + canal
    rois = [
        Roi("GTV-1", "GTV", tumour_contours(phantom)),
        Roi("Lung-Left", "ORGAN", lungs[0]),
        Roi("Lung-Right", "ORGAN", lungs[1]),
        Roi("Spinal-Cord", "ORGAN", [Contour(index, cord) for index in range(len(grid.z))]),
    ]
    return rois if phantom.number % 3 else rois[::-1]


def write_phantoms(
    output: Path,
    *,
    count: int,
    seed: int = 0,
    slices: int | tuple[int, int] | None = None,
    matrix: int = 512,
    level: PhantomLevel = "easy",
    workers: int = 2,
    on_patient: Callable[[Path], None] | None = None,
) -> list[Path]:
    """Write PHANTOM-001 … PHANTOM-<count> under `output`.

    Patient i depends on `seed`, `level` and i only, not on `count` or `workers`.

    Args:
        output: folder, made if it does not exist.
        count: patients.
        seed: of the cohort.
        slices, matrix, level: see `draw_phantom`.
        workers: processes; 1 works in this one.
        on_patient: called with each patient's folder when it is complete.

    Returns:
        The patients' folders.

    Raises:
        InputError: a patient's folder exists already, or a process was ended from outside.
    """
    draw = partial(draw_phantom, seed, slices=slices, matrix=matrix, level=level)
    write = partial(_write_number, draw=draw, output=Path(output))
    if workers == 1:
        return _announce(map(write, range(1, count + 1)), on_patient)
    pool = worker_pool(workers)
    try:
        return _announce(pool.map(write, range(1, count + 1)), on_patient)
    except BrokenProcessPool as error:
        raise InputError(
            "a process that wrote phantoms was ended from outside, most often for lack of memory; close other programs",
            path=output,
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _announce(folders: Iterable[Path], on_patient: Callable[[Path], None] | None) -> list[Path]:
    done = []
    for folder in folders:
        done.append(folder)
        if on_patient:
            on_patient(folder)
    return done


def _write_number(number: int, *, draw: Callable[..., Phantom], output: Path) -> Path:
    return write_phantom(draw(number=number), output)
