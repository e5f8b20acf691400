"""Data-parallel training over devices and machines (`jax.sharding`).

Every device holds the whole state and takes its part of each batch. The step is one program over the whole batch: XLA
sums over the devices, so the statistics of batch normalisation and the gradients are those of the whole batch, and the
losses are those of one device, except for the order of summation.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from rdunet_jax.config import HostsConfig
from rdunet_jax.errors import RunError

BATCH_AXIS = "batch"
_SIGNS_OF_LOSS = ("Gloo", "NCCL", "heartbeat", "UNAVAILABLE", "Connection reset", "Connection closed", "unhealthy")
"""In the message of an error: a connection to another process has ended."""


def initialize(hosts: HostsConfig) -> None:
    """Connects this process with the others; to be called before any other use of JAX.

    Raises:
        RunError: the addresses are incomplete, or the other processes are not found.
    """
    explicit = (hosts.coordinator, hosts.processes, hosts.process_id)
    if hosts.distributed == "no" and explicit == (None, None, None):
        return
    if hosts.distributed == "no" and None in explicit:
        raise RunError("several machines need --coordinator, --processes and --process-id together")
    try:
        jax.distributed.initialize(*explicit)
    except (ValueError, RuntimeError) as error:
        raise RunError(f"the other processes are not found ({str(error).splitlines()[0]})") from error
    # JAX answers the loss of the first process by an abort in C++, for which it has no usable callback.
    ctypes.CDLL(None).signal(signal.SIGABRT, _on_abort)


@contextmanager
def ends_with_the_others() -> Iterator[None]:
    """Where another process of the run is lost, ends this one too: one line on standard error and status 2.

    It ends at once, without Python's own shutdown, in which JAX would wait a minute for the lost process and then abort
    this one. What is entered inside the block is left in order.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:  # gloo's errors come as either
        if jax.process_count() == 1 or not any(sign in str(error) for sign in _SIGNS_OF_LOSS):
            raise
        _end_with_the_others(str(error))


def _end_with_the_others(cause: str) -> NoReturn:
    print(
        f"error: another process of the run has ended ({cause.splitlines()[0][:200]}); start the same command on all "
        "machines again: it goes on from the last checkpoint",
        file=sys.stderr,
    )
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(2)


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _on_abort(number: int) -> None:
    _end_with_the_others("JAX aborted this one; the first process or its machine is lost")


def make_mesh(batch_size: int) -> Mesh:
    """The devices that share a batch: all, or on one machine as many as the batch can be split over evenly.

    Raises:
        RunError: several machines, and the batch cannot be split over all their devices.
    """
    devices = jax.devices()
    if jax.process_count() > 1 and batch_size % len(devices):
        raise RunError(
            f"a batch of {batch_size} cannot be split over {len(devices)} devices; choose a --batch-size that is a "
            f"multiple of {len(devices)}"
        )
    return _even_mesh(devices, batch_size)


def make_local_mesh(batch_size: int) -> Mesh:
    """As many of this process's own devices as the batch can be split over evenly."""
    return _even_mesh(jax.local_devices(), batch_size)


def _even_mesh(devices: Sequence[Any], batch_size: int) -> Mesh:
    count = max(n for n in range(1, len(devices) + 1) if batch_size % n == 0)
    return Mesh(np.array(devices[:count]), (BATCH_AXIS,))


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """The same values on every device of the mesh."""
    return _place(tree, mesh, PartitionSpec())


def split_batch(batch: PyTree, mesh: Mesh) -> PyTree:
    """A batch, which every process has whole, split over the mesh along its first axis."""
    return _place(batch, mesh, PartitionSpec(BATCH_AXIS))


def _place(tree: PyTree, mesh: Mesh, spec: PartitionSpec) -> PyTree:
    sharding = NamedSharding(mesh, spec)
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)

    def place(leaf: Any) -> jax.Array:
        leaf = np.asarray(leaf)
        return jax.make_array_from_process_local_data(sharding, leaf, global_shape=leaf.shape)

    return jax.tree.map(place, tree)


def local(tree: PyTree) -> PyTree:
    """A replicated tree as this process's first device holds it."""
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)


def any_process(flag: bool) -> bool:
    """Whether `flag` is set in any process; all processes must call it at the same point, where they wait for each
    other."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.array(flag))))


def is_first() -> bool:
    """Whether this process is the one that writes files and prints."""
    return jax.process_index() == 0
