"""The optimisation loop, for training and unlearning with any `Objective`.

The step is a pure function `(state, objective_state, batch, key) -> (state, metrics)`: it draws the
noise of the batch and makes one update with it. The loop around it feeds data, logs, saves and
resumes. The random key of step s is fold_in(key, s), so a resumed run draws the same numbers as an
uninterrupted one.

Folder layout:

    snapshots/<step>/       params (and ema) for later stages; all are kept
    state/<step>/           everything needed to resume; the newest two are kept
    metrics.jsonl, events/  scalars over steps; see `scalars`
"""

import functools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import chex
import jax
import numpy as np
import optax

from vdu_jax import training
from vdu_jax.data.loader import BatchIterator
from vdu_jax.errors import UserError
from vdu_jax.runtime import artifacts, operations, parallel, processes, progress
from vdu_jax.runtime.checkpoints import Damaged, Store, abstract
from vdu_jax.runtime.preemption import Interrupted, SignalWatch
from vdu_jax.runtime.scalars import ScalarWriter
from vdu_jax.types import Objective, Params

LOOP = frozenset({"seconds", "stopped", "flops", "interval", "loaders"})  # saved beside the state


def steps_ahead() -> int:
    """Number of steps that are dispatched while an earlier one runs; a signal waits for them.

    It is 0 on a CPU, where each would hold working memory of its own and there is no transfer to
    hide.
    """
    return 0 if jax.default_backend() == "cpu" else 2


class Guard(NamedTuple):
    """Bounds that end a diverging run.

    Attributes:
      bounds: metric name -> largest allowed value. A metric that is not finite is out of bounds,
        too.
    """

    bounds: Mapping[str, float]

    def violation(self, metrics: Mapping[str, float]) -> str | None:
        """The first metric that is out of bounds, in words; None if there is none."""
        for name, value in metrics.items():
            if not math.isfinite(value):
                return f"{name} is {value}"
            if value > self.bounds.get(name, math.inf):
                return f"{name} = {value:.4g} is above its bound {self.bounds[name]:g}"
        return None


class NotFinite(UserError):
    """A loss or gradient is NaN or infinite."""


class FitResult(NamedTuple):
    """Result of a run of `fit`.

    Attributes:
      steps: number of updates made.
      stopped: the reason why the guard ended the run, or None.
      seconds: duration over all sessions of a resumed run, compilation included.
      snapshots: numbers of the saved steps.
      flops: floating-point operations of all updates; see `operations.count`. An image that
        `Objective.init` passes through the network counts as an image of an update.
    """

    steps: int
    stopped: str | None
    seconds: float
    snapshots: list[int]
    flops: float


