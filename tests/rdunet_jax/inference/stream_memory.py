"""Streams a scan of so many slices through the evaluator and its post-processing; prints the peak memory in KiB.

Run by `test_inference.py`, in a process of its own because the peak of a process never falls.
"""

import resource
import sys
from collections.abc import Iterator

import jax
import numpy as np

from rdunet_jax.inference.sliding_window import SlidingWindow


def slices(count: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield rng.random((256, 256), np.float32)


def main(count: int) -> None:
    window = SlidingWindow(lambda variables, window: jax.nn.sigmoid(window), batch=4)
    seen = sum(bool(np.isfinite(plane).all()) for plane in window.stream(None, slices(count)))
    assert seen == count
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


if __name__ == "__main__":
    main(int(sys.argv[1]))
