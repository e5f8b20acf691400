"""Time and memory of the network, compared with the Keras baseline on TensorFlow and on JAX, and with PyTorch.

    python -m experiments.benchmarks.bench predict --contestants ours keras-tensorflow keras-jax torch
    python -m experiments.benchmarks.bench train --rounds 3 --contestants ours keras-tensorflow
    python -m experiments.benchmarks.bench patient --ct sample/pat_1
    python -m experiments.benchmarks.bench augment
    python -m experiments.benchmarks.bench compile
    python -m experiments.benchmarks.bench memory
    python -m experiments.benchmarks.bench growth
    python -m experiments.benchmarks.bench prepare
    python -m experiments.benchmarks.bench quick        # `make bench`
    python -m experiments.benchmarks.bench all --device gpu --output build/gpu.json

Every contestant has its own process and the same number of threads. Contestants run in turn, because the speed of a
machine drifts; ratios are of medians. All have the same weights and input and must give the same result, otherwise
nothing is reported. Dropout is off, because each framework would drop other channels. The extra `tensorflow` installs
TensorFlow and Keras; PyTorch may be in any other environment (`--torch-python`).

A run writes `NAME.json` and `NAME.png` to `--output`. At full size on 2 cores `predict` costs minutes, `train` and
`patient` half an hour; `--size 64` is quick.
"""

if not __package__:
    raise SystemExit("error: run this in the checkout as: python -m experiments.benchmarks.bench")

import itertools
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from experiments.benchmarks.case import Case
from experiments.benchmarks.device_suite import every
from experiments.benchmarks.growth import AXES, Axis, cases_of, fit
from experiments.benchmarks.plots import plot_growth
from experiments.benchmarks.quick import quick
from experiments.benchmarks.race import Result, prepared, present, race
from experiments.benchmarks.report import console, report, write_record
from experiments.benchmarks.timing import machine_in_words
from experiments.common import script

Contestant = Literal["ours", "keras-tensorflow", "keras-jax", "torch"]

PROBABILITY_TOLERANCE = 1e-4
"""For sums of up to 13000 float32 products through 27 layers, in different orders: the measured difference is below
1e-5, and Winograd's transforms lose one more digit."""
LOSS_TOLERANCE = {0: 1e-4, 1: 1e-3}
"""Relative, by the number of the step. The loss of step 0 is a mean of the same float32 probabilities. Step 1 follows
an update by Adam, which moves a weight by its full rate even if the gradient is tiny. Later steps are not compared."""


@dataclass(frozen=True)
class Settings:
    output: Path = Path("build/benchmarks")
    """Folder for the records and plots."""
    contestants: tuple[Contestant, ...] = ("ours", "keras-tensorflow")
    """The programs to compare. The results of the others are checked against those of the first."""
    size: int = 256
    """Rows and columns of a patch."""
    batch: int = 1
    """Patches, or windows, in one call."""
    rounds: int = 5
    """Timed runs of each contestant."""
    limit: float = 900.0
    """Seconds after which a contestant is stopped: it counts as slower than that."""
    threads: int = 2
    """Cores that each contestant may use."""
    torch_python: str | None = None
    """Python interpreter with PyTorch and NumPy (None: this one)."""
    widths: tuple[int, ...] = (32, 64, 128)
    """Features of the encoder's levels; use smaller ones for a quick try."""
    recurrent_width: int = 256
    """Features of each recurrent layer."""

    def case(self, task: Literal["predict", "train", "patient"]) -> Case:
        """The case of these settings, without a folder yet."""
        return Case(
            task,
            size=self.size,
            batch=self.batch,
            widths=self.widths,
            recurrent_width=self.recurrent_width,
            threads=self.threads,
        )


_SETTINGS = Settings()
_SMALL = Settings(size=64, rounds=3, widths=(8, 16, 32), recurrent_width=32)


def agree(task: str, name: str, found: np.ndarray, expected: np.ndarray, number: int) -> None:
    """Stops with an error if two programs did not compute the same."""
    if task == "train":
        tolerance = LOSS_TOLERANCE.get(number, np.inf) * abs(float(expected))
    else:
        tolerance = PROBABILITY_TOLERANCE
        if expected.std() < 0.01:
            raise SystemExit("error: the probabilities are nearly constant, so any two networks would agree")
    difference = np.abs(found - expected).max() if found.shape == expected.shape else np.inf
    if np.isfinite(tolerance):
        found_difference = f"{name} differs by {difference:.1e}, allowed is {tolerance:.0e}"
        if not difference <= tolerance:  # true for NaN too
            raise SystemExit(f"error: the programs do not compute the same: {found_difference}")
        console.print(f"  {found_difference}")


def compete(settings: Settings, case: Case, warm_up: bool = True) -> dict[str, Result]:
    """Runs the contestants and the matrix product in turn."""
    interpreters = {"torch": settings.torch_python} if settings.torch_python else {}
    names = present(settings.contestants, interpreters, console.print)

    def compare(name: str, found: np.ndarray, expected: np.ndarray, number: int) -> None:
        if name != "matmul":
            agree(case.task, name, found, expected, number)

    cases = dict.fromkeys([*names, "matmul"], case)
    return race(cases, settings.rounds, settings.limit, compare, interpreters, console.print, warm_up)


def record_of(settings: Settings) -> dict[str, object]:
    """The settings without the folders of this machine."""
    return {name: value for name, value in asdict(settings).items() if name not in ("output", "torch_python")}


