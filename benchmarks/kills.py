"""Test that training and unlearning give the same result after SIGKILL at random moments.

    python benchmarks/kills.py [--kills=20] [--seed=0] [--json=FILE]

A small network on the digits saves its state every three steps. Each stage is killed and restarted
until it has been killed --kills times, each time at a random moment between the creation of its
folder and its usual end. A run that finishes in between is compared with an undisturbed run, and a
new one begins. Two runs are equal if every checkpoint of the model has the same arrays, bit by bit,
and metrics.jsonl is the same. Takes about 15 minutes on 2 cores.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import timing

CONFIG = Path(__file__).parents[1] / "configs" / "digits.py"
CHANGES = (
    "model.block_out_channels=(16,32)",
    "train.steps=24",
    "train.batch_size=32",
    "train.warmup_steps=5",
    "train.snapshot_every=4",
    "train.snapshots=6",
    "train.save_state_every=3",
    "train.log_every=4",
    "replay.images=200",
    "curve.images=50",
    *(f"methods.{name}.steps=12" for name in ("plain", "extended")),
    *(f"methods.{name}.snapshot_every=3" for name in ("plain", "extended")),
)


def start(stage: str, workdir: Path) -> subprocess.Popen:
    """Start a stage of the small network."""
    command = [sys.executable, "-m", "vdu_jax", stage, f"--config={CONFIG}"]
    changes = [f"--config.{change}" for change in CHANGES]
    return subprocess.Popen(
        [*command, f"--workdir={workdir}", *changes],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,  # fits in the pipe's buffer: progress bars write twice a minute
    )


def finish(stage: str, workdir: Path) -> tuple[float, float]:
    """Run a stage to its end; return the seconds until its folder existed and until the end."""
    began, there = time.perf_counter(), None
    process = start(stage, workdir)
    while process.poll() is None:
        if there is None and (workdir / stage).exists():
            there = time.perf_counter() - began
        time.sleep(0.05)
    if process.returncode:
        said = process.stderr.read().decode()
        raise SystemExit(f"vdu {stage} ended with {process.returncode}: {said[-1000:]}")
    return there, time.perf_counter() - began


def differences(stage: str, one: Path, other: Path) -> list[str]:
    """Return the metrics files and checkpoints of a stage that differ between two workdirs."""
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    def written(folder: Path) -> set[Path]:
        checkpoints = (folder / stage).rglob("snapshots/*/*/_METADATA")
        found = [*(folder / stage).rglob("metrics.jsonl"), *(p.parent for p in checkpoints)]
        return {path.relative_to(folder) for path in found}

    def content(path: Path) -> list[bytes]:
        if not path.exists():
            return []
        if path.is_file():
            return [path.read_bytes()]
        return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(reader.restore(path))]

    paths = written(one) | written(other)
    if not written(one):
        raise SystemExit(f"{one / stage} has no checkpoints")
    with ocp.StandardCheckpointer() as reader:
        return [str(p) for p in sorted(paths) if content(one / p) != content(other / p)]


def kill(stage: str, folder: Path, before: Path | None, kills: int, draw: random.Random) -> dict:
    """Kill a stage at random moments and compare its results with those of an undisturbed run.

    Args:
      stage: the stage.
      folder: scratch folder.
      before: workdir in which the preceding stages have run, or None.
      kills: number of kills.
      draw: random generator of the moments.

    Returns:
      A dict of the number of kills, their moments in seconds, the usual seconds of the stage, the
      number of runs compared, and the paths that differ.
    """

    def fresh(name: str) -> Path:
        workdir = folder / stage / name
        if before:
            shutil.copytree(before, workdir)
        return workdir

    undisturbed, compared, ended, moments = fresh("undisturbed"), [], 0, []
    finish(stage, undisturbed)
    there, usual = finish(stage, fresh("compiled"))  # the first run filled the compilation cache
    workdir = fresh("killed-0")
    while len(moments) < kills:
        moment = draw.uniform(there, usual)
        process = start(stage, workdir)
        try:
            process.communicate(timeout=moment)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            moments.append(moment)
            timing.say(f"{stage}: kill {len(moments)} of {kills}, after {moment:.1f} s")
            continue
        if process.returncode:
            raise SystemExit(f"vdu {stage} ended with {process.returncode} after a kill")
        compared += differences(stage, undisturbed, workdir)
        ended += 1
        workdir = fresh(f"killed-{ended}")
    finish(stage, workdir)
    compared += differences(stage, undisturbed, workdir)
    return {
        "kills": len(moments),
        "moments": moments,
        "seconds": usual,
        "runs": ended + 1,
        "different": compared,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="of each stage")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments")
    parser.add_argument("--json", help="also write the figures to this file")
    given = parser.parse_args()
    draw = random.Random(given.seed)
    with tempfile.TemporaryDirectory(prefix="vdu-kills-") as root:
        folder = Path(root)
        train = kill("train", folder, None, given.kills, draw)
        trained = folder / "train" / "undisturbed"
        for stage in ("posterior", "replay"):
            finish(stage, trained)
        unlearn = kill("unlearn", folder, trained, given.kills, draw)
    found = {"train": train, "unlearn": unlearn}
    lines = [
        [stage, row["kills"], row["runs"], len(row["different"]), row["seconds"]]
        for stage, row in found.items()
    ]
    header = ["stage", "kills", "runs compared", "files that differ", "s undisturbed"]
    timing.publish(found, timing.rows(header, lines), given.json)


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main()
