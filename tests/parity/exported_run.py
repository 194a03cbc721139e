"""The classes that an unlearned model draws, in JAX and, exported, in PyTorch."""

import tempfile
from pathlib import Path

import numpy as np
import scipy.stats
import torch
from diffusers import DDIMScheduler, DDPMPipeline
from tqdm import tqdm

from vdu_jax import cli, data
from vdu_jax.metrics import pul
from vdu_jax.stages import build, classifier, exporting, sample

STEPS = 50
BATCH = 250


def draw_in_pytorch(folder: Path, count: int, seed: int) -> np.ndarray:
    """DDIM images (count, H, W, C) uint8 of an exported folder, from PyTorch's own noise."""
    pipeline = DDPMPipeline.from_pretrained(folder)
    scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, timestep_spacing="trailing")
    scheduler.set_timesteps(STEPS)
    settings, generator = pipeline.unet.config, torch.manual_seed(seed)
    shape = (settings.in_channels, settings.sample_size, settings.sample_size)
    images = []
    for first in tqdm(range(0, count, BATCH), "PyTorch", unit="batch"):
        x = torch.randn((min(BATCH, count - first), *shape), generator=generator)
        with torch.no_grad():
            for t in scheduler.timesteps:
                eps = pipeline.unet(x, t).sample
                x = scheduler.step(eps, t, x, use_clipped_model_output=True).prev_sample
        images.append(data.to_uint8(x.permute(0, 2, 3, 1).numpy()))
    return np.concatenate(images)


def draw_in_jax(config, workdir: Path, model: str, count: int, seed: int) -> np.ndarray:
    """DDIM images of the same model, from JAX's noise."""
    config = config.copy_and_resolve_references()
    config.sampler.update(name="ddim", steps=STEPS, spacing="trailing", batch_size=BATCH)
    image_shape = build.dataset(config).image_shape
    params = sample.load_params(config, workdir, model, image_shape)
    return build.sampler(config, image_shape)(params, seed, count, "JAX")


def homogeneity(a: np.ndarray, b: np.ndarray) -> float:
    """p of the χ² test that two histograms come from one distribution; rare classes pooled."""
    rare = a + b < 10
    table = np.array([[*h[~rare], h[rare].sum()] for h in (a, b)])
    return float(scipy.stats.chi2_contingency(table[:, table.sum(0) > 0]).pvalue)


def compare(config_file: Path, workdir: Path, model: str, count: int = 2000) -> dict:
    """Export a model, draw in both frameworks, and count classes with the run's classifier.

    Returns:
      histograms "jax" and "pytorch", and "p" of `homogeneity`.
    """
    values, _ = cli.parse([f"--config={config_file}", f"--workdir={workdir}"])
    config = values["config"].value
    judge, _, _ = classifier.ensure(config, workdir)
    with tempfile.TemporaryDirectory() as temporary:
        exporting.run(Path(temporary) / "model", config, workdir, model)
        theirs = draw_in_pytorch(Path(temporary) / "model", count, seed=0)
    ours = draw_in_jax(config, workdir, model, count, seed=4)
    histograms = [pul.histogram(judge(images).probabilities) for images in (ours, theirs)]
    return {
        "jax": histograms[0].tolist(),
        "pytorch": histograms[1].tolist(),
        "p": homogeneity(*histograms),
    }
