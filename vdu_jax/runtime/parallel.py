"""Devices as a mesh; arrays placed on it; one update step, compiled for it.

The mesh has two axes. A batch is split over both; parameters, and all that has their shapes
(gradients, the optimiser's state, the moving average, the posterior), are split over `fsdp` and
copied along `data`. XLA inserts the communication, so the same code runs on one CPU core and on
many chips.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vdu_jax.errors import UserError
from vdu_jax.training import FitState
from vdu_jax.types import Batch, Metrics, Noise, Params

AXES = ("data", "fsdp")

Draw = Callable[[chex.PRNGKey, Batch], Noise]
Gradients = Callable[[Params, Any, Batch, Noise], Any]
Step = Callable[[FitState, Any, Batch, chex.PRNGKey], tuple[FitState, Metrics]]


class Layout(NamedTuple):
    """How an update step is spread: `config.parallel`. It changes no result beyond rounding.

    Attributes:
      fsdp: devices that share one copy of the parameters.
      mode: "jit" over the mesh, or "pmap", where every device has all parameters.
      accumulate: parts that a batch is taken in, one after the other, to save memory.
    """

    fsdp: int = 1
    mode: str = "jit"
    accumulate: int = 1


def make_mesh(fsdp: int = 1) -> Mesh:
    """All devices of all processes.

    Raises:
      UserError: if `fsdp` does not divide their number.
    """
    devices = np.asarray(jax.devices())
    if devices.size % fsdp:
        raise UserError(
            f"config key parallel.fsdp = {fsdp}: does not divide the {devices.size} devices"
        )
    return Mesh(devices.reshape(-1, fsdp), AXES)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(AXES))


def split_axis(shape: tuple[int, ...], parts: int) -> int | None:
    """The longest axis that `parts` divides (the last of them), or None."""
    fitting = [axis for axis, size in enumerate(shape) if parts > 1 and size % parts == 0 < size]
    return max(fitting, key=lambda axis: (shape[axis], axis), default=None)


def parameter_sharding(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    """Split over `fsdp` along `split_axis`, or copied if there is none."""
    axis = split_axis(shape, mesh.shape["fsdp"])
    if axis is None:
        return replicated(mesh)
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, "fsdp"))


def place(tree: Any, mesh: Mesh) -> Any:
    """Put every array of a tree where `parameter_sharding` says."""
    return jax.tree.map(lambda a: jax.device_put(a, parameter_sharding(mesh, jnp.shape(a))), tree)


def placed(tree: Any, mesh: Mesh) -> Any:
    """Shapes, types and the placement by `place` of a tree of anything with a shape and a type."""
    return jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(
            a.shape, a.dtype, sharding=parameter_sharding(mesh, a.shape)
        ),
        tree,
    )


def init_sharded(function: Callable[..., Any], mesh: Mesh, *arguments: Any) -> Any:
    """`function(*arguments)`, placed as by `place`, in arrays that are shared with nothing.

    By one program, not one for each shape.
    """
    shapes = placed(jax.eval_shape(function, *arguments), mesh)
    shardings = jax.tree.map(lambda a: a.sharding, shapes)
    copied = jax.jit(lambda *a: jax.tree.map(jnp.copy, function(*a)), out_shardings=shardings)
    return copied(*arguments)


def bytes_per_device(tree: Any) -> int:
    """The most that any device of this process holds of a tree's arrays."""
    held: dict[jax.Device, int] = {}
    for array in jax.tree.leaves(tree):
        for shard in array.addressable_shards:
            held[shard.device] = held.get(shard.device, 0) + shard.data.nbytes
    return max(held.values())


def check_batch_size(batch_size: int, layout: Layout, key: str) -> None:
    """Raise a UserError unless `batch_size` (config key `key`) divides over devices and parts."""
    devices = make_mesh(layout.fsdp).size
    parts = devices * layout.accumulate
    if batch_size % parts:
        of = f" and parallel.accumulate = {layout.accumulate}" if layout.accumulate > 1 else ""
        raise UserError(
            f"config key {key} = {batch_size}: does not divide over {devices} devices"
            f"{of}; take a multiple of {parts}"
        )


