"""How a script of the experiments starts: its arguments, JAX, and one line for a user's mistake."""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import tyro
from rich.console import Console

from rdunet_jax.workflows.start_up import deferred, mistakes_in_one_line, parse, prepare_jax


def run(
    main: Callable[..., object] | Mapping[str, Callable[..., object]],
    description: str | None,
    arguments: Sequence[str] | None = None,
    stopped: str = "stopped; the same command continues where it was",
) -> None:
    """Calls a script's function with what the command line gives for its parameters.

    Bad input ends in one line on standard error and status 2, Ctrl-C in status 130, as with `rdunet`.

    Args:
        main: the function, or several by the names of their subcommands. The fields of a parameter that is a dataclass
            become flags without a prefix.
        description: for `--help`, usually the docstring of the script.
        arguments: the command line (default: that of this process).
        stopped: what Ctrl-C prints.
    """
    options = {"description": description, "args": arguments, "config": (tyro.conf.OmitArgPrefixes,)}
    if spec := sys.modules["__main__"].__spec__:
        options["prog"] = f"python -m {spec.name}"
    if isinstance(main, Mapping):
        commands = {name: deferred(command) for name, command in main.items()}
        parser = partial(tyro.extras.subcommand_cli_from_dict, commands, **options)
    else:
        parser = partial(tyro.cli, deferred(main), **options)
    with mistakes_in_one_line(stopped):
        prepare_jax()
        parse(parser)()


def make_console(width: int = 120) -> Console:
    """A console as wide as the terminal; in a log file `width` columns."""
    return Console(highlight=False, soft_wrap=True, width=None if sys.stdout and sys.stdout.isatty() else width)
