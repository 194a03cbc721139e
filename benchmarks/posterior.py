"""Time and memory of the posterior over CIFAR-10 checkpoints, compared with only reading them.

    python benchmarks/posterior.py [--checkpoints=20] [--json=FILE]

The posterior is the mean and variance over the checkpoints. "read" restores the same whole
checkpoints with Orbax alone, without checksums. Both run one after the other, each in its own
process. "speed" is the best time of reading divided by the best time of the posterior. Memory is
the peak resident size above the size before the first checkpoint, in units of one set of
parameters. Takes minutes and 4 GB of disk.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import memory
import timing

CONFIG = Path(__file__).parents[1] / "configs" / "cifar10.py"
SHAPE = (32, 32, 3)
PARAMETERS = 35_746_307
REPEATS = 3


def set_up(folder: Path, count: int, *changes: str):
    """Return the config and the (path, step) of its checkpoints, which `write` creates."""
    from vdu_jax import tasks

    config = timing.read_config(CONFIG, f"--config.posterior.count={count}", *changes)
    return config, [(tasks.of(config, folder).train_stage().path, step) for step in range(count)]


def size_of(config) -> int:
    """Return the bytes of one set of parameters."""
    from vdu_jax import tasks
    from vdu_jax.runtime import parallel

    return parallel.total_bytes(tasks.of(config, image_shape=SHAPE).param_shapes)


def write(config, checkpoints: list) -> None:
    """Write checkpoints with random parameters, in place of a training."""
    import jax
    import numpy as np

    from vdu_jax import tasks
    from vdu_jax.runtime.checkpoints import Store

    shapes, structure = jax.tree.flatten(tasks.of(config, image_shape=SHAPE).param_shapes)
    with Store(checkpoints[0][0] / "snapshots") as store:
        for _, step in checkpoints:
            draw = np.random.default_rng(step)
            leaves = [jax.numpy.asarray(draw.standard_normal(s.shape, np.float32)) for s in shapes]
            store.save(step, {config.posterior.weights: structure.unflatten(leaves)})


def read(config, checkpoints: list) -> None:
    """Read all checkpoints and discard them."""
    import orbax.checkpoint as ocp

    from vdu_jax import tasks

    with ocp.StandardCheckpointer() as reader:
        for path, step in checkpoints:
            item = path / "snapshots" / f"{step:08d}" / config.posterior.weights
            reader.restore(item, tasks.of(config, image_shape=SHAPE).abstract_params)


def reduce(config, checkpoints: list) -> None:
    """Compute the posterior and wait for it."""
    import jax

    from vdu_jax import tasks
    from vdu_jax.stages import posterior

    jax.block_until_ready(posterior.reduce(tasks.of(config, image_shape=SHAPE), checkpoints))


def measure(work, folder: Path, count: int) -> dict:
    """Return the seconds and the peak bytes of `work`.

    The same work on a small network comes first, so that imports and the memory that the process
    keeps anyway do not count.
    """
    small = set_up(folder / "small", 2, "--config.model.block_out_channels=(32,32,32,32)")
    write(*small)
    work(*small)
    whole = set_up(folder, count)
    before = memory.baseline()
    started = time.perf_counter()
    work(*whole)
    return {"seconds": time.perf_counter() - started, "bytes": memory.taken(before)}


def child(what: str, folder: str, count: int) -> dict | None:
    """Run `what` in its own process and return its figures, if it has any."""
    command = [sys.executable, __file__, f"--checkpoints={count}", f"--run={what}", folder]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout) if done.stdout else None


def run_child(what: str, folder: Path, count: int) -> None:
    """Run `what` in this process and print its figures."""
    from vdu_jax import cli
    from vdu_jax.runtime import malloc

    cli.set_up_jax(malloc.RETURN_FREED)  # as `vdu posterior` does
    if what == "write":
        write(*set_up(folder, count))
    else:
        print(json.dumps(measure({"read": read, "reduce": reduce}[what], folder, count)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoints", type=int, default=20, help="how many, at least 3")
    parser.add_argument("--json", help="also write the figures to this file")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("folder", nargs="?", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        run_child(given.run, Path(given.folder), given.checkpoints)
        return
    with tempfile.TemporaryDirectory(prefix="vdu-posterior-") as folder:
        child("write", folder, given.checkpoints)
        child("read", folder, given.checkpoints)  # warms the page cache
        times = {"read": [], "reduce": []}
        for _ in range(REPEATS):
            for what, found in times.items():
                found.append(child(what, folder, given.checkpoints))
        few = child("reduce", folder, 3)
    size = 4 * PARAMETERS
    best = {what: min(row["seconds"] for row in rows) for what, rows in times.items()}
    most = {what: max(row["bytes"] for row in rows) / size for what, rows in times.items()}
    figures = {
        "checkpoints": given.checkpoints,
        "parameters": PARAMETERS,
        "seconds": {what: [row["seconds"] for row in rows] for what, rows in times.items()},
        "speed": best["read"] / best["reduce"],
        "memory": most["reduce"],
        "memory_of_reading": most["read"],
        "memory_at_3": few["bytes"] / size,
    }
    lines = [
        ["reading alone", best["read"], most["read"]],
        ["posterior", best["reduce"], most["reduce"]],
        ["posterior over 3 checkpoints", few["seconds"], figures["memory_at_3"]],
    ]
    header = ["", "seconds", "peak memory, in sets of parameters"]
    timing.publish(figures, timing.rows(header, lines), given.json)


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main()
