"""The posterior over the U-Net's parameters, from checkpoints of one trajectory.

posterior/gaussian/0/     floored and shrunk
posterior/layers.json     one row per parameter tensor, before floor and shrinkage

The checkpoints are the last ones of `train`, or those of folders (`posterior.runs`, then
`model.folder`): of Stable Diffusion, v1-1 to v1-4 are one trajectory.
"""

from collections.abc import Iterator
from pathlib import Path

import jax
from ml_collections import ConfigDict

from vdu_jax import config as vdu_config
from vdu_jax import posterior as posterior_lib
from vdu_jax.errors import UserError
from vdu_jax.interop import pipeline
from vdu_jax.runtime import artifacts, parallel, progress
from vdu_jax.runtime.checkpoints import Store
from vdu_jax.stages import posterior as images_posterior
from vdu_jax.stages.text_to_image import build
from vdu_jax.types import Params


def checkpoints(config: ConfigDict, workdir: Path) -> list[tuple[Path, int | None]]:
    """(folder, step) of each checkpoint; no step where the folder is a model's own."""
    if config.model.folder:
        folders = [*config.posterior.runs, config.model.folder]
        found = [(Path(folder).expanduser(), None) for folder in folders]
    else:
        train = build.train_stage(config, workdir).path
        steps = artifacts.finished(train)["summary"]["snapshots"]
        found = [(train / "unet", step) for step in steps]
    return found[-(config.posterior.count or len(found)) :]


def stream(found: list, like: Params) -> Iterator[Params]:
    """The checkpoints' U-Nets, one after the other.

    Raises:
      UserError: for one of another network.
    """
    with progress.bar(len(found), "posterior", unit="checkpoint") as bar:
        for folder, step in found:
            if step is None:
                params = pipeline.read(folder).params["unet"]
                if jax.tree.map(lambda a: a.shape, params) != jax.tree.map(lambda a: a.shape, like):
                    raise UserError(f"{folder} holds another U-Net than the model to be unlearned")
            else:
                params = build.restore(folder, step, "params", like)
            yield params
            bar.update()


def reduce(found: list, like: Params) -> posterior_lib.GaussianPosterior:
    """Mean and variance over the checkpoints; one is in memory beside the two results."""
    start, update = jax.jit(posterior_lib.start), posterior_lib.update
    moments = None
    for params in stream(found, like):
        moments = start(params) if moments is None else update(moments, params)
    return posterior_lib.finish(moments)


def stage_dir(config: ConfigDict, workdir: Path) -> artifacts.StageDir:
    """The folder of `posterior`, keyed by what the checkpoints are."""
    section = config.posterior.to_dict()
    section["runs"] = [
        build.folder_fingerprint(Path(folder).expanduser()) for folder in section["runs"]
    ]
    return build.stage(config, workdir, "posterior", (), posterior=section)


def run(config: ConfigDict, workdir: Path, overwrite: bool = False) -> None:
    if not vdu_config.needs_posterior(config):
        return
    stage = stage_dir(config, workdir)
    if stage.done(overwrite):
        return
    like = build.original(config, workdir).params["unet"]
    found = checkpoints(config, workdir)
    path = stage.begin()
    saved = images_posterior.save(config.posterior, reduce(found, like), path)
    names = [str(folder) if step is None else f"{folder} step {step}" for folder, step in found]
    stage.finish(saved | {"checkpoints": names, "count": len(names)})


def load(workdir: Path, like: Params) -> posterior_lib.GaussianPosterior:
    """What `run` wrote, for parameters of the shapes of `like`."""
    count = artifacts.upstream(workdir, "posterior")["summary"]["count"]
    shapes = images_posterior.shapes(like, "diagonal", count)
    with Store(Path(workdir) / "posterior" / "gaussian", read_only=True) as store:
        return store.restore(0, "posterior", parallel.placed(shapes, parallel.make_mesh()))
