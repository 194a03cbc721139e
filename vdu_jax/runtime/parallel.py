"""Device mesh, sharding of arrays, and compilation of an update step for the mesh.

The mesh has two axes. A batch is split over both. Parameters, and all trees of their shapes
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
"""`draw(key, batch) -> noise`; see `vdu_jax.types.Noise`."""

Gradients = Callable[[Params, Any, Batch, Noise], Any]
"""`gradients(params, objective_state, batch, noise)`: a tree of means over the batch."""

Step = Callable[[FitState, Any, Batch, chex.PRNGKey], tuple[FitState, Metrics]]
"""`step(state, objective_state, batch, key) -> (state, metrics)`."""


class Layout(NamedTuple):
    """How an update step is spread over devices; results differ by rounding only.

    The settings are those of `config.parallel`.

    Attributes:
      fsdp: number of devices that share one copy of the parameters.
      mode: "jit" over the mesh, or "pmap", where every device has all parameters.
      accumulate: number of parts of a batch that are computed one after the other, to save memory.
    """

    fsdp: int = 1
    mode: str = "jit"
    accumulate: int = 1


def make_mesh(fsdp: int = 1) -> Mesh:
    """The mesh of all devices of all processes, with the axes `AXES`.

    Args:
      fsdp: number of devices that share one copy of the parameters.

    Raises:
      UserError: if `fsdp` does not divide the number of devices.
    """
    devices = np.asarray(jax.devices())
    if devices.size % fsdp:
        raise UserError(
            f"config key parallel.fsdp = {fsdp}: does not divide the {devices.size} devices; use "
            "1, or another divisor"
        )
    return Mesh(devices.reshape(-1, fsdp), AXES)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array of which every device has a copy."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of an array whose first axis is split over all devices."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def split_axis(shape: tuple[int, ...], parts: int) -> int | None:
    """The longest axis that can be split evenly.

    Args:
      shape: shape of an array.
      parts: number of parts.

    Returns:
      The last of the longest axes that `parts` divides; None if there is none, or for one part.
    """
    fitting = [axis for axis, size in enumerate(shape) if parts > 1 and size % parts == 0 < size]
    return max(fitting, key=lambda axis: (shape[axis], axis), default=None)


def parameter_sharding(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    """The sharding of a parameter: split over `fsdp` along `split_axis`, or else copied.

    Args:
      mesh: the mesh.
      shape: shape of the parameter.
    """
    axis = split_axis(shape, mesh.shape["fsdp"])
    if axis is None:
        return replicated(mesh)
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, "fsdp"))


def place(tree: Any, mesh: Mesh) -> Any:
    """Put every array of a tree on the mesh by `parameter_sharding`.

    Args:
      tree: a pytree of arrays.
      mesh: the mesh.
    """
    return jax.tree.map(lambda a: jax.device_put(a, parameter_sharding(mesh, jnp.shape(a))), tree)


def placed(tree: Any, mesh: Mesh) -> Any:
    """Shapes, types and shardings of the arrays that `place` would return.

    Args:
      tree: a pytree of arrays or shapes.
      mesh: the mesh.
    """
    return jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(
            a.shape, a.dtype, sharding=parameter_sharding(mesh, a.shape)
        ),
        tree,
    )


def init_sharded(function: Callable[..., Any], mesh: Mesh, *arguments: Any) -> Any:
    """Compute a pytree on the mesh, in new arrays.

    It is one program, so the arrays are not compiled for one by one.

    Args:
      function: returns a pytree of arrays.
      mesh: the mesh.
      arguments: arguments of `function`.

    Returns:
      `function(*arguments)`, sharded as by `place`; no array shares memory with an argument.
    """
    shapes = placed(jax.eval_shape(function, *arguments), mesh)
    shardings = jax.tree.map(lambda a: a.sharding, shapes)
    copied = jax.jit(lambda *a: jax.tree.map(jnp.copy, function(*a)), out_shardings=shardings)
    return copied(*arguments)


def bytes_per_device(tree: Any) -> int:
    """Largest number of bytes of a tree's arrays on any device of this process."""
    held: dict[jax.Device, int] = {}
    for array in jax.tree.leaves(tree):
        for shard in array.addressable_shards:
            held[shard.device] = held.get(shard.device, 0) + shard.data.nbytes
    return max(held.values())


