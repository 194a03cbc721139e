"""What an exported model draws in PyTorch, beside what it draws here."""

import tempfile
from pathlib import Path

import jax
import numpy as np
import scipy.stats
import torch
from diffusers import DDIMScheduler, DDPMPipeline

from vdu_jax import cli, data, tasks
from vdu_jax.diffusion import samplers
from vdu_jax.metrics import pul
from vdu_jax.runtime import progress
from vdu_jax.stages import exporting, sample
from vdu_jax.tasks import classifier
from vdu_jax.tasks.base import Request

STEPS = 50
BATCH = 250

# A network as small as the demo's is many times slower on several threads that share cores.
torch.set_num_threads(1)


def ddim(folder: Path, start: np.ndarray, steps: int = STEPS) -> np.ndarray:
    """Images of an exported folder in PyTorch, from noise; both (B, H, W, C).

    The scheduler is the folder's own. Like ours, it takes the direction to x_t from the clipped
    x_0, not from the network's output.
    """
    pipeline = DDPMPipeline.from_pretrained(folder)
    scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    x = torch.tensor(start).permute(0, 3, 1, 2)
    with torch.no_grad():
        for t in scheduler.timesteps:
            eps = pipeline.unet(x, t).sample
            x = scheduler.step(eps, t, x, use_clipped_model_output=True).prev_sample
    return x.permute(0, 2, 3, 1).numpy()


def homogeneity(a: np.ndarray, b: np.ndarray) -> float:
    """p of the χ² test that two histograms come from one distribution; rare classes pooled."""
    rare = a + b < 10
    table = np.array([[*h[~rare], h[rare].sum()] for h in (a, b)])
    return float(scipy.stats.chi2_contingency(table[:, table.sum(0) > 0]).pvalue)


def compare(config_file: Path, workdir: Path, model: str, count: int = 2000) -> dict:
    """Export a model of a finished run, and draw with DDIM here and in PyTorch.

    Returns:
      "jax" and "pytorch": how many of `count` images, each side from noise of its own, the run's
      classifier takes for each class. "p": `homogeneity` of the two. "gap": max|Δ| between the
      images of both from the same noise.
    """
    values, _ = cli.parse([f"--config={config_file}", f"--workdir={workdir}"])
    config = values["config"].value
    config.sampler.update(name="ddim", steps=STEPS, spacing="trailing", batch_size=BATCH)
    classify, _, _ = classifier.ensure(config, workdir)
    task = tasks.of(config, workdir)
    image_shape, params = task.image_shape, sample.load_params(task, model)
    start = np.random.RandomState(0).standard_normal((16, *image_shape)).astype(np.float32)
    schedule = task.parameterization.schedule
    predict = task.parameterization.noise_predictor(task.score_fn)
    plan = samplers.make_plan(schedule, "ddim", STEPS, spacing="trailing")
    ours = jax.jit(lambda p, x: samplers.integrate(predict, p, plan, x))(params, start)

    noise = torch.manual_seed(0)
    theirs = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        exporting.run(folder, config, workdir, model)
        gap = np.abs(np.asarray(ours) - ddim(folder, start)).max()
        with progress.bar(count, f"{model} in PyTorch", unit="image") as bar:
            for _ in range(0, count, BATCH):
                batch = torch.randn((BATCH, *image_shape), generator=noise).numpy()
                theirs.append(data.to_uint8(ddim(folder, batch)))
                bar.update(BATCH)
    drawn = task.draw(params, Request(count, (), {}), 4, f"{model} in JAX")
    histograms = [
        pul.histogram(classify(images).probabilities)
        for images in (drawn, np.concatenate(theirs)[:count])
    ]
    return {
        "jax": histograms[0].tolist(),
        "pytorch": histograms[1].tolist(),
        "p": homogeneity(*histograms),
        "gap": float(gap),
    }
