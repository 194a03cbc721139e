"""`vdu plan`: the device memory that training, unlearning and sampling need.

Nothing is allocated. Shapes come from tracing. The memory of a step besides its arguments is XLA's
count for the program compiled for this machine's kind of device.
"""

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from vdu_jax import config as vdu_config
from vdu_jax import posterior as posterior_lib
from vdu_jax import tasks, training
from vdu_jax.errors import UserError
from vdu_jax.runtime import parallel
from vdu_jax.stages import posterior, train, unlearn
from vdu_jax.tasks import base
from vdu_jax.types import Objective, Params

GIB = 2**30
# Stand-ins for |D_f| and the forget-like share of replay, which no data set is read for. Neither
# changes a shape.
NUM_FORGET, FORGET_SHARE = 1000, 0.1
# Kind of device -> bytes that its runtime takes besides the program. On a CPU 43 MB were measured,
# for every batch size (benchmarks/training_peak.py).
RUNTIME = {"cpu": 43_000_000}
COLUMNS = ("parameters", "average", "optimiser", "objective", "gradients", "activations", "runtime")


class StepPlan(NamedTuple):
    """A training or unlearning step, described by the shapes of its arguments.

    Attributes:
      make: `make(given) -> (objective, optimizer)`.
      params: shapes of the parameters that the optimiser changes.
      given: shapes of the other arrays that the objective is made from.
      batch_sizes: kind of data -> images in a step, over all devices.
      batch: number of images -> shapes of a batch of them.
      ema: decay of the moving average, see `training.make_step`; 0 for none.
    """

    make: Callable[[Any], tuple[Objective, optax.GradientTransformation]]
    params: Params
    given: Any
    batch_sizes: Mapping[str, int]
    batch: Callable[[int], dict[str, jax.ShapeDtypeStruct]]
    ema: float = 0.0


def held(tree: Any, fsdp: int) -> int:
    """Bytes of a tree on one device, split as `parallel.place` splits it.

    Args:
      tree: arrays or shapes.
      fsdp: devices that share one copy.
    """
    return sum(
        parallel.total_bytes(leaf) // (1 if parallel.split_axis(leaf.shape, fsdp) is None else fsdp)
        for leaf in jax.tree.leaves(tree)
    )


