"""Does `--lungs-only` cut any voxel of real tumours? Contours of real patients, restricted as a prediction would be.

    python -m experiments.studies.lung_restriction --sources LUNG1-001 LUNG1-002 --output build/lung_restriction

Each folder holds one CT or several, with their RTSTRUCTs. The mask of the contours takes the place of a prediction. A
network may find less of a tumour than its contour, so the last column gives its deepest core that is still kept: 75%
means that the voxels deeper than 75% of the greatest depth (in mm, from the surface of the contour) touch the lungs
alone. Writes `lung_restriction.csv` and `lung_restriction.md`. A CT without usable contours is left out, and the script
prints why.
"""

if not __package__:
    raise SystemExit("error: run this in the checkout as: python -m experiments.studies.lung_restriction")

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from rich.console import Console
from scipy import ndimage

from data_pipeline.contours.mask import mask_from_contours
from data_pipeline.contours.rtstruct import read_contours
from data_pipeline.dicom.discovery import CTSeries, discover
from data_pipeline.dicom.volume import read_chest_ct
from data_pipeline.errors import InputError
from data_pipeline.files import write_whole
from data_pipeline.settings import DEFAULT_ROI
from experiments.common import script
from experiments.common.tables import write_csv
from rdunet_jax.config import PostprocessingConfig
from rdunet_jax.inference.components import Components
from rdunet_jax.inference.postprocessing import near_lungs_on_ct
from rdunet_jax.workflows.display import markdown, print_table
from rdunet_jax.workflows.prediction import ct_grid_of_volume

HEADER = ("CT", "slices", "contour, ml", "components", "components cut", "voxels cut", "deepest core kept")
CORES = (0.0, 0.25, 0.5, 0.75, 0.9)


@dataclass(frozen=True)
class Settings:
    sources: tuple[Path, ...]
    """Folders with the DICOM files of CTs and RTSTRUCTs."""
    output: Path
    """Folder for the table."""
    roi: str = DEFAULT_ROI
    """Regular expression for the name of the tumour's ROI."""
    image_size: int = 256
    """Rows and columns of the network's grid, on which the lungs are found."""


def measure(series: CTSeries, roi: str, image_size: int) -> tuple[str, ...]:
    """A row of the table, without the name of the CT.

    Raises:
        InputError: the CT or its contours cannot be used.
    """
    volume = read_chest_ct(series)
    if not series.rtstructs:
        raise InputError("no RTSTRUCT refers to this CT", path=series.files[0].parent)
    mask, _ = mask_from_contours(read_contours(series.rtstructs[0], roi), volume.geometry)
    ct = ct_grid_of_volume(volume, image_size, with_hounsfield=True)
    near = near_lungs_on_ct(ct)
    components = Components.of(mask, ct.voxel_mm3, near)
    keep = components.kept(PostprocessingConfig(lungs_only=True))
    return (
        str(len(mask)),
        f"{components.volumes_ml.sum():.1f}",
        str(len(components.volumes_ml)),
        str((~keep).sum()),
        str((mask & ~components.mask(keep)).sum()),
        "no lungs found" if near is None else deepest_core(mask, near, volume.geometry.spacing_mm),
    )


def deepest_core(
    mask: Bool[np.ndarray, "depth height width"],
    near: Bool[np.ndarray, "depth height width"],
    spacing_mm: tuple[float, float, float],
) -> str:
    """The largest share of the greatest depth whose core touches the lungs."""
    (box,) = ndimage.find_objects(mask.astype(np.int8))
    depth = np.asarray(ndimage.distance_transform_edt(np.pad(mask[box], 1), spacing_mm))[1:-1, 1:-1, 1:-1]
    kept = [share for share in CORES if (near[box] & (depth > share * depth.max())).any()]
    return f"{max(kept):.0%}" if kept else "none"


def rows_of(settings: Settings, console: Console) -> Iterator[tuple[str, ...]]:
    """A row for each CT that can be used; the others are printed with the reason."""
    for source in settings.sources:
        for series in discover(source).series:
            try:
                name = str(series.files[0].parent.relative_to(source.parent))
                yield (name, *measure(series, settings.roi, settings.image_size))
            except InputError as error:
                console.print(f"left out: {error}", markup=False)


def main(settings: Settings) -> None:
    console = script.make_console()
    rows = list(rows_of(settings, console))
    if not rows:
        raise InputError("none of the CTs has contours that can be used; see --roi", path=settings.sources[0])
    write_csv(settings.output / "lung_restriction.csv", HEADER, rows)
    write_whole(settings.output / "lung_restriction.md", markdown(HEADER, rows))
    print_table(console, "--lungs-only on contours", HEADER, rows)


if __name__ == "__main__":
    script.run(main, __doc__)
