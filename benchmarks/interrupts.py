"""Test that every command stops on Ctrl-C at random moments and then continues to the same result.

    python benchmarks/interrupts.py [--moments=40] [--seed=0] [--only=train,plan] [--json=FILE]

Each command receives SIGINT at --moments random moments between the start of its program and its
usual end, and is restarted after each. A command passes if

- it ends with exit code 130, or has ended by itself before;
- the last line of standard error says that it was stopped, and there is no traceback;
- it leaves no half-written file;
- each run that ends by itself leaves the same files and the same results on standard output as an
  undisturbed run: the same bytes except times, and the same arrays in checkpoints.

Commands that FILE already contains are skipped. The networks and data are those of the tests
(`pip install -e ".[dev]"`) and are compiled once.
"""

import argparse
import json
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import timing

TESTS = Path(__file__).parents[1] / "tests"
STAGES = ("train", "posterior", "replay", "unlearn", "sample", "evaluate", "relearn", "report")
RELEARN = ("--config.relearn.images=50", "--config.relearn.checks=(1,2)")
SMALL_BENCHMARK = """
from small import get_config as base

def get_config():
    config = base()
    config.methods = {"plain": config.methods["plain"]}
    config.benchmark.seeds = (0,)
    config.benchmark.method_seeds = {}
    config.benchmark.grids = {}
    config.benchmark.changes = {}
    return config
"""
# The benchmark may be started with SIGINT ignored, as by a shell in the background. The default
# handlers are restored, because child processes inherit ignored signals.
START = """
import os, signal, sys
for signum in (signal.SIGINT, signal.SIGTERM):
    signal.signal(signum, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, "-m", "vdu_jax", *sys.argv[1:]])
"""
TIMED = ("timings.json", "events", "state")  # files and folders that contain times
SECONDS = ("report",)  # its table and page contain times after `vdu run`


class Case(NamedTuple):
    """A command to interrupt.

    Attributes:
      name: name in the table.
      argv: arguments of `vdu`.
      before: name of the case whose final workdir it starts from; "" for an empty workdir.
      prints: whether standard output is its result.
    """

    name: str
    argv: tuple[str, ...]
    before: str = ""
    prints: bool = False


def write_configs(root: Path) -> None:
    """Write the configs of the tests, which keep their data in `root`/work, and their data set."""
    data_dir, manual = str(root / "work" / "data"), root / "manual"
    tiny = runpy.run_path(str(TESTS / "conftest.py"))["TINY"]
    (root / "tiny.py").write_text(tiny.format(data_dir=data_dir))
    small = runpy.run_path(str(TESTS / "stages" / "test_benchmark.py"))["SMALL"]
    (root / "small.py").write_text(small)
    (root / "bench.py").write_text(SMALL_BENCHMARK)
    sys.path.insert(0, str(TESTS / "data"))
    import archives

    archives.write_idx_set(manual, n_train=120, n_test=40)
    text = runpy.run_path(str(TESTS / "tasks" / "text_to_image" / "conftest.py"))["TINY"]
    (root / "text.py").write_text(text.format(data_dir=data_dir, manual_dir=str(manual)))


def cases(root: Path) -> list[Case]:
    """Return all cases, each after the one that it starts from."""
    work = root / "work"
    tiny = (f"--config={root / 'tiny.py'}", f"--workdir={work}")
    found, before = [], ""
    for stage in STAGES:
        found.append(Case(stage, (stage, *tiny, *RELEARN), before))
        before = stage
    text = (f"--config={root / 'text.py'}", f"--workdir={work}")
    picture = ("--prompt=a red bag", "--images=2", "--steps=2")
    return [
        *found,
        Case("run", ("run", *tiny)),
        Case("export", ("export", str(work / "exported"), *tiny), before),
        Case("import", ("import", str(work / "exported"), f"--workdir={work / 'new'}"), "export"),
        Case("plan", ("plan", tiny[0]), prints=True),
        Case("benchmark", ("benchmark", f"--config={root / 'bench.py'}", tiny[1])),
        Case("run of text_to_image", ("run", *text)),
        Case(
            "generate",
            ("generate", str(work / "train" / "model"), str(work / "grid.png"), *picture),
            "run of text_to_image",
        ),
        Case("check", ("check",), prints=True),
    ]


class Ended(NamedTuple):
    """The end of a command.

    Attributes:
      code: exit code.
      out: standard output.
      err: standard error.
    """

    code: int
    out: str
    err: str


def start(case: Case) -> subprocess.Popen:
    """Start the command of a case."""
    command, pipe = [sys.executable, "-c", START, *case.argv], subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)


def finish(case: Case) -> tuple[Ended, float]:
    """Run a command to its end; return the end and the seconds."""
    began, process = time.perf_counter(), start(case)
    out, err = process.communicate()
    if "Traceback" in err or process.returncode not in (0, 1):
        raise SystemExit(f"vdu {case.name} ended with {process.returncode}: {err[-2000:]}")
    return Ended(process.returncode, out, err), time.perf_counter() - began


def interrupt(case: Case, moment: float) -> Ended:
    """Run a command and send SIGINT after `moment` seconds, unless it has ended."""
    process = start(case)
    try:
        out, err = process.communicate(timeout=moment)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    return Ended(process.returncode, out, err)


