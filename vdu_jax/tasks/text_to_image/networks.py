"""The networks of a text-to-image model: reading, initialisation, encoding and sampling."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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

ENCODE_BATCH = 50  # images or prompts in a batch
VOCABULARY = 49408  # size of CLIP's; stands in where shapes are planned before captions are read


def of_config(config: ConfigDict, vocab_size: int) -> tuple[dict[str, dict], dict[str, nn.Module]]:
    """The config.json files of a model that is trained here, and the networks they describe.

    Args:
      config: all settings; `config.model` is used.
      vocab_size: size of the tokenizer's vocabulary, which is learned from the captions.

    Returns:
      Contents of the config.json files, and the networks, by the names of
      `stable_diffusion.PARTS`; the files include "scheduler".

    Raises:
      UserError: for an unsupported setting, or networks that do not fit each other.
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
    """Check that networks fit the images.

    Args:
      configs: as `of_config` returns them.
      modules: as `of_config` returns them.
      captioned: the training images.

    Raises:
      UserError: for other channels, or a size that the networks cannot halve often enough.
    """
    channels, side = modules["vae"].channels, captioned.image_shape[0]
    if channels != captioned.image_shape[-1]:
        raise UserError(
            f"config key model.vae.in_channels = {channels}: the images have "
            f"{captioned.image_shape[-1]} channels; set it (and model.vae.out_channels) to that"
        )
    factor = 2 ** (len(modules["vae"].block_out_channels) - 1)
    lowest = factor * 2 ** (len(modules["unet"].block_out_channels) - 1)
    if side % lowest or configs["unet"].get("sample_size") != side // factor:
        raise UserError(
            f"config key model.unet.sample_size: images of {side} pixels make latents of "
            f"{side / factor:g}, and their side must be divisible by {lowest}"
        )


