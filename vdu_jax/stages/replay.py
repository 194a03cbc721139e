"""The stage `replay`: images sampled from the original, and which of them are forget-like.

It sees D_f and the original, and no retained data.

    replay/images.npz   images (N, H, W, C) uint8, forget_like (N,) bool
    replay/found.npz    arrays of the cleaning that the task's scorer needs
    replay/grid.png     the first 100 images that are not forget-like
"""

from pathlib import Path

from ml_collections import ConfigDict

from vdu_jax import tasks
from vdu_jax.runtime import artifacts, pictures

SHOWN = 100


def run(config: ConfigDict, workdir: Path, overwrite: bool = False) -> None:
    """Sample replay images and find those that are forget-like.

    Args:
      config: all settings.
      workdir: the run's folder.
      overwrite: whether a finished stage is made again.

    Raises:
      UserError: if the original has not been trained, or the images cannot be cleaned.
    """
    task = tasks.of(config, workdir)
    stage = task.stage("replay", ("replay", "sampler", "forget"), upstream=("original",))
    if stage.done(overwrite):
        return
    num_forget = task.num_forget  # before sampling, so that errors in the data are reported first
    path = stage.begin()
    images = task.draw_original(task.request("replay"), config.replay.seed)
    replay, more = task.clean(images)
    forget_like = replay.forget_like
    artifacts.write_npz(path / "images.npz", images=images, forget_like=forget_like)
    artifacts.write_npz(path / "found.npz", **replay.for_scorer)
    pictures.save(path / "grid.png", pictures.grid(images[~forget_like][:SHOWN]))
    stage.finish(
        {
            "images": len(images),
            "removed": int(forget_like.sum()),
            "forget_images": num_forget,
            **more,
        }
    )


def load(workdir: Path) -> tasks.Replay:
    """Read the replay that `run` wrote.

    Raises:
      UserError: if it is missing or damaged.
    """
    artifacts.upstream(workdir, "replay")
    folder = Path(workdir) / "replay"
    stored = artifacts.read_npz(folder / "images.npz")
    for_scorer = artifacts.read_npz(folder / "found.npz")
    return tasks.Replay(stored["images"], stored["forget_like"], for_scorer)
