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
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from rdunet_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`; never NaN or infinite."""

    low: float
    high: float
    above: bool = False
    """Leaves out `low` itself."""
    below: bool = False
    """Leaves out `high` itself."""
    odd: bool = False

    def __contains__(self, value: float) -> bool:
        low = value > self.low if self.above else value >= self.low
        high = value < self.high if self.below else value <= self.high
        return low and high and (not self.odd or value % 2 == 1)

    def __str__(self) -> str:
        low = f"above {self.low:g}" if self.above else f"from {self.low:g}"
        high = f"below {self.high:g}" if self.below else f"up to {self.high:g}" if self.above else f"to {self.high:g}"
        return f"{'odd, ' if self.odd else ''}{low}{' and ' if self.below else ' '}{high}"


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


def check_fields(settings: Any) -> None:
    """Checks every field of a dataclass against its type and range; called in `__post_init__`.

    What JSON brings back is converted: lists to tuples, objects to dataclasses.

    Raises:
        InputError: a value has another type, or is outside its range. The message names the field and the range.
    """
    for name, kind in _types(type(settings)).items():
        value = getattr(settings, name)
        if isinstance(value, list):
            object.__setattr__(settings, name, value := tuple(value))
        if isinstance(value, dict) and dataclasses.is_dataclass(kind):
            object.__setattr__(settings, name, value := _from_json(kind, value))
        check(name, value, kind)


def check(name: str, value: Any, kind: Any) -> None:
    """Checks one value against a type with a range, such as `Annotated[int, Range(1, 10)]`.

    Raises:
        InputError: the value has another type, or is outside the range.
    """
    if not _fits(kind, value):
        raise InputError(f"{name} is {_shown(value)}, but must be {_in_words(kind)}")


def _from_json(kind: Any, values: dict[str, Any]) -> Any:
    for name in values:
        if name not in _types(kind):
            raise InputError(f"unknown setting {name!r}")
    return kind(**values)


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
        return isinstance(value, tuple) and all(_fits(arguments[0], one) for one in value)
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
    if origin is tuple:
        return f"a list, each {_in_words(arguments[0])}"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "none"}
    return names.get(kind, getattr(kind, "__name__", str(kind)))


def _shown(value: Any) -> str:
    shown = " ".join(map(str, value)) or "empty" if isinstance(value, tuple) else str(value)
    shown = shown if shown.isprintable() else repr(shown)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
