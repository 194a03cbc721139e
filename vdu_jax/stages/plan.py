"""`vdu plan`: what training, unlearning and sampling hold in a device's memory.

Nothing is allocated. Shapes come from tracing; what a step needs beside its arguments is XLA's own
account of the program that it compiled for this machine's kind of device.
"""

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from vdu_jax import config as vdu_config
from vdu_jax import posterior as posterior_lib
from vdu_jax import tasks, training
from vdu_jax.errors import UserError
from vdu_jax.runtime import parallel
from vdu_jax.stages import posterior, train, unlearn
from vdu_jax.tasks import base
from vdu_jax.types import Objective

GIB = 2**30
# Where there is no data set to ask: |D_f|, and the share of replay that is forget-like.
NUM_FORGET, FORGET_SHARE = 1000, 0.1
# Kind of device -> what its runtime takes beside a program's own account. On a CPU 43 MB were
# measured, whatever the batch size (benchmarks/training_peak.py).
RUNTIME = {"cpu": 43_000_000}
COLUMNS = ("parameters", "average", "optimiser", "objective", "gradients", "activations", "runtime")


class StepPlan(NamedTuple):
    """A step, by the shapes of what goes into it.

    Attributes:
      make: what is given -> (objective, optimizer).
      params: what the optimiser moves. given: whatever else the objective is made of.
      batch_sizes: kind of data -> images in a step, on all devices together.
      batch: number of images -> what a loader gives of them.
      ema: see `training.make_step`.
    """

    make: Callable[[Any], tuple[Objective, Any]]
    params: Any
    given: Any
    batch_sizes: Mapping[str, int]
    batch: Callable[[int], dict]
    ema: float = 0.0


def held(tree: Any, fsdp: int) -> int:
    """Bytes of a tree on one device, split as `parallel.place` does."""
    return sum(
        parallel.total_bytes(leaf) // (1 if parallel.split_axis(leaf.shape, fsdp) is None else fsdp)
        for leaf in jax.tree.leaves(tree)
    )


def of_step(layout: parallel.Layout, devices: int, plan: StepPlan) -> dict[str, int]:
    """The rows of a training or unlearning step: bytes on one device."""

    def zeros(kind):
        while True:
            shapes = plan.batch(plan.batch_sizes[kind])
            yield jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    def start(params, given, key):
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
    compiled = jax.jit(step, donate_argnums=0).lower(state, of_objective, mine, key).compile()
    temporary = compiled.memory_analysis().temp_size_in_bytes
    fsdp = layout.fsdp
    return {
        "parameters": held(state.params, fsdp),
        "average": held(state.ema, fsdp),
        "optimiser": held(state.opt_state, fsdp),
        "objective": held(of_objective, fsdp),
        "gradients": held(plan.params, fsdp),
        "activations": max(0, temporary - parallel.total_bytes(plan.params)),
    }


def of_training(task: tasks.Task, devices: int) -> dict[str, int]:
    """The rows of training the network."""
    section = task.config.train
    made = train.make_objective(task), train.optimizer(task.config)
    sizes = {"retain": section.batch_size}
    plan = StepPlan(
        lambda given: made, task.param_shapes, None, sizes, task.batch_shapes, section.ema_decay
    )
    return of_step(base.layout(task.config), devices, plan)


def of_method(task: tasks.Task, devices: int, name: str) -> dict[str, int]:
    """The rows of a method."""
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

    def make(given) -> tuple[Objective, Any]:
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
    """K where the config leaves it to what there is."""
    if config.posterior.source == "runs":
        return len(config.posterior.runs) + 1
    return config.train.snapshots


def of_sampling(task: tasks.Task, devices: int) -> dict[str, int]:
    """The rows of drawing; see `sampling.make_sampler`."""
    count = -(-task.config.sampler.batch_size // devices)
    draw, params, asked = task.drawing(count)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), count))
    compiled = jax.jit(draw).lower(params, keys, *asked).compile()
    return {
        "parameters": held(params, task.config.parallel.fsdp),
        "activations": compiled.memory_analysis().temp_size_in_bytes,
    }


def make(config: ConfigDict, devices: int) -> dict:
    """stage -> {what: bytes on one device, "total": their sum}, and the number of parameters.

    Raises:
      UserError: if `config.parallel.fsdp` does not divide the devices.
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
    """Print the plan; the exit code is 1 if a stage needs more than `memory` GiB (0: not asked)."""
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
