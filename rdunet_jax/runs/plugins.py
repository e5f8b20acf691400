"""Plugins: files of a user's that register parts (`rdunet_jax.registry`), and what a run records of them.

A plugin is code. It runs only if the user names it: by `--plugin` or `load_plugin`, now or earlier on this machine.
What was named is remembered by its content (SHA-256) in `~/.config/rdunet/plugins.json`, with its place. A run records
name and SHA-256 of each plugin that it uses; a command that loads the run looks the SHA-256 up in that list. So the
folder of a run alone, such as one from a stranger, makes nothing run. Its copy in `plugins/` is for its reader: without
one, a plugin that was edited would be lost to the run.
"""

import errno
import hashlib
import importlib.metadata
import json
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

from data_pipeline.ranges import Digest, Pattern, check_fields, from_json
from data_pipeline.registry import Origin
from rdunet_jax import registry
from rdunet_jax.config import ModelConfig, TrainConfig, parse_loss
from rdunet_jax.errors import InputError, RunError
from rdunet_jax.files import read_json, sha256_of, write_whole

ENTRY_POINTS = "rdunet_jax.plugins"
"""Group of the entry points by which an installed package offers its plugins."""
MEMORY = Path("~/.config/rdunet/plugins.json")
"""What the user has named: SHA-256 to path, or to the name of an entry point."""
FOLDER = "plugins"
TABLES = (
    registry.BLOCKS,
    registry.BOTTLENECKS,
    registry.ARCHITECTURES,
    registry.MODELS,
    registry.LOSSES,
    registry.AUGMENTATIONS,
    registry.INTENSITIES,
)


class PluginError(RunError):
    """A plugin that a run needs is not there, was changed or was never named."""


@dataclass(frozen=True)
class Plugin:
    """A plugin as a run records it."""

    name: Annotated[str, Pattern(r"[\w.\-]{1,128}", "of 1 to 128 letters, digits, dots or dashes")]
    """Name of its file, without the folder."""
    sha256: Digest
    """Of the file."""

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def in_run(self) -> Path:
        """The copy in a run's folder."""
        return Path(FOLDER) / self.sha256[:8] / self.name


def load_plugin(name: str | Path) -> None:
    """Runs a plugin, so that its parts are in the tables, and remembers that the user has named it.

    Args:
        name: a Python file, or the name of an installed package's entry point in the group `rdunet_jax.plugins`.

    Raises:
        InputError: there is no such file or entry point, it fails, or it registers nothing.
    """
    origins = _run(str(name))
    if not origins:
        raise InputError(f"{name}: registers no part; see 'Your own parts' in the documentation")
    _remember({origin.sha256: str(name) for origin in origins})


def _run(name: str, sha256: str | None = None) -> list[Origin]:
    """Runs a Python file, or imports an entry point; returns the files of the parts that it registered.

    Args:
        sha256: what a file's must be (None: any); another file does not run.
    """
    path = Path(name)
    points = [] if path.suffix == ".py" else [*importlib.metadata.entry_points(group=ENTRY_POINTS, name=name)]
    try:
        if path.suffix != ".py" and not points:  # never a file of that name in the current folder
            raise FileNotFoundError(errno.ENOENT, "no entry point", str(path))
        module = points[0].load() if points else _run_file(path, sha256)
    except (InputError, KeyboardInterrupt, MemoryError):
        raise
    except FileNotFoundError as error:
        if error.filename != str(path):
            raise
        raise InputError(f"{name}: no such plugin; give --plugin a Python file or an installed entry point") from None
    except BaseException as error:  # a user's code, which may also call sys.exit
        lines = str(error).splitlines() or [""]
        raise InputError(f"{name}: the plugin cannot be used ({type(error).__name__}: {lines[0]})") from error
    package = (module.__name__ if isinstance(module, ModuleType) else str(module.__module__)).split(".")[0]
    found = {origin.sha256: origin for origin in _origins() if _belongs(origin, path, points, package)}
    return [*found.values()]


def _run_file(path: Path, sha256: str | None) -> ModuleType:
    """The module of a file, which is not in `sys.modules` afterwards under a name that another import could meet."""
    source = path.read_bytes()
    if sha256 not in (None, hashlib.sha256(source).hexdigest()):
        raise InputError(f"{path}: was changed while it was read; start the same command again")
    module = ModuleType(f"rdunet_plugin_{path.stem}")
    module.__file__ = str(path.resolve())
    sys.modules[module.__name__] = module  # dataclasses, and so Flax modules, look themselves up there
    exec(compile(source, module.__file__, "exec"), module.__dict__)
    return module


