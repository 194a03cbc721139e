"""Time things against each other, in turns, and write down what they ran on."""

import functools
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from vdu_jax.runtime import provenance


def read_config(path: str | Path, *flags: str):
    """The config of a file, as `vdu` reads it with these flags."""
    from vdu_jax import cli

    values, _ = cli.parse([f"--config={path}", *flags], "plan")
    return values["config"].value


def in_turns(calls: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each call, `repeats` times, A B C A B C …: what disturbs one disturbs all.

    Each is called once before, which compiles. A call must not return before it is done.
    """
    times = {name: [] for name in calls}
    for round_ in range(-1, repeats):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            if round_ >= 0:
                times[name].append(time.perf_counter() - started)
    return times


def update_step(objective, params, optimizer, batch) -> Callable[[], None]:
    """A call that makes one update of `fit`, on the same batch each time.

    Args:
      batch: what the objective sees, by its kinds.
    """
    import jax

    from vdu_jax.runtime import fit, parallel

    endless = {kind: iter(lambda part=part: part, None) for kind, part in batch.items()}
    of_objective = objective.init(params, endless, jax.random.key(2))
    step = jax.jit(fit.make_step(objective, optimizer), donate_argnums=0)
    # Fresh arrays, for the step uses its state up.
    start = functools.partial(fit.init_state, optimizer=optimizer)
    state = parallel.init_sharded(start, parallel.make_mesh(), params)

    def update():
        nonlocal state
        state, metrics = step(state, of_objective, batch, jax.random.key(3))
        jax.block_until_ready((state, metrics))

    return update


class Side:
    """A process that has built one side's calls and makes one when told to.

    It is the running script with `flags`, which ends in `serve`.

    Attributes:
      said: what it said before its first call.
    """

    def __init__(self, *flags: str):
        command, pipe = [sys.executable, sys.argv[0], *flags], subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        self.said = self._read()

    def _read(self) -> str:
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._process.args} has ended")
        return line.strip()

    def call(self, what: str) -> None:
        """Make one call and wait for its end."""
        print(what, file=self._process.stdin, flush=True)
        self._read()

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def serve(calls: Mapping[str, Callable[[], object]], said: str = "ready") -> None:
    """Be one `Side`: make every call that is asked for."""
    print(said, flush=True)
    for line in sys.stdin:
        calls[line.strip()]()
        print("done", flush=True)


def medians(times: Mapping[str, list[float]]) -> dict[str, float]:
    """The median seconds of each."""
    return {name: statistics.median(found) for name, found in times.items()}


def machine() -> dict:
    """Versions, commit, devices, and the processor with its number of cores."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    processor = f"{len(names)} x {names[0]}" if names else platform.processor()
    return provenance.collect() | {"processor": processor}


def publish(figures: dict, table: str, path: str | None) -> None:
    """Print the table, and the figures as a last line of JSON; write them to `path`, too."""
    figures = figures | {"provenance": machine()}
    print(table, end="\n\n")
    print(json.dumps(figures), flush=True)
    if path:
        Path(path).write_text(json.dumps(figures, indent=2) + "\n")


def rows(header: list[str], lines: list[list]) -> str:
    """A Markdown table; numbers with three digits."""

    def cell(value) -> str:
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    text = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(map(cell, line)) + " |" for line in text)


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)
