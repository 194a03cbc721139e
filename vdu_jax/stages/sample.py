"""Draw the images that are evaluated: from the original and every unlearned model, same noise.

samples/<model>/images.npz   images (N, H, W, C) uint8
samples/<model>/grid.png     the first 100
"""

from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from vdu_jax.runtime import artifacts, pictures
from vdu_jax.stages import build, unlearn

ORIGINAL = "original"


def models(config: ConfigDict) -> list[str]:
    """The original, then the methods in the order of their names."""
    return [ORIGINAL, *sorted(config.methods)]


def folder(config: ConfigDict, workdir: Path, model: str) -> Path:
    """Where a model lies: the original, or `unlearn/<method>`."""
    if model == ORIGINAL:
        return build.original_folder(config, workdir)
    return Path(workdir) / "unlearn" / model


def load_params(config: ConfigDict, workdir: Path, model: str, image_shape: tuple):
    """The parameters of the original or of the kept step of an unlearned model."""
    if model == ORIGINAL:
        return build.load_pretrained(config, workdir, image_shape)
    kept = artifacts.upstream(workdir, f"unlearn/{model}")["summary"]["kept_step"]
    weights = unlearn.weights(config, model)
    return build.load_snapshot(
        config, Path(workdir) / "unlearn" / model, kept, weights, image_shape
    )


def run(config: ConfigDict, workdir: Path, overwrite: bool = False) -> None:
    for model in models(config):
        run_model(config, workdir, model, overwrite)


def run_model(config: ConfigDict, workdir: Path, model: str, overwrite: bool = False) -> None:
    """Draw the images of one model."""
    count, seed = config.evaluate.images, config.evaluate.seed
    source = ORIGINAL if model == ORIGINAL else f"unlearn/{model}"
    stage = build.stage(
        config,
        workdir,
        f"samples/{model}",
        ("sampler",),
        upstream=(source,),
        evaluate={"images": count, "seed": seed},
    )
    if stage.done(overwrite):
        return
    image_shape = build.dataset(config).image_shape
    if model == ORIGINAL:
        images = build.draw_original(config, workdir, image_shape, seed, count)
    else:
        params = load_params(config, workdir, model, image_shape)
        images = build.sampler(config, image_shape)(params, seed, count, f"sample {model}")
    path = stage.begin()
    artifacts.write_npz(path / "images.npz", images=images)
    pictures.save(path / "grid.png", pictures.grid(images[:100]))
    stage.finish({"images": count})


def load(workdir: Path, model: str) -> np.ndarray:
    """The images of a model, (N, H, W, C) uint8."""
    artifacts.upstream(workdir, f"samples/{model}")
    return artifacts.read_npz(Path(workdir) / "samples" / model / "images.npz")["images"]
