"""Unlearn with every method of the config, and keep one step of each by a rule that sees D_f and
the model alone.

    unlearn/<method>/snapshots/<step>/params   points of the trade-off curve
    unlearn/<method>/curve/<step>.npz          images drawn there, all steps from the same noise
    unlearn/<method>/metrics.jsonl, events/
"""

from pathlib import Path
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from vdu_jax import detector, objectives, tasks
from vdu_jax.errors import UserError
from vdu_jax.posterior import natural
from vdu_jax.runtime import artifacts, parallel
from vdu_jax.runtime.fit import FitResult, Guard, fit
from vdu_jax.stages import build, posterior, replay, train
from vdu_jax.types import Objective, Params


class Diverged(UserError):
    """The guard ended a method before there was anything to keep."""


def is_retrained(config: ConfigDict, name: str) -> bool:
    """Whether a method trains from scratch, with the settings of `config.train`."""
    return config.methods[name].objective == "retrain"


def stage_dir(config: ConfigDict, workdir: Path, name: str) -> artifacts.StageDir:
    return build.stage(
        config,
        workdir,
        f"unlearn/{name}",
        ("forget", "sampler", "curve", *(["train"] if is_retrained(config, name) else [])),
        upstream=("original", "posterior", "replay"),
        method=config.methods[name].to_dict(),
        unlearn={"seed": config.unlearn.seed},
    )


def run(config: ConfigDict, workdir: Path, overwrite: bool = False) -> None:
    if not config.methods:
        raise UserError("config key methods is empty: name at least one method to unlearn with")
    for name in sorted(config.methods):
        run_method(config, Path(workdir), name, overwrite)


def open_loaders(config: ConfigDict, workdir: Path, name: str, sees: frozenset) -> dict:
    """An iterator for each kind of data that the method may see, and for no other.

    The view of D_f holds no index of a retained image, so none can be decoded through it.
    """
    settings = config.methods[name]
    loaders = {}
    for kind in sorted(sees):
        if kind == "replay":
            source = replay.load(workdir).source(tasks.of(config))
        else:
            whole = build.open_split(config, build.dataset(config), "train")
            indices = getattr(build.forget_retain(config, whole), kind)
            source = tasks.of(config).source(whole.subset(indices))
        size = settings[f"{kind}_batch"]
        loaders[kind] = build.loader(source, size, config.unlearn.seed)
    return loaders


def make_objective(config: ConfigDict, workdir: Path, name: str, image_shape: tuple, trained):
    """The method's objective; `trained` is the posterior."""
    found = artifacts.upstream(workdir, "replay")["summary"]
    share = found["removed"] / found["images"]
    return build_objective(config, name, image_shape, trained, found["forget_images"], share)


def build_objective(
    config: ConfigDict, name: str, image_shape: tuple, trained, num_forget: int, share: float
) -> Objective:
    """`make_objective` for |D_f| and the share of replay that is forget-like."""
    settings = config.methods[name]
    params = settings.params.to_dict()
    if params.get("forget_share") == 0:
        params["forget_share"] = share
    return objectives.FACTORIES[settings.objective](
        build.score_fn(config, image_shape),
        build.parameterization(config),
        trained,
        num_forget,
        **params,
    )


def optimizer(config: ConfigDict, name: str, trained) -> optax.GradientTransformation:
    """What `methods.<name>.optimizer` says; `trained` is the posterior."""
    settings = config.methods[name]
    rate = settings.learning_rate
    if settings.decay == "linear":
        rate = optax.linear_schedule(rate, 0.0, settings.steps)
    if settings.optimizer == "natural":
        return natural(trained.variance, rate)
    return optax.adam(rate, b2=settings.beta2)


def run_method(config: ConfigDict, workdir: Path, name: str, overwrite: bool = False) -> None:
    settings = config.methods[name]
    stage = stage_dir(config, workdir, name)
    if stage.done(overwrite):
        return
    check_batches(config, name)
    if is_retrained(config, name):
        train.check(config)
    image_shape = build.dataset(config).image_shape
    pretrained = build.load_pretrained(config, workdir, image_shape)
    trained = posterior.load(config, workdir, image_shape)
    objective = make_objective(config, workdir, name, image_shape, trained)
    path = stage.begin()
    if is_retrained(config, name):
        result = retrain(config, path, name)
    else:
        loaders = open_loaders(config, workdir, name, objective.sees)
        result = fit_method(config, path, name, objective, pretrained, loaders, trained)
    judge = replay.Judge(config, workdir, pretrained, image_shape)
    snapshots = [
        judge(step, curve_images(config, path, name, step, image_shape))
        for step in result.snapshots
    ]
    finish(stage, settings, objective, result, snapshots)


def check_batches(config: ConfigDict, name: str) -> None:
    """Raises: UserError if a method's batch cannot be split over the devices."""
    layout = build.layout(config)
    for key in ("forget_batch", "replay_batch", "retain_batch"):
        parallel.check_batch_size(config.methods[name][key], layout, f"methods.{name}.{key}")


def fit_method(
    config: ConfigDict,
    path: Path,
    name: str,
    objective: Objective,
    params: Params,
    loaders: dict,
    trained,
) -> FitResult:
    """Optimise a method's objective from `params` with its settings; `trained` is the posterior.

    Raises:
      Diverged: if nothing can be kept.
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
        layout=build.layout(config),
    )
    if not result.snapshots:
        raise Diverged(
            f"{path}: the guard ended the run before its first snapshot ({result.stopped}): lower "
            f"methods.{name}.learning_rate or methods.{name}.snapshot_every"
        )
    return result


def finish(
    stage: artifacts.StageDir,
    settings: ConfigDict,
    objective: Objective,
    result: FitResult,
    snapshots: list[detector.Snapshot],
    **more: Any,
) -> None:
    """Choose the step to keep, and write down what a method came to."""
    kept, why = detector.choose_step(snapshots, settings.target_pul)
    stage.finish(
        {
            "kept_step": kept,
            "why": why,
            "stopped": result.stopped,
            "steps": result.steps,
            "flops": result.flops,
            "snapshots": [s._asdict() for s in snapshots],
            "sees": sorted(objective.sees),
            **more,
        },
        {"fit": result.seconds},
    )


def retrain(config: ConfigDict, path: Path, name: str) -> FitResult:
    """Train as `train` did, from the same fresh parameters, on the retained data alone."""
    source = build.open_split(config, build.dataset(config), "train")
    retained = source.subset(build.forget_retain(config, source).retain)
    params = train.init_params(config, source.image_shape)
    return train.fit_on(config, retained, params, path, [config.train.steps], f"unlearn {name}")


def weights(config: ConfigDict, name: str) -> str:
    """Which parameters of a method's snapshots are its model: "params", or of a retrained "ema"."""
    return build.weights(config) if is_retrained(config, name) else "params"


def curve_images(config: ConfigDict, path: Path, name: str, step: int, image_shape: tuple):
    """The images of one snapshot; drawn once, then read back."""
    file = path / "curve" / f"{step:08d}.npz"
    if not artifacts.exists(file):
        params = build.load_snapshot(config, path, step, weights(config, name), image_shape)
        sampler = build.sampler(config, image_shape)
        section = config.curve
        images = sampler(params, section.seed, section.images, f"{name} step {step}")
        artifacts.write_npz(file, images=images)
    return artifacts.read_npz(file)["images"]