def fit(
    objective: Objective,
    params: Params,
    loaders: Mapping[str, BatchIterator],
    optimizer: optax.GradientTransformation,
    *,
    key: chex.PRNGKey,
    num_steps: int,
    directory: Path,
    snapshot_steps: Sequence[int],
    save_state_every: int,
    log_every: int,
    ema_decay: float = 0.0,
    guard: Guard | None = None,
    label: str = "fit",
    layout: parallel.Layout = parallel.Layout(),  # noqa: B008
) -> FitResult:
    """Run `num_steps` updates, or resume such a run from its newest saved state.

    Args:
      objective: the loss, and the data that it sees.
      params: the initial parameters.
      loaders: an iterator of batches for each kind in `objective.sees`; see `make_loader`.
      optimizer: an Optax optimiser.
      key: random key; step s uses fold_in(key, s), after a split for `objective.init`.
      num_steps: number of updates.
      directory: the folder of the run; see the module's docstring.
      snapshot_steps: steps after which the parameters are saved for later stages.
      save_state_every: steps between saves of the full state.
      log_every: steps between lines of metrics (means over the interval) and checks of the guard.
      ema_decay: decay of the moving average of the parameters, in [0, 1); 0 keeps no average.
      guard: bounds that end the run early; the step that exceeds one is not saved as a snapshot.
      label: name of the run in the progress bar and in errors.
      layout: how a step is spread over devices.

    Returns:
      What was done in all sessions of the run.

    Raises:
      Interrupted: on SIGTERM or Ctrl-C, after the state is saved.
      NotFinite: if a metric is not finite and there is no guard. not_finite.json has the batch;
        that step and later ones are not saved.
      UserError: for a layout that the devices or the objective do not allow, or if every saved
        state is damaged.
      ValueError: if the kinds of `loaders` are not those that the objective sees.
    """
    if set(loaders) != set(objective.sees):
        raise ValueError(f"objective sees {sorted(objective.sees)}, got {sorted(loaders)}")
    if not objective.is_mean and (layout.accumulate > 1 or layout.mode == "pmap"):
        raise UserError(
            f"the loss of {label} is no mean over images, so a batch cannot be taken in parts: set "
            "config keys parallel.accumulate = 1 and parallel.mode = 'jit'"
        )
    directory = Path(directory)
    mesh = parallel.make_mesh(layout.fsdp)
    params = parallel.place(params, mesh)
    init_key, step_key = jax.random.split(key)

    taken = 0  # images so far
    seen: dict[str, np.ndarray] = {}  # which images the last batch of each kind has

    def sharded(kind: str, loader: BatchIterator) -> Iterator[Mapping[str, jax.Array]]:
        nonlocal taken
        while True:
            batch = next(loader)
            taken += len(batch["image"])
            seen[kind] = batch["index"]
            batch = {name: array for name, array in batch.items() if name != "index"}
            yield parallel.shard_batch(batch, mesh)

    batches = {kind: sharded(kind, loader) for kind, loader in loaders.items()}
    objective_state = parallel.place(objective.init(params, batches, init_key), mesh)
    prepared = taken
    # New arrays, because the step donates its state, and the caller and objective keep `params`.
    start = functools.partial(training.init_state, optimizer=optimizer, ema_decay=ema_decay)
    state = parallel.init_sharded(start, mesh, params)
    draw = functools.partial(training.draw_noise, objective)
    update = functools.partial(training.make_update, objective, optimizer, ema_decay)
    step_fn = parallel.compile_step(draw, update, layout, mesh, state)
    counted = operations.countable(
        step_fn, layout, training.make_step(objective, optimizer, ema_decay)
    )
    wanted = frozenset(snapshot_steps)

    with (
        Store(directory / "state", keep=2) as states,
        Store(directory / "snapshots") as snapshots,
        SignalWatch() as watch,
    ):
        done, elapsed, stopped = 0, 0.0, None
        flops: dict[str, float] | None = None
        # Metrics and images of each step since the last line of metrics.
        interval: list[Mapping[str, jax.Array | np.float32]] = []
        shown: list[Mapping[str, np.ndarray]] = []
        any_asked = processes.LaggedMax()
        ahead = steps_ahead()
        kept = {"params": state.params} | ({"ema": state.ema} if ema_decay > 0 else {})
        kept = abstract(kept)

        def check(step: int, items: Mapping[str, Any]) -> None:
            """Raise `Damaged` if a snapshot before the state is: no later step makes it again."""
            saved = items["loop"]
            if not isinstance(saved, dict) or not saved.keys() >= LOOP:
                raise Damaged(f"{states.directory} step {step} (loop) is damaged", directory)
            due = {s for s in wanted if s < step or s == step and not saved["stopped"]}
            for snapshot in sorted(due):
                for name, like in kept.items():
                    snapshots.check(snapshot, name, like)

        newest = states.restore_newest({"state": abstract(state)}, ["loop"], check)
        if newest is not None:
            done, items = newest
            state, saved = items["state"], items["loop"]
            elapsed, stopped = saved["seconds"], saved["stopped"]
            flops = saved["flops"]
            interval = [{k: np.float32(v) for k, v in row.items()} for row in saved["interval"]]
            shown = [{} for _ in interval]
            for kind, loader in loaders.items():
                loader.set_state(saved["loaders"][kind])
        started = time.monotonic() - elapsed

        def save_state() -> None:
            loop = {
                "seconds": time.monotonic() - started,
                "stopped": stopped,
                "flops": flops,
                "interval": [{k: float(v) for k, v in m.items()} for m in interval],
                "loaders": {kind: loader.get_state() for kind, loader in loaders.items()},
            }
            snapshots.wait()  # a state must never exist without the snapshots before it
            states.save(done, {"state": state}, {"loop": loop})

        def save_snapshot() -> None:
            states.wait()  # Orbax's barriers deadlock if processes save to two stores at once
            trees = {"params": state.params}
            snapshots.save(done, trees | ({"ema": state.ema} if ema_decay > 0 else {}))

        with (
            ScalarWriter(directory, resume_step=done) as writer,
            progress.bar(num_steps, label, initial=done) as bar,
        ):
            while done < num_steps and stopped is None:
                batch = {kind: next(images) for kind, images in batches.items()}
                arguments = (state, objective_state, batch, jax.random.fold_in(step_key, done))
                if flops is None:
                    of_step = operations.count(counted, *arguments)
                    share = prepared / (taken - prepared) if objective.init_computes else 0.0
                    flops = {"step": of_step, "init": of_step * share}
                state, metrics = step_fn(*arguments)
                interval.append(metrics)
                shown.append(dict(seen))
                if len(interval) > ahead:
                    jax.block_until_ready(interval[-1 - ahead])
                done += 1
                bar.update()
                snapshot_due = done in wanted
                asked = any_asked(watch.received or 0)
                state_due = done % save_state_every == 0 or done == num_steps or asked
                log_due = done % log_every == 0 or snapshot_due or done == num_steps
                if log_due or state_due:
                    rows = jax.device_get(interval)
                    wrong = _not_finite(rows, shown, done) if guard is None else None
                    if wrong:
                        wrong["images"] = processes.gather(wrong["images"])
                        report = directory / "not_finite.json"
                        artifacts.write_json(report, wrong)
                        states.wait()
                        good = f"step {states.steps()[-1]}" if states.steps() else "none"
                        raise NotFinite(
                            f"{label}: {wrong['what']} at step {wrong['step']}; {report} has the "
                            f"batch; last good state: {good}; lower the learning rate"
                        )
                if log_due:
                    interval.clear()
                    shown.clear()
                    last = {name: float(value) for name, value in rows[-1].items()}
                    stopped = guard.violation(last) if guard else None
                    writer.write(
                        done, {name: float(np.mean([r[name] for r in rows])) for name in rows[0]}
                    )
                    bar.set_postfix_str(f"loss {last['loss']:.4f}", refresh=False)
                if snapshot_due and stopped is None:
                    save_snapshot()
                if state_due or stopped:
                    save_state()
                if asked:
                    states.wait()
                    raise Interrupted(asked, f"stopped at step {done} of {num_steps}, state saved")
        snapshots.wait()
        states.wait()
        seconds = time.monotonic() - started
        assert flops is not None  # restored, or counted at the first step
        total = flops["init"] + done * flops["step"]
        return FitResult(done, stopped, seconds, snapshots.steps(), total)


def _not_finite(rows: Sequence[Mapping], shown: Sequence[Mapping], done: int) -> dict | None:
    """The first step with a metric that is not finite.

    Args:
      rows: metrics of each of the last steps.
      shown: images of each of the last steps.
      done: number of the last step.

    Returns:
      The metric in words ("what"), "step", "metrics" and "images"; None if all are finite.
    """
    for back, (row, images) in enumerate(zip(rows, shown, strict=True), start=1 - len(rows)):
        metrics = {name: float(value) for name, value in row.items()}
        what = Guard({}).violation(metrics)
        if what:
            return {"what": what, "step": done + back, "metrics": metrics, "images": images}
    return None
