"""Time and memory of the network, beside the Keras baseline on TensorFlow and on JAX, and PyTorch.

    python -m experiments.benchmarks.bench predict --contestants ours keras-tensorflow keras-jax torch
    python -m experiments.benchmarks.bench train --rounds 3 --contestants ours keras-tensorflow
    python -m experiments.benchmarks.bench patient --ct sample/pat_1
    python -m experiments.benchmarks.bench augment
    python -m experiments.benchmarks.bench compile
    python -m experiments.benchmarks.bench memory
    python -m experiments.benchmarks.bench growth
    python -m experiments.benchmarks.bench prepare

Every contestant has a process of its own, as many threads as the others, and takes turns with them, since the speed of
a machine drifts; ratios are of medians. All have the same weights and input, and must give the same result, or nothing
is reported. For that, dropout is off: it draws other channels in each framework. TensorFlow and Keras come with the
extra `tensorflow`; PyTorch from any environment that has it (`--torch-python`).

A run writes `NAME.json` and `NAME.png` to `--output`. At full size on 2 cores `predict` costs minutes, `train` and
`patient` half an hour; `--size 64` is quick.
"""

import itertools
import json
import tempfile
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table
from tyro.conf import OmitArgPrefixes

from experiments.benchmarks.contestants import MATMUL, Case
from experiments.benchmarks.growth import AXES, Axis, cases_of, fit
from experiments.benchmarks.race import Result, Worker, machine, present, race

console = Console(highlight=False, width=120)
BASELINE = "keras-tensorflow"
Contestant = Literal["ours", "keras-tensorflow", "keras-jax", "torch"]

PROBABILITY_TOLERANCE = 1e-4
"""Sums of up to 13000 float32 products through 27 layers, in another order: measured below 1e-5, and Winograd's
transforms take a digit more."""
LOSS_TOLERANCE = {0: 1e-4, 1: 1e-3}
"""Relative, by the number of the step. The first is a mean of the same float32 probabilities. The second comes after
one step of Adam, which moves a weight by its full rate however small the gradient. Later steps drift apart."""


@dataclass(frozen=True)
class Settings:
    output: Path = Path("build/benchmarks")
    """Folder for the figures."""
    contestants: tuple[Contestant, ...] = ("ours", "keras-tensorflow")
    """Who takes part; the first one's results are what the others are checked against."""
    size: int = 256
    """Rows and columns of a patch."""
    batch: int = 1
    """Patches, or windows, in one call."""
    rounds: int = 5
    """Timed runs of each."""
    limit: float = 900.0
    """Seconds after which a contestant is given up: it then counts as slower than that."""
    threads: int = 2
    """Cores that each contestant may use."""
    torch_python: str | None = None
    """Interpreter that has PyTorch and NumPy (default: this one)."""
    widths: tuple[int, ...] = (32, 64, 128)
    """Features of the encoder's levels; smaller ones are for trying the programs out."""
    recurrent_width: int = 256
    """Features of each recurrent layer."""

    def case(self, task: Literal["predict", "train", "patient"], folder: str) -> Case:
        return Case(
            task,
            folder,
            size=self.size,
            batch=self.batch,
            widths=self.widths,
            recurrent_width=self.recurrent_width,
            threads=self.threads,
        )


_SETTINGS = Settings()
_SMALL = Settings(size=64, rounds=3, widths=(8, 16, 32), recurrent_width=32)


@contextmanager
def prepared(settings: Settings, task: Literal["predict", "train", "patient"]):
    """A case whose folder holds the weights."""
    with tempfile.TemporaryDirectory(prefix="rdunet-bench-") as folder:
        case = settings.case(task, folder)
        maker = Worker("weights", case)
        maker.end()
        if not (Path(folder) / "weights.npz").exists():
            raise SystemExit(f"error: no weights were made:\n{(Path(folder) / 'weights.log').read_text()}")
        yield case


def agree(task: str, name: str, found: np.ndarray, expected: np.ndarray, number: int) -> None:
    """Stops with an error where two programs did not compute the same."""
    if task == "train":
        tolerance = LOSS_TOLERANCE.get(number, np.inf) * abs(float(expected))
    else:
        tolerance = PROBABILITY_TOLERANCE
        if expected.std() < 0.01:
            raise SystemExit("error: the probabilities are all but constant, so that any two networks would agree")
    difference = np.abs(found - expected).max() if found.shape == expected.shape else np.inf
    if np.isfinite(tolerance):
        told = f"{name} differs by {difference:.1e}, and may by {tolerance:.0e}"
        if not difference <= tolerance:  # also where it is no number
            raise SystemExit(f"error: the programs do not compute the same: {told}")
        console.print(f"  {told}")


