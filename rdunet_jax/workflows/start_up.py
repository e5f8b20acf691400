"""What every command and script does first: settings of XLA, the cache of compiled programs, and how errors are shown.

Imports no JAX, because `rdunet --help` must answer quickly.
"""

import errno
import io
import logging
import os
import re
import resource
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from functools import partial, wraps
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from data_pipeline.errors import InputError

T = TypeVar("T")


LEAST_GIB = {
    "prepare": 1,
    "models": 1,
    "compare": 1,
    "pool": 1,
    "sample-data": 1,
}
"""Address space that a command must have; `MOST_NEEDED_GIB` for the others. Measured: `prepare` and `models`."""
MOST_NEEDED_GIB = 4
SHORTAGES = (
    "can't start new thread",
    "std::bad_alloc",
    "Cannot allocate memory",
    "failed to map segment",
    "RESOURCE_EXHAUSTED: Out of memory",
)
"""What errors say that have no type of their own for too little memory."""
OUTPUT_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
"""Errors of the file system that only writing has."""


def prepare_jax() -> None:
    """Settings that JAX reads when it is imported; to call before the first computation."""
    keep_compiled_programs()
    order_for_memory()
    # XLA's remarks, such as its alarm at compilations of over two minutes: a user can do nothing about them.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def require_address_space(command: str) -> None:
    """Refuses a command that could not even begin in the address space of this process (`ulimit -v`): where a thread or
    an allocation fails inside of XLA, the process is ended, or waits for ever.

    Raises:
        InputError: the limit is lower than what the command needs.
    """
    needed, limit = LEAST_GIB.get(command, MOST_NEEDED_GIB), resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY and limit < needed * 2**30:
        raise InputError(
            f"not enough memory: rdunet {command} needs an address space of {needed} GiB, and the limit is "
            f"{limit / 2**30:.1f} GiB; raise it (ulimit -v)"
        )


def keep_compiled_programs() -> None:
    """Stores compiled programs, so that no command compiles a network again that another has compiled.

    They are in `rdunet/jax` of the user's cache folder (XDG_CACHE_HOME, else ~/.cache), which may be removed at any
    time. JAX_COMPILATION_CACHE_DIR names another folder. Where the folder cannot be written, nothing is stored.
    """
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR") or _cache_folder()
    if folder is None or not _is_writable(Path(folder)):
        os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
        return
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    _remove_damaged_programs(Path(folder))
    jax = sys.modules.get("jax")
    if jax is not None and jax.config.jax_compilation_cache_dir is None:  # it has read its environment already
        jax.config.update("jax_compilation_cache_dir", folder)


def _cache_folder() -> str | None:
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    except RuntimeError:  # neither HOME nor an entry in the system's list of users
        return None
    return str(cache / "rdunet" / "jax")


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def _remove_damaged_programs(folder: Path) -> None:
    """A stored program that cannot be read is removed, so that JAX stores it again; its warning is not shown."""
    show = warnings.showwarning

    def remove_or_show(message: Warning | str, *arguments: Any, **options: Any) -> None:
        found = re.match(r"Error (reading|writing) persistent compilation cache entry for '([^']*)'", str(message))
        if not found:
            show(message, *arguments, **options)
        elif found[1] == "reading":
            for path in folder.glob(f"{found[2]}-*-cache"):
                with suppress(OSError):
                    path.unlink()

    warnings.showwarning = remove_or_show


def order_for_memory() -> None:
    """XLA on CPU runs a program's operations in the order that needs least memory.

    Its default order would let more of them run side by side, but the full network needs half as much memory again for
    it, and no less time. XLA reads this from XLA_FLAGS only, and ends the process at a name it does not know: so it is
    set only for the versions that were tested.
    """
    if version("jaxlib").startswith("0.10."):
        mine, given = "--xla_cpu_enable_concurrency_optimized_scheduler=false", os.environ.get("XLA_FLAGS", "")
        if mine not in given:
            os.environ["XLA_FLAGS"] = f"{mine} {given}".strip()  # the later one counts