def _belongs(origin: Origin, path: Path, points: Sequence[Any], package: str) -> bool:
    if not points:
        return origin.path == str(path.resolve())
    root = getattr(sys.modules[package], "__file__", None)
    return root is not None and Path(origin.path).is_relative_to(Path(root).resolve().parent)


def _origins() -> Iterable[Origin]:
    """The files of all parts that are not the package's own."""
    return (origin for table in TABLES for name in table if (origin := table.origin(name)))


def plugins_of(model: ModelConfig, train: TrainConfig, intensity: str) -> tuple[Plugin, ...]:
    """The plugins that settings use.

    Raises:
        InputError: a part was registered outside of a file, so that nobody could load it again.
    """
    used = [
        (registry.ARCHITECTURES, model.architecture),
        (registry.BLOCKS, model.block),
        (registry.BOTTLENECKS, model.bottleneck),
        (registry.INTENSITIES, intensity),
        *((registry.LOSSES, name) for _, name in parse_loss(train.loss)),
        *((registry.AUGMENTATIONS, name) for name in train.augmentation),
    ]
    plugins = []
    for table, name in used:
        origin = table.origin(name)
        if origin is not None and not origin.path:
            raise InputError(
                f"{table.kind} {name!r} was registered outside of a file, so no command could load the run; move it "
                "into a Python file, and import that or give it to --plugin"
            )
        if origin is not None:
            plugins.append(Plugin(origin.name, origin.sha256))
    return tuple(dict.fromkeys(plugins))


def save_plugins(plugins: Sequence[Plugin], workdir: Path) -> None:
    """Copies the files of plugins that were loaded into a run's folder, for its reader; see `require_plugins`."""
    sources = {origin.sha256: origin.source for origin in _origins()}
    for plugin in plugins:
        write_whole(workdir / plugin.in_run, sources[plugin.sha256])


def require_plugins(recorded: Any, run: Path) -> None:
    """Loads the plugins that a run or a model file records, if the user has named them before.

    Args:
        recorded: as `config.json` holds them; checked here.
        run: the run's folder or the file, for the messages.

    Raises:
        PluginError: a plugin is missing, was renamed or changed, or was never named on this machine.
        InputError: the record is damaged, or a plugin fails.
    """
    if not isinstance(recorded, list | tuple):
        raise InputError("plugins must be a list")
    for plugin in [from_json(Plugin, one) for one in recorded]:
        _require(plugin, run)


def _require(plugin: Plugin, run: Path) -> None:
    loaded = {origin.sha256: origin for origin in _origins()}
    if plugin.sha256 in loaded:
        return
    for origin in loaded.values():
        if origin.name == plugin.name:
            raise _changed(plugin, run, origin.path, origin.sha256)
    place = _memory().get(plugin.sha256)
    if place is None:
        raise PluginError(
            f"{run}: needs the plugin {plugin.name} (SHA-256 {plugin.sha256[:12]}), which is code that was not named "
            f"on this machine; give --plugin its file if you trust it{_copy(plugin, run)}"
        )
    path = Path(place)
    if path.suffix == ".py" and not path.is_file():
        raise PluginError(
            f"{place}: the plugin of {run} is missing or was renamed; give --plugin its file{_copy(plugin, run)}"
        )
    if path.suffix == ".py" and (found := sha256_of(path)) != plugin.sha256:
        raise _changed(plugin, run, place, found)
    if plugin.sha256 not in {origin.sha256 for origin in _run(place, plugin.sha256)}:
        raise _changed(plugin, run, place, "another")


def _changed(plugin: Plugin, run: Path, place: str, now: str) -> PluginError:
    return PluginError(
        f"{place}: the plugin was changed since {run} was trained with it (SHA-256 {plugin.sha256[:12]} then, "
        f"{now[:12]} now); give --plugin the file as it was{_copy(plugin, run)}"
    )


def _copy(plugin: Plugin, run: Path) -> str:
    """The run's copy in words, if it is there and what it is called."""
    path = run / plugin.in_run
    with suppress(OSError):
        return f", such as the run's copy {path}" if sha256_of(path) == plugin.sha256 else ""
    return ""


def _memory() -> dict[str, str]:
    """What the user has named; empty where the list is missing or damaged."""
    try:
        known = read_json(MEMORY.expanduser())
    except (OSError, ValueError, RuntimeError):  # RuntimeError: no home folder
        return {}
    texts = known.items() if isinstance(known, dict) else ()
    return {key: place for key, place in texts if isinstance(place, str)}


def _remember(places: dict[str, str]) -> None:
    absolute = {sha: str(Path(place).resolve()) if place.endswith(".py") else place for sha, place in places.items()}
    with suppress(OSError, InputError, RuntimeError):  # without a home folder each command needs its --plugin
        write_whole(MEMORY.expanduser(), json.dumps(_memory() | absolute, indent=1) + "\n")