def compete(settings: Settings, case: Case, warm_up: bool = True) -> dict[str, Result]:
    """The contestants and the matrix product, in turn."""
    interpreters = {"torch": settings.torch_python} if settings.torch_python else {}
    names = present(settings.contestants, interpreters, console.print)

    def compare(name: str, found: np.ndarray, expected: np.ndarray, number: int) -> None:
        if name != "matmul":
            agree(case.task, name, found, expected, number)

    cases = dict.fromkeys([*names, "matmul"], case)
    return race(cases, settings.rounds, settings.limit, compare, interpreters, console.print, warm_up)


def report(name: str, settings: Settings, results: dict[str, Result], flops: float, **more: object) -> None:
    """The table, the JSON and the plot of a comparison."""
    from experiments.benchmarks.plots import plot_times

    limit = results["matmul"].median
    assert limit is not None
    machine_rate = 10 * 2 * MATMUL**3 / limit / 1e9
    baseline = results[BASELINE].median if BASELINE in results else None
    table = Table(title=f"{name}: {settings.size}x{settings.size}, batch {settings.batch}, {settings.threads} threads")
    for column in ("contestant", "median (range)", "first run", "peak memory", "GFLOP/s", "of matmul", "x baseline"):
        table.add_column(column)
    for who, result in results.items():
        if who == "matmul":
            continue
        median, over = result.median, result.over is not None
        rate = flops / median / 1e9 if median else 0.0
        at_most = "<" if over else ""
        ratio = f"{'>' if over else ''}{median / baseline:.2f}" if median and baseline else ""
        table.add_row(
            who,
            result.in_words(),
            f"{result.first_seconds:.1f} s" if result.first_seconds else "",
            f"{result.peak / 2**20:.0f} MiB",
            f"{at_most}{rate:.0f}" if median else "",
            f"{at_most}{rate / machine_rate:.2f}" if median else "",
            ratio,
        )
    console.print(table)
    console.print(f"float32 matrix product of {MATMUL}: {machine_rate:.0f} GFLOP/s; {machine()}")
    record = {
        "settings": _record_of(settings),
        "machine": machine(),
        "matmul_gflops": machine_rate,
        "flops": flops,
        "results": {who: asdict(result) | {"median": result.median} for who, result in results.items()},
        **more,
    }
    write_record(settings.output / f"{name}.json", record)
    plot_times(settings.output / f"{name}.png", name, results)


def _record_of(settings: Settings) -> dict[str, object]:
    """Without the folders of this machine."""
    return {name: value for name, value in asdict(settings).items() if name not in ("output", "torch_python")}


def write_record(path: Path, record: object) -> None:
    from rdunet_jax.files import write_whole

    write_whole(path, json.dumps(record, indent=1) + "\n")
    console.print(f"figures: {path}")


def predict(settings: OmitArgPrefixes[Settings] = _SETTINGS) -> None:
    """One forward pass on a batch of patches."""
    with prepared(settings, "predict") as case:
        results = compete(settings, case)
        report(f"predict-{settings.size}-{settings.batch}", settings, results, case.forward_flops())


def train(settings: OmitArgPrefixes[Settings] = _SETTINGS) -> None:
    """One training step: forward, backward and Adam."""
    with prepared(settings, "train") as case:
        results = compete(settings, case)
        # By convention: the backward pass does the forward's arithmetic twice, for the inputs and for the weights.
        report(f"train-{settings.size}-{settings.batch}", settings, results, 3 * case.forward_flops())


def patient(settings: OmitArgPrefixes[Settings] = _SETTINGS, ct: Path | None = None, slices: int = 60) -> None:
    """A whole patient by windows at stride 1, beside the loop of the Keras original.

    Args:
        ct: Folder with the DICOM files of one CT (default: a phantom).
        slices: How many of its slices, from the middle.
    """
    from experiments.benchmarks.patients import gray_volume

    with prepared(settings, "patient") as case:
        np.save(Path(case.folder) / "volume.npy", gray_volume(ct, slices, settings.size))
        results = compete(settings, case, warm_up=False)
        windows = slices - case.depth + 1
        flops = case.forward_flops() / case.batch * windows
        report(f"patient-{settings.size}-{settings.batch}", settings, results, flops, slices=slices)


def augment(settings: OmitArgPrefixes[Settings] = _SETTINGS) -> None:
    """What the paper's eight augmentations add to a training step: with, without, and by themselves."""
    from rdunet_jax.config import PAPER_AUGMENTATION

    with prepared(settings, "train") as case:
        augmented = replace(case, augmentation=PAPER_AUGMENTATION)
        cases = {"ours": case, "ours augmented": augmented, "augmentation": augmented, "matmul": case}
        results = race(cases, settings.rounds, settings.limit, lambda *_: None, {}, console.print)
        report(f"augment-{settings.size}-{settings.batch}", settings, results, 3 * case.forward_flops())
        alone, plain = results["augmentation"].median, results["ours"].median
        if alone and plain:
            console.print(f"augmentation by itself: {alone:.3f} s, {alone / plain:.1%} of a step without it")


