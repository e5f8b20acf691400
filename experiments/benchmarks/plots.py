"""The plots of `bench`."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from data_pipeline.files import atomic_path
from experiments.benchmarks.race import Result

matplotlib.use("Agg")
from matplotlib import pyplot


def plot_times(path: Path, title: str, results: dict[str, Result]) -> None:
    """Plots median seconds with the range and peak memory of each contestant; one that was stopped is hatched."""
    timed = {name: result for name, result in results.items() if result.median is not None and name != "matmul"}
    medians = np.array([result.median for result in timed.values()])
    fastest = np.array([min(one.seconds, default=one.median) for one in timed.values()])
    slowest = np.array([max(one.seconds, default=one.median) for one in timed.values()])
    whiskers = np.maximum([medians - fastest, slowest - medians], 0)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    bars = left.bar(list(timed), medians, yerr=whiskers, capsize=4)
    for bar, result in zip(bars, timed.values(), strict=True):
        bar.set_hatch("//" if result.over is not None else "")
    left.set(ylabel="seconds (median, range)", title=title)
    right.bar(list(timed), [result.peak / 2**20 for result in timed.values()])
    right.set(ylabel="peak memory, MiB")
    for axes in (left, right):
        axes.tick_params(axis="x", rotation=20)
    _save(path, figure)


def plot_growth(path: Path, series: dict[str, dict[str, Any]]) -> None:
    """Plots seconds against each quantity on logarithmic axes, with the fitted power."""
    figure, panels = pyplot.subplots(
        1, len(series), figsize=(4 * len(series), 3.5), layout="constrained", squeeze=False
    )
    for axes, (name, one) in zip(panels[0], series.items(), strict=True):
        values, seconds = np.array(one["values"], float), np.array(one["seconds"])
        axes.loglog(values, seconds, "o")
        power = np.exp(np.log(seconds).mean()) * (values / np.exp(np.log(values).mean())) ** one["exponent"]
        axes.loglog(values, power, "-", label=f"exponent {one['exponent']:.3f}")
        axes.set(xlabel=name, ylabel="seconds")
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.set_yticks(seconds, [f"{value:.3g}" for value in seconds])
        axes.minorticks_off()
        axes.legend()
    _save(path, figure)


def _save(path: Path, figure: Any) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
    pyplot.close(figure)
