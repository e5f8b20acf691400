"""Worker processes that end with the process that started them."""

import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait


def worker_pool(workers: int) -> ProcessPoolExecutor:
    """A pool of processes that end when their parent does, also after `kill -9`, and leave Ctrl-C to it.

    They are spawned, since a fork of a process in which JAX's threads run may hang. The calling script therefore needs
    its `if __name__ == "__main__"`.
    """
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_end_with_parent)


def _end_with_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    parent = parent_process()
    assert parent is not None  # a worker has one
    wait([parent.sentinel])
    os._exit(1)
