"""How often an exported text-to-image model shows the feature in PyTorch, beside how often here.

    python tests/parity/exported_text.py --config=configs/tinted_fashion.py --workdir=DIR MODEL …

Prints a line of JSON for each model. For prompts with the feature and for others: the rate on both
sides, each from noise of its own, and p of the χ² test that they come from one rate. "gap" is the
largest difference between images of both, in [-1, 1], from the same noise.
"""

import json
import sys
import tempfile
from pathlib import Path

import diffusers
import jax
import numpy as np
import reference
import scipy.stats
import torch

from vdu_jax import cli, tasks
from vdu_jax.stages import exporting, sample
from vdu_jax.tasks import feature_detectors
from vdu_jax.tasks.text_to_image import networks

torch.set_num_threads(1)


def in_pytorch(folder: Path, config):
    """`draw(prompt, count, …)`: images (count, H, W, C) in [0, 1] that diffusers makes."""
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(folder)
    theirs.set_progress_bar_config(disable=True)
    steps, scale = config.sampler.steps, config.condition.guidance

    def draw(prompt: str, count: int, **given) -> np.ndarray:
        prompts = [prompt] * count
        return theirs(
            prompts, num_inference_steps=steps, guidance_scale=scale, output_type="np", **given
        ).images

    return draw


def same_rate(hits: list[int], counts: list[int]) -> float:
    """p of the χ² test that two shares are of one rate; 1 where both are 0 or both 1."""
    table = np.array([hits, np.subtract(counts, hits)])
    table = table[table.any(axis=1)]
    return 1.0 if len(table) == 1 else float(scipy.stats.chi2_contingency(table).pvalue)


def compare(config, workdir: Path, name: str, folder: Path) -> dict:
    """The figures of one model; its folder is written to `folder`."""
    exporting.run(folder, config, workdir, name)
    task, has_feature = tasks.of(config, workdir), feature_detectors.make(config)
    theirs, drawn, model = in_pytorch(folder, config), sample.load(workdir, name), task.model
    found = {"model": name}
    for kind in ("feature", "other"):
        prompts, count = task.requests()[kind].about["prompts"], config.evaluate.images
        noise = torch.manual_seed(0)
        images = np.concatenate([theirs(prompt, count, generator=noise) for prompt in prompts])
        sides = {
            "jax": drawn[kind],
            "pytorch": np.rint(255 * images).astype(np.uint8),
        }
        hits = [int((has_feature(images) > 0.5).sum()) for images in sides.values()]
        counts = [len(images) for images in sides.values()]
        rates = {side: n / of for side, n, of in zip(sides, hits, counts, strict=True)}
        found[kind] = rates | {"p": same_rate(hits, counts)}
    unet, prompt = sample.load_params(task, name), config.forget.prompts[0]
    text, negative = np.split(networks.embed(model, [prompt, ""]), 2)
    keys = jax.random.split(jax.random.key(0), 2)
    draw = jax.jit(networks.draw_of_config(config, model))
    params = {"unet": unet, "vae": model.params["vae"], "negative": negative}
    latents = [jax.random.normal(jax.random.fold_in(key, 0), model.latent_shape) for key in keys]
    latents = reference.as_torch(np.stack(latents), torch.float32)
    ours = np.asarray(draw(params, keys, np.repeat(text, 2, axis=0)))
    gap = ours - (2 * theirs(prompt, 2, latents=latents) - 1)
    return found | {"gap": float(np.abs(gap).max())}


def main(argv: list[str]) -> None:
    values = cli.parse([a for a in argv if a.startswith("--")])
    names = [a for a in argv if not a.startswith("--")]
    config, workdir = values[0]["config"].value, Path(values[0].workdir)
    with tempfile.TemporaryDirectory() as temporary:
        for name in names:
            print(json.dumps(compare(config, workdir, name, Path(temporary) / name)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
