"""`vdu plan` for text-to-image models: what training and unlearning the U-Net hold in memory.

Nothing is allocated: of a folder only the config.json files are read, so it need not hold weights.
"""

import functools
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from vdu_jax import config as vdu_config
from vdu_jax import objectives, posterior
from vdu_jax.interop import pipeline, scheduler, stable_diffusion
from vdu_jax.models import lora
from vdu_jax.stages import build as images_build
from vdu_jax.stages import plan as images_plan
from vdu_jax.stages import posterior as images_posterior
from vdu_jax.stages import unlearn as images_unlearn
from vdu_jax.stages.text_to_image import build, unlearn

VOCABULARY = 49408  # of CLIP; that of a model of one's own is learned from its captions
Shapes = dict[str, Any]


def read(config: ConfigDict) -> tuple[pipeline.TextToImage, Shapes]:
    """The model without parameters, and the shapes of those."""
    if config.model.folder:
        folder = Path(config.model.folder).expanduser()
        configs, modules = pipeline.read_networks(folder)
        modules = build.in_dtype(config, modules)
        where = folder / "unet" / "config.json"
    else:
        configs, modules = build.own_networks(config, VOCABULARY)
        where = "config key model.unet"
    parts = stable_diffusion.PARTS
    shapes = {name: parts[name].param_shapes(module) for name, module in modules.items()}
    # How noisy the levels are changes no size.
    diffusion = scheduler.read_noise({}, "", "DDPMScheduler")
    sides = pipeline.latent_sides(configs["unet"], where)
    latent_shape = (*sides, modules["unet"].out_channels)
    return pipeline.TextToImage(modules, {}, None, diffusion, 1.0, latent_shape), shapes


def text_shape(text_encoder: nn.Module) -> tuple[int, int]:
    """(L, D) of a prompt's embeddings."""
    return text_encoder.max_length, text_encoder.hidden_size


def batch(model: pipeline.TextToImage, count: int) -> dict[str, jax.ShapeDtypeStruct]:
    """What a loader gives of `count` latents."""
    text = jax.ShapeDtypeStruct((count, *text_shape(model.modules["text_encoder"])), jnp.float32)
    latents = jax.ShapeDtypeStruct((count, *model.latent_shape), jnp.float32)
    return {"image": latents, "cond": text, "negative": text}


def of_training(config: ConfigDict, devices: int, model, shapes: Shapes) -> dict[str, int]:
    """The rows of training the U-Net."""
    section = config.train
    made = (
        objectives.ddpm(
            build.score_fn(model, config.parallel.remat),
            build.parameterization(model),
            drop_condition=config.condition.drop,
        ),
        images_build.optimizer(images_build.learning_rate(config), section.clip_norm),
    )
    plan = images_plan.StepPlan(
        lambda given: made,
        shapes["unet"],
        None,
        {"retain": section.batch_size},
        functools.partial(batch, model),
        section.ema_decay,
    )
    return images_plan.of_step(images_build.layout(config), devices, plan)


def of_method(config: ConfigDict, devices: int, name: str, model, shapes: Shapes) -> dict[str, int]:
    """The rows of a method."""
    settings = config.methods[name]
    part, rest = unlearn.split(shapes["unet"], settings, name)
    trained = None
    if vdu_config.takes_posterior(settings):
        count = config.posterior.count or max(2, len(config.posterior.runs) + 1)
        whole = images_posterior.shapes(shapes["unet"], "diagonal", count)
        trained = unlearn.part_of(whole, settings.subset)

    def make(given):
        part, rest, trained = given
        objective = unlearn.make_objective(
            config, name, model, part, rest, trained, images_plan.NUM_FORGET
        )
        return objective, images_unlearn.optimizer(config, name, trained)

    changed = part
    if settings.rank:
        init = functools.partial(lora.init_adapters, part, settings.rank)
        changed = jax.eval_shape(lambda: init(jax.random.key(0)))
    given = (part, rest, trained)
    sizes = {kind: settings[f"{kind}_batch"] for kind in make(given)[0].sees}
    plan = images_plan.StepPlan(make, changed, given, sizes, functools.partial(batch, model))
    return images_plan.of_step(images_build.layout(config), devices, plan)


def of_sampling(config: ConfigDict, devices: int, model, shapes: Shapes) -> dict[str, int]:
    """The rows of drawing."""
    section, count = config.sampler, -(-config.sampler.batch_size // devices)
    draw = build.make_draw(model, section.steps, config.condition.guidance, section.name)
    text = text_shape(model.modules["text_encoder"])
    params = {
        "unet": shapes["unet"],
        "vae": shapes["vae"],
        "negative": jax.ShapeDtypeStruct((1, *text), jnp.float32),
    }
    texts = jax.ShapeDtypeStruct((count, *text), jnp.float32)
    return images_plan.of_drawing(draw, params, count, config.parallel.fsdp, texts)


def make(config: ConfigDict, devices: int) -> dict:
    """As `vdu_jax.stages.plan.make`; the parameters are the U-Net's."""
    images_plan.check_devices(config, devices)
    model, shapes = read(config)
    stages = {} if config.model.folder else {"train": of_training(config, devices, model, shapes)}
    for name in sorted(config.methods):
        stages[f"unlearn/{name}"] = of_method(config, devices, name, model, shapes)
    stages["sample"] = of_sampling(config, devices, model, shapes)
    return images_plan.whole(posterior.num_parameters(shapes["unet"]), devices, stages)


def run(config: ConfigDict, devices: int, memory: float, as_json: bool) -> int:
    """As `vdu_jax.stages.plan.run`."""
    return images_plan.show(make(config, devices), config.parallel.fsdp, memory, as_json)