def shard_batch(batch: Any, mesh: Mesh) -> Any:
    """This process's share of a batch (NumPy arrays) -> global arrays split over the devices."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda a: jax.make_array_from_process_local_data(sharding, a), batch)


def spread(array: Any, mesh: Mesh) -> jax.Array:
    """An array that every process has whole -> split over the devices along its first axis.

    It is copied to each of them if they do not divide that axis.
    """
    fits = len(array) % mesh.size == 0
    return jax.device_put(array, batch_sharding(mesh) if fits else replicated(mesh))


def fetch(tree: Any) -> Any:
    """Global arrays -> NumPy arrays, whole in every process."""

    def whole(array: jax.Array) -> np.ndarray:
        if array.is_fully_addressable or array.is_fully_replicated:
            return np.asarray(array)
        return multihost_utils.process_allgather(array, tiled=True)

    return jax.tree.map(whole, tree)


def shard_draw(draw: Draw, mesh: Mesh) -> Draw:
    """`draw(key, batch)` with its noise split over the devices as the batch is.

    Each device makes its own rows, and nothing moves between devices.
    """
    if mesh.size == 1:
        return draw  # a constraint would enter XLA's count of operations, as −1 for each array

    def sharded(key: chex.PRNGKey, batch: Batch) -> Noise:
        return jax.lax.with_sharding_constraint(draw(key, batch), batch_sharding(mesh))

    return sharded


def in_parts(function: Gradients, count: int) -> Gradients:
    """The mean of `function(params, state, batch, noise)` over parts of a batch and its noise.

    The parts are taken one at a time. Each has its share of every device's images, so nothing moves
    between devices.
    """
    if count == 1:
        return function

    def whole(params: Params, state: Any, batch: Batch, noise: Noise) -> Any:
        def part(array: jax.Array, index: jax.Array) -> jax.Array:
            folded = array.reshape(-1, count, *array.shape[1:])
            return jax.lax.dynamic_index_in_dim(folded, index, axis=1, keepdims=False)

        def add(total: Any, index: jax.Array) -> tuple[Any, None]:
            some = jax.tree.map(lambda a: part(a, index), (batch, noise))
            return jax.tree.map(jnp.add, total, function(params, state, *some)), None

        first = jax.tree.map(lambda a: a[: len(a) // count], (batch, noise))
        shapes = jax.eval_shape(function, params, state, *first)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        total, _ = jax.lax.scan(add, zeros, jnp.arange(count))
        return jax.tree.map(lambda t: t / count, total)

    return whole


def over_devices(function: Callable[..., Any], axis: str) -> Callable[..., Any]:
    """The mean of a function of pytrees over the devices of a pmap."""
    return lambda *arguments: jax.lax.pmean(function(*arguments), axis)


def compile_step(
    draw: Draw,
    make_update: Callable[..., Callable],
    layout: Layout,
    mesh: Mesh,
    state: FitState,
) -> Step:
    """`step(state, objective_state, batch, key)`, compiled; the state given to it is used up.

    The noise is drawn for the whole batch, its rows where the batch's are, and then split with it.

    Args:
      draw: `(key, batch) -> noise`; see `vdu_jax.types.Noise`.
      make_update: `make_update(wrap=wrap) -> update(state, objective_state, batch, noise)`, where
        `wrap` turns the function that gives a part's gradients into one that gives the batch's.
      state: placed; the new one is placed alike.

    Raises:
      UserError: for "pmap" over several processes, or with parameters split.
    """

    def accumulated(function: Gradients) -> Gradients:
        return in_parts(function, layout.accumulate)

    draw = shard_draw(draw, mesh)
    if layout.mode == "jit":
        update = make_update(wrap=accumulated)

        def step(
            state: FitState, objective_state: Any, batch: Batch, key: chex.PRNGKey
        ) -> tuple[FitState, Metrics]:
            return update(state, objective_state, batch, draw(key, batch))

        shardings = jax.tree.map(lambda a: a.sharding, state)
        return jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))
    if jax.process_count() > 1 or layout.fsdp > 1:
        raise UserError(
            "config key parallel.mode = 'pmap': for the devices of one process, with "
            "parallel.fsdp = 1; use 'jit'"
        )
    axis, count, draw_once = "devices", mesh.size, jax.jit(draw)
    update = jax.pmap(
        make_update(wrap=lambda function: over_devices(accumulated(function), axis)),
        axis_name=axis,
        in_axes=(None, None, 0, 0),
        out_axes=None,
    )

    def split(
        state: FitState, objective_state: Any, batch: Batch, key: chex.PRNGKey
    ) -> tuple[FitState, Metrics]:
        parts = jax.tree.map(
            lambda a: a.reshape(count, len(a) // count, *a.shape[1:]),
            (batch, draw_once(key, batch)),
        )
        return update(state, objective_state, *parts)

    return split


def total_bytes(tree: Any) -> int:
    """Of one copy of a tree of anything with a shape and a type."""
    return sum(math.prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(tree))
