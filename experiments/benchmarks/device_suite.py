"""`bench all`: everything that matters on one device, unattended, as one JSON file and one Markdown page."""

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_pipeline.errors import InputError
from data_pipeline.files import write_whole
from data_pipeline.phantom.phantom import draw_phantom, hounsfield, tumour_mask
from data_pipeline.preprocessing.intensity import background, normalise, to_grey
from data_pipeline.preprocessing.network_grid import to_network_grid
from experiments.benchmarks.case import Case
from experiments.benchmarks.device_part import PRECISIONS, Finding, Part
from experiments.benchmarks.patients import grey_volume
from experiments.benchmarks.race import ROOT, Result, prepared, present, race
from experiments.benchmarks.report import console
from experiments.benchmarks.timing import machine
from rdunet_jax.workflows.display import markdown

Device = Literal["gpu", "cpu"]
PATIENTS = 4
"""Phantoms that the training of the suite learns from."""
REHEARSAL = (
    "**Rehearsal on a CPU**, with the convolutions that a GPU gets: it shows that every part runs. Its figures say "
    "nothing about a GPU."
)


@dataclass(frozen=True)
class Settings:
    device: Device = "gpu"
    """`cpu` rehearses the suite, with the convolutions that a GPU gets; use it with small sizes."""
    output: Path = Path("build/benchmarks/device.json")
    """JSON file for the findings; the page is written beside it, with the ending `.md`."""
    minutes: float = 8.0
    """The suite stops after this time. Parts are run in order of importance, and the page names those that were not."""
    size: int = 256
    """Rows and columns of a patch."""
    batches: tuple[int, ...] = (1, 2, 4, 8)
    """Patches in one call, in rising order."""
    widths: tuple[int, ...] = (32, 64, 128)
    """Features of the encoder's levels."""
    recurrent_width: int = 256
    """Features of each recurrent layer."""
    slices: int = 60
    """Slices of the whole patient."""
    rounds: int = 10
    """Timed runs of each program."""
    matmul: int = 8192
    """Rows and columns of the matrices whose product measures the device."""
    torch_python: str | None = None
    """Python interpreter with PyTorch and NumPy (None: this one)."""


