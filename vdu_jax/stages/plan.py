"""`vdu plan`: what training, unlearning and sampling hold in a device's memory.

Nothing is allocated. Shapes come from tracing; what a step needs beside its arguments is XLA's own
account of the program that it compiled for this machine's kind of device.
"""

import functools
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from vdu_jax import data
from vdu_jax import posterior as posterior_lib
from vdu_jax.diffusion import samplers
from vdu_jax.errors import UserError
from vdu_jax.runtime import fit, parallel
from vdu_jax.stages import build, posterior, train, unlearn
from vdu_jax.types import Objective

GIB = 2**30
# Where there is no data set to ask: |D_f|, and the share of replay that is forget-like.
NUM_FORGET, FORGET_SHARE = 1000, 0.1
# Kind of device -> what its runtime takes beside a program's own account. On a CPU 43 MB were
# measured, whatever the batch size (benchmarks/training_peak.py).
RUNTIME = {"cpu": 43_000_000}
COLUMNS = ("parameters", "average", "optimiser", "objective", "gradients", "activations", "runtime")


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


def of_step(
    config: ConfigDict, devices: int, make: Callable, batch_sizes: dict, ema: float
) -> dict:
    """The rows of a training or unlearning step.

    Args:
      make: posterior -> (objective, optimizer).
      batch_sizes: kind of data -> images in a step, on all devices together.
    """
    layout, shape = build.layout(config), image_shape(config)
    key = jax.eval_shape(lambda: jax.random.key(0))
    params = build.param_shapes(config, shape)
    trained = posterior_shapes(config, params)

    def batch(count):
        return {
            "image": jax.ShapeDtypeStruct((count, *shape), jnp.float32),
            "label": jax.ShapeDtypeStruct((count,), jnp.int32),
        }

    def zeros(count):
        while True:
            yield jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), batch(count))

    def start(params, trained, key):
        objective, optimizer = make(trained)
        batches = {kind: zeros(count) for kind, count in batch_sizes.items()}
        of_objective = objective.init(params, batches, key)
        return fit.init_state(params, optimizer, ema), of_objective

    state, of_objective = jax.eval_shape(start, params, trained, key)
    objective, optimizer = make(trained)
    wrap = functools.partial(parallel.in_parts, count=layout.accumulate)
    step = fit.make_step(objective, optimizer, ema, wrap)
    mine = {kind: batch(-(-count // devices)) for kind, count in batch_sizes.items()}
    compiled = jax.jit(step, donate_argnums=0).lower(state, of_objective, mine, key).compile()
    temporary = compiled.memory_analysis().temp_size_in_bytes
    fsdp = layout.fsdp
    return {
        "parameters": held(state.params, fsdp),
        "average": held(state.ema, fsdp),
        "optimiser": held(state.opt_state, fsdp),
        "objective": held(of_objective, fsdp),
        "gradients": held(params, fsdp),
        "activations": max(0, temporary - parallel.total_bytes(params)),
    }


def posterior_shapes(config: ConfigDict, params) -> posterior_lib.Posterior:
    kept = config.posterior.count or config.train.snapshots
    return posterior.shapes(params, config.posterior.family, kept)


def of_training(config: ConfigDict, devices: int) -> dict:
    made = train.make_objective(config, image_shape(config)), train.optimizer(config)
    section = config.train
    sizes = {"retain": section.batch_size}
    return of_step(config, devices, lambda trained: made, sizes, section.ema_decay)


def of_method(config: ConfigDict, devices: int, name: str) -> dict:
    if unlearn.is_retrained(config, name):
        return of_training(config, devices)
    settings, shape = config.methods[name], image_shape(config)

    def make(trained) -> tuple[Objective, Any]:
        objective = unlearn.build_objective(config, name, shape, trained, NUM_FORGET, FORGET_SHARE)
        return objective, unlearn.optimizer(config, name, trained)

    sees = make(posterior_shapes(config, build.param_shapes(config, shape)))[0].sees
    return of_step(config, devices, make, {k: settings[f"{k}_batch"] for k in sees}, 0.0)


def of_sampling(config: ConfigDict, devices: int) -> dict:
    section, shape = config.sampler, image_shape(config)
    params, plan = build.param_shapes(config, shape), build.sampler_plan(config)
    score_fn = build.score_fn(config, shape)

    def draw(params, keys):
        return samplers.sample(score_fn, params, plan, keys, shape, clip_x0=section.clip_x0)

    keys = jax.eval_shape(
        lambda: jax.random.split(jax.random.key(0), -(-section.batch_size // devices))
    )
    compiled = jax.jit(draw).lower(params, keys).compile()
    return {
        "parameters": held(params, config.parallel.fsdp),
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
    params = build.param_shapes(config, image_shape(config))
    stages = {"train": of_training(config, devices)}
    stages |= {f"unlearn/{m}": of_method(config, devices, m) for m in sorted(config.methods)}
    stages["sample"] = of_sampling(config, devices)
    for rows in stages.values():
        rows["runtime"] = RUNTIME.get(jax.default_backend(), 0)
        rows["total"] = sum(rows.values())
    return {
        "parameters": posterior_lib.num_parameters(params),
        "devices": devices,
        "stages": stages,
    }


def run(config: ConfigDict, devices: int, memory: float, as_json: bool) -> int:
    """Print the plan; the exit code is 1 if a stage needs more than `memory` GiB (0: not asked)."""
    plan = make(config, devices)
    tight = [s for s, rows in plan["stages"].items() if memory and rows["total"] > memory * GIB]
    if as_json:
        print(json.dumps(plan | {"memory_gib": memory or None, "fits": not tight}))
        return int(bool(tight))
    section = config.parallel
    print(
        f"{plan['parameters']:,} parameters; {devices} devices, parallel.fsdp = {section.fsdp}; "
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
