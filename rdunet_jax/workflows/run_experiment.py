"""`rdunet run`: what is not done yet of an experiment's file, in one process or in several, and the table of it."""

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import jax
from rich.console import Console

from data_pipeline.errors import InputError
from data_pipeline.loading import Dataset
from data_pipeline.privacy import one_line
from rdunet_jax.errors import RunError
from rdunet_jax.options import ExperimentOptions
from rdunet_jax.runs.plugins import load_plugin
from rdunet_jax.workflows.display import plural
from rdunet_jax.workflows.experiment_file import Experiment, read_experiment
from rdunet_jax.workflows.experiment_plan import QUIET, Plan, Run
from rdunet_jax.workflows.experiment_table import write_table
from rdunet_jax.workflows.stored_probabilities import ALL, Shard


def run_experiment(path: Path, options: ExperimentOptions, console: Console, plugins: tuple[str, ...] = ()) -> None:
    """Runs what is not done of an experiment's file, and writes its table.

    A run that fails does not stop the others. Killed at any moment, the same call continues: each training from its
    checkpoint.

    Args:
        plugins: those of the command line, which are loaded already.

    Raises:
        InputError: as `read_experiment`; the data set cannot be used; or, after the table of the others was written,
            runs failed.
    """
    shard = ALL if options.shard is None else Shard.parse(options.shard)
    experiment = read_experiment(path, options, plugins)
    plan = Plan(experiment, Dataset(experiment.data_dir, experiment.dataset))
    every = plan.runs()
    mine = [run for run in every[shard.first :: shard.of] if not run.is_done]
    console.print(
        f"{plural(len(experiment.variants), 'variant')}, {plural(len(every), 'run')}, "
        f"{sum(run.is_done for run in every)} done, {len(mine)} to do",
        markup=False,
    )
    failures: dict[str, str] = {}
    for run, error in _run_all(plan, mine, options.jobs, console):
        if error:
            failures[run.label] = error
        console.print(f"{'FAILED' if error else 'done'}: {run.label}{error and f': {error}'}", markup=False)
    plan.pool()
    write_table(plan, console)
    left = sum(not run.is_done for run in every) - len(failures)
    if left:
        console.print(f"{plural(left, 'run')} of other shards not done yet; the same command without --shard adds them")
    if failures:
        shown = [f"{one_line(label)} ({error})" for label, error in list(failures.items())[:3]]
        more = " and others" if len(failures) > 3 else ""
        raise RunError(f"{path}: {plural(len(failures), 'run')} failed: {', '.join(shown)}{more}")


def _run_all(plan: Plan, runs: Sequence[Run], jobs: int, console: Console) -> Iterator[tuple[Run, str]]:
    """Does the runs; yields each when it has ended, with the reason if it failed."""
    if jobs > 1 and len(runs) > 1:
        yield from _in_processes(plan, runs, min(jobs, len(runs)))
        return
    before = None
    for number, run in enumerate(runs, 1):
        if before not in (None, run.training):
            jax.clear_caches()  # the next network uses none of these programs
        before = run.training
        console.rule(f"{number} of {len(runs)}: {one_line(run.label)}")
        yield run, _attempt(plan.execute, run, console)


def _attempt(work: Callable[[Run, Console], None], run: Run, console: Console) -> str:
    """Does one run; returns why it failed, else nothing."""
    try:
        work(run, console)
    except InputError as error:
        return one_line(str(error))
    except Exception as error:  # one run must not cost the others
        if not console.quiet:
            console.print_exception()
        return one_line(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}")
    return ""


def _in_processes(plan: Plan, runs: Sequence[Run], jobs: int) -> Iterator[tuple[Run, str]]:
    """Does the runs in `jobs` processes.

    Raises:
        RunError: one of them was ended from outside.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # else the first takes a GPU's memory
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_start_worker)
    try:
        futures = {pool.submit(_work, plan.experiment, run): run for run in runs}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise RunError(
            "a process of --jobs was ended from outside, most often for lack of memory; use fewer --jobs: the same "
            "command continues"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Ends this process with its parent, however that ends, and keeps the terminal to it."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # a training has a handler of its own, with a checkpoint
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _work(experiment: Experiment, run: Run) -> str:
    """A run in a process of its own."""
    jax.clear_caches()
    for plugin in experiment.plugins:
        load_plugin(plugin)
    return _attempt(Plan(experiment, Dataset(experiment.data_dir, experiment.dataset)).execute, run, QUIET)
