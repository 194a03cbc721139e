"""The networks of a text-to-image model: from its folder or the config, and what they compute."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from vdu_jax.data import captions
from vdu_jax.diffusion import guidance, samplers
from vdu_jax.errors import UserError
from vdu_jax.interop import pipeline, scheduler, stable_diffusion
from vdu_jax.models import network
from vdu_jax.runtime import progress, sampling
from vdu_jax.tasks import base
from vdu_jax.types import Params

ENCODE_BATCH = 50  # images or prompts at once
VOCABULARY = 49408  # of CLIP; that of a model of one's own is learned from its captions


def of_config(config: ConfigDict, vocab_size: int) -> tuple[dict[str, dict], dict[str, nn.Module]]:
    """The config.json files of a model of one's own, and the networks that they describe.

    Args:
      vocab_size: of the tokenizer, which is learned from the captions.

    Raises:
      UserError: for a setting that can't be expressed, or networks that do not fit each other.
    """
    configs = {
        name: {key: list(v) if isinstance(v, tuple) else v for key, v in section.items()}
        for name, section in config.model.to_dict().items()
        if isinstance(section, dict)
    }
    configs["text_encoder"]["vocab_size"] = vocab_size
    modules = {
        name: part.read_config(pipeline.ABOUT[name] | configs[name], f"config key model.{name}")
        for name, part in stable_diffusion.PARTS.items()
    }
    pipeline.check_fit("config key model", modules)
    return configs, in_dtype(config, modules)


def check_images(
    configs: Mapping[str, Mapping], modules: Mapping[str, nn.Module], captioned: captions.Captioned
) -> None:
    """Raises: UserError for networks of `of_config` that do not fit the images."""
    channels, side = modules["vae"].channels, captioned.image_shape[0]
    if channels != captioned.image_shape[-1]:
        raise UserError(
            f"config key model.vae.in_channels = {channels}: the images have "
            f"{captioned.image_shape[-1]}"
        )
    factor = 2 ** (len(modules["vae"].block_out_channels) - 1)
    lowest = factor * 2 ** (len(modules["unet"].block_out_channels) - 1)
    if side % lowest or configs["unet"].get("sample_size") != side // factor:
        raise UserError(
            f"config key model.unet.sample_size: images of {side} pixels make latents of "
            f"{side / factor:g}, and their side must be divisible by {lowest}"
        )


def in_dtype(config: ConfigDict, modules: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """The networks, with a U-Net that computes as the config says."""
    how = {"dtype": jnp.dtype(config.model.dtype), "attention": config.parallel.attention}
    return dict(modules) | {"unet": modules["unet"].clone(**how)}


def read(config: ConfigDict, folder: Path) -> pipeline.TextToImage:
    """The model of a diffusers folder."""
    model = pipeline.read(folder)
    return model._replace(modules=in_dtype(config, model.modules))


def shapes(config: ConfigDict) -> pipeline.TextToImage:
    """The config's model with shapes in place of parameters, and without a tokenizer.

    Of a folder only the config.json files are read, so it need not hold weights.
    """
    if config.model.folder:
        folder = Path(config.model.folder).expanduser()
        configs, modules = pipeline.read_networks(folder)
        modules, where = in_dtype(config, modules), folder / "unet" / "config.json"
    else:
        configs, modules = of_config(config, VOCABULARY)
        where = "config key model.unet"
    params = {
        name: stable_diffusion.PARTS[name].param_shapes(module) for name, module in modules.items()
    }
    # How noisy the levels are changes no size.
    diffusion = scheduler.read_noise({}, "", "DDPMScheduler")
    sides = pipeline.latent_sides(configs["unet"], where)
    latent_shape = (*sides, modules["unet"].out_channels)
    return pipeline.TextToImage(modules, params, None, diffusion, 1.0, latent_shape)


def init_params(config: ConfigDict, name: str, module: nn.Module) -> Params:
    """Initial parameters of a network, from `train.init_seed`."""
    part = stable_diffusion.PARTS[name]
    place = sorted(stable_diffusion.PARTS).index(name)
    key = jax.random.fold_in(jax.random.key(config.train.init_seed), place)
    return base.initialise(lambda key: part.init_params(module, key), key)


def text_shape(model: pipeline.TextToImage) -> tuple[int, int]:
    """(L, D) of a prompt's embeddings."""
    encoder = model.modules["text_encoder"]
    return encoder.max_length, encoder.hidden_size


def drawing_shapes(model: pipeline.TextToImage, count: int) -> tuple[Params, tuple]:
    """Shapes of what `make_draw`'s function is given for `count` images: its params, and the
    rest but the keys."""
    params = {
        name: stable_diffusion.PARTS[name].param_shapes(model.modules[name])
        for name in ("unet", "vae")
    }
    params["negative"], texts = (
        jax.ShapeDtypeStruct((rows, *text_shape(model)), jnp.float32) for rows in (1, count)
    )
    return params, (texts,)


