"""The stage `train`: train the diffusion model on all training images.

train/snapshots/<step>/{params,ema}   the last checkpoints: θ_1 … θ_K
train/state/, metrics.jsonl, events/  see runtime.fit

The task may write further files, such as an autoencoder.
"""

from collections.abc import Sequence
from pathlib import Path

import jax
import optax
from ml_collections import ConfigDict

from vdu_jax import data, objectives, posterior, tasks
from vdu_jax.data.loader import Source
from vdu_jax.runtime import parallel
from vdu_jax.runtime.fit import FitResult, fit
from vdu_jax.tasks import base
from vdu_jax.types import Objective, Params


def run(config: ConfigDict, workdir: Path, overwrite: bool = False) -> None:
    """Train the original, unless the config names a model that is trained already.

    Args:
      config: all settings.
      workdir: the run's folder.
      overwrite: whether a finished stage is made again.

    Raises:
      UserError: for data that cannot be trained on, or a batch that the devices cannot share.
    """
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
    """Check that a training batch can be split over the devices.

    Raises:
      UserError: if it cannot.
    """
    parallel.check_batch_size(config.train.batch_size, base.layout(config), "train.batch_size")


def make_objective(task: tasks.Task) -> Objective:
    """The DDPM objective with the settings of `config.train`."""
    config = task.config
    return objectives.ddpm(
        task.score_fn,
        task.parameterization,
        weighting=config.train.weighting,
        dropout=config.model.get("dropout", 0.0) > 0,
        drop_condition=task.drop_condition,
    )


def adam(
    learning_rate: optax.ScalarOrSchedule, clip_norm: float | None = None
) -> optax.GradientTransformation:
    """Adam with gradient clipping.

    Args:
      learning_rate: a number or a schedule.
      clip_norm: largest norm of a gradient; None for no clipping.
    """
    plain = optax.adam(learning_rate)
    return plain if clip_norm is None else optax.chain(optax.clip_by_global_norm(clip_norm), plain)


def optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """Adam with the settings of `config.train`."""
    return adam(learning_rate(config), config.train.clip_norm)


def learning_rate(config: ConfigDict) -> optax.Schedule:
    """The learning-rate schedule of `config.train`: linear warm-up, then `train.decay`."""
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
    """The training steps whose parameters are stored, the last one first."""
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
    """Train on a source of images with all settings of `config.train`.

    Args:
      task: the config's task.
      source: training images.
      params: initial parameters.
      path: folder for checkpoints and metrics.
      snapshots: steps whose parameters are stored.
      label: of the progress bar.
    """
    config, settings = task.config, task.config.train
    if settings.get("flip"):  # latents of a mirror image are no mirror image
        source = data.Mirrored(source)
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
