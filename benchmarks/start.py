"""How long it takes to start: imports, `vdu --help`, and a stage's first and second start.

    python benchmarks/start.py [--repeats=5] [--json=FILE]

The stage is `vdu train` of four steps of the digits' network, with an empty compilation cache and
then, in another workdir, with what the first left there; what the second compiles is counted.
A minute.
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
    """Standard error of Python with these arguments."""
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=os.environ | env, capture_output=True, text=True, check=True)
    return done.stderr


def train(folder: Path, cache: Path) -> dict[str, int]:
    """How many programs a training of four steps looked up, found, and so compiled."""
    said = run(
        "-m", "vdu_jax", *TRAIN, f"--workdir={folder}",
        JAX_COMPILATION_CACHE_DIR=str(cache), JAX_LOGGING_LEVEL="DEBUG",
    )  # fmt: skip
    hits = len(re.findall(r"Persistent compilation cache hit", said))
    misses = len(re.findall(r"PERSISTENT COMPILATION CACHE MISS", said))
    return {"found": hits, "compiled": misses}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", help="write the figures to this file, too")
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