def every(settings: Settings = Settings()) -> None:
    """Parity, prediction, training, a whole patient and a short training on one device, unattended.

    Predictions and training steps run at each batch size in float32, TF32 and bfloat16; training steps also with
    rematerialisation. Keras on TensorFlow and PyTorch are timed beside them where they are installed.
    """
    if list(settings.batches) != sorted(set(settings.batches)) or min(settings.batches) < 1:
        raise InputError("--batches: give numbers from 1 in rising order; the peak memory of a process never falls")
    found = devices()
    if settings.device == "gpu" and "gpu" not in found:
        raise InputError(
            f"--device gpu: JAX finds {', '.join(found)} only; install '.[cuda]' on a machine with an NVIDIA GPU, or "
            "give --device cpu to rehearse"
        )
    # A contestant that reserves all memory leaves none to the next.
    os.environ |= {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    os.environ |= {"JAX_PLATFORMS": "cpu"} if settings.device == "cpu" else {}
    ends = time.monotonic() + 60 * settings.minutes
    base = Case("train", size=settings.size, widths=settings.widths, recurrent_width=settings.recurrent_width)
    base = replace(base, threads=os.cpu_count() or 2)
    record: dict[str, Any] = {"machine": machine(), "rehearsal": settings.device == "cpu", "parts": []}
    with prepared(base) as case:
        write_inputs(Path(case.folder), settings)
        for name, part in parts_of(case, settings).items():
            record["parts"].append(run_part(name, part, ends))
            write(settings.output, record)
        record["race"] = beside(case, settings, ends)
    write(settings.output, record)
    console.print(f"page: {settings.output.with_suffix('.md')}", markup=False)


def devices() -> list[str]:
    """Platforms that JAX finds, in a process of its own: this one must not hold the device."""
    search = "import jax; print(*sorted({d.platform for d in jax.devices()}))"
    done = subprocess.run([sys.executable, "-c", search], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return ["gpu" if name in ("cuda", "rocm") else name for name in done.stdout.split()] or ["no device"]


def write_inputs(folder: Path, settings: Settings) -> None:
    """Writes `volume.npy`, a phantom's grey values, and `phantoms.npz`, training patches with tumour."""
    np.save(folder / "volume.npy", grey_volume(None, settings.slices, settings.size))
    images, masks = [], []
    for number in range(1, PATIENTS + 1):
        phantom = draw_phantom(1, number=number, slices=24, matrix=256)
        mask = tumour_mask(phantom)
        middle = int(np.flatnonzero(mask.any((1, 2))).mean())
        first = min(max(middle - 4, 0), len(mask) - 8)
        grey = to_grey(hounsfield(phantom)[first : first + 8], "slice_minmax")
        image = to_network_grid(grey, settings.size, background("slice_minmax"))
        images.append(normalise(image, "slice_minmax")[..., None])
        masks.append((to_network_grid(mask[first : first + 8].astype(np.uint8), settings.size, 0) > 0)[..., None])
    np.savez(folder / "phantoms.npz", images=np.stack(images), masks=np.stack(masks).astype(np.uint8))


def parts_of(case: Case, settings: Settings) -> dict[str, Part]:
    """The parts by name, the important ones first."""

    def part(task: Any, precision: Any = "float32", **changes: Any) -> Part:
        native = settings.device == "cpu"
        fields = {"batches": settings.batches, "rounds": settings.rounds, "matmul": settings.matmul, "native": native}
        return Part(task, case, precision=precision, **fields | changes)

    ends = tuple(dict.fromkeys((settings.batches[0], settings.batches[-1])))
    return {
        "parity": part("parity"),
        "train, tf32": part("train", "tf32"),
        "learn, tf32": part("learn", "tf32"),
        "predict, tf32": part("predict", "tf32"),
        "patient, tf32": part("patient", "tf32", batches=settings.batches[-1:], rounds=min(settings.rounds, 3)),
        "train, bfloat16": part("train", "bfloat16"),
        "train, float32": part("train", "float32"),
        **{f"train with remat, {name}": part("train", name, remat=True, batches=ends) for name in reversed(PRECISIONS)},
        **{f"predict, {name}": part("predict", name, batches=ends) for name in ("bfloat16", "float32")},
    }


def run_part(name: str, part: Part, ends: float) -> dict[str, Any]:
    """Runs a part in its own process until `ends`; a part that fails or is stopped keeps its findings."""
    left = ends - time.monotonic()
    if left <= 0:
        return {"name": name, "findings": [], "problem": "not run: the time was over"}
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.benchmarks.device_part", json.dumps(asdict(part))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    timer = threading.Timer(left, process.kill)
    timer.start()
    try:
        output, errors = process.communicate()
    finally:
        timer.cancel()
    findings = [json.loads(line) for line in output.splitlines()]
    problem = None
    if process.returncode:
        late = time.monotonic() >= ends
        problem = "stopped: the time was over" if late else (errors.strip().splitlines() or ["failed"])[-1][:300]
    console.print(f"{name}: {problem or 'done'}, {time.monotonic() - started:.0f} s", markup=False)
    first = findings.pop(0) if findings else {}
    return {"name": name, "findings": findings, "problem": problem} | first


def beside(case: Case, settings: Settings, ends: float) -> dict[str, dict[str, Any]]:
    """Seconds of ours and of other frameworks, in turn, batch 2, each as it computes by default."""
    if settings.device == "cpu" or ends - time.monotonic() < 60:
        return {}
    interpreters = {"torch": settings.torch_python} if settings.torch_python else {}
    names = present(("ours", "keras-tensorflow", "torch"), interpreters, console.print)
    found = {}
    for task in ("predict", "train") if len(names) > 1 else ():
        one: Case = replace(case, task=task, batch=2)
        limit = max(ends - time.monotonic(), 1)
        results: dict[str, Result] = race(
            dict.fromkeys(names, one), settings.rounds, limit, _no_check, interpreters, lambda _: None
        )
        found[task] = {name: asdict(result) | {"median": result.median} for name, result in results.items()}
    return found


def _no_check(*_: object) -> None:
    """Frameworks round differently on a GPU (TF32); `bench predict` on a CPU compares their results."""


def write(path: Path, record: dict[str, Any]) -> None:
    """Writes the JSON file and the page beside it."""
    write_whole(path, json.dumps(record, indent=1) + "\n")
    write_whole(path.with_suffix(".md"), page(record))


def page(record: dict[str, Any]) -> str:
    """The findings in Markdown."""
    parts = record["parts"]
    device = next((part["device"] for part in parts if "device" in part), "unknown")
    versions = next((part["versions"] for part in parts if "versions" in part), {})
    software = ", ".join(f"{name} {number}" for name, number in versions.items())
    host = record["machine"]
    about = f"Machine `{host['id']}`, {host['cores']} cores, Python {host['python']}, {software}."
    lines = [f"# {device}", "", about, ""]
    lines += [REHEARSAL, ""] if record["rehearsal"] else []
    for title, tasks, header, row in SECTIONS:
        rows = [row(part["name"], one) for part in parts if part["name"].startswith(tasks) for one in part["findings"]]
        if rows:
            lines += [f"## {title}", "", markdown(header, rows)]
    for task, results in record.get("race", {}).items():
        rows = [(name, _median(one["seconds"]), f"{one['peak'] / 2**20:.0f}") for name, one in results.items()]
        lines += [f"## Beside others: {task}, batch 2", "", markdown(("program", "seconds", "peak, MiB"), rows)]
    problems = [f"- {part['name']}: {part['problem']}" for part in parts if part["problem"]]
    lines += ["## Not measured", "", *problems, ""] if problems else []
    return "\n".join(lines)


def _median(seconds: Sequence[float]) -> str:
    if not seconds:
        return ""
    return f"{statistics.median(seconds):.4f} ({min(seconds):.4f} to {max(seconds):.4f})"


def _program_row(name: str, one: Finding) -> tuple[str, ...]:
    if one.get("out_of_memory"):
        return (name, str(one["batch"]), "out of memory", "", "", "", "")
    seconds = statistics.median(one["seconds"])
    share = one["flops"] / seconds / one["matmul_flops"]
    megabytes = (f"{one[key] / 2**20:.0f}" for key in ("peak_bytes", "planned_bytes"))
    return (
        name,
        str(one["batch"]),
        _median(one["seconds"]),
        f"{one['compile_seconds']:.1f}",
        f"{share:.3f}",
        *megabytes,
    )


def _parity_row(name: str, one: Finding) -> tuple[str, ...]:
    return (one["precision"], f"{one['largest_difference']:.1e}", f"{one['relative_difference_of_loss']:.1e}")


def _patient_row(name: str, one: Finding) -> tuple[str, ...]:
    return (name, str(one["slices"]), str(one["stride"]), str(one["batch"]), _median(one["seconds"]))


def _learn_row(name: str, one: Finding) -> tuple[str, ...]:
    cells = (one["first_loss"], one["last_loss"])
    return (name, str(one["steps"]), *(f"{cell:.4f}" for cell in cells), f"{one['seconds_in_all']:.0f}")


PROGRAM = ("program", "batch", "seconds, median (range)", "compiled in, s", "of matmul", "peak, MiB", "planned, MiB")
Row = Callable[[str, Finding], tuple[str, ...]]
SECTIONS: tuple[tuple[str, str | tuple[str, ...], tuple[str, ...], Row], ...] = (
    (
        "Largest difference to the CPU in float32",
        "parity",
        ("precision", "probabilities", "loss, relative"),
        _parity_row,
    ),
    ("Prediction and training step", ("predict", "train"), PROGRAM, _program_row),
    ("A whole patient", "patient", ("program", "slices", "stride", "batch", "seconds, median (range)"), _patient_row),
    (
        "A short training",
        "learn",
        ("program", "steps", "loss, first 20 steps", "last 20 steps", "seconds in all"),
        _learn_row,
    ),
)
"""Title, names of the parts, header and row of each table: "of matmul" is the arithmetic of the network, counted as
direct convolutions, divided by the time, relative to a matrix product in the same precision."""
