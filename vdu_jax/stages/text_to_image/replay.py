"""Images drawn from the original model of prompts that do not ask for the feature.

replay/images.npz   images (P, n, H, W, C) uint8, n of each of P prompts
replay/grid.png     the first of each

They stand in for retained data, which no method that sees replay alone may see.
"""

from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from vdu_jax.data import captions
from vdu_jax.interop import pipeline
from vdu_jax.runtime import artifacts, pictures
from vdu_jax.stages.text_to_image import build

SHOWN = 100


def run(config: ConfigDict, workdir: Path, overwrite: bool = False) -> None:
    stage = build.stage(config, workdir, "replay", ("replay", "sampler"))
    if stage.done(overwrite):
        return
    model = build.original(config, workdir)
    path, section = stage.begin(), config.replay
    draw = build.drawer(config, model)
    images = draw(model.params["unet"], section.prompts, section.images, section.seed, "replay")
    artifacts.write_npz(path / "images.npz", images=images)
    pictures.save(path / "grid.png", pictures.grid(images[:, 0][:SHOWN]))
    stage.finish({"prompts": list(section.prompts), "images": int(np.prod(images.shape[:2]))})


def load(config: ConfigDict, workdir: Path) -> np.ndarray:
    """The images that `run` drew, (P, n, H, W, C) uint8."""
    artifacts.upstream(workdir, "replay")
    return artifacts.read_npz(Path(workdir) / "replay" / "images.npz")["images"]


def source(config: ConfigDict, workdir: Path, model: pipeline.TextToImage) -> build.LatentSource:
    """Their latents and their prompts' embeddings, for `data.make_loader`."""
    images = load(config, workdir)
    texts = tuple(prompt for prompt in config.replay.prompts for _ in range(images.shape[1]))
    flat = images.reshape(-1, *images.shape[2:])
    found = captions.Captioned(lambda some: flat[some], texts, flat.shape[1:])
    latents = build.encode(model.modules["vae"], model.params["vae"], found, "replay latents")
    latents *= np.float32(model.scaling)
    return build.LatentSource(latents, texts, lambda some: build.embed(model, some))
