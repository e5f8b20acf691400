"""What every command and script does first: how XLA compiles, and where what it compiled is kept.

JAX need not be imported here, for `rdunet --help` is to answer quickly.
"""

import os
import sys
from importlib.metadata import version
from pathlib import Path


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
    if "jax" in sys.modules:  # which has read its environment already
        sys.modules["jax"].config.update("jax_compilation_cache_dir", folder)


def order_for_memory() -> None:
    """XLA on CPU runs a program's operations in the order that needs least memory.

    By itself it prefers an order in which more of them could run side by side: for the full network that takes a half
    more memory, and no less time. XLA reads this from XLA_FLAGS only, and ends the process at a name it does not know:
    so other versions than those it was tried with are left alone.
    """
    if version("jaxlib").startswith("0.10."):
        mine = "--xla_cpu_enable_concurrency_optimized_scheduler=false"
        os.environ["XLA_FLAGS"] = f"{mine} {os.environ.get('XLA_FLAGS', '')}".strip()  # the later one counts
