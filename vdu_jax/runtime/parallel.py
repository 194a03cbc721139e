"""Devices as a mesh; arrays placed on it.

One axis, `data`: batches are split over it, everything else is replicated. The same code runs on
one CPU core and on many chips; XLA inserts the gradient reduction.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vdu_jax.errors import UserError


def make_mesh() -> Mesh:
    """All devices of all processes along the axis `data`."""
    return Mesh(np.asarray(jax.devices()), ("data",))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec("data"))


def check_batch_size(batch_size: int, mesh: Mesh, key: str) -> None:
    """Raise a UserError unless `batch_size` (config key `key`) divides over the devices."""
    if batch_size % mesh.size:
        raise UserError(f"{key} = {batch_size} does not divide over {mesh.size} devices")


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Put a copy of every array on every device."""
    return jax.device_put(tree, replicated(mesh))


def shard_batch(batch: Any, mesh: Mesh) -> Any:
    """This process's share of a batch (NumPy arrays) -> global arrays split over `data`."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda a: jax.make_array_from_process_local_data(sharding, a), batch)