def check_batch_size(batch_size: int, layout: Layout, key: str) -> None:
    """Check that a batch divides over the devices and the parts of a layout.

    Args:
      batch_size: images of a global batch.
      layout: the layout.
      key: config key of the batch size, for the error.

    Raises:
      UserError: if it does not.
    """
    devices = make_mesh(layout.fsdp).size
    parts = devices * layout.accumulate
    if batch_size % parts:
        of = f" and parallel.accumulate = {layout.accumulate}" if layout.accumulate > 1 else ""
        raise UserError(
            f"config key {key} = {batch_size}: does not divide over {devices} devices"
            f"{of}; take a multiple of {parts}"
        )


def shard_batch(batch: Any, mesh: Mesh) -> Any:
    """Make global arrays, split over all devices, from the shares of the processes.

    Args:
      batch: this process's share, a pytree of NumPy arrays.
      mesh: the mesh.
    """
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda a: jax.make_array_from_process_local_data(sharding, a), batch)


def spread(array: Any, mesh: Mesh) -> jax.Array:
    """Split an array that every process has whole over the devices, along its first axis.

    Args:
      array: the same in every process.
      mesh: the mesh.

    Returns:
      The global array; copied to every device if their number does not divide the first axis.
    """
    fits = len(array) % mesh.size == 0
    return jax.device_put(array, batch_sharding(mesh) if fits else replicated(mesh))


def fetch(tree: Any) -> Any:
    """Turn a pytree of global arrays into NumPy arrays that are whole in every process."""

    def whole(array: jax.Array) -> np.ndarray:
        if array.is_fully_addressable or array.is_fully_replicated:
            return np.asarray(array)
        return multihost_utils.process_allgather(array, tiled=True)

    return jax.tree.map(whole, tree)


def shard_draw(draw: Draw, mesh: Mesh) -> Draw:
    """Split the noise of `draw` over the devices exactly as the batch.

    Each device draws its own rows, and nothing moves between devices.

    Args:
      draw: `(key, batch) -> noise`.
      mesh: the mesh.
    """
    if mesh.size == 1:
        return draw  # XLA would count a constraint, as −1 operation per array

    def sharded(key: chex.PRNGKey, batch: Batch) -> Noise:
        return jax.lax.with_sharding_constraint(draw(key, batch), batch_sharding(mesh))

    return sharded


def in_parts(function: Gradients, count: int) -> Gradients:
    """Average a function over parts of a batch and its noise (gradient accumulation).

    The parts are computed one after the other. Each has an equal share of every device's images, so
    nothing moves between devices.

    Args:
      function: `(params, objective_state, batch, noise) -> pytree`, a mean over the batch.
      count: number of parts; it divides each device's share of the batch.

    Returns:
      A function of the same arguments.
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
    """Average a function's pytree over the devices of a pmap.

    Args:
      function: returns a pytree of arrays.
      axis: name of the pmap's axis.
    """
    return lambda *arguments: jax.lax.pmean(function(*arguments), axis)


def compile_step(
    draw: Draw,
    make_update: Callable[..., Callable],
    layout: Layout,
    mesh: Mesh,
    state: FitState,
) -> Step:
    """Compile an update step for a layout and a mesh.

    The noise is drawn for the whole batch, on the devices that have its images, and then split
    exactly as the batch.

    Args:
      draw: `(key, batch) -> noise`; see `vdu_jax.types.Noise`.
      make_update: `make_update(wrap=wrap)` returns `update(state, objective_state, batch, noise)`;
        `wrap` turns a function that returns the gradients of a part of a batch into one that
        returns those of the batch. See `training.make_update`.
      layout: how the step is spread.
      mesh: the mesh.
      state: a state on the mesh, whose sharding the new states get.

    Returns:
      `step(state, objective_state, batch, key) -> (state, metrics)`. In mode "jit" the arrays of
      its `state` are donated, so they cannot be used again.

    Raises:
      UserError: for mode "pmap" with several processes or with fsdp > 1.
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
            "config key parallel.mode = 'pmap': needs a single process and parallel.fsdp = 1; use "
            "'jit'"
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
    """Bytes of one copy of a pytree of arrays or shapes."""
    return sum(math.prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(tree))