def content(folder: Path, whole_run: bool) -> dict[str, list[bytes]]:
    """Return relative path -> bytes of all that must be equal; see the module's docstring."""
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    found, checkpoints = {}, [path.parent for path in folder.rglob("_METADATA")]
    left_out = {"data", *TIMED, *(SECONDS if whole_run else ())}
    with ocp.StandardCheckpointer() as reader:
        for path in sorted(folder.rglob("*")):
            place = path.relative_to(folder)
            if left_out & set(place.parts):
                continue
            if path in checkpoints:
                arrays = jax.tree.leaves(reader.restore(path))
                found[str(place)] = [np.asarray(array).tobytes() for array in arrays]
            # Orbax's other files of a step contain times and random names.
            in_step = any(part.isdigit() for part in place.parts)
            if path.is_file() and not in_step and not path.name.endswith(".sums.json"):
                found[str(place)] = [path.read_bytes()]
    return found


def left_behind(work: Path) -> list[str]:
    """Return the temporary files under a workdir."""
    data = work / "data"
    return [str(p) for p in work.rglob(".*") if not p.is_relative_to(data)]


def says_so_last(err: str) -> bool:
    """Return whether only the last line says that the command was stopped, without an exception.

    The lines before it may be warnings, progress bars and the like.
    """
    lines = err.splitlines()
    said = [line.startswith("vdu: stopped ") for line in lines]
    thrown = "Traceback" in err or "Exception ignored" in err
    return sum(said) == 1 and said[-1] and not thrown


def measure(case: Case, root: Path, moments: int, draw: random.Random, earliest: float) -> dict:
    """Interrupt a case at random moments and compare its runs with an undisturbed one.

    Args:
      case: the command.
      root: folder of the configs and of the final workdirs of other cases.
      moments: number of interruptions.
      draw: random generator of the moments.
      earliest: seconds from the start of a process to the start of its program.
    """
    work, whole_run = root / "work", case.name.startswith("run")

    def reset():
        shutil.rmtree(work, ignore_errors=True)
        if case.before:
            shutil.copytree(root / case.before, work)
        else:
            work.mkdir()

    def compare(ended: Ended) -> list[str]:
        found = content(work, whole_run)
        paths = found.keys() | expected.keys()
        different = sorted(path for path in paths if found.get(path) != expected.get(path))
        same_output = not case.prints or ended.out == undisturbed.out
        return different + ([] if same_output else ["standard output"])

    reset()
    finish(case)  # fills the compilation cache
    reset()
    undisturbed, usual = finish(case)
    expected = content(work, whole_run)
    shutil.rmtree(root / case.name, ignore_errors=True)
    shutil.copytree(work, root / case.name)
    stopped, ended, faults, different = [], 0, [], []
    reset()
    for _ in range(moments):
        moment = draw.uniform(earliest, usual)
        found = interrupt(case, moment)
        if found.code == undisturbed.code:
            ended += 1
            different += compare(found)
            reset()
            continue
        stopped.append(moment)
        if found.code != 128 + signal.SIGINT or not says_so_last(found.err):
            faults.append({"moment": moment, "code": found.code, "said": found.err[-2000:]})
        if left := left_behind(work):
            faults.append({"moment": moment, "left": left})
    different += compare(finish(case)[0])
    return {
        "seconds": usual,
        "stopped": len(stopped),
        "ended before": ended,
        "faults": faults,
        "different": different,
        "moments": stopped,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moments", type=int, default=40, help="interruptions of each command")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments")
    parser.add_argument("--only", help="commands to test, separated by commas; all by default")
    parser.add_argument(
        "--json", help="write the figures here after each command; skip those it has"
    )
    given = parser.parse_args()
    file = Path(given.json) if given.json else None
    found = json.loads(file.read_text()) if file and file.exists() else {}
    found.pop("provenance", None)
    with tempfile.TemporaryDirectory(prefix="vdu-interrupts-") as folder:
        root = Path(folder)
        write_configs(root)
        # Stages write the commit, which may change while this benchmark runs: hide the repository.
        os.environ["GIT_DIR"] = str(root / "none")
        every = {case.name: case for case in cases(root)}
        wanted = given.only.split(",") if given.only else list(every)
        if unknown := set(wanted) - every.keys():
            parser.error(
                f"--only={','.join(unknown)}: no such command; there are {', '.join(every)}"
            )
        _, earliest = finish(Case("version", ("--version",)))
        for name in (name for name in wanted if name not in found):
            before = every[name].before
            for case in _missing(every, before, root):
                shutil.rmtree(root / "work", ignore_errors=True)
                if case.before:
                    shutil.copytree(root / case.before, root / "work")
                else:
                    (root / "work").mkdir()
                finish(case)
                shutil.copytree(root / "work", root / case.name)
            draw = random.Random(f"{given.seed} {name}")
            row = found[name] = measure(every[name], root, given.moments, draw, earliest)
            timing.say(
                f"{name}: {row['seconds']:.1f} s; {row['stopped']} stopped, {row['ended before']} "
                f"ended before; {len(row['faults'])} faults, {len(row['different'])} differences"
            )
            if file:
                file.write_text(json.dumps(found, indent=2) + "\n")
    del os.environ["GIT_DIR"]
    keys = ("seconds", "stopped", "ended before")
    lines = [
        [name, *(row[key] for key in keys), len(row["faults"]), len(row["different"])]
        for name, row in found.items()
    ]
    header = ["command", "s undisturbed", *keys[1:], "faults", "differences"]
    timing.publish(found, timing.rows(header, lines), given.json)


def _missing(every: dict[str, Case], name: str, root: Path) -> list[Case]:
    """Return the cases to run, in order, before the final workdir of `name` exists."""
    if not name or (root / name).exists():
        return []
    return [*_missing(every, every[name].before, root), every[name]]


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main()
