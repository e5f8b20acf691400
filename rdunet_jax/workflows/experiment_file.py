"""Experiments as files: settings, seeds, folds, and variants by name or as a grid, in TOML.

    data_dir = "data"
    output = "runs/losses"
    seeds = [0, 1, 2]
    baseline = "bce"

    [settings]              # any option of `rdunet train` by its name, for all variants
    epochs = 30

    [variants]              # by name: what it has in place of these
    bce = {}
    focal = { loss = "focal" }

    [grid]                  # each variant with each combination of these
    learning_rate = [1e-4, 1e-3]

A sub-table `evaluate` of the settings holds options of `rdunet evaluate`. Imports no JAX.
"""

import difflib
import math
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from data_pipeline.errors import InputError
from data_pipeline.privacy import one_line
from data_pipeline.ranges import Length, Range, check_fields, from_json
from rdunet_jax.config import RECIPES, AugmentConfig, InferenceConfig, ModelConfig, Protocol, TrackerName, TrainConfig
from rdunet_jax.networks.named import KERAS, model_config
from rdunet_jax.options import EvaluateOptions, ExperimentOptions
from rdunet_jax.runs.plugins import load_plugin

MOST_BYTES, MOST_RUNS = 1 << 20, 10_000
Table = dict[str, Any]

_PARTS = (ModelConfig, TrainConfig, AugmentConfig, InferenceConfig)
_ELSEWHERE = {"seed": "list them as `seeds`", "fold": "list them as `folds`", "augment": "name its fields alone"}
_NAMES = {one.name for part in _PARTS for one in fields(part)} - set(_ELSEWHERE)
_TRAINING = _NAMES | {"model", "recipe", "init_from"}
_SCORING = {one.name for one in fields(EvaluateOptions)} - {"protocol"}


@dataclass(frozen=True)
class _File:
    """The keys of a file, with their types and ranges."""

    data_dir: str | None = None
    dataset: str | None = None
    output: str | None = None
    seeds: Annotated[tuple[Annotated[int, Range(0, 2**32 - 1)], ...], Length(1, 1000)] = (0,)
    folds: Annotated[tuple[Annotated[int, Range(0, 1000)], ...], Length(1, 1000)] | Literal["all"] | None = None
    protocols: Annotated[tuple[Protocol, ...], Length(1, 2)] = ("paper",)
    trackers: tuple[TrackerName, ...] = ()
    plugins: tuple[str, ...] = ()
    baseline: str | None = None
    settings: dict = field(default_factory=dict)
    variants: dict[str, dict] = field(default_factory=dict)
    grid: dict[str, list] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Training:
    """All that a trained network depends on, but its seed, its fold and the data."""

    network: ModelConfig
    recipe: TrainConfig
    inference: InferenceConfig
    init_from: Path | None = None


@dataclass(frozen=True)
class Variant:
    """A row of the table: a training, and how its networks are scored."""

    name: str
    training: Training
    scoring: EvaluateOptions


@dataclass(frozen=True)
class Experiment:
    """What a file asks for, with what the command line sets instead."""

    file: Path
    data_dir: Path
    output: Path
    dataset: str | None
    seeds: tuple[int, ...]
    folds: tuple[int, ...] | Literal["all"] | None
    protocols: tuple[Protocol, ...]
    trackers: tuple[TrackerName, ...]
    plugins: tuple[str, ...]
    """Files that the settings need, loaded already; a process of its own has to load them again."""
    baseline: str | None
    """The name of the variant that the others are compared with."""
    variants: tuple[Variant, ...]


