"""Images drawn from the original model, and which of them are forget-like.

Sees D_f and the model; no retained data.

    replay/images.npz   images (N, H, W, C) uint8, forget_like (N,) bool
    replay/found.npz    what the task's cleaning came to, for its scorer
    replay/grid.png     the first 100 that are kept
"""

from pathlib import Path

from ml_collections import ConfigDict

from vdu_jax import tasks
from vdu_jax.runtime import artifacts, pictures

SHOWN = 100


def run(config: ConfigDict, workdir: Path, overwrite: bool = False) -> None:
    task = tasks.of(config, workdir)
    stage = task.stage("replay", ("replay", "sampler", "forget"), upstream=("original",))
    if stage.done(overwrite):
        return
    num_forget = task.num_forget  # what is wrong with the data is said before drawing
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
    """What `run` wrote."""
    artifacts.upstream(workdir, "replay")
    folder = Path(workdir) / "replay"
    stored = artifacts.read_npz(folder / "images.npz")
    for_scorer = artifacts.read_npz(folder / "found.npz")
    return tasks.Replay(stored["images"], stored["forget_like"], for_scorer)
