"""Voxel counts of a collection's tumours beside published ones, patient by patient.

    python -m experiments.studies.published_voxels --source NSCLC-Radiomics --table published_lung1_voxels.csv \
        --output build/published_voxels

The table is a CSV file with the columns `mask` (such as `LUNG1-002_000000_GTV-1_mask`) and `voxels`. The published
masks were filled by scikit-image's polygons, edges included, each contour on its own and all joined, so that is done
here too; the last column has the counts of our own rule. Writes `published_voxels.csv` and `published_voxels.md`. A
patient or an ROI that cannot be compared has a row with the reason.
"""

if not __package__:
    raise SystemExit("error: run this in the checkout as: python -m experiments.studies.published_voxels")

import csv
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from skimage.draw import polygon

from data_pipeline.contours.mask import mask_from_contours
from data_pipeline.contours.rtstruct import Contour, read_contours
from data_pipeline.dicom.discovery import CTSeries, discover
from data_pipeline.dicom.geometry import CTGeometry
from data_pipeline.dicom.volume import read_volume
from data_pipeline.errors import InputError
from data_pipeline.files import write_whole
from experiments.common import script
from experiments.common.tables import write_csv
from rdunet_jax.workflows.display import markdown, print_table

HEADER = ("patient", "ROI", "published", "here", "difference", "pixel_centre")
_NAME = re.compile(r"(LUNG1-\d{3})_\d+(?:_CT_\d+)?_(.+)_mask")
Published = dict[str, dict[str, int]]
"""Voxels by patient and ROI."""


@dataclass(frozen=True)
class Settings:
    source: Path
    """Folder with the DICOM files of CTs and RTSTRUCTs."""
    table: Path
    """CSV file with the published counts."""
    output: Path
    """Folder for the table."""


def read_published(table: Path) -> Published:
    """The published counts.

    Raises:
        InputError: the file is no such table, or gives two counts for one ROI.
    """
    found: Published = defaultdict(dict)
    try:
        with table.open(encoding="utf-8", newline="") as file:
            rows = [(row["mask"], int(row["voxels"])) for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"not a table with the columns mask and voxels ({type(error).__name__})", path=table
        ) from error
    for name, voxels in rows:
        if not (parts := _NAME.fullmatch(name)):
            raise InputError("a mask is not named as LUNG1-002_000000_GTV-1_mask is", path=table, quoted=name)
        patient, roi = parts.groups()
        if found[patient].setdefault(roi, voxels) != voxels:
            raise InputError("gives two counts for one ROI", path=table, quoted=f"{patient} {roi}")
    return dict(found)


def voxels_as_published(contours: Sequence[Contour], geometry: CTGeometry) -> int:
    """Voxels of contours filled by the rule of the published masks.

    Coordinates go through the inverse of the affine, as there: its rounding decides about pixel centres on an edge.
    """
    mask = np.zeros(geometry.shape, bool)
    to_index = np.linalg.inv(np.diag([-1.0, -1.0, 1.0, 1.0]) @ geometry.affine_ras)
    for one in contours:
        columns, rows, slices, _ = to_index @ np.vstack([one.points_mm.T, np.ones(len(one.points_mm))])
        index = round(slices[0])
        if 0 <= index < len(mask):
            mask[index][polygon(rows, columns, geometry.shape[1:])] = True
    return int(mask.sum())


def rows_of(series: CTSeries, published: dict[str, int]) -> Iterator[tuple[str, ...]]:
    """A row for each published ROI of a patient, without the patient."""
    try:
        (path,) = series.rtstructs
        geometry = read_volume(series).geometry
    except (InputError, ValueError) as error:
        reason = error.reason if isinstance(error, InputError) else f"{len(series.rtstructs)} RTSTRUCTs"
        yield from ((roi, str(voxels), reason, "", "") for roi, voxels in published.items())
        return
    for roi, voxels in published.items():
        try:
            contours = read_contours(path, roi)
            here, ours = voxels_as_published(contours, geometry), mask_from_contours(contours, geometry)[1].mask_voxels
        except InputError as error:
            yield roi, str(voxels), error.reason, "", ""
            continue
        yield roi, str(voxels), str(here), f"{here - voxels:+d}", str(ours)


def main(settings: Settings) -> None:
    console = script.make_console()
    published = read_published(settings.table)
    rows = [
        (series.patient_id, *row)
        for series in discover(settings.source).series
        for row in rows_of(series, published.get(series.patient_id, {}))
    ]
    if not rows:
        raise InputError("holds no patient of the table", path=settings.source)
    here = {row[0] for row in rows}
    write_csv(settings.output / "published_voxels.csv", HEADER, rows)
    write_whole(settings.output / "published_voxels.md", markdown(HEADER, rows, names=2))
    print_table(console, "Voxels of tumours", HEADER, rows)
    equal = sum(row[4] == "+0" for row in rows)
    console.print(
        f"{equal} of {len(rows)} ROIs equal; {len(published.keys() - here)} patients of the table not in SOURCE"
    )


if __name__ == "__main__":
    script.run(main, __doc__)
