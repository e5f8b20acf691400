"""The numbers that the paper published, and tables that compare them with ours.

Kamal et al., MICCAI-TIA 2020. The numbers of Table 2 are in `data_pipeline.nsclc_radiomics.report`, as `rdunet prepare`
shows them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from data_pipeline.files import atomic_path, write_whole
from experiments.common.tables import write_csv
from rdunet_jax.workflows.display import markdown

Cell = float | int | None
"""A score or a count; None if it was not published or not run."""
Cells = tuple[Cell, ...]

DICE = ("mean Dice", "median Dice")
DICE_AND_SLICES = (*DICE, "FP slices", "FN slices")
PROPOSED = "proposed"

TABLE_3: dict[str, Cells] = {
    "2D-UNet": (0.5848, 0.6229),
    "2D-LungNet": (0.6267, 0.6678),
    "3D-LungNet": (0.6577, 0.7039),
    PROPOSED: (0.7228, 0.7556),
}
TABLE_4: dict[str, Cells] = {
    "3D-UNet": (0.6961, 0.7326),
    "3D-DenseUNet": (0.6884, 0.7188),
    "3D-DenseUNet with recurrent block": (0.7049, 0.7646),
    PROPOSED: (0.7228, 0.7556),
}
TABLE_5: dict[str, Cells] = {
    "Tversky 0.1": (0.6244, 0.6637, 786, 221),
    "Tversky 0.3": (0.6933, 0.7195, 453, 272),
    "Tversky 0.5": (0.6963, 0.7372, 375, 287),
    "Tversky 0.7": (0.7056, 0.7282, 417, 324),
    "Tversky 0.9": (0.7125, 0.7462, 243, 396),
    "focal": (0.7159, 0.7493, 498, 349),
    "IoU": (0.6981, 0.7260, 437, 296),
    "BCE": (0.7228, 0.7556, 321, 331),
}
TABLE_6: dict[str, Cells] = {
    "0.5": (0.7169, 0.7296, 446, 280),
    "0.6": (0.7174, 0.7383, 372, 297),
    "0.7": (0.7228, 0.7556, 321, 331),
    "0.8": (0.7368, 0.7685, 261, 361),
    "0.9": (0.7278, 0.7763, 208, 403),
    "none": (0.6685, 0.7624, 120, 789),
    "0.7, no dilation": (0.6604, 0.7147, 321, 332),
    "0.8, no dilation": (0.6626, 0.6859, 261, 362),
}


@dataclass(frozen=True)
class Row:
    """A row of a table."""

    labels: tuple[str, ...]
    published: Cells
    """What ours are compared with, one cell for each measure."""
    ours: Cells

    def cells(self) -> list[str]:
        """The labels, then for each measure: published, ours, ours minus published. Missing ones are empty."""
        cells = list(self.labels)
        for published, ours in zip(self.published, self.ours, strict=True):
            # Computed from the digits shown, so that the three numbers agree.
            shown = None if ours is None or published is None else round(ours, 4) - published
            cells += [_text(published), _text(ours), _text(shown, sign="+")]
        return cells


@dataclass(frozen=True)
class Table:
    """Our numbers compared with the paper's."""

    name: str
    """Name of its files, without suffix."""
    title: str
    reading: str
    """One sentence: how to read it."""
    labels: tuple[str, ...]
    """Headers of the columns that name a row."""
    measures: tuple[str, ...]
    rows: Sequence[Row]
    beside: str = "paper"
    """What ours are compared with."""

    @property
    def header(self) -> list[str]:
        columns = [(f"{m}: {self.beside}", f"{m}: ours", f"{m}: ours - {self.beside}") for m in self.measures]
        return [*self.labels, *(name for three in columns for name in three)]

    @property
    def missing(self) -> list[str]:
        """Names of our cells that are empty."""
        return [
            f"{self.name}, {', '.join(row.labels)}: {measure}"
            for row in self.rows
            for measure, ours in zip(self.measures, row.ours, strict=True)
            if ours is None
        ]

    def markdown(self) -> str:
        """The table alone, without title."""
        return markdown(self.header, [row.cells() for row in self.rows], names=len(self.labels))

    def write(self, folder: Path) -> None:
        """Writes NAME.csv and NAME.md."""
        write_csv(folder / f"{self.name}.csv", self.header, [row.cells() for row in self.rows])
        write_whole(folder / f"{self.name}.md", f"{self.title}\n\n{self.reading}\n\n{self.markdown()}")


@dataclass(frozen=True)
class Picture:
    """A figure."""

    name: str
    title: str
    reading: str
    figure: Figure
    missing: Sequence[str] = ()

    def markdown(self) -> str:
        return f"![{self.title}]({self.name}.png)\n"

    def write(self, folder: Path) -> None:
        """Writes NAME.png."""
        with atomic_path(folder / f"{self.name}.png") as path:
            FigureCanvasAgg(self.figure).print_png(path)


Result = Table | Picture


def _text(value: Cell, sign: str = "") -> str:
    if value is None:
        return ""
    return format(value, f"{sign}d") if isinstance(value, int) else format(value, f"{sign}z.4f")
