"""Train a small text-to-image model of Stable Diffusion's architecture, and write its folder.

train/tokenizer/          with the captions' words
train/autoencoder/        see runtime.fit
train/latents.npz         the images' mean latents, (N, h, w, channels), not scaled
train/unet/               see runtime.fit; snapshots/<step>/ are θ_1 … θ_K
train/model/              a diffusers folder: what all later stages read

The autoencoder comes first; then the U-Net learns its latents' noise, given the captions. The text
encoder stays as it was drawn: its random features tell captions of a small vocabulary apart, and
the U-Net's attention learns to read them. Where `model.folder` names a model, nothing is trained.
"""

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from vdu_jax import objectives, posterior
from vdu_jax.data import captions
from vdu_jax.errors import UserError
from vdu_jax.interop import pipeline, scheduler, stable_diffusion, tokenizer
from vdu_jax.models.stable_diffusion import vae
from vdu_jax.runtime import artifacts, parallel, progress
from vdu_jax.runtime.fit import FitResult, fit
from vdu_jax.stages import build as images_build
from vdu_jax.stages.text_to_image import build, detectors
from vdu_jax.types import Params


def run(config: ConfigDict, workdir: Path, overwrite: bool = False) -> None:
    detectors.make(config)  # what it lacks is said now, not after this long stage
    if config.model.folder:
        return
    stage = build.train_stage(config, workdir)
    if stage.done(overwrite):
        return
    found = build.captioned(config)
    if config.data.name == "captions" and not artifacts.exists(stage.path / "inputs.json"):
        # What cannot be read is said now, not in the middle of training.
        with progress.bar(len(found), "images", unit="image") as bar:
            for _ in captions.check_images(found):
                bar.update(1)
    parallel.check_batch_size(
        config.train.batch_size, images_build.layout(config), "train.batch_size"
    )
    vocabulary = tokenizer.learn(found.captions)
    configs, modules = networks(config, found, len(vocabulary.tokens))
    path = stage.begin()
    length = modules["text_encoder"].max_length
    tokenizer.write(vocabulary, path / "tokenizer", length)
    tokenize = tokenizer.load(path / "tokenizer", length)
    autoencoder_params, first = fit_autoencoder(config, modules["vae"], found, path / "autoencoder")
    if not artifacts.exists(path / build.LATENTS):
        latents = build.encode(modules["vae"], autoencoder_params, found, "latents")
        artifacts.write_npz(path / build.LATENTS, latents=latents)
    latents = artifacts.read_npz(path / build.LATENTS)["latents"]
    scaling = 1.0 / float(latents.std())
    configs["vae"] = configs["vae"] | {"scaling_factor": scaling}
    params = {
        "vae": autoencoder_params,
        "text_encoder": init_params(config, "text_encoder", modules["text_encoder"]),
        "unet": init_params(config, "unet", modules["unet"]),
    }
    diffusion = scheduler.read_noise(
        configs["scheduler"],
        "config key model.scheduler",
        pipeline.ABOUT["scheduler"]["_class_name"],
    )
    model = pipeline.TextToImage(modules, params, tokenize, diffusion, scaling, latents.shape[1:])
    source = build.LatentSource(
        latents * np.float32(scaling), found.captions, lambda texts: build.embed(model, texts)
    )
    second = fit_unet(config, model, source, path / "unet")
    weights = images_build.weights(config)
    params["unet"] = build.restore(path / "unet", second.steps, weights, params["unet"])
    pipeline.create(path / "model", configs, params, vocabulary)
    stage.finish(
        {
            "steps": second.steps,
            "snapshots": second.snapshots,
            "flops": second.flops,
            "parameters": {name: posterior.num_parameters(tree) for name, tree in params.items()},
            "images": len(found),
            "scaling": scaling,
        },
        {"fit": second.seconds, "autoencoder": first.seconds},
    )


def networks(
    config: ConfigDict, found: captions.Captioned, vocab_size: int
) -> tuple[dict[str, dict], dict[str, nn.Module]]:
    """`build.own_networks`, checked against the images.

    Raises:
      UserError: as it does, and for networks that do not fit the images.
    """
    configs, modules = build.own_networks(config, vocab_size)
    channels, side = modules["vae"].channels, found.image_shape[0]
    if channels != found.image_shape[-1]:
        raise UserError(
            f"config key model.vae.in_channels = {channels}: the images have "
            f"{found.image_shape[-1]}"
        )
    factor = 2 ** (len(modules["vae"].block_out_channels) - 1)
    lowest = factor * 2 ** (len(modules["unet"].block_out_channels) - 1)
    if side % lowest or configs["unet"].get("sample_size") != side // factor:
        raise UserError(
            f"config key model.unet.sample_size: images of {side} pixels make latents of "
            f"{side / factor:g}, and their side must be divisible by {lowest}"
        )
    return configs, modules


def init_params(config: ConfigDict, name: str, module: nn.Module) -> Params:
    """Initial parameters of a network, from `train.init_seed`."""
    part = stable_diffusion.PARTS[name]
    place = sorted(stable_diffusion.PARTS).index(name)
    key = jax.random.fold_in(jax.random.key(config.train.init_seed), place)
    return images_build.initialise(lambda key: part.init_params(module, key), key)


def fit_autoencoder(
    config: ConfigDict, module: vae.AutoencoderKL, found: captions.Captioned, path: Path
) -> tuple[Params, FitResult]:
    """Train the autoencoder with `config.train.autoencoder`; its last parameters."""
    settings = config.train.autoencoder

    def encode(params, images):
        return module.apply({"params": params}, images, method="encode")

    def decode(params, latents):
        return module.apply({"params": params}, latents, method="decode")

    params = init_params(config, "vae", module)
    one = jax.ShapeDtypeStruct((1, *found.image_shape), np.float32)
    latent_shape = jax.eval_shape(encode, params, one).mean.shape[1:]
    result = fit(
        objectives.autoencoder(encode, decode, latent_shape, kl_weight=settings.kl_weight),
        params,
        {"retain": images_build.loader(found, settings.batch_size, config.train.seed)},
        optax.adam(optax.linear_schedule(settings.learning_rate, 0.0, settings.steps)),
        snapshot_steps=[settings.steps],
        directory=path,
        num_steps=settings.steps,
        **common(config, "autoencoder"),
    )
    return build.restore(path, result.steps, "params", params), result


def fit_unet(
    config: ConfigDict, model: pipeline.TextToImage, source: build.LatentSource, path: Path
) -> FitResult:
    """Train the U-Net with `config.train` on latents."""
    settings = config.train
    score_fn = build.score_fn(model, config.parallel.remat)
    return fit(
        objectives.ddpm(
            score_fn,
            build.parameterization(model),
            weighting=settings.weighting,
            drop_condition=config.condition.drop,
        ),
        model.params["unet"],
        {"retain": images_build.loader(source, settings.batch_size, settings.seed)},
        images_build.optimizer(images_build.learning_rate(config), settings.clip_norm),
        snapshot_steps=images_build.last_snapshots(config),
        directory=path,
        num_steps=settings.steps,
        ema_decay=settings.ema_decay,
        **common(config, "train"),
    )


def common(config: ConfigDict, label: str) -> dict[str, Any]:
    """What both of them give `fit`."""
    settings = config.train
    return {
        "key": jax.random.key(settings.seed),
        "save_state_every": settings.save_state_every,
        "log_every": settings.log_every,
        "label": label,
        "layout": images_build.layout(config),
    }
