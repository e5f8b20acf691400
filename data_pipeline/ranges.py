"""Ranges of settings, stated once, in the type of a dataclass field, and checked by one function.

@dataclass(frozen=True)
class TrainConfig:
    epochs: Annotated[int, Range(1, 1_000_000)] = 30

    def __post_init__(self) -> None:
        check_fields(self)
"""

import dataclasses
import math
import re
from functools import cache
from itertools import chain
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from data_pipeline.errors import InputError

Kind = TypeVar("Kind")


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`; never NaN or infinite."""

    low: float
    high: float
    above: bool = False
    """Leaves out `low` itself."""
    below: bool = False
    """Leaves out `high` itself."""
    step: int = 1
    """Whole numbers: low + step, low + 2 step and so on."""

    def __contains__(self, value: float) -> bool:
        low = value > self.low if self.above else value >= self.low
        high = value < self.high if self.below else value <= self.high
        return low and high and (self.step == 1 or (value - self.low) % self.step == 0)

    def __str__(self) -> str:
        low = f"above {self.low}" if self.above else f"from {self.low}"
        high = f"below {self.high}" if self.below else f"up to {self.high}" if self.above else f"to {self.high}"
        odd = self.step == 2 and self.low % 2 == 1
        steps = f" in steps of {self.step}" if self.step > 1 and not odd else ""
        return f"{'odd, ' if odd else ''}{low}{' and ' if self.below else ' '}{high}{steps}"


@dataclasses.dataclass(frozen=True)
class Pattern:
    """Text that a regular expression matches as a whole."""

    regex: str
    words: str

    def __contains__(self, value: str) -> bool:
        return re.fullmatch(self.regex, value) is not None

    def __str__(self) -> str:
        return self.words


@dataclasses.dataclass(frozen=True)
class Length:
    """Number of values in a list."""

    low: int
    high: int

    def __contains__(self, value: tuple[Any, ...]) -> bool:
        return self.low <= len(value) <= self.high

    def __str__(self) -> str:
        return f"{self.low} to {self.high} values"


Digest = Annotated[str, Pattern(r"([0-9a-f]{64})?", "of 64 hexadecimal digits")]
"""A SHA-256; empty where it is unknown."""


def check_fields(settings: Any) -> None:
    """Checks every field of a dataclass against its type and range; called in `__post_init__`.

    What JSON brings back is converted: lists to tuples, objects to dataclasses.

    Raises:
        InputError: a value has another type, or is outside its range. The message names the field and the range.
    """
    for name, kind in _types(type(settings)).items():
        value = _converted(kind, getattr(settings, name))
        object.__setattr__(settings, name, value)
        check(name, value, kind)


def from_json(kind: type[Kind], values: Any) -> Kind:
    """A dataclass that checks its fields, from what `json.loads` made of its `asdict`.

    Raises:
        InputError: a field is unknown or missing, has another type, or is outside its range.
    """
    if not isinstance(values, dict):
        raise InputError(f"not a JSON object, but {_shown(values)}")
    for name in values:
        if name not in _types(kind):
            raise InputError(f"unknown setting {_shown(name)!r}")
    for field in dataclasses.fields(kind):  # pyright: ignore[reportArgumentType] (a dataclass)
        if field.name not in values and field.default is field.default_factory is dataclasses.MISSING:
            raise InputError(f"setting {field.name!r} is missing")
    return kind(**values)


def check(name: str, value: Any, kind: Any) -> None:
    """Checks one value against a type with a range, such as `Annotated[int, Range(1, 10)]`.

    Raises:
        InputError: the value has another type, or is outside the range.
    """
    if not _fits(kind, value):
        raise InputError(f"{name} is {_shown(value)}, but must be {_in_words(kind)}")


def _converted(kind: Any, value: Any) -> Any:
    """Lists become tuples, and objects the dataclasses that the type asks for, or one of its alternatives."""
    alternatives = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    if isinstance(value, dict) and (classes := [one for one in alternatives if dataclasses.is_dataclass(one)]):
        return from_json(classes[0], value)  # pyright: ignore[reportArgumentType] (a class)
    if isinstance(value, list | tuple):
        return tuple(_converted(*pair) for pair in zip(_kinds(kind, len(value)), value, strict=True))
    return value


def _kinds(kind: Any, count: int) -> list[Any]:
    """The type of each value of a tuple of so many; None for a type that is no such tuple."""
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    arguments = get_args(kind)
    if get_origin(kind) is tuple and arguments[-1] is Ellipsis:
        return [arguments[0]] * count
    return list(arguments) if get_origin(kind) is tuple and len(arguments) == count else [None] * count


@cache
def _types(settings: type) -> dict[str, Any]:
    hints = get_type_hints(settings, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(settings)}


def _fits(kind: Any, value: Any) -> bool:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _fits(arguments[0], value) and all(value in rule for rule in arguments[1:])
    if origin in (Union, UnionType):
        return any(_fits(one, value) for one in arguments)
    if origin is Literal:
        return isinstance(value, str) and value in arguments
    if origin is tuple:
        fits = isinstance(value, tuple) and (arguments[-1] is Ellipsis or len(value) == len(arguments))
        return fits and all(map(_fits, _kinds(kind, len(value)), value))
    if origin is dict:
        return isinstance(value, dict) and all(map(_fits, arguments * len(value), chain(*value.items())))
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def _in_words(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return ", ".join([_in_words(arguments[0]), *map(str, arguments[1:])])
    if origin in (Union, UnionType):
        return " or ".join(_in_words(one) for one in arguments)
    if origin is Literal:
        return arguments[0] if len(arguments) == 1 else f"one of {', '.join(arguments)}"
    if origin is tuple and arguments[-1] is not Ellipsis and len(set(arguments)) == 1:
        return f"a list of {len(arguments)}, each {_in_words(arguments[0])}"
    if origin is tuple and arguments[-1] is not Ellipsis:
        return f"a list of {' and '.join(map(_in_words, arguments))}"
    if origin is tuple:
        return f"a list, each {_in_words(arguments[0])}"
    if origin is dict:
        return f"an object, each value {_in_words(arguments[1])}"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "none"}
    names |= {dict: "an object", list: "a list"}
    return names.get(kind, getattr(kind, "__name__", str(kind)))


def _shown(value: Any) -> str:
    shown = (" ".join(map(str, value)) if isinstance(value, tuple) else str(value)) or "empty"
    shown = shown if shown.isprintable() else repr(shown)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
