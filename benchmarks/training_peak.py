"""Print the planned and the measured peak memory of training, in bytes.

    python benchmarks/training_peak.py CONFIG.py [BATCH_SIZE]

The plan is that of `vdu plan`; the measurement makes three training steps. Here glibc returns freed
memory to the system. `vdu train` keeps it, which fragments memory: a small block may occupy the
place of a step's working memory, so the next step needs new memory, and the peak can be higher by
that much.
"""

import sys

import jax
import jax.numpy as jnp
import memory
import timing

from vdu_jax import cli, tasks, training
from vdu_jax.models import network
from vdu_jax.runtime import malloc, parallel
from vdu_jax.stages import plan, train


def main(path, batch_size=None):
    """Print both figures for a config, optionally with another batch size."""
    config = timing.read_config(path)
    config.train.batch_size = int(batch_size or config.train.batch_size)
    section, task = config.train, tasks.planned(config)
    shape, net = task.image_shape, task.module
    objective, optimizer = train.make_objective(task), train.optimizer(config)

    def start(key):
        return training.init_state(
            network.init_params(net, key, shape), optimizer, section.ema_decay
        )

    key = jax.random.key(0)
    state = jax.eval_shape(start, key)
    start = jax.jit(start).lower(key).compile()
    batch = {"retain": {"image": jnp.zeros((section.batch_size, *shape))}}
    step = training.make_step(objective, optimizer, section.ema_decay)
    step = jax.jit(step, donate_argnums=0).lower(state, (), batch, key).compile()
    before = memory.baseline()
    state = start(key)
    for index in range(3):
        state, _ = jax.block_until_ready(step(state, (), batch, jax.random.fold_in(key, index)))
    taken = memory.taken(before)
    assert parallel.bytes_per_device(state) == parallel.total_bytes(state)
    config.methods = {}
    print(plan.make(config, 1)["stages"]["train"]["total"], taken)


if __name__ == "__main__":
    cli.set_up_jax(malloc.RETURN_FREED)
    main(*sys.argv[1:])
