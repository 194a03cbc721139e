"""The stage `unlearn`: run every method, and choose the step of each that is kept.

The rule that keeps a step sees D_f and the model, and no retained data.

    unlearn/<method>/snapshots/<step>/params   points of the trade-off curve: the parameters that
                                               change (the network, a part of it, or adapters)
    unlearn/<method>/curve/<step>.npz          images of the snapshot, all from the same noise
    unlearn/<method>/metrics.jsonl, events/
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from vdu_jax import config as vdu_config
from vdu_jax import forget_detector, objectives, tasks
from vdu_jax import posterior as posterior_lib
from vdu_jax.data.loader import BatchIterator
from vdu_jax.errors import UserError
from vdu_jax.models import lora, subset
from vdu_jax.runtime import artifacts, parallel
from vdu_jax.runtime.fit import FitResult, Guard, fit
from vdu_jax.stages import posterior, replay, train
from vdu_jax.tasks import base
from vdu_jax.types import Objective, Params, ScoreFn


class Diverged(UserError):
    """The guard ended a method before its first snapshot, so no step can be kept."""


def is_retrained(config: ConfigDict, name: str) -> bool:
    """Whether a method trains a new model, with the settings of `config.train`."""
    return config.methods[name].objective == "retrain"


def stage_dir(task: tasks.Task, name: str) -> artifacts.StageDir:
    """The folder of a method; `name` is its name in `config.methods`."""
    config, settings = task.config, task.config.methods[name]
    upstream = ["original", "replay"]
    if vdu_config.takes_posterior(settings):
        upstream.append("posterior")
    return task.stage(
        f"unlearn/{name}",
        ("forget", "sampler", "curve", *(["train"] if is_retrained(config, name) else [])),
        upstream,
        method=settings.to_dict(),
        unlearn={"seed": config.unlearn.seed},
        **task.scorer_inputs(),
    )


def run(config: ConfigDict, workdir: Path, overwrite: bool = False) -> None:
    """Unlearn with every method of the config.

    Args:
      config: all settings.
      workdir: the run's folder.
      overwrite: whether a finished stage is made again.

    Raises:
      UserError: if the config has no methods, or as `run_method`.
    """
    if not config.methods:
        raise UserError("config key methods is empty: name at least one method to unlearn with")
    for name in sorted(config.methods):
        run_method(config, Path(workdir), name, overwrite)


def open_loaders(task: tasks.Task, name: str, sees: frozenset[str]) -> dict[str, BatchIterator]:
    """Iterators over batches of the kinds of data that a method may see, and of no others.

    The view of D_f holds no index of a retained image, so it cannot decode one.

    Args:
      task: the config's task.
      name: name of the method.
      sees: kinds of data, `Objective.sees`.
    """
    settings = task.config.methods[name]
    loaders: dict[str, BatchIterator] = {}
    for kind in sorted(sees):
        if kind == "replay":
            source = task.replay_source(replay.load(task.workdir))
        else:
            source = task.source(kind)
        size = settings[f"{kind}_batch"]
        loaders[kind] = base.loader(source, size, task.config.unlearn.seed)
    return loaders


def split(params: Params, settings: ConfigDict, name: str) -> tuple[Params, Params]:
    """Split parameters into those that a method may change, and the others.

    Args:
      params: of the whole network, or their shapes.
      settings: the method's entry of `config.methods`.
      name: its name, for messages.

    Raises:
      UserError: if `subset` names no parameter.
    """
    try:
        return subset.split(params, settings.subset)
    except ValueError as error:
        raise UserError(f"config key methods.{name}.subset: {error}") from None


def part_of(
    trained: posterior_lib.Posterior, settings: ConfigDict, name: str
) -> posterior_lib.Posterior:
    """The marginal posterior of the parameters that a method may change.

    Args:
      trained: posterior of the whole network.
      settings: the method's entry of `config.methods`.
      name: its name, for messages.
    """
    trees = {
        field: split(tree, settings, name)[0]
        for field, tree in trained._asdict().items()
        if field != "count"
    }
    return trained._replace(**trees)


def what_changes(config: ConfigDict, name: str, part: Params) -> Params:
    """The parameters that a method's optimiser changes: its part of the network, or adapters.

    Args:
      config: all settings.
      name: name of the method.
      part: the parameters that it may change, see `split`.

    Raises:
      UserError: if no matrix of the part is larger than its adapter.
    """
    rank = config.methods[name].rank
    if not rank:
        return part
    try:
        return lora.init_adapters(part, rank, jax.random.key(config.unlearn.seed))
    except ValueError as error:
        raise UserError(f"config key methods.{name}.rank: {error}") from None


def make_objective(
    task: tasks.Task,
    name: str,
    params: tuple[Params, Params],
    trained: posterior_lib.Posterior | None,
    num_forget: int,
    share: float,
) -> Objective:
    """A method's objective as a function of the parameters that it changes; see `what_changes`.

    Args:
      task: the config's task.
      name: name of the method.
      params: the part of the network that may change, and the others, or their shapes.
      trained: posterior of that part; None for methods that use none.
      num_forget: |D_f|.
      share: share of replay that is forget-like, in [0, 1].
    """
    settings = task.config.methods[name]
    values, (part, rest) = settings.params.to_dict(), params
    if values.get("forget_share") == 0:
        values["forget_share"] = share
    factory: Callable[..., Objective] = objectives.FACTORIES[settings.objective]

    def make(score_fn: ScoreFn) -> Objective:
        return factory(score_fn, task.parameterization, trained, num_forget, **values)

    whole = settings.subset == "all"
    objective = make(task.score_fn) if whole else objectives.on_part(make, task.score_fn, rest)
    return objectives.adapted(objective, part) if settings.rank else objective


def optimizer(
    config: ConfigDict, name: str, trained: posterior_lib.Posterior | None
) -> optax.GradientTransformation:
    """The optimiser of a method.

    Args:
      config: all settings.
      name: name of the method.
      trained: posterior of the parameters that change; needed by the optimizer "natural".
    """
    settings = config.methods[name]
    rate = settings.learning_rate
    if settings.decay == "linear":
        rate = optax.linear_schedule(rate, 0.0, settings.steps)
    if settings.optimizer == "natural":
        assert trained is not None, "config.takes_posterior counts the natural optimizer in"
        return posterior_lib.natural(trained.variance, rate)
    return optax.adam(rate, b2=settings.beta2)


def run_method(config: ConfigDict, workdir: Path, name: str, overwrite: bool = False) -> None:
    """Unlearn with one method, score its snapshots, and choose the step to keep.

    Args:
      config: all settings.
      workdir: the run's folder.
      name: name of the method.
      overwrite: whether a finished method is run again.

    Raises:
      Diverged: if no step can be kept.
      UserError: if an earlier stage has not finished, or the settings do not fit the network or the
        devices.
    """
    settings, task = config.methods[name], tasks.of(config, workdir)
    stage = stage_dir(task, name)
    if stage.done(overwrite):
        return
    check_batches(config, name)
    if is_retrained(config, name):
        train.check(config)
    original = task.original_params
    part, rest = split(original, settings, name)
    trained = None
    if vdu_config.takes_posterior(settings):
        trained = part_of(posterior.load(task), settings, name)
    replayed = artifacts.upstream(workdir, "replay")["summary"]
    share = replayed["removed"] / replayed["images"]
    objective = make_objective(task, name, (part, rest), trained, replayed["forget_images"], share)
    changed = what_changes(config, name, part)
    path = stage.begin()
    if is_retrained(config, name):
        result = retrain(task, path, name)
    else:
        loaders = open_loaders(task, name, objective.sees)
        result = fit_method(config, path, name, objective, changed, loaders, trained)
    score = task.scorer(original, replay.load(workdir))
    snapshots = [
        score(step, curve_images(task, path, name, step, original)) for step in result.snapshots
    ]
    # A run that the guard ended did not reach the end of its learning-rate schedule.
    decays = settings.decay == "linear" and not result.stopped
    kept, why = forget_detector.choose_step(snapshots, settings.target_pul, decays)
    stage.finish(
        {
            "kept_step": kept,
            "why": why,
            "stopped": result.stopped,
            "steps": result.steps,
            "flops": result.flops,
            "snapshots": [s._asdict() for s in snapshots],
            "sees": sorted(objective.sees),
            "parameters": posterior_lib.num_parameters(changed),
        },
        {"fit": result.seconds},
    )


def check_batches(config: ConfigDict, name: str) -> None:
    """Check that a method's batches can be split over the devices.

    Raises:
      UserError: if one cannot.
    """
    layout = base.layout(config)
    for key in ("forget_batch", "replay_batch", "retain_batch"):
        parallel.check_batch_size(config.methods[name][key], layout, f"methods.{name}.{key}")


def fit_method(
    config: ConfigDict,
    path: Path,
    name: str,
    objective: Objective,
    params: Params,
    loaders: dict[str, BatchIterator],
    trained: posterior_lib.Posterior | None,
) -> FitResult:
    """Optimise a method's objective with its settings.

    Args:
      config: all settings.
      path: folder of the method.
      name: its name.
      objective: its objective.
      params: initial values of the parameters that change.
      loaders: batches of each kind of data that the objective sees.
      trained: posterior of those parameters, or None.

    Raises:
      Diverged: if the guard ends the run before the first snapshot.
    """
    settings = config.methods[name]
    every = settings.snapshot_every
    result = fit(
        objective,
        params,
        loaders,
        optimizer(config, name, trained),
        key=jax.random.key(config.unlearn.seed),
        num_steps=settings.steps,
        directory=path,
        snapshot_steps=range(every, settings.steps + 1, every),
        save_state_every=every,
        log_every=settings.log_every,
        guard=Guard(settings.guard.to_dict()),
        label=f"unlearn {name}",
        layout=base.layout(config),
    )
    if not result.snapshots:
        raise Diverged(
            f"{path}: the guard ended the run before its first snapshot ({result.stopped}): lower "
            f"methods.{name}.learning_rate or methods.{name}.snapshot_every"
        )
    return result


def retrain(task: tasks.Task, path: Path, name: str) -> FitResult:
    """Train as the stage `train`, from the same initial parameters, on D_r only.

    Args:
      task: the config's task.
      path: folder of the method.
      name: its name.
    """
    steps = [task.config.train.steps]
    params, source = task.init_params(), task.source("retain")
    return train.fit_on(task, source, params, path, steps, f"unlearn {name}")


def load_step(task: tasks.Task, path: Path, name: str, step: int, original: Any = None) -> Params:
    """The parameters of the whole network at a snapshot.

    Args:
      task: the config's task.
      path: folder of the method.
      name: its name.
      step: step of the snapshot.
      original: θ*; None reads it where it is needed.
    """
    config, settings = task.config, task.config.methods[name]
    if is_retrained(config, name):
        return task.load_snapshot(path, step, task.weights)
    if settings.subset == "all" and not settings.rank:
        return task.load_snapshot(path, step, "params")
    part, rest = split(task.original_params if original is None else original, settings, name)
    like = what_changes(config, name, part)
    like = parallel.placed(like, parallel.make_mesh(config.parallel.fsdp))
    changed = task.load_snapshot(path, step, "params", like)
    if settings.rank:
        changed = lora.merge_adapters(changed, part)
    return subset.merge(changed, rest)


def load_kept(task: tasks.Task, name: str) -> Params:
    """The parameters of the whole network at the step that a method kept."""
    kept = artifacts.upstream(task.workdir, f"unlearn/{name}")["summary"]["kept_step"]
    return load_step(task, task.workdir / "unlearn" / name, name, kept)


def curve_images(
    task: tasks.Task, path: Path, name: str, step: int, original: Any = None
) -> np.ndarray:
    """The images of a snapshot for `Task.request("curve")`, sampled once and then read back.

    Args:
      task: the config's task.
      path: folder of the method.
      name: its name.
      step: step of the snapshot.
      original: θ*; None reads it where it is needed.

    Returns:
      (N, H, W, C) uint8.
    """
    file = path / "curve" / f"{step:08d}.npz"
    if not artifacts.exists(file):
        params = load_step(task, path, name, step, original)
        seed = task.config.curve.seed
        images = task.draw(params, task.request("curve"), seed, f"{name} step {step}")
        artifacts.write_npz(file, images=images)
    return artifacts.read_npz(file)["images"]
