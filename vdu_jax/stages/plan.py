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
import numpy as np
from ml_collections import ConfigDict

from vdu_jax import data, tasks, training
from vdu_jax import posterior as posterior_lib
from vdu_jax.errors import UserError
from vdu_jax.runtime import parallel
from vdu_jax.stages import build, posterior, train, unlearn
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


def image_shape(config: ConfigDict) -> tuple[int, int, int]:
    """(H, W, C) without opening the data set.

    Raises:
      UserError: if the config does not say.
    """
    info = data.static_info(config.data.name)
    if info is not None:
        return tuple(info[0])
    section = config.data
    if not section.image_size or not section.channels:
        raise UserError(
            f"config keys data.image_size and data.channels must say what {section.name} holds"
        )
    return (section.image_size, section.image_size, section.channels)


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


def of_drawing(draw: Callable, params: Any, count: int, fsdp: int, *given: Any) -> dict[str, int]:
    """The rows of a sampler that draws `count` images on a device; see `sampling.make_sampler`."""
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), count))
    compiled = jax.jit(draw).lower(params, keys, *given).compile()
    return {
        "parameters": held(params, fsdp),
        "activations": compiled.memory_analysis().temp_size_in_bytes,
    }


def image_batch(config: ConfigDict, count: int) -> dict[str, jax.ShapeDtypeStruct]:
    """What a loader gives of `count` images."""
    images = np.zeros((1, *image_shape(config)), np.uint8)
    one = tasks.of(config).source(data.ArraySource(images)).batch(np.zeros(1, int))
    return {k: jax.ShapeDtypeStruct((count, *v.shape[1:]), v.dtype) for k, v in one.items()}


def posterior_shapes(config: ConfigDict, params) -> posterior_lib.Posterior:
    kept = config.posterior.count or config.train.snapshots
    return posterior.shapes(params, config.posterior.family, kept)


def of_training(config: ConfigDict, devices: int) -> dict:
    made = train.make_objective(config, image_shape(config)), train.optimizer(config)
    section = config.train
    params = build.param_shapes(config, image_shape(config))
    sizes, batch = {"retain": section.batch_size}, functools.partial(image_batch, config)
    plan = StepPlan(lambda given: made, params, None, sizes, batch, section.ema_decay)
    return of_step(build.layout(config), devices, plan)


def of_method(config: ConfigDict, devices: int, name: str) -> dict:
    if unlearn.is_retrained(config, name):
        return of_training(config, devices)
    settings, shape = config.methods[name], image_shape(config)

    def make(trained) -> tuple[Objective, Any]:
        objective = unlearn.build_objective(config, name, shape, trained, NUM_FORGET, FORGET_SHARE)
        return objective, unlearn.optimizer(config, name, trained)

    params = build.param_shapes(config, shape)
    trained = posterior_shapes(config, params)
    sizes = {kind: settings[f"{kind}_batch"] for kind in make(trained)[0].sees}
    batch = functools.partial(image_batch, config)
    plan = StepPlan(make, params, trained, sizes, batch)
    return of_step(build.layout(config), devices, plan)


def of_sampling(config: ConfigDict, devices: int) -> dict:
    shape, count = image_shape(config), -(-config.sampler.batch_size // devices)
    asked = [jax.ShapeDtypeStruct(rows.shape, rows.dtype) for rows in tasks.of(config).asked(count)]
    draw, params = build.drawing(config, shape), build.param_shapes(config, shape)
    return of_drawing(draw, params, count, config.parallel.fsdp, *asked)


def make(config: ConfigDict, devices: int) -> dict:
    """stage -> {what: bytes on one device, "total": their sum}, and the number of parameters.

    Raises:
      UserError: if `config.parallel.fsdp` does not divide the devices.
    """
    check_devices(config, devices)
    params = build.param_shapes(config, image_shape(config))
    stages = {"train": of_training(config, devices)}
    stages |= {f"unlearn/{m}": of_method(config, devices, m) for m in sorted(config.methods)}
    stages["sample"] = of_sampling(config, devices)
    return whole(posterior_lib.num_parameters(params), devices, stages)


def check_devices(config: ConfigDict, devices: int) -> None:
    """Raises: UserError if `config.parallel.fsdp` does not divide the devices."""
    if devices < 1 or devices % config.parallel.fsdp:
        raise UserError(
            f"--devices={devices}: must be a multiple of config key parallel.fsdp = "
            f"{config.parallel.fsdp}"
        )


def whole(parameters: int, devices: int, stages: dict[str, dict]) -> dict:
    """A plan of its stages' rows, with what the runtime takes and the sums."""
    for rows in stages.values():
        rows["runtime"] = RUNTIME.get(jax.default_backend(), 0)
        rows["total"] = sum(rows.values())
    return {"parameters": parameters, "devices": devices, "stages": stages}


def run(config: ConfigDict, devices: int, memory: float, as_json: bool) -> int:
    """Print the plan; the exit code is 1 if a stage needs more than `memory` GiB (0: not asked)."""
    return show(make(config, devices), config.parallel.fsdp, memory, as_json)


def show(plan: dict, fsdp: int, memory: float, as_json: bool) -> int:
    """`run` for a plan that is made."""
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
