"""Makes `phantom_kinds.jpg`: a slice through each kind of tumour and of look-alike of `realistic` phantoms.

    python -m experiments.figures.phantom_kinds

The six patients of seed 0 have one kind each as their first tumour. Contours are the analytic outlines; an arrow points
at a look-alike. Costs some seconds.
"""

if not __package__:
    raise SystemExit("error: run this in the checkout as: python -m experiments.figures.phantom_kinds")

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from data_pipeline.files import atomic_path
from data_pipeline.phantom.finding import Finding
from data_pipeline.phantom.phantom import Phantom, draw_phantom, hounsfield
from data_pipeline.phantom.realistic import LOOKALIKE_KINDS, TUMOUR_KINDS
from data_pipeline.settings import REFERENCE_COLOUR
from experiments.common import script

WINDOW_HU = (-1000, 300)
SLICES, MATRIX, SEED = 50, 256, 0


def show(axes: Axes, phantom: Phantom, volume: np.ndarray, finding: Finding) -> None:
    """Draws the slice nearest to the middle of a finding."""
    grid = phantom.grid
    index = int(np.abs(grid.z - finding.centre[2]).argmin())
    half = [spacing / 2 for spacing in grid.spacing_mm]
    edges = (grid.x[0] - half[2], grid.x[-1] + half[2], grid.y[-1] + half[1], grid.y[0] - half[1])
    axes.imshow(volume[index], cmap="gray", vmin=WINDOW_HU[0], vmax=WINDOW_HU[1], extent=edges)
    for tumour in phantom.tumours:
        for outline in tumour.section(float(grid.z[index])):
            axes.fill(*outline.T, fill=False, color=REFERENCE_COLOUR, linewidth=1)
    if finding in phantom.lookalikes:
        x, y = finding.centre[:2].tolist()
        arrow = {"color": "yellow", "arrowstyle": "->"}
        axes.annotate("", (x + 10, y + 10), (x + 35, y + 35), arrowprops=arrow)
    a = phantom.anatomy
    axes.set(xlim=(-a.half_width, a.half_width), ylim=(a.half_depth, -a.half_depth))
    axes.set_title(f"{finding.kind.replace('_', ' ')}, {finding.diameter_mm:.0f} mm", fontsize=8, pad=2)


def main(output: Path = Path(__file__).parent) -> None:
    """Make the picture.

    Args:
        output: Folder for the picture.
    """
    wanted = len(TUMOUR_KINDS) + len(LOOKALIKE_KINDS)
    figure = Figure(figsize=(10, 3.2), dpi=120, layout="constrained")
    panels = list(figure.subplots(2, wanted // 2).flat)
    for axes in panels:
        axes.set_axis_off()
    missing = list(LOOKALIKE_KINDS)
    for number in range(1, 4 * len(TUMOUR_KINDS)):
        phantom = draw_phantom(SEED, number=number, slices=SLICES, matrix=MATRIX, level="realistic")
        shown = list(phantom.tumours[: number <= len(TUMOUR_KINDS)])
        for finding in phantom.lookalikes:
            if finding.kind in missing:
                missing.remove(finding.kind)
                shown.append(finding)
        if not shown:
            continue
        volume = hounsfield(phantom)
        for finding in shown:
            place = number - 1 if finding in phantom.tumours else 6 + LOOKALIKE_KINDS.index(finding.kind)
            show(panels[place], phantom, volume, finding)
    with atomic_path(output / "phantom_kinds.jpg") as path:
        figure.savefig(path, format="jpg", pil_kwargs={"quality": 85})
    script.make_console().print(f"picture: {output / 'phantom_kinds.jpg'}", markup=False)


if __name__ == "__main__":
    script.run(main, __doc__)