def read_experiment(path: Path, options: ExperimentOptions, plugins: tuple[str, ...] = ()) -> Experiment:
    """A file, checked: every key, type and range, and every variant.

    Args:
        plugins: those of the command line, which are loaded already.

    Raises:
        InputError: the file cannot be read, a key is unknown, or a value has another type or is out of range; two
            variants have one name; the baseline is no variant; or there is no data set or output folder. The message
            names the file and the key.
    """
    file = _read(path)
    for plugin in file.plugins:
        load_plugin(plugin)
    variants = _variants(path, file, options.override)
    known = [one.name for one in variants]
    baseline = options.baseline or file.baseline
    for key, names in (("baseline", [baseline] if baseline else []), ("--variants", options.variants)):
        for name in names:
            if name not in known:
                listed = ", ".join(known[:20]) + (" and more" if len(known) > 20 else "")
                raise InputError(f"{path}: {key}: no variant is called {one_line(name)!r}; the variants are {listed}")
    chosen = tuple(one for one in variants if not options.variants or one.name in options.variants)
    places = {"data_dir": options.data_dir or file.data_dir, "output": options.output or file.output}
    for key, place in places.items():
        if not place:
            raise InputError(f"{path}: has no {key}; add it, or give --{key.replace('_', '-')}")
    seeds, folds = options.seeds or file.seeds, options.folds or file.folds
    for key, numbers in (("seeds", seeds), ("folds", folds or ())):
        if len(set(numbers)) < len(numbers) and numbers != "all":
            raise InputError(f"{path}: {key}: a number is there twice")
    if folds is not None and (other := [one.name for one in chosen if one.scoring.split != "test"]):
        raise InputError(f"{path}: variant {other[0]!r}: evaluate.split: with folds it must be test")
    if len(chosen) * len(seeds) > MOST_RUNS:
        raise InputError(f"{path}: {len(chosen)} variants with {len(seeds)} seeds are more than {MOST_RUNS} runs")
    return Experiment(
        file=path,
        data_dir=Path(str(places["data_dir"])),
        output=Path(str(places["output"])),
        dataset=options.dataset or file.dataset,
        seeds=seeds,
        folds=folds,
        protocols=file.protocols,
        trackers=file.trackers,
        plugins=(*file.plugins, *plugins),
        baseline=baseline,
        variants=chosen,
    )


def _read(path: Path) -> _File:
    text = ""
    try:
        with path.open("rb") as stream:
            content = stream.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise InputError(f"{path}: larger than any experiment's file ({MOST_BYTES} bytes)")
        text = content.decode("utf-8")
        values = tomllib.loads(text)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name the TOML file of an experiment") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file in UTF-8") from error
    except RecursionError as error:
        raise InputError(f"{path}: nested too deeply") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not TOML: {one_line(str(error))}{_line_of(text, str(error))}") from error
    try:
        return from_json(_File, values)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _line_of(text: str, message: str) -> str:
    """The line that a message of tomllib's names, for a variant that is there twice is named nowhere else."""
    found = re.search(r"\(at line (\d+),", message)
    lines = text.split("\n")
    return f": {one_line(lines[int(found[1]) - 1].strip())[:80]}" if found and int(found[1]) <= len(lines) else ""


def _variants(path: Path, file: _File, override: Sequence[str]) -> tuple[Variant, ...]:
    """Each variant with each point of the grid."""
    shared = _checked(path, "settings", file.settings)
    given = {name: _checked(path, f"variants.{name}", values) for name, values in file.variants.items()}
    grid = _checked(path, "grid", {name: _choices(path, name, values) for name, values in file.grid.items()})
    overriding = _overriding(override)
    if twice := overriding.keys() & grid.keys():
        raise InputError(f"--override {min(twice)}: is in the grid of {path}; choose rows with --variants")
    if math.prod(map(len, grid.values())) * max(len(given), 1) > MOST_RUNS:
        raise InputError(f"{path}: grid: more than {MOST_RUNS} runs")
    variants: dict[str, Variant] = {}
    for (name, values), point in product(given.items() or [("", {})], _points(grid)):
        if twice := values.keys() & point.keys():
            raise InputError(f"{path}: variants.{name}.{min(twice)}: is in the grid too")
        parts = [*([name] if name else []), *(f"{key} {_shown(value)}" for key, value in point.items())]
        label = ", ".join(parts) or "settings"
        if not label.isprintable() or len(label) > 200:
            raise InputError(f"{path}: variants.{one_line(label)[:80]}: its name must be printable, at most 200 long")
        if label in variants:
            raise InputError(f"{path}: grid: two variants are called {label!r}")
        try:
            variants[label] = _variant(label, _merged(shared, point, values, overriding))
        except InputError as error:
            raise InputError(f"{path}: variant {label!r}: {error}") from error
    return tuple(variants.values())


