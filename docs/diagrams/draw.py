"""Draws the pictures of `architecture.md` as SVG: `python docs/diagrams/draw.py`."""

from pathlib import Path
from xml.sax.saxutils import escape

FOLDER = Path(__file__).parent
WIDTH, HEIGHT, GAP = 190, 46, 34
STYLE = (
    "<style>rect{fill:#eef3f6;stroke:#546e7a}text{font:13px sans-serif;text-anchor:middle;fill:#1c262b}"
    ".small{font-size:11px;fill:#4a5a62}path{stroke:#546e7a;fill:none;marker-end:url(#tip)}</style>"
    '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
    '<path d="M0 0 L8 4 L0 8 z" style="fill:#546e7a;stroke:none;marker-end:none"/></marker></defs>'
)


def box(x: float, y: float, title: str, note: str = "") -> str:
    middle = x + WIDTH / 2
    lines = [f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="4"/>']
    lines.append(f'<text x="{middle}" y="{y + (19 if note else 28)}">{escape(title)}</text>')
    if note:
        lines.append(f'<text class="small" x="{middle}" y="{y + 36}">{escape(note)}</text>')
    return "".join(lines)


def picture(width: float, height: float, parts: list[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
    ground = f'<path d="M0 0 H{width} V{height} H0 z" style="fill:#fff;stroke:none;marker-end:none"/>'
    return "\n".join([head, STYLE, ground, *parts, "</svg>"]) + "\n"


def path_of(steps: list[tuple[str, str]], columns: int = 4) -> str:
    """Steps from left to right, then the next row."""
    parts = []
    for index, (title, note) in enumerate(steps):
        row, column = divmod(index, columns)
        x, y = 10 + column * (WIDTH + GAP), 10 + row * (HEIGHT + GAP)
        parts.append(box(x, y, title, note))
        if index + 1 < len(steps):
            if column + 1 < columns:
                parts.append(f'<path d="M{x + WIDTH} {y + HEIGHT / 2} h{GAP - 2}"/>')
            else:
                middle, down = x + WIDTH / 2, y + HEIGHT + GAP / 2
                parts.append(f'<path d="M{middle} {y + HEIGHT} V{down} H{10 + WIDTH / 2} v{GAP / 2 - 2}"/>')
    rows = -(-len(steps) // columns)
    across = min(columns, len(steps))
    return picture(20 + across * WIDTH + (across - 1) * GAP, 20 + rows * HEIGHT + (rows - 1) * GAP, parts)


def imports() -> str:
    """The levels of `rdunet_jax` from top to bottom, `data_pipeline` beside them."""
    levels = [["cli"], ["workflows"], ["runs", "page"], ["training", "inference", "scoring"], ["networks"], ["config"]]
    across = 3 * WIDTH + 2 * 20
    parts, below = [], len(levels) * (HEIGHT + GAP) - GAP
    for row, names in enumerate(levels):
        y = 10 + row * (HEIGHT + GAP)
        left = 10 + (across - len(names) * WIDTH - (len(names) - 1) * 20) / 2
        parts += [box(left + index * (WIDTH + 20), y, name) for index, name in enumerate(names)]
        if row + 1 < len(levels):
            parts.append(f'<path d="M{10 + across / 2} {y + HEIGHT} v{GAP - 2}"/>')
    x = across + 70
    parts.append(box(x, 10 + HEIGHT + GAP, "data_pipeline", "all of it"))
    parts.append(box(x, 10 + 3 * (HEIGHT + GAP), "errors, files, settings", "intensity, network_grid"))
    start = 10 + (across + WIDTH) / 2
    parts.append(f'<path d="M{start} {10 + 1.5 * HEIGHT + GAP} H{x - 2}"/>')
    parts.append(f'<path d="M{10 + across} {10 + 3.5 * HEIGHT + 3 * GAP} H{x - 2}"/>')
    parts.append(f'<path d="M{x + WIDTH / 2} {10 + 2 * HEIGHT + GAP} V{8 + 3 * (HEIGHT + GAP)}"/>')
    return picture(x + WIDTH + 10, below + 20, parts)


PICTURES = {
    "imports": imports(),
    "slice": path_of(
        [
            ("DICOM file", "dicom/discovery"),
            ("Hounsfield units", "dicom/volume, by position"),
            ("grey values", "preprocessing/intensity"),
            ("network's grid", "preprocessing/network_grid"),
            ("patch of 8 slices", "data_pipeline/sampling"),
            ("network", "rdunet_jax/networks"),
            ("CT's own grid", "inference/postprocessing"),
            ("NIfTI, SEG, RTSTRUCT", "export"),
        ]
    ),
    "parameter": path_of(
        [
            ("seed, or Keras file", "create_state, import-weights"),
            ("TrainState", "training/step"),
            ("gradient of the loss", "training/losses"),
            ("Adam's update", "training/optimizer"),
            ("checkpoint", "training/checkpointing"),
            ("best by validation Dice", "training/loop"),
            ("load_trained", "runs/workdir"),
            ("prediction", "inference/sliding_window"),
        ]
    ),
    "probability": path_of(
        [
            ("logits of a window", "networks/models"),
            ("sigmoid", "inference/sliding_window"),
            ("mean over windows", "inference/sliding_window"),
            ("stored in the run", "workflows/stored_probabilities"),
            ("resized to the CT", "inference/postprocessing"),
            ("threshold", "inference/postprocessing"),
            ("dilation", "inference/postprocessing"),
            ("scores", "scoring/protocols"),
        ]
    ),
}


if __name__ == "__main__":
    for name, drawing in PICTURES.items():
        (FOLDER / f"{name}.svg").write_text(drawing, encoding="utf-8")
