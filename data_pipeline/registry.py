"""Parts by name: one table for each kind, which the parts of this package and those of a user's plugin enter alike.

A table knows the names of its own parts from the start, so that `--help` can list them, and imports the module that
registers them when one is first used:

>>> SHAPES: Registry[Callable[[float], float]] = Registry("shape", "", ())
>>> @SHAPES.register("square")
... def square(side: float) -> float:
...     return side * side
>>> SHAPES["square"](3.0)
9.0
>>> SHAPES["circle"]  # doctest: +ELLIPSIS
Traceback (most recent call last):
data_pipeline.errors.InputError: no shape is called 'circle'; choose one of square, or give --plugin ...

Imports neither NumPy nor JAX.
"""

import hashlib
import importlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tyro.constructors import PrimitiveConstructorSpec

from data_pipeline.errors import InputError

Part = TypeVar("Part")
Registered = TypeVar("Registered")
NAME = r"[\w.\-]{1,64}"


@dataclass(frozen=True)
class Origin:
    """The file that registered a part."""

    path: str
    """Empty where there is no file, as in an interactive session."""
    source: bytes
    """Its content at that time."""

    @property
    def name(self) -> str:
        """Of the file, without its folder."""
        return Path(self.path).name

    @property
    def sha256(self) -> str:
        """Of the content; empty where there is no file."""
        return hashlib.sha256(self.source).hexdigest() if self.path else ""


class Registry(Mapping[str, Part]):
    """The parts of one kind by name: those of this package, then those of plugins.

    Args:
        kind: what a part is, in words.
        module: the module that registers the package's own parts when it is imported.
        names: of the package's own parts.
    """

    def __init__(self, kind: str, module: str, names: tuple[str, ...]):
        self.kind = kind
        self._module, self._names = module, names
        self._parts: dict[str, Part] = {}
        self._origins: dict[str, Origin] = {}

    def register(self, name: str) -> Callable[[Registered], Registered]:
        """A decorator that gives a part its name: `@LOSSES.register("mine")`, or `MODELS.register("mine")(config)`.

        A name that was registered from the same file, or in an interactive session, is replaced.

        Raises:
            InputError: the name is one of the package's own, or that of a part in another file, or is no name.
        """
        caller = _calling_module()
        own = caller.get("__name__") == self._module
        if not own:
            self._take(name, origin_of(caller))

        def enter(part: Any) -> Any:
            self._parts[name] = part
            return part

        return enter

    def _take(self, name: str, origin: Origin) -> None:
        before = self._origins.get(name)
        if re.fullmatch(NAME, name) is None:
            raise InputError(f"{self.kind} {name!r}: a name must be of 1 to 64 letters, digits, dots or dashes")
        if name in self._names:
            raise InputError(f"{origin.name}: {self.kind} {name!r} is built in; choose another name for your own")
        if before and before.path and before.path != origin.path and before.sha256 != origin.sha256:
            raise InputError(
                f"{origin.path}: {self.kind} {name!r} is registered by {before.path} already; choose another name"
            )
        self._origins[name] = origin

    def origin(self, name: str) -> Origin | None:
        """The file that registered a part; None for the package's own."""
        return self._origins.get(name)

    def __getitem__(self, name: str) -> Part:
        """Raises InputError where there is no such part."""
        if name in self._names and name not in self._parts:
            importlib.import_module(self._module)
        if name not in self._parts:
            raise InputError(f"no {self.kind} is called {name!r}; choose {self}, or give --plugin the file that has it")
        return self._parts[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names or name in self._origins

    def __iter__(self) -> Iterator[str]:
        return iter((*self._names, *self._origins))

    def __len__(self) -> int:
        return len(self._names) + len(self._origins)

    def __str__(self) -> str:
        return f"one of {', '.join(self)}"


def _calling_module() -> Mapping[str, Any]:
    """The globals of the module that calls `register`, past the wrappers that check annotations."""
    frame = sys._getframe()
    while frame.f_back and re.match(
        rf"{re.escape(__name__)}$|(jaxtyping|beartype)\b", frame.f_globals.get("__name__", "")
    ):
        frame = frame.f_back
    return frame.f_globals


def origin_of(module: Mapping[str, Any]) -> Origin:
    """The file of a module, by its globals."""
    path = module.get("__file__")
    try:
        return Origin(str(Path(path).resolve()), Path(path).read_bytes()) if path else Origin("", b"")
    except OSError:  # a module in a zip file, or compiled without its source
        return Origin("", b"")


class NameIn(PrimitiveConstructorSpec[str]):
    """For `Annotated[str, NameIn(registry)]`: a name that is registered when the setting is checked.

    `data_pipeline.ranges` checks it, and tyro lists the names that are registered when it parses the command line.
    """

    nargs = 1  # pyright: ignore[reportIncompatibleVariableOverride]
    __hash__ = object.__hash__

    def __init__(self, registry: Registry[Any]):
        object.__setattr__(self, "registry", registry)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __contains__(self, name: object) -> bool:
        return name in self._registry

    def __str__(self) -> str:
        return str(self._registry)

    @property
    def _registry(self) -> Registry[Any]:
        return self.__dict__["registry"]

    @property
    def choices(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return tuple(self._registry)

    @property
    def metavar(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return f"{{{','.join(self._registry)}}}"

    @staticmethod
    def instance_from_str(words: list[str]) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return words[0]

    def is_instance(self, value: object) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return isinstance(value, str)

    @staticmethod
    def str_from_instance(name: str) -> list[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return [name]
