"""Time an update step of each method, and the loading of a batch, against a step of DDPM training.

    python benchmarks/steps.py [--configs=configs/digits.py,configs/cifar10.py] [--batches=64,8]
                               [--methods=vdu,vdu_extended] [--repeats=15] [--json=FILE]

A method uses, of each kind of images that it needs, as many as the training step uses in total.
A method with two kinds therefore takes 2 times a training step if it adds no other work. All use
Adam without a moving average. Loading is timed on batches of the training's size, from images in
memory, through the loader of `vdu train`. Takes 20 minutes on 2 cores.
"""

import argparse
import os
import time
from pathlib import Path

import timing

from vdu_jax import cli

METHODS = ("vdu", "vdu_extended", "gradient_ascent", "esd", "demixing")
LOADED = 200  # batches
NUM_FORGET, FORGET_SHARE = 1000, 0.1


def read(path: str, methods: list[str]):
    """Return a config with the default settings of these methods."""
    from vdu_jax import config as vdu_config

    config = timing.read_config(path)
    config.methods = {name: vdu_config.method(name) for name in methods}
    return config


def step_of(config, method: str | None, batch_size: int) -> timing.Step:
    """Return the update step of a method of the config, or of training if `method` is None."""
    import jax
    import jax.numpy as jnp
    import optax

    from vdu_jax import posterior, tasks
    from vdu_jax.stages import train, unlearn
    from vdu_jax.tasks import base

    task = tasks.planned(config)
    params, shape = task.init_params(), task.image_shape
    images = jax.random.uniform(jax.random.key(1), (batch_size, *shape), minval=-1, maxval=1)
    batch = {"image": images, "label": jnp.zeros(batch_size, jnp.int32)}
    if method is None:
        objective = train.make_objective(task)
    else:
        variance = jax.tree.map(lambda p: jnp.full(p.shape, 1e-4), params)
        trained = posterior.GaussianPosterior(params, variance, jnp.int32(8))
        objective = unlearn.make_objective(
            task, method, (params, {}), trained, NUM_FORGET, FORGET_SHARE
        )
    given = {kind: batch for kind in objective.sees}
    return timing.Step(objective, params, optax.adam(1e-6), given, base.layout(config))


def steps_of(config, batch_size: int) -> dict[str, timing.Step]:
    """Return name -> update step, of training and of each method."""
    training = {"DDPM training": step_of(config, None, batch_size)}
    return training | {name: step_of(config, name, batch_size) for name in config.methods}


def load_batches(config, batch_size: int) -> float:
    """Return the seconds per batch of the loader."""
    import numpy as np

    from vdu_jax import data, tasks
    from vdu_jax.tasks import base

    shape = tasks.planned(config).image_shape
    images = np.random.default_rng(0).integers(0, 256, (10_000, *shape), np.uint8)
    loader = base.loader(data.ArraySource(images), batch_size, 0)
    next(loader)
    started = time.perf_counter()
    for _ in range(LOADED):
        next(loader)
    return (time.perf_counter() - started) / LOADED


def main() -> None:
    configs = Path(__file__).parents[1] / "configs"
    default = f"{configs / 'digits.py'},{configs / 'cifar10.py'}"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--configs", default=default, help="separated by commas")
    parser.add_argument("--batches", default="64,8", help="images of a step, for each config")
    parser.add_argument("--methods", default=",".join(METHODS), help="separated by commas")
    parser.add_argument("--repeats", type=int, default=15, help="times each step is timed")
    parser.add_argument("--json", help="also write the figures to this file")
    given = parser.parse_args()
    found, lines = {}, []
    for path, size in zip(given.configs.split(","), given.batches.split(","), strict=True):
        config, name, size = read(path, given.methods.split(",")), Path(path).stem, int(size)
        timing.say(f"{name}: steps")
        times = timing.in_turns(steps_of(config, size), given.repeats)
        median, load = timing.medians(times), load_batches(config, size)
        base = median["DDPM training"]
        found[name] = {"batch": size, "seconds": times, "median": median, "loading": load}
        lines += [[name, size, what, value, value / base] for what, value in median.items()]
        lines.append([name, size, "a batch of data", load, load / base])
    table = timing.rows(["config", "batch", "what", "s", "times a training step"], lines)
    timing.publish({"configs": found}, table, given.json)


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    cli.set_up_jax()  # as `vdu` does
    main()