def of_step(layout: parallel.Layout, devices: int, plan: StepPlan) -> dict[str, int]:
    """Bytes that a training or unlearning step needs on one device.

    Args:
      layout: how the step is spread over the devices.
      devices: number of devices.
      plan: the step.

    Returns:
      Bytes by the names of `COLUMNS`, without "runtime".
    """

    def zeros(kind: str) -> Iterator[dict[str, jax.Array]]:
        while True:
            shapes = plan.batch(plan.batch_sizes[kind])
            yield jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    def start(params: Params, given: Any, key: jax.Array) -> tuple[training.FitState, Any]:
        objective, optimizer = plan.make(given)
        batches = {kind: zeros(kind) for kind in plan.batch_sizes}
        of_objective = objective.init(params, batches, key)
        return training.init_state(params, optimizer, plan.ema), of_objective

    key = jax.eval_shape(lambda: jax.random.key(0))
    state, of_objective = jax.eval_shape(start, plan.params, plan.given, key)
    objective, optimizer = plan.make(plan.given)
    wrap = functools.partial(parallel.in_parts, count=layout.accumulate)
    step = training.make_step(objective, optimizer, plan.ema, wrap)
    mine = {kind: plan.batch(-(-count // devices)) for kind, count in plan.batch_sizes.items()}
    temporary = _temporary_bytes(jax.jit(step, donate_argnums=0), state, of_objective, mine, key)
    fsdp = layout.fsdp
    return {
        "parameters": held(state.params, fsdp),
        "average": held(state.ema, fsdp),
        "optimiser": held(state.opt_state, fsdp),
        "objective": held(of_objective, fsdp),
        "gradients": held(plan.params, fsdp),
        "activations": max(0, temporary - parallel.total_bytes(plan.params)),
    }


def _temporary_bytes(function: jax.stages.Wrapped, *shapes: Any) -> int:
    """Bytes that a jitted function needs besides its arguments and results, as XLA counts them."""
    account = function.lower(*shapes).compile().memory_analysis()
    assert account is not None, "XLA counts the memory of programs for CPUs, GPUs and TPUs"
    return account.temp_size_in_bytes


def of_training(task: tasks.Task, devices: int) -> dict[str, int]:
    """Bytes that training the network needs on one device; see `of_step`.

    Args:
      task: a planned task.
      devices: number of devices.
    """
    section = task.config.train
    made = train.make_objective(task), train.optimizer(task.config)
    sizes = {"retain": section.batch_size}
    plan = StepPlan(
        lambda given: made, task.param_shapes, None, sizes, task.batch_shapes, section.ema_decay
    )
    return of_step(base.layout(task.config), devices, plan)


def of_method(task: tasks.Task, devices: int, name: str) -> dict[str, int]:
    """Bytes that a method needs on one device; see `of_step`.

    Args:
      task: a planned task.
      devices: number of devices.
      name: name of the method.
    """
    config, settings = task.config, task.config.methods[name]
    if unlearn.is_retrained(config, name):
        return of_training(task, devices)
    part, rest = unlearn.split(task.param_shapes, settings, name)
    trained = None
    if vdu_config.takes_posterior(settings):
        section = config.posterior
        count = section.count or checkpoint_count(config)
        whole = posterior.shapes(task.param_shapes, section.family, count)
        trained = unlearn.part_of(whole, settings, name)

    def make(given: tuple) -> tuple[Objective, optax.GradientTransformation]:
        part, rest, trained = given
        objective = unlearn.make_objective(
            task, name, (part, rest), trained, NUM_FORGET, FORGET_SHARE
        )
        return objective, unlearn.optimizer(config, name, trained)

    changed, given = part, (part, rest, trained)
    if settings.rank:
        changed = jax.eval_shape(lambda: unlearn.what_changes(config, name, part))
    sizes = {kind: settings[f"{kind}_batch"] for kind in make(given)[0].sees}
    plan = StepPlan(make, changed, given, sizes, task.batch_shapes)
    return of_step(base.layout(config), devices, plan)


def checkpoint_count(config: ConfigDict) -> int:
    """K, the number of checkpoints of the posterior if `posterior.count` is 0."""
    if config.posterior.source == "runs":
        return len(config.posterior.runs) + 1
    return config.train.snapshots


def of_sampling(task: tasks.Task, devices: int) -> dict[str, int]:
    """Bytes that sampling a batch needs on one device.

    Args:
      task: a planned task.
      devices: number of devices, which share the batch.

    Returns:
      "parameters" and "activations".
    """
    count = -(-task.config.sampler.batch_size // devices)
    draw, params, asked = task.drawing(count)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), count))
    return {
        "parameters": held(params, task.config.parallel.fsdp),
        "activations": _temporary_bytes(jax.jit(draw), params, keys, *asked),
    }


def make(config: ConfigDict, devices: int) -> dict[str, Any]:
    """The memory plan of a config.

    Args:
      config: all settings.
      devices: number of devices.

    Returns:
      "parameters", "devices", and "stages": stage -> bytes on one device by the names of `COLUMNS`,
      and their sum as "total".

    Raises:
      UserError: if `parallel.fsdp` does not divide the devices.
    """
    if devices < 1 or devices % config.parallel.fsdp:
        raise UserError(
            f"--devices={devices}: must be a multiple of config key parallel.fsdp = "
            f"{config.parallel.fsdp}"
        )
    task = tasks.planned(config)
    stages = {"train": of_training(task, devices)} if task.has_training else {}
    stages |= {f"unlearn/{m}": of_method(task, devices, m) for m in sorted(config.methods)}
    stages["sample"] = of_sampling(task, devices)
    for rows in stages.values():
        rows["runtime"] = RUNTIME.get(jax.default_backend(), 0)
        rows["total"] = sum(rows.values())
    parameters = posterior_lib.num_parameters(task.param_shapes)
    return {"parameters": parameters, "devices": devices, "stages": stages}


def run(config: ConfigDict, devices: int, memory: float, as_json: bool) -> int:
    """Print the memory plan of a config.

    Args:
      config: all settings.
      devices: number of devices.
      memory: GiB of one device; 0 for no comparison.
      as_json: whether to print JSON instead of a table.

    Returns:
      The exit code: 1 if a stage needs more than `memory`, else 0.
    """
    plan, fsdp = make(config, devices), config.parallel.fsdp
    tight = [s for s, rows in plan["stages"].items() if memory and rows["total"] > memory * GIB]
    if as_json:
        print(json.dumps(plan | {"memory_gib": memory or None, "fits": not tight}))
        return int(bool(tight))
    print(
        f"{plan['parameters']:,} parameters; {plan['devices']} devices, parallel.fsdp = {fsdp}; "
        "MiB on each"
    )
    columns = (*COLUMNS, "total")
    print(f"{'':<28}" + "".join(f"{name:>13}" for name in columns))
    for stage, rows in plan["stages"].items():
        cells = "".join(
            f"{rows[name] / 2**20:>13.1f}" if name in rows else f"{'–':>13}" for name in columns
        )
        print(f"{stage:<28}{cells}")
    if memory:
        print(
            f"does not fit {memory:g} GiB: {', '.join(tight)}" if tight else f"fits {memory:g} GiB"
        )
    return int(bool(tight))
