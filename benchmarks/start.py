"""Time the start-up: imports, `vdu --help`, and the first and second start of a stage.

    python benchmarks/start.py [--repeats=5] [--json=FILE]

The stage is `vdu train` with four steps of the digits' network. The first start has an empty
compilation cache; the second start, in another workdir, reuses the cache of the first. The programs
that each start compiles are counted. Takes a minute.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import timing

CONFIG = Path(__file__).parents[1] / "configs" / "digits.py"
TRAIN = ["train", f"--config={CONFIG}", "--config.train.steps=4", "--config.train.snapshots=2"]
TRAIN += ["--config.train.snapshot_every=2"]


def run(*arguments: str, **env: str) -> str:
    """Run Python with these arguments and return its standard error."""
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=os.environ | env, capture_output=True, text=True, check=True)
    return done.stderr


def train(folder: Path, cache: Path) -> dict[str, int]:
    """Run the training; return how many programs the cache had and how many were compiled."""
    said = run(
        "-m", "vdu_jax", *TRAIN, f"--workdir={folder}",
        JAX_COMPILATION_CACHE_DIR=str(cache), JAX_LOGGING_LEVEL="DEBUG",
    )  # fmt: skip
    hits = len(re.findall(r"Persistent compilation cache hit", said))
    misses = len(re.findall(r"PERSISTENT COMPILATION CACHE MISS", said))
    return {"found": hits, "compiled": misses}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="times each call is timed")
    parser.add_argument("--json", help="also write the figures to this file")
    given = parser.parse_args()
    calls = {
        "python alone": lambda: run("-c", "pass"),
        "import vdu_jax": lambda: run("-c", "import vdu_jax"),
        "import jax": lambda: run("-c", "import jax"),
        "import of all that a stage needs": lambda: run("-c", "import vdu_jax.stages.unlearn"),
        "vdu --help": lambda: run("-m", "vdu_jax", "--help"),
    }
    times = timing.in_turns(calls, given.repeats)
    with tempfile.TemporaryDirectory(prefix="vdu-start-") as folder:
        cache, programs = Path(folder) / "cache", {}

        for which in ("first", "second"):
            started = time.perf_counter()
            programs[which] = train(Path(folder) / which, cache)
            times[f"vdu train, {which} start"] = [time.perf_counter() - started]
    median = timing.medians(times)
    table = timing.rows(["what", "s"], [[what, value] for what, value in median.items()])
    counts = ", ".join(f"{w}: {c['compiled']} compiled" for w, c in programs.items())
    figures = {"seconds": times, "median": median, "programs": programs}
    timing.publish(figures, f"{table}\n\nPrograms of the two starts: {counts}.", given.json)


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main()
