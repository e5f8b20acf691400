"""What every command and script does first: how XLA compiles, where what it compiled is kept, and how mistakes end.

JAX need not be imported here, for `rdunet --help` is to answer quickly.
"""

import io
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

from data_pipeline.errors import InputError

T = TypeVar("T")


def prepare_jax() -> None:
    """Both of the below; to call before the first computation."""
    keep_compiled_programs()
    order_for_memory()


def keep_compiled_programs() -> None:
    """A network that was compiled once, by whatever command, is not compiled again.

    Programs lie in `rdunet/jax` of the user's cache folder (XDG_CACHE_HOME, else ~/.cache), which may be removed at any
    time. JAX_COMPILATION_CACHE_DIR names another folder.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    folder = os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache / "rdunet" / "jax"))
    jax = sys.modules.get("jax")
    if jax is not None and jax.config.jax_compilation_cache_dir is None:  # it has read its environment already
        jax.config.update("jax_compilation_cache_dir", folder)


def order_for_memory() -> None:
    """XLA on CPU runs a program's operations in the order that needs least memory.

    By itself it prefers an order in which more of them could run side by side: for the full network that takes a half
    more memory, and no less time. XLA reads this from XLA_FLAGS only, and ends the process at a name it does not know:
    so other versions than those it was tried with are left alone.
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


def _in_one_line(box: str) -> str:
    """What a box of tyro's says, without its frame, and without the help of options that fit."""
    box = re.sub(r"\x1b\[[0-9;]*m", "", box)
    frame = "│╭╮╰╯─ |+-"  # where the terminal cannot show lines, ASCII
    lines = [line.strip("│| ") for line in box.splitlines()[1:-1]]
    parts = " ".join(line if line.strip(frame) else "\n" for line in lines).split("\n")
    said = [part for part in parts if not re.match(r"\s*(Argument helptext|For full helptext)", part)]
    sentences = (re.sub(r"\s+([.,;)])", r"\1", " ".join(part.split())).rstrip(".") for part in said)
    return "; ".join(sentences) + "; see --help"


@contextmanager
def mistakes_in_one_line(stopped: str) -> Iterator[None]:
    """A user's mistake is one line on standard error and status 2; a stop by Ctrl-C says `stopped`, with status 130."""
    logging.getLogger("absl").setLevel(logging.ERROR)  # libraries' remarks that a user can do nothing about
    try:
        yield
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        sys.exit(130)
