"""Time calls against each other, in turns, and publish the figures with their provenance."""

import functools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from vdu_jax.runtime import provenance


def read_config(path: str | Path, *flags: str):
    """Return the config of a file, as `vdu` reads it with these flags."""
    from vdu_jax import cli

    values, _ = cli.parse([f"--config={path}", *flags], "plan")
    return values["config"].value


def in_turns(calls: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Return the seconds of each call, `repeats` times, in the order A B C A B C …

    Taking turns spreads any disturbance over all calls. Each call is made once before, to compile.
    A call must not return before its work is done.
    """
    times = {name: [] for name in calls}
    for round_ in range(-1, repeats):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            if round_ >= 0:
                times[name].append(time.perf_counter() - started)
    return times


class Step:
    """A callable that makes one update as `fit` does, on the same batch each time.

    Args:
      objective: the objective.
      params: initial parameters.
      optimizer: an optax optimizer.
      batch: kind -> batch, for each kind that the objective uses.
      layout: see `parallel.Layout`; the default is one device.

    Attributes:
      flops: operations of an update, before XLA optimises it.
      memory: peak bytes per device of the compiled program, including its arguments; None before
        `compile`.
    """

    def __init__(self, objective, params, optimizer, batch, layout=None):
        import jax

        from vdu_jax import training
        from vdu_jax.runtime import operations, parallel

        layout = layout or parallel.Layout()
        endless = {kind: iter(lambda part=part: part, None) for kind, part in batch.items()}
        of_objective = objective.init(params, endless, jax.random.key(2))
        # New arrays, because the step donates its state.
        start = functools.partial(training.init_state, optimizer=optimizer)
        mesh = parallel.make_mesh(layout.fsdp)
        self._state = parallel.init_sharded(start, mesh, params)
        self._rest = of_objective, batch, jax.random.key(3)
        draw = functools.partial(training.draw_noise, objective)
        update = functools.partial(training.make_update, objective, optimizer)
        self._step = parallel.compile_step(draw, update, layout, mesh, self._state)
        whole = training.make_step(objective, optimizer)
        self._counted = operations.countable(self._step, layout, whole)
        self.memory = None

    @functools.cached_property
    def flops(self) -> float:
        from vdu_jax.runtime import operations

        return operations.count(self._counted, self._state, *self._rest)

    def compile(self) -> None:
        """Compile ahead of time. Several steps can compile in parallel threads."""
        self._step = self._step.lower(self._state, *self._rest).compile()
        account = self._step.memory_analysis()
        self.memory = account.argument_size_in_bytes + account.temp_size_in_bytes

    def __call__(self) -> None:
        """Make one update and wait for it."""
        self._state, metrics = self._step(self._state, *self._rest)
        done((self._state, metrics))


def done(tree) -> None:
    """Wait until the arrays of a tree are computed."""
    import jax

    jax.block_until_ready(tree)


def device_peak() -> int:
    """Return the peak bytes that JAX has used on the first device; 0 on a CPU."""
    import jax

    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)


class Side:
    """A process that makes the calls of one side of a comparison on request.

    The process runs a benchmark script that calls `serve`.

    Args:
      flags: flags of the script, including `--serve`.
      script: the script; this one by default.
      env: environment variables to add to those of this process.

    Attributes:
      said: the value that the process sent before its first call.
    """

    def __init__(
        self,
        *flags: str,
        script: str | Path = sys.argv[0],
        env: Mapping[str, str] | None = None,
    ):
        command, pipe = [sys.executable, str(script), *flags], subprocess.PIPE
        env = os.environ | (env or {})
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=env)

    @functools.cached_property
    def said(self):
        return self.wait()

    def start(self, what: str) -> None:
        """Request one call without waiting for its result."""
        print(what, file=self._process.stdin, flush=True)

    def wait(self):
        """Wait for the requested call and return its result."""
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._process.args} ended without a result: see its messages above")
        return json.loads(line)

    def call(self, what: str):
        """Make one call and return its result."""
        self.start(what)
        return self.wait()

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.wait()


def serve(calls: Mapping[str, Callable[[], object]], said) -> None:
    """Run as the process of a `Side`: send `said`, then make each requested call.

    Args:
      calls: name -> call, which returns a JSON value.
      said: a JSON value.
    """
    print(json.dumps(said), flush=True)
    for line in sys.stdin:
        print(json.dumps(calls[line.strip()]()), flush=True)


def medians(times: Mapping[str, list[float]]) -> dict[str, float]:
    """Return the median seconds of each call."""
    return {name: statistics.median(found) for name, found in times.items()}


def machine() -> dict:
    """Return versions, commit, devices, and the processor with its number of cores."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    processor = f"{len(names)} x {names[0]}" if names else platform.processor()
    return provenance.collect() | {"processor": processor}


def publish(figures: dict, table: str, path: str | None) -> None:
    """Print the table and, as the last line, the figures as JSON; also write them to `path`."""
    figures = figures | {"provenance": machine()}
    print(table, end="\n\n")
    print(json.dumps(figures), flush=True)
    if path:
        Path(path).write_text(json.dumps(figures, indent=2) + "\n")


def rows(header: list[str], lines: list[list]) -> str:
    """Return a Markdown table; floats have three significant digits."""

    def cell(value) -> str:
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    text = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(map(cell, line)) + " |" for line in text)


def say(text: str) -> None:
    """Print progress to standard error."""
    print(text, file=sys.stderr, flush=True)