def embed(model: pipeline.TextToImage, prompts: Sequence[str]) -> np.ndarray:
    """The text encoder's embeddings of prompts, (N, L, D) float32."""
    apply = _embedder(model.modules["text_encoder"])
    params, rows = {"params": model.params["text_encoder"]}, []
    for first in range(0, len(prompts), ENCODE_BATCH):
        tokens = model.tokenize(list(prompts[first : first + ENCODE_BATCH]))
        padded = np.pad(tokens, ((0, ENCODE_BATCH - len(tokens)), (0, 0)), mode="edge")
        rows.append(np.asarray(apply(params, padded), np.float32)[: len(tokens)])
    return np.concatenate(rows)


@functools.lru_cache(maxsize=4)
def _embedder(module: nn.Module) -> Callable:
    return jax.jit(module.apply)


@functools.lru_cache(maxsize=4)
def _encoder(module: nn.Module) -> Callable:
    return jax.jit(lambda params, x: module.apply({"params": params}, x, method="encode").mean)


def encode(
    module: nn.Module, params: Params, captioned: captions.Captioned, label: str
) -> np.ndarray:
    """The means of the images' latents, (N, h, w, channels) float32, not scaled."""
    apply, rows = _encoder(module), []
    with progress.bar(len(captioned), label, unit="image") as bar:
        for first in range(0, len(captioned), ENCODE_BATCH):
            part = np.arange(first, min(first + ENCODE_BATCH, len(captioned)))
            whole = np.pad(part, (0, ENCODE_BATCH - len(part)), mode="edge")
            rows.append(np.asarray(apply(params, captioned.batch(whole)["image"]))[: len(part)])
            bar.update(len(part))
    return np.concatenate(rows)


def make_draw(
    model: pipeline.TextToImage, num_steps: int, scale: float, name: str = "ddim", **how: Any
) -> Callable[[Params, jax.Array, jax.Array], jax.Array]:
    """`(params, keys, text) -> images` in [-1, 1], text (B, L, D) the embeddings of their prompts.

    The params are those of the U-Net and of the autoencoder under their names, and "negative"
    (1, L, D), the embedding of what the images are to be kept away from.

    Args:
      scale: of guidance. name: of the sampler, with further settings of `samplers.make_plan`.
    """
    vae, predicts = model.modules["vae"], base.parameterization_of(model.diffusion)
    score_fn = network.make_score_fn(model.modules["unet"])
    predict = guidance.guided(predicts.noise_predictor(score_fn), scale)
    plan = samplers.make_plan(predicts.schedule, name, num_steps, **how)

    def draw(params: Params, keys: jax.Array, text: jax.Array) -> jax.Array:
        cond = text, jnp.repeat(params["negative"], len(keys), axis=0)
        latents = samplers.sample(
            predict, params["unet"], plan, keys, model.latent_shape, clip_x0=False, cond=cond
        )
        images = vae.apply({"params": params["vae"]}, latents / model.scaling, method="decode")
        return jnp.clip(images, -1.0, 1.0)

    return draw


def draw_of_config(config: ConfigDict, model: pipeline.TextToImage) -> Callable:
    """`make_draw` with the settings of a config."""
    guided = config.condition.guidance
    return make_draw(model, scale=guided, **base.plan_settings(config.sampler))


def make_sampler(config: ConfigDict, model: pipeline.TextToImage) -> Callable:
    """See `sampling.make_sampler`; what is compiled is shared by all stages of a process."""
    return _sampler(*_drawn_by(config, model), config.parallel.fsdp)


def draw_flops(config: ConfigDict, model: pipeline.TextToImage) -> float:
    """Operations of drawing an image, see `operations.count`."""
    return _draw_flops(*_drawn_by(config, model))


def _drawn_by(config: ConfigDict, model: pipeline.TextToImage) -> tuple:
    """All that a sampler is compiled for, in a form that can be looked up: the model without its
    parameters, the settings, and the scale of guidance."""
    stripped = model._replace(
        modules=tuple(model.modules.items()),
        params=(),
        tokenize=None,
        diffusion=tuple(model.diffusion.items()),
    )
    return stripped, base.hashable(config.sampler), config.condition.guidance


def _draw(model: pipeline.TextToImage, settings: tuple, scale: float) -> tuple:
    """What `_drawn_by` stands for: the model, and how it draws."""
    model = model._replace(modules=dict(model.modules), diffusion=dict(model.diffusion))
    return model, make_draw(model, scale=scale, **base.plan_settings(dict(settings)))


@functools.lru_cache(maxsize=4)
def _sampler(model: pipeline.TextToImage, settings: tuple, scale: float, fsdp: int) -> Callable:
    size, (model, draw) = dict(settings)["batch_size"], _draw(model, settings, scale)
    return sampling.make_sampler(draw, model.image_shape, batch_size=size, fsdp=fsdp)


@functools.lru_cache(maxsize=4)
def _draw_flops(model: pipeline.TextToImage, settings: tuple, scale: float) -> float:
    model, draw = _draw(model, settings, scale)
    return base.draw_flops(draw, *drawing_shapes(model, 1))
