"""Pretrain the diffusion model on the whole training split.

train/snapshots/<step>/{params,ema}   the last checkpoints: θ_1 … θ_K
train/state/, metrics.jsonl, events/  see runtime.fit
"""

from pathlib import Path

import jax
from ml_collections import ConfigDict

from vdu_jax import data, objectives, posterior
from vdu_jax.models import unet
from vdu_jax.runtime import parallel
from vdu_jax.runtime.fit import fit
from vdu_jax.stages import build


def start(config: ConfigDict, net: unet.UNet, image_shape: tuple[int, int, int]):
    """Fresh parameters, or those of the model that `train.init_from` names."""
    settings = config.train
    if not settings.init_from:
        init = jax.jit(lambda key: unet.init_params(net, key, image_shape))
        return init(jax.random.key(settings.init_seed))
    folder = build.model_folder(settings.init_from)
    build.check_network(config, folder)
    return build.load_last(config, folder, image_shape, "params")


def run(config: ConfigDict, workdir: Path, overwrite: bool = False) -> None:
    settings = config.train
    stage = build.train_stage(config, workdir)
    if stage.done(overwrite):
        return
    parallel.check_batch_size(settings.batch_size, parallel.make_mesh(), "train.batch_size")
    found = build.dataset(config)
    source = build.open_split(config, found, "train")
    path = stage.begin()
    net = build.net(config, found.image_shape)
    params = start(config, net, found.image_shape)
    objective = objectives.ddpm(
        unet.make_score_fn(net),
        build.schedule(config),
        weighting=settings.weighting,
        dropout=config.model.dropout > 0,
    )
    loader = data.make_loader(
        source,
        settings.batch_size,
        settings.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    last, every = settings.steps, settings.snapshot_every
    snapshots = range(last, max(0, last - every * settings.snapshots), -every)
    result = fit(
        objective,
        params,
        {"retain": loader},
        build.optimizer(build.learning_rate(config), settings.clip_norm),
        key=jax.random.key(settings.seed),
        num_steps=last,
        directory=path,
        snapshot_steps=snapshots,
        save_state_every=settings.save_state_every,
        log_every=settings.log_every,
        ema_decay=settings.ema_decay,
        label="train",
    )
    stage.finish(
        {
            "steps": result.steps,
            "snapshots": result.snapshots,
            "parameters": posterior.num_parameters(params),
            "images": len(source),
            "class_names": found.class_names,
        },
        {"fit": result.seconds},
    )