def prepare(patients: int = 300, image_size: int = 256) -> None:
    """Time and memory of `rdunet prepare`: see `data_pipeline.py`, which has the other programs of the data's side.

    Args:
        patients: Patients of the largest run; a sixth and a third of it are run too.
        image_size: Rows and columns of a slice in the data set, in pixels.
    """
    from experiments.benchmarks.data_pipeline import prepare as prepare_phantoms

    prepare_phantoms(patients, image_size)


def compile_times(settings: OmitArgPrefixes[Settings] = _SETTINGS) -> None:
    """Compilation of forward pass and training step in a fresh process, then from the cache; `rdunet --help`."""
    from experiments.benchmarks.startup import compilation, help_seconds

    answered = help_seconds(settings.rounds)
    record: dict[str, object] = {"machine": machine(), "rdunet --help": answered}
    console.print(f"rdunet --help: {np.median(answered):.2f} s")
    with prepared(settings, "train") as case, tempfile.TemporaryDirectory() as cache:
        for task in ("predict", "train"):
            for process in ("fresh", "cached"):
                seconds = compilation(replace(case, task=task), Path(cache) / task)
                record[f"{task}, {process}"] = seconds
                console.print(
                    f"{task}, {process}: traced in {seconds['trace']:.1f} s, compiled in {seconds['compile']:.1f} s"
                )
    write_record(settings.output / f"compile-{settings.size}.json", record)


def memory(settings: OmitArgPrefixes[Settings] = _SETTINGS) -> None:
    """Memory of a training step as XLA plans it with a GPU's convolutions, and what rematerialisation keeps less.

    Estimates, for choosing --batch-size, --dtype and --remat on a card; nothing is run.
    """
    from experiments.benchmarks.memory import kept_bytes, planned_bytes
    from rdunet_jax.workflows.start_up import prepare_jax

    prepare_jax()
    rows = []
    for batch, dtype in itertools.product((1, 2), ("float32", "bfloat16")):
        case = replace(settings.case("train", ""), batch=batch)
        found = {
            "planned": planned_bytes(case, dtype=dtype),
            "kept": kept_bytes(case, dtype=dtype),
            "kept with remat": kept_bytes(case, dtype=dtype, remat=True),
        }
        mib = {name: round(size / 2**20) for name, size in found.items()}
        rows.append({"batch": batch, "dtype": dtype, "mib": mib})
        told = ", ".join(f"{name} {size} MiB" for name, size in mib.items())
        console.print(f"batch {batch}, {dtype}: {told}")
    write_record(settings.output / f"memory-{settings.size}.json", {"machine": machine(), "steps": rows})


def growth(settings: OmitArgPrefixes[Settings] = _SMALL, against: tuple[Axis, ...] = AXES) -> None:
    """How the time to predict patients grows, as exponents, and how the peak memory does.

    A patient of n slices has n - 7 windows: from 60 to 600 slices, a cost proportional to the windows has exponent
    1.048 in the slices.

    Args:
        against: What grows.
    """
    from experiments.benchmarks.plots import plot_growth

    with prepared(settings, "patient") as case:
        series = {}
        for axis in against:
            cases = cases_of(case, axis)
            names = {f"ours {value}": one for value, one in cases.items()}
            results = race(names, settings.rounds, settings.limit, lambda *_: None, {}, console.print, warm_up=False)
            one = series[axis] = fit(list(cases), list(results.values()))
            for value, seconds, peak in zip(one["values"], one["seconds"], one["peak_mib"], strict=True):
                console.print(f"{axis} {value}: {seconds:.2f} s, {peak:.0f} MiB")
            console.print(f"time grows with {axis} to the power of {one['exponent']:.3f}")
            if axis == "slices":
                windows = [slices - case.depth + 1 for slices in cases]
                one["exponent_of_windows"] = fit(windows, list(results.values()))["exponent"]
                console.print(f"and with the windows of these slices to the power of {one['exponent_of_windows']:.3f}")
    path = settings.output / "growth.json"
    write_record(path, {"settings": _record_of(settings), "machine": machine(), "series": series})
    plot_growth(path.with_suffix(".png"), series)


COMMANDS = {
    "predict": predict,
    "train": train,
    "patient": patient,
    "augment": augment,
    "prepare": prepare,
    "compile": compile_times,
    "memory": memory,
    "growth": growth,
}


def main(arguments: Sequence[str] | None = None) -> None:
    tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="bench", description=__doc__, args=arguments)


if __name__ == "__main__":
    main()
