"""`vdu generate`: sample images of a prompt from a Stable Diffusion folder.

GRID.png    the images
GRID.json   the model, the settings and the versions that they were made with
"""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from vdu_jax.errors import UserError
from vdu_jax.interop import pipeline
from vdu_jax.runtime import artifacts, pictures, provenance, sampling
from vdu_jax.tasks.text_to_image import networks

COLUMNS, BATCH = 4, 4


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
    """Sample images of a prompt with DDIM, and write a grid and its settings.

    Args:
      directory: diffusers folder of a Stable Diffusion model.
      output: the grid's file, which ends in .png; the settings go beside it as .json.
      prompt: the text.
      negative: text of what the images should not show; "" for none.
      images: number of images, in 1..10000.
      guidance_scale: scale of classifier-free guidance; 1 for none.
      steps: steps of DDIM, at most the model's noise levels.
      seed: of the noise, in 0..2³¹ − 1.
      precision: "float32" or "bfloat16", the type that the networks compute in.

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
    model = pipeline.read(Path(directory))
    if steps > model.diffusion["num_steps"]:
        raise UserError(
            f"--steps={steps}: the model has {model.diffusion['num_steps']} noise levels; use at "
            "most as many"
        )
    modules = {
        name: module.clone(dtype=jnp.dtype(precision)) for name, module in model.modules.items()
    }
    model = model._replace(modules=modules)
    text, away = np.split(networks.embed(model, [prompt, negative]), 2)
    params = {name: model.params[name] for name in ("unet", "vae")}
    params |= {"negative": away}
    sampler = sampling.make_sampler(
        networks.make_draw(model, steps, guidance_scale),
        model.image_shape,
        batch_size=min(BATCH, images),
    )
    drawn = sampler(params, seed, images, "generate", np.repeat(text, images, axis=0))
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
