"""The trained posterior: mean and variance of every parameter over K checkpoints.

posterior/gaussian/0/     GaussianPosterior, floored and shrunk
posterior/layers.json     one row per parameter tensor, before floor and shrinkage
"""

from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from vdu_jax import posterior
from vdu_jax.errors import UserError
from vdu_jax.runtime import artifacts, progress
from vdu_jax.runtime.checkpoints import Store
from vdu_jax.stages import build
from vdu_jax.types import Params


def checkpoint_list(config: ConfigDict, workdir: Path) -> list[tuple[Path, int]]:
    """The (folder, step) of each checkpoint that the posterior is taken over.

    Raises:
      UserError: if there are fewer than the config asks for, a run has not finished, or a model
        is of another network.
    """
    section, original = config.posterior, build.original_folder(config, workdir)
    if section.source == "trajectory":
        if original.name == "import":
            raise UserError(
                f"config key posterior.source = 'trajectory': {original} is a single checkpoint; "
                "use 'runs', with further imported workdirs in posterior.runs"
            )
        found = [(original, step) for step in artifacts.finished(original)["summary"]["snapshots"]]
    else:
        folders = [original, *map(build.model_folder, section.runs)]
        for folder in folders[1:]:
            build.check_network(config, folder)
        found = [(f, artifacts.finished(f)["summary"]["steps"]) for f in folders]
    wanted = section.count or len(found)
    if len(found) < max(2, wanted):
        raise UserError(
            f"config key posterior.count: {max(2, wanted)} checkpoints are needed and "
            f"{len(found)} are there; lower it or train with more train.snapshots"
        )
    return found[-wanted:]


def stream(config: ConfigDict, checkpoints: list, image_shape: tuple) -> Iterator[Params]:
    """The checkpoints' parameters, one in memory at a time."""
    with progress.bar(len(checkpoints), "posterior", unit="checkpoint") as bar:
        for directory, step in checkpoints:
            yield build.load_snapshot(
                config, directory, step, config.posterior.weights, image_shape
            )
            bar.update()


def reduce(checkpoints: Iterator[Params]) -> posterior.GaussianPosterior:
    """Mean and variance over an iterator of parameter trees."""
    moments = posterior.start(next(checkpoints))
    for params in checkpoints:
        moments = posterior.update(moments, params)
    return posterior.finish(moments)


def run(config: ConfigDict, workdir: Path, overwrite: bool = False) -> None:
    section = config.posterior
    checkpoints = checkpoint_list(config, workdir)
    others = {
        str(directory): artifacts.finished(directory)["fingerprint"]
        for directory, _ in checkpoints
        if directory.parent != Path(workdir)
    }
    stage = build.stage(config, workdir, "posterior", ("posterior",), ("original",), runs=others)
    if stage.done(overwrite):
        return
    image_shape = build.dataset(config).image_shape
    path = stage.begin()
    raw = reduce(stream(config, checkpoints, image_shape))
    layers = posterior.layer_summary(raw)
    floor = max(section.variance_floor, posterior.relative_floor(raw, section.floor_quantile))
    shrunk = posterior.apply_shrinkage(raw, section.shrinkage)
    smallest = min(float(v.min()) for v in jax.tree.leaves(shrunk.variance))
    if max(floor, smallest) <= 0:
        raise UserError(
            "config key posterior.variance_floor: some variances over the checkpoints are 0; "
            "set it (or posterior.floor_quantile) above 0"
        )
    result = posterior.apply_floor(shrunk, floor) if floor > 0 else shrunk
    with Store(path / "gaussian") as store:
        store.save(0, {"posterior": result})
        store.wait()
    artifacts.write_json(path / "layers.json", layers)
    floored = sum(
        float(jnp.sum(v < floor)) for v in jax.tree.leaves(shrunk.variance)
    ) / posterior.num_parameters(raw.mean)
    stage.finish(
        {
            "checkpoints": [f"{directory} step {step}" for directory, step in checkpoints],
            "count": len(checkpoints),
            "floor": floor,
            "fraction_floored": floored,
            "median_variance": posterior.relative_floor(raw, 0.5),
        }
    )


def load(config: ConfigDict, workdir: Path, image_shape: tuple) -> posterior.GaussianPosterior:
    """The posterior that `run` wrote.

    Raises:
      UserError: if it is missing, damaged or of another network.
    """
    artifacts.upstream(workdir, "posterior")
    params = build.abstract_params(config, image_shape)
    wide = jax.tree.map(
        lambda p: jax.ShapeDtypeStruct(p.shape, jnp.float32, sharding=p.sharding), params
    )
    count = jax.ShapeDtypeStruct((), jnp.int32, sharding=jax.tree.leaves(params)[0].sharding)
    with Store(Path(workdir) / "posterior" / "gaussian", read_only=True) as store:
        return store.restore(0, "posterior", posterior.GaussianPosterior(wide, wide, count))