def show(task: str, settings: Settings, results: dict[str, Result], flops: float, **more: object) -> None:
    """Reports a comparison; `more` is recorded with the settings."""
    name = f"{task}-{settings.size}-{settings.batch}"
    title = f"{task}: {settings.size}x{settings.size}, batch {settings.batch}, {settings.threads} threads"
    report(settings.output / f"{name}.json", title, record_of(settings) | more, results, flops)


def predict(settings: Settings = _SETTINGS) -> None:
    """One forward pass on a batch of patches."""
    with prepared(settings.case("predict")) as case:
        results = compete(settings, case)
        show("predict", settings, results, case.forward_flops())


def train(settings: Settings = _SETTINGS) -> None:
    """One training step: forward, backward and Adam."""
    with prepared(settings.case("train")) as case:
        results = compete(settings, case)
        # By convention the backward pass has twice the arithmetic of the forward pass: for inputs and for weights.
        show("train", settings, results, 3 * case.forward_flops())


def patient(settings: Settings = _SETTINGS, ct: Path | None = None, slices: int = 60) -> None:
    """A whole patient by windows at stride 1, compared with the loop of the authors' code.

    Args:
        ct: Folder with the DICOM files of one CT (None: a phantom).
        slices: Number of its slices to use, from the middle.
    """
    from experiments.benchmarks.patients import grey_volume

    with prepared(settings.case("patient")) as case:
        np.save(Path(case.folder) / "volume.npy", grey_volume(ct, slices, settings.size))
        results = compete(settings, case, warm_up=False)
        windows = slices - case.depth + 1
        flops = case.forward_flops() / case.batch * windows
        show("patient", settings, results, flops, slices=slices)


def augment(settings: Settings = _SETTINGS) -> None:
    """The cost of the paper's eight augmentations in a training step: with, without, and alone."""
    from rdunet_jax.config import PAPER_AUGMENTATION

    with prepared(settings.case("train")) as case:
        augmented = replace(case, augmentation=PAPER_AUGMENTATION)
        cases = {"ours": case, "ours augmented": augmented, "augmentation": augmented, "matmul": case}
        results = race(cases, settings.rounds, settings.limit, lambda *_: None, {}, console.print)
        show("augment", settings, results, 3 * case.forward_flops())
        alone, plain = results["augmentation"].median, results["ours"].median
        if alone and plain:
            console.print(f"augmentation alone: {alone:.3f} s, {alone / plain:.1%} of a step without it")


def prepare(patients: int = 300, image_size: int = 256) -> None:
    """Time and memory of `rdunet prepare`; `pipeline.py` has more benchmarks of the data pipeline.

    Args:
        patients: Number of patients of the largest run; a sixth and a third of it are run too.
        image_size: Rows and columns of a slice in the data set, in pixels.
    """
    from experiments.benchmarks.pipeline import prepare as prepare_phantoms

    prepare_phantoms(patients, image_size)


def compile_times(settings: Settings = _SETTINGS) -> None:
    """Compilation of forward pass and training step in a fresh process, then from the cache; `rdunet --help`."""
    from experiments.benchmarks.startup import compilation, help_seconds

    answered = help_seconds(settings.rounds)
    record: dict[str, object] = {"rdunet --help": answered}
    console.print(f"rdunet --help: {statistics.median(answered):.2f} s")
    with prepared(settings.case("train")) as case, tempfile.TemporaryDirectory() as cache:
        for task in ("predict", "train"):
            for process in ("fresh", "cached"):
                seconds = compilation(replace(case, task=task), Path(cache) / task)
                record[f"{task}, {process}"] = seconds
                console.print(
                    f"{task}, {process}: traced in {seconds['trace']:.1f} s, compiled in {seconds['compile']:.1f} s"
                )
    write_record(settings.output / f"compile-{settings.size}.json", record)


def memory(settings: Settings = _SETTINGS) -> None:
    """Memory of a training step as XLA plans it with a GPU's convolutions, with and without rematerialisation.

    These are estimates for choosing --batch-size, --dtype and --remat on a GPU; nothing is run.
    """
    from experiments.benchmarks.memory import kept_bytes, planned_bytes

    rows = []
    for batch, dtype in itertools.product((1, 2), ("float32", "bfloat16")):
        case = replace(settings.case("train"), batch=batch)
        found = {
            "planned": planned_bytes(case, dtype=dtype),
            "kept": kept_bytes(case, dtype=dtype),
            "kept with remat": kept_bytes(case, dtype=dtype, remat=True),
        }
        mib = {name: round(size / 2**20) for name, size in found.items()}
        rows.append({"batch": batch, "dtype": dtype, "mib": mib})
        shown = ", ".join(f"{name} {size} MiB" for name, size in mib.items())
        console.print(f"batch {batch}, {dtype}: {shown}")
    write_record(settings.output / f"memory-{settings.size}.json", {"steps": rows})


def growth(settings: Settings = _SMALL, against: tuple[Axis, ...] = AXES) -> None:
    """Growth of the time (as an exponent) and the peak memory of predicting patients.

    A patient of n slices has n - 7 windows: from 60 to 600 slices, a cost proportional to the windows has an exponent
    of 1.048 in the slices.

    Args:
        against: What is varied.
    """
    with prepared(settings.case("patient")) as case:
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
                console.print(f"and with their windows to the power of {one['exponent_of_windows']:.3f}")
    path = settings.output / "growth.json"
    write_record(path, {"settings": record_of(settings), "series": series})
    console.print(machine_in_words())
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
    "quick": quick,
    "all": every,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    script.run(COMMANDS, __doc__, arguments)


if __name__ == "__main__":
    main()