def parse(parser: Callable[[], T]) -> T:
    """The result of a tyro parser, whose box around a mistake becomes one line.

    Raises:
        InputError: the command line cannot be used.
    """
    box = io.StringIO()
    try:
        with redirect_stderr(box):
            return parser()
    except SystemExit as end:
        if end.code != 2:
            raise
        raise InputError(_in_one_line(box.getvalue())) from None


def deferred(command: Callable[..., object], **defaults: Any) -> Callable[..., Callable[[], object]]:
    """The command with other defaults, as a function that returns what to run instead of running it."""
    command_with_defaults = partial(command, **defaults)

    @wraps(command)
    def later(*arguments: Any, **options: Any) -> Callable[[], object]:
        return partial(command_with_defaults, *arguments, **options)

    later.__wrapped__ = command_with_defaults  # pyright: ignore[reportAttributeAccessIssue] (its signature)
    return later


def _in_one_line(box: str) -> str:
    """What a box of tyro's says, without its title, its frame, and the help of the options it names.

    The frame is two characters wide: lines where standard output is UTF-8, else blanks and hyphens. The names of
    options are indented by four, their help by eight.
    """
    lines = [line[2:].rstrip("│ ") for line in re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines()[1:]]
    parts = [""]
    for line in lines:
        if not line.strip("─╯- "):
            parts.append("")
        elif not line.startswith(" " * 8):
            separator = ", " if line.startswith("    -") and not parts[-1].endswith(":") else " "
            parts[-1] += separator + line.strip()
    said, *more = [part.strip(" .") for part in parts if part]
    # tyro's name of a group of options means nothing to a user; what it says of one option are Python's types
    said = re.sub(r"^Error parsing \w[\w.-]*: ", "", said)
    if option := re.match(r"Error parsing (--[\w-]+): ", said):
        (form,) = [line.split(maxsplit=1)[1] for line in lines if line.startswith(f"    {option[1]} ")]
        said = f"{option[1]} must have the form {form}"
    hints = [part for part in more if part.startswith(("Perhaps you meant", "Available subcommands"))]
    return "; ".join([said, *hints, "see --help"])


@contextmanager
def mistakes_in_one_line(stopped: str) -> Iterator[None]:
    """Turns an error that the user can mend into one line on standard error and a status.

    Status 2: input that cannot be used, a full disk, too little memory. Status 130: Ctrl-C, with the line `stopped`.
    Status 141: the reader of the output has ended, as in `rdunet --help | head`, which is no error and says nothing.
    """
    logging.getLogger("absl").setLevel(logging.ERROR)  # messages of libraries that a user can do nothing about
    _make_streams_usable()
    _silence_late_writes()
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except InputError as error:
        short = is_shortage(error) and "memory" not in str(error)
        _end(f"error: {'not enough memory: ' if short else ''}{error}", 2)
    except BrokenPipeError:
        _end("", 141)
    except OSError as error:
        where = f"{error.filename}: " if error.filename and error.errno in OUTPUT_ERRORS else ""
        _end(f"error: {where}{error.strerror or error}", 2)
    except MemoryError as error:
        _end(f"error: not enough memory{f' ({error})' if str(error) else ''}", 2)
    except KeyboardInterrupt:
        _end(stopped, 130)
    except Exception as error:
        if not is_shortage(error):
            raise
        what = " to load the libraries" if isinstance(error, ImportError) else ""
        _end(f"error: not enough memory{what}", 2)


def is_shortage(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, is too little memory."""
    while error is not None:
        if isinstance(error, MemoryError) or any(text in str(error) for text in SHORTAGES):
            return True
        error = error.__cause__ or error.__context__
    return False


def _silence_late_writes() -> None:
    """Where one file of a checkpoint cannot be written, the others report to a loop that is closed by then."""
    show = sys.unraisablehook
    if show is sys.__unraisablehook__:
        sys.unraisablehook = lambda late: None if "Event loop is closed" in str(late.exc_value) else show(late)


def _make_streams_usable() -> None:
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started this process
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for characters that the terminal does not have


def _end(message: str, status: int) -> NoReturn:
    if message:
        # one line, whatever a name in it holds: no line breaks, no control sequences of a terminal
        printable = "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)
        with suppress(OSError):  # a message that cannot be shown does not change the status
            print(printable, file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # Python would try again, and fail, when it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(status)