def _choices(path: Path, name: str, values: list[Any]) -> list[Any]:
    if not values:
        raise InputError(f"{path}: grid.{name}: must be a list of one value or more")
    return values


def _points(grid: Mapping[str, list[Any]]) -> Iterator[Table]:
    for values in product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def _shown(value: Any) -> str:
    return "+".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def _checked(path: Path | str, where: str, values: Table, known: set[str] = _TRAINING) -> Table:
    """The table with underscores in its keys, as fields have them.

    Raises:
        InputError: a key is unknown, or there twice.
    """
    found: Table = {}
    for written, value in values.items():
        name = written.replace("-", "_")
        if name == "evaluate" and known is _TRAINING and where != "grid":
            if not isinstance(value, dict):
                raise InputError(f"{path}: {where}.evaluate: must be a table of options of `rdunet evaluate`")
            value = _checked(path, f"{where}.evaluate", value, _SCORING)
        elif name not in known:
            close = difflib.get_close_matches(name, sorted(known), 1)
            hint = _ELSEWHERE.get(name) or (f"perhaps you meant {close[0]}" if close else "see `rdunet train --help`")
            raise InputError(f"{path}: {where}.{one_line(written)}: no such setting; {hint}")
        if name in found:
            raise InputError(f"{path}: {where}.{one_line(written)}: is there twice")
        found[name] = value
    return found


def _overriding(override: Sequence[str]) -> Table:
    """Settings of the command line; a value that is not TOML is text.

    Raises:
        InputError: one is not of the form KEY=VALUE, or its key is unknown.
    """
    settings: Table = {}
    for text in override:
        key, sign, value = text.partition("=")
        if not sign or not re.fullmatch(r"[\w-]+(\.[\w-]+)?", key):
            raise InputError(f"--override {one_line(text)}: must be KEY=VALUE, such as epochs=10")
        try:
            parsed = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            parsed = value
        table, _, name = key.rpartition(".")
        settings = _merged(
            settings, _checked("--override", "settings", {table: {name: parsed}} if table else {key: parsed})
        )
    return settings


def _merged(*tables: Table) -> Table:
    """The settings of all tables; a later one counts, also inside `evaluate`."""
    merged: Table = {}
    for table in tables:
        scoring = {**merged.get("evaluate", {}), **table.get("evaluate", {})}
        merged = {**merged, **table, "evaluate": scoring}
    return merged


def _variant(name: str, settings: Table) -> Variant:
    """Raises InputError where a value has another type or is out of range."""
    left: Table = {key: None if value == "None" else value for key, value in settings.items()}  # as on the command line
    for key in ("model", "recipe", "init_from"):
        if not isinstance(left.get(key, ""), str):
            raise InputError(f"{key} is {left[key]}, but must be text")
    network = model_config(left.pop("model", KERAS.name))
    recipe = left.pop("recipe", "paper")
    if recipe not in RECIPES:
        raise InputError(f"recipe is {one_line(recipe)}, but must be one of {', '.join(RECIPES)}")
    source = left.pop("init_from", None)
    scoring = _replaced(EvaluateOptions(), left.pop("evaluate"))
    training = RECIPES[recipe]
    augment = _replaced(training.augment, left)
    training = _replaced(replace(training, augment=augment), left)
    inference = _replaced(InferenceConfig(), left)
    if inference.threshold == "histogram":
        raise InputError("threshold is histogram, but training needs a number (evaluate.threshold may be histogram)")
    return Variant(name, Training(_replaced(network, left), training, inference, source and Path(source)), scoring)


def _replaced(part: Any, settings: Table) -> Any:
    """The part with those settings that are fields of it."""
    own = {one.name: settings[one.name] for one in fields(part) if one.name in settings}
    return replace(part, **own) if own else part
