"""Train the diffusion model on the whole training split.

train/snapshots/<step>/{params,ema}   the last checkpoints: θ_1 … θ_K
train/state/, metrics.jsonl, events/  see runtime.fit

and what else the task makes there.
"""

from collections.abc import Sequence
from pathlib import Path

import jax
import optax
from ml_collections import ConfigDict

from vdu_jax import objectives, posterior, tasks
from vdu_jax.data.loader import Source
from vdu_jax.runtime import parallel
from vdu_jax.runtime.fit import FitResult, fit
from vdu_jax.tasks import base
from vdu_jax.types import Objective, Params


def run(config: ConfigDict, workdir: Path, overwrite: bool = False) -> None:
    task = tasks.of(config, workdir)
    task.check()
    if not task.has_training:
        return
    stage = task.train_stage()
    if stage.done(overwrite):
        return
    task.prepare_training()
    check(config)
    path = stage.begin()
    more = task.make_ready(path)
    params, source = task.start_params(), task.source("all")
    result = fit_on(task, source, params, path, last_snapshots(config), "train")
    more |= task.export_trained(path, params)
    stage.finish(
        {
            "steps": result.steps,
            "snapshots": result.snapshots,
            "flops": result.flops,
            "parameters": posterior.num_parameters(params),
            "images": len(source),
            **more,
        },
        {"fit": result.seconds},
    )


def check(config: ConfigDict) -> None:
    """Raises: UserError if a batch cannot be split over the devices."""
    parallel.check_batch_size(config.train.batch_size, base.layout(config), "train.batch_size")


def make_objective(task: tasks.Task) -> Objective:
    """DDPM's, with the settings of `config.train`."""
    config = task.config
    return objectives.ddpm(
        task.score_fn,
        task.parameterization,
        weighting=config.train.weighting,
        dropout=config.model.get("dropout", 0.0) > 0,
        drop_condition=task.drop_condition,
    )


def adam(learning_rate, clip_norm: float | None = None) -> optax.GradientTransformation:
    """Adam, after gradients longer than `clip_norm` have been cut to it."""
    plain = optax.adam(learning_rate)
    return plain if clip_norm is None else optax.chain(optax.clip_by_global_norm(clip_norm), plain)


def optimizer(config: ConfigDict) -> optax.GradientTransformation:
    return adam(learning_rate(config), config.train.clip_norm)


def learning_rate(config: ConfigDict) -> optax.Schedule:
    """Linear warm-up, then constant, or cosine or linear decay to 0."""
    section = config.train
    warmup, steps = section.warmup_steps, section.steps
    after = {
        "constant": optax.constant_schedule(section.learning_rate),
        "cosine": optax.cosine_decay_schedule(section.learning_rate, max(1, steps - warmup)),
        "linear": optax.linear_schedule(section.learning_rate, 0.0, max(1, steps - warmup)),
    }[section.decay]
    rise = optax.linear_schedule(0.0, section.learning_rate, max(1, warmup))
    return optax.join_schedules([rise, after], [warmup]) if warmup else after


def last_snapshots(config: ConfigDict) -> range:
    """The steps of training whose parameters are kept, the last one first."""
    section = config.train
    last, every = section.steps, section.snapshot_every
    return range(last, max(0, last - every * section.snapshots), -every)


def fit_on(
    task: tasks.Task,
    source: Source,
    params: Params,
    path: Path,
    snapshots: Sequence[int],
    label: str,
) -> FitResult:
    """Train from `params` on a source of images with all settings of `config.train`."""
    config, settings = task.config, task.config.train
    return fit(
        make_objective(task),
        params,
        {"retain": base.loader(source, settings.batch_size, settings.seed)},
        optimizer(config),
        key=jax.random.key(settings.seed),
        num_steps=settings.steps,
        directory=path,
        snapshot_steps=snapshots,
        save_state_every=settings.save_state_every,
        log_every=settings.log_every,
        ema_decay=settings.ema_decay,
        label=label,
        layout=base.layout(config),
    )
