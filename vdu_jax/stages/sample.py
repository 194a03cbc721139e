"""Draw the images that are evaluated: from the original and every unlearned model, same noise.

samples/<model>/images.npz   images (N, H, W, C) uint8, under the names of the task's requests
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
    """The original, then the methods in the order of their names."""
    return [ORIGINAL, *sorted(config.methods)]


def load_params(task: tasks.Task, model: str) -> Params:
    """The parameters of the original or of the kept step of an unlearned model."""
    return task.original_params if model == ORIGINAL else unlearn.load_kept(task, model)


def run(config: ConfigDict, workdir: Path, overwrite: bool = False) -> None:
    for model in models(config):
        run_model(config, workdir, model, overwrite)


def run_model(config: ConfigDict, workdir: Path, model: str, overwrite: bool = False) -> None:
    """Draw the images of one model."""
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
    """The images of a model, (N, H, W, C) uint8 each, by the names of the task's requests."""
    artifacts.upstream(workdir, f"samples/{model}")
    return artifacts.read_npz(Path(workdir) / "samples" / model / "images.npz")
