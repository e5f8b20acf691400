"""Data-parallel training over devices and machines (`jax.sharding`).

Every device holds the whole state and takes its part of each batch. The step is one program over the whole batch: XLA
sums what crosses devices, so the statistics of batch normalisation and the gradients are the whole batch's, and the
losses are those of one device, but for the order of summation.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from rdunet_jax.config import HostsConfig
from rdunet_jax.errors import RunError

BATCH_AXIS = "batch"


def initialize(hosts: HostsConfig) -> None:
    """Joins this process to the others; to be called before JAX is used otherwise.

    Raises:
        RunError: the addresses are incomplete, or the others are not found.
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
    """What `replicate` spread, as this process's first device holds it."""
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)


def any_process(flag: bool) -> bool:
    """Whether any process says so; all must ask at the same moment."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.array(flag))))


def is_first() -> bool:
    """Whether this process is the one that writes and speaks."""
    return jax.process_index() == 0
