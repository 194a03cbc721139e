"""The stage `sample`: images of the original and of every unlearned model, from the same noise.

samples/<model>/images.npz   images (N, H, W, C) uint8, by the names of the task's requests
samples/<model>/grid.png     the first 100
"""

from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from vdu_jax import tasks
from vdu_jax.runtime import artifacts, pictures
from vdu_jax.stages import unlearn
from vdu_jax.tasks import ORIGINAL
from vdu_jax.types import Params

SHOWN = 100


def models(config: ConfigDict) -> list[str]:
    """Names of the models: "original", then the methods in alphabetical order."""
    return [ORIGINAL, *sorted(config.methods)]


def load_params(task: tasks.Task, model: str) -> Params:
    """The parameters of a model.

    Args:
      task: the config's task.
      model: "original", or the name of a method, whose kept step is read.
    """
    return task.original_params if model == ORIGINAL else unlearn.load_kept(task, model)


def run(config: ConfigDict, workdir: Path, overwrite: bool = False) -> None:
    """Sample the images of all models.

    Args:
      config: all settings.
      workdir: the run's folder.
      overwrite: whether a finished stage is made again.
    """
    for model in models(config):
        run_model(config, workdir, model, overwrite)


def run_model(config: ConfigDict, workdir: Path, model: str, overwrite: bool = False) -> None:
    """Sample the images of one model.

    Args:
      config: all settings.
      workdir: the run's folder.
      model: "original" or the name of a method.
      overwrite: whether finished images are sampled again.
    """
    seed, task = config.evaluate.seed, tasks.of(config, workdir)
    requests = task.requests()
    stage = task.stage(
        f"samples/{model}",
        ("sampler",),
        upstream=(ORIGINAL if model == ORIGINAL else f"unlearn/{model}",),
        evaluate={"images": config.evaluate.images, "seed": seed},
        **{name: request.about for name, request in requests.items() if request.about},
    )
    if stage.done(overwrite):
        return
    if model == ORIGINAL:
        drawn = {name: task.draw_original(request, seed) for name, request in requests.items()}
    else:
        params = load_params(task, model)
        drawn = {
            name: task.draw(params, request, seed, f"sample {model}")
            for name, request in requests.items()
        }
    path = stage.begin()
    artifacts.write_npz(path / "images.npz", **drawn)
    pictures.save(path / "grid.png", pictures.grid(task.shown(drawn, SHOWN)))
    stage.finish({"images": config.evaluate.images})


def load(workdir: Path, model: str) -> dict[str, np.ndarray]:
    """Read the images of one model.

    Args:
      workdir: the run's folder.
      model: "original" or the name of a method.

    Returns:
      Images (N, H, W, C) uint8 by the names of the task's requests.

    Raises:
      UserError: if they are missing or damaged.
    """
    artifacts.upstream(workdir, f"samples/{model}")
    return artifacts.read_npz(Path(workdir) / "samples" / model / "images.npz")