def in_dtype(config: ConfigDict, modules: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Give the U-Net the config's `model.dtype` and `parallel.attention`.

    Args:
      config: all settings.
      modules: networks by the names of `stable_diffusion.PARTS`.

    Returns:
      The networks, the others unchanged.
    """
    how = {"dtype": jnp.dtype(config.model.dtype), "attention": config.parallel.attention}
    return dict(modules) | {"unet": modules["unet"].clone(**how)}


def read(config: ConfigDict, folder: Path) -> pipeline.TextToImage:
    """Read the model of a diffusers folder.

    Args:
      config: all settings.
      folder: the folder.

    Raises:
      UserError: if it is missing, incomplete or not supported.
    """
    model = pipeline.read(folder)
    return model._replace(modules=in_dtype(config, model.modules))


def shapes(config: ConfigDict) -> pipeline.TextToImage:
    """The config's model with shapes in place of parameters, and without a tokenizer.

    Only config.json files are read from `model.folder`, so it need not hold weights.
    """
    if config.model.folder:
        folder = Path(config.model.folder).expanduser()
        configs, modules = pipeline.read_networks(folder)
        modules = in_dtype(config, modules)
        where: Path | str = folder / "unet" / "config.json"
    else:
        configs, modules = of_config(config, VOCABULARY)
        where = "config key model.unet"
    params = {
        name: stable_diffusion.PARTS[name].param_shapes(module) for name, module in modules.items()
    }
    # Any noise schedule will do: it changes no shape.
    diffusion = scheduler.read_noise({}, "", "DDPMScheduler")
    sides = pipeline.latent_sides(configs["unet"], where)
    latent_shape = (*sides, modules["unet"].out_channels)
    return pipeline.TextToImage(modules, params, _no_tokenizer, diffusion, 1.0, latent_shape)


def _no_tokenizer(prompts: Sequence[str]) -> np.ndarray:
    """Stands in for the tokenizer of a model of which only shapes are known."""
    raise ValueError(f"no tokenizer was read, so these cannot be tokenized: {prompts}")


def init_params(config: ConfigDict, name: str, module: nn.Module) -> Params:
    """Initial parameters of a network, drawn with `train.init_seed`.

    Args:
      config: all settings.
      name: a name in `stable_diffusion.PARTS`.
      module: the network.
    """
    part = stable_diffusion.PARTS[name]
    place = sorted(stable_diffusion.PARTS).index(name)
    key = jax.random.fold_in(jax.random.key(config.train.init_seed), place)
    return base.initialise(lambda key: part.init_params(module, key), key)


def text_shape(model: pipeline.TextToImage) -> tuple[int, int]:
    """(L, D), the shape of a prompt's embeddings."""
    encoder = model.modules["text_encoder"]
    return encoder.max_length, encoder.hidden_size


def drawing_shapes(model: pipeline.TextToImage, count: int) -> tuple[Params, tuple]:
    """Shapes of the arguments of `make_draw`'s function.

    Args:
      model: the model, with parameters or without.
      count: number of images.

    Returns:
      The shapes of its params, and of its texts in a tuple; the keys are left out.
    """
    params = {
        name: stable_diffusion.PARTS[name].param_shapes(model.modules[name])
        for name in ("unet", "vae")
    }
    params["negative"], texts = (
        jax.ShapeDtypeStruct((rows, *text_shape(model)), jnp.float32) for rows in (1, count)
    )
    return params, (texts,)


def embed(model: pipeline.TextToImage, prompts: Sequence[str]) -> np.ndarray:
    """Embed prompts with the text encoder.

    Args:
      model: the model with its parameters.
      prompts: N texts.

    Returns:
      (N, L, D) float32.
    """
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
    def encode(params: Params, x: jax.Array) -> jax.Array:
        latents: Any = module.apply({"params": params}, x, method="encode")
        return latents.mean

    return jax.jit(encode)


def encode(
    module: nn.Module, params: Params, captioned: captions.Captioned, label: str
) -> np.ndarray:
    """Encode images with the autoencoder.

    Args:
      module: the autoencoder.
      params: its parameters.
      captioned: N images.
      label: of the progress bar.

    Returns:
      The means of the latents, (N, h, w, channels) float32, not scaled.
    """
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
    """A function that samples images of prompts.

    Args:
      model: networks, noise schedule and scaling; its parameters are not used.
      num_steps: steps of the sampler.
      scale: scale of classifier-free guidance.
      name: name of the sampler.
      how: further arguments of `samplers.make_plan`.

    Returns:
      `draw(params, keys, text) -> images` (B, H, W, C) in [-1, 1]. `params` has "unet", "vae" and
      "negative" (1, L, D), the embedding of the negative prompt; `keys` (B,) are random keys;
      `text` (B, L, D) are embeddings of prompts.
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
        images: Any = vae.apply({"params": params["vae"]}, latents / model.scaling, method="decode")
        return jnp.clip(images, -1.0, 1.0)

    return draw


def draw_of_config(config: ConfigDict, model: pipeline.TextToImage) -> Callable:
    """`make_draw` with the settings of a config."""
    guided = config.condition.guidance
    return make_draw(model, scale=guided, **base.plan_settings(config.sampler))


def make_sampler(config: ConfigDict, model: pipeline.TextToImage) -> Callable:
    """The sampler of a config, see `sampling.make_sampler`; compiled once in a process."""
    return _sampler(_drawn_by(config, model), config.parallel.fsdp)


def draw_flops(config: ConfigDict, model: pipeline.TextToImage) -> float:
    """Floating-point operations of sampling one image; see `operations.count`."""
    return _draw_flops(_drawn_by(config, model))


class _Compiled(NamedTuple):
    """The settings that a sampler is compiled for, as a hashable key of the caches below.

    Attributes:
      modules: the items of `pipeline.TextToImage.modules`.
      diffusion: the items of `pipeline.TextToImage.diffusion`.
      scaling: see `pipeline.TextToImage`.
      latent_shape: see `pipeline.TextToImage`.
      settings: the items of `config.sampler`.
      guidance: the scale of classifier-free guidance.
    """

    modules: tuple[tuple[str, nn.Module], ...]
    diffusion: tuple[tuple[str, Any], ...]
    scaling: float
    latent_shape: tuple[int, int, int]
    settings: tuple[tuple[str, Any], ...]
    guidance: float


def _drawn_by(config: ConfigDict, model: pipeline.TextToImage) -> _Compiled:
    return _Compiled(
        tuple(model.modules.items()),
        tuple(model.diffusion.items()),
        model.scaling,
        model.latent_shape,
        base.hashable(config.sampler),
        config.condition.guidance,
    )


def _draw(by: _Compiled) -> tuple[pipeline.TextToImage, Callable]:
    """The model without its parameters, and how it draws."""
    modules, diffusion = dict(by.modules), dict(by.diffusion)
    model = pipeline.TextToImage(modules, {}, _no_tokenizer, diffusion, by.scaling, by.latent_shape)
    return model, make_draw(model, scale=by.guidance, **base.plan_settings(dict(by.settings)))


@functools.lru_cache(maxsize=4)
def _sampler(by: _Compiled, fsdp: int) -> Callable:
    size, (model, draw) = dict(by.settings)["batch_size"], _draw(by)
    return sampling.make_sampler(draw, model.image_shape, batch_size=size, fsdp=fsdp)


@functools.lru_cache(maxsize=4)
def _draw_flops(by: _Compiled) -> float:
    model, draw = _draw(by)
    return base.draw_flops(draw, *drawing_shapes(model, 1))
