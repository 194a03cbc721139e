"""Pretrain the diffusion model on the whole training split.

train/snapshots/<step>/{params,ema}   the last checkpoints: θ_1 … θ_K
train/state/, metrics.jsonl, events/  see runtime.fit
"""

from collections.abc import Sequence
from pathlib import Path

import jax
import optax
from ml_collections import ConfigDict

from vdu_jax import data, objectives, posterior, tasks
from vdu_jax.models import network
from vdu_jax.runtime import parallel
from vdu_jax.runtime.fit import FitResult, fit
from vdu_jax.stages import build
from vdu_jax.types import Objective, Params


def init_params(config: ConfigDict, image_shape: tuple[int, int, int]) -> Params:
    """Initial parameters from `train.init_seed`."""
    net = build.net(config, image_shape)
    key = jax.random.key(config.train.init_seed)
    return build.initialise(lambda key: network.init_params(net, key, image_shape), key)


def start(config: ConfigDict, image_shape: tuple[int, int, int]) -> Params:
    """Fresh parameters, or those of the model that `train.init_from` names."""
    if not config.train.init_from:
        return init_params(config, image_shape)
    folder = build.model_folder(config.train.init_from)
    build.check_network(config, folder)
    return build.load_last(config, folder, image_shape, "params")


def run(config: ConfigDict, workdir: Path, overwrite: bool = False) -> None:
    stage = build.train_stage(config, workdir)
    if stage.done(overwrite):
        return
    found = build.dataset(config)
    source = build.open_split(config, found, "train")
    check(config)
    path = stage.begin()
    params = start(config, found.image_shape)
    result = fit_on(config, source, params, path, build.last_snapshots(config), "train")
    stage.finish(
        {
            "steps": result.steps,
            "snapshots": result.snapshots,
            "flops": result.flops,
            "parameters": posterior.num_parameters(params),
            "images": len(source),
            "class_names": found.class_names,
        },
        {"fit": result.seconds},
    )


def check(config: ConfigDict) -> None:
    """Raises: UserError if a batch cannot be split over the devices."""
    parallel.check_batch_size(config.train.batch_size, build.layout(config), "train.batch_size")


def make_objective(config: ConfigDict, image_shape: tuple[int, int, int]) -> Objective:
    return objectives.ddpm(
        build.score_fn(config, image_shape),
        build.parameterization(config),
        weighting=config.train.weighting,
        dropout=config.model.dropout > 0,
        drop_condition=tasks.of(config).drop,
    )


def optimizer(config: ConfigDict) -> optax.GradientTransformation:
    return build.optimizer(build.learning_rate(config), config.train.clip_norm)


def fit_on(
    config: ConfigDict,
    source: data.ImageSource,
    params: Params,
    path: Path,
    snapshots: Sequence[int],
    label: str,
) -> FitResult:
    """Train from `params` on a source of images with all settings of `config.train`."""
    settings = config.train
    told = tasks.of(config).source(source)
    loader = build.loader(told, settings.batch_size, settings.seed)
    return fit(
        make_objective(config, source.image_shape),
        params,
        {"retain": loader},
        optimizer(config),
        key=jax.random.key(settings.seed),
        num_steps=settings.steps,
        directory=path,
        snapshot_steps=snapshots,
        save_state_every=settings.save_state_every,
        log_every=settings.log_every,
        ema_decay=settings.ema_decay,
        label=label,
        layout=build.layout(config),
    )
