"""Images of a prompt, from a folder of Stable Diffusion.

GRID.png    the images
GRID.json   what they were made of
"""

from pathlib import Path

import jax
import jax.numpy as jnp

from vdu_jax.diffusion import guidance, process, samplers
from vdu_jax.diffusion.schedule import make_schedule
from vdu_jax.errors import UserError
from vdu_jax.interop import pipeline
from vdu_jax.models.stable_diffusion import unet_condition
from vdu_jax.runtime import artifacts, pictures, provenance, sampling
from vdu_jax.types import Params

COLUMNS, BATCH = 4, 4


def make_draw(model: pipeline.TextToImage, steps: int, scale: float, name: str = "ddim"):
    """`(params, keys) -> images` in [-1, 1]; params: those of the U-Net and of the autoencoder
    under their names, and the embeddings "text" and "negative", each (1, L, D).

    Args:
      scale: of guidance. name: of the sampler.
    """
    settings = dict(model.diffusion)
    schedule = make_schedule(settings.pop("schedule"), **settings)
    unet, vae = model.modules["unet"], model.modules["vae"]
    score_fn = guidance.guided(
        process.noise_predictor(
            unet_condition.make_score_fn(unet), schedule, settings["prediction"]
        ),
        scale,
    )
    plan = samplers.make_plan(schedule, name, steps)

    def draw(params: Params, keys: jax.Array) -> jax.Array:
        cond = tuple(jnp.repeat(params[which], len(keys), axis=0) for which in ("text", "negative"))
        latents = samplers.sample(
            score_fn, params["unet"], plan, keys, model.latent_shape, clip_x0=False, cond=cond
        )
        images = vae.apply({"params": params["vae"]}, latents / model.scaling, method="decode")
        return jnp.clip(images, -1.0, 1.0)

    return draw


def embed(model: pipeline.TextToImage, prompts: list[str]) -> jax.Array:
    """The text encoder's embeddings of prompts, (N, L, D)."""
    apply = jax.jit(model.modules["text_encoder"].apply)
    return apply({"params": model.params["text_encoder"]}, model.tokenize(prompts))


def run(
    directory: str,
    output: str,
    *,
    prompt: str,
    negative: str = "",
    images: int = 4,
    guidance_scale: float = 7.5,
    steps: int = 50,
    seed: int = 0,
    precision: str = "float32",
) -> None:
    """Draw `images` images of a prompt by DDIM, and write the grid and what it was made of.

    Args:
      precision: "float32" or "bfloat16", what the networks compute in.

    Raises:
      UserError: for a setting out of range, or a folder that cannot be read.
    """
    path = Path(output)
    if path.suffix != ".png":
        raise UserError(f"{output}: the picture's name must end in .png")
    if precision not in ("float32", "bfloat16"):
        raise UserError(f"--precision={precision}: must be float32 or bfloat16")
    for flag, value, low, high in (
        ("images", images, 1, 10_000), ("steps", steps, 1, 1000), ("seed", seed, 0, 2**31 - 1)
    ):  # fmt: skip
        if not low <= value <= high:
            raise UserError(f"--{flag}={value}: must lie in {low}..{high}")
    model = pipeline.read(directory)
    if steps > model.diffusion["num_steps"]:
        raise UserError(
            f"--steps={steps}: the model was trained with {model.diffusion['num_steps']} of them"
        )
    modules = {
        name: module.clone(dtype=jnp.dtype(precision)) for name, module in model.modules.items()
    }
    model = model._replace(modules=modules)
    text, away = jnp.split(embed(model, [prompt, negative]), 2)
    params = {name: model.params[name] for name in ("unet", "vae")}
    params |= {"text": text, "negative": away}
    sampler = sampling.make_sampler(
        make_draw(model, steps, guidance_scale), model.image_shape, batch_size=min(BATCH, images)
    )
    drawn = sampler(params, seed, images, "generate")
    pictures.save(path, pictures.grid(drawn, columns=min(COLUMNS, images)))
    made_of = {
        "model": str(Path(directory).absolute()),
        "prompt": prompt,
        "negative": negative,
        "images": images,
        "guidance": guidance_scale,
        "steps": steps,
        "seed": seed,
        "precision": precision,
        "provenance": provenance.collect(),
    }
    artifacts.write_json(path.with_suffix(".json"), made_of)
    print(f"{images} images: {path}")
