"""The stage `posterior`: a Gaussian over the original's parameters.

Its mean and variance come from K checkpoints, or from one checkpoint and the Fisher information
(`posterior.family` = "fisher").

posterior/gaussian/0/     the posterior after variance floor and shrinkage
posterior/layers.json     one row per parameter tensor, before floor and shrinkage
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from vdu_jax import config as vdu_config
from vdu_jax import posterior, tasks
from vdu_jax.errors import UserError
from vdu_jax.runtime import artifacts, parallel, prefetch, progress
from vdu_jax.runtime.checkpoints import Store, whole
from vdu_jax.tasks import Checkpoint
from vdu_jax.types import Params

PARTS = 4  # parts in which a checkpoint is read
GROUP_BYTES = 2**16  # size of the arrays that one compiled update takes
FISHER_BATCH = 50  # images between moves of the progress bar; gradients are taken one by one


def checkpoint_list(task: tasks.Task) -> list[Checkpoint]:
    """The checkpoints that the posterior is computed from; only the original for "fisher".

    Raises:
      UserError: if fewer than `posterior.count` exist, a run has not finished, or a model is of
        another network.
    """
    section = task.config.posterior
    if section.family == "fisher":
        return [task.last_checkpoint()]
    checkpoints = task.trajectory() if section.source == "trajectory" else task.runs()
    wanted = section.count or len(checkpoints)
    if len(checkpoints) < max(2, wanted):
        raise UserError(
            f"config key posterior.count: {max(2, wanted)} checkpoints are needed and "
            f"{len(checkpoints)} are there; lower it or train with more train.snapshots"
        )
    return checkpoints[-wanted:]


def stream(task: tasks.Task, checkpoints: list[Checkpoint]) -> Iterator[Params]:
    """Read checkpoints one after the other.

    Args:
      task: the config's task.
      checkpoints: as `checkpoint_list` returns them.

    Yields:
      The parameters of each.
    """
    weights = task.config.posterior.weights
    with progress.bar(len(checkpoints), "posterior", unit="checkpoint") as bar:
        for folder, step in checkpoints:
            yield task.load_snapshot(folder, step, weights)
            bar.update()


def groups(leaves: list[jax.Array]) -> list[list[jax.Array]]:
    """Split arrays into groups of up to `GROUP_BYTES`, in their order; a larger array stands alone.

    One program updates the moments of a group. A program for each array would mean dozens to
    compile, and one for all arrays would hold intermediate results of the whole network's size.
    """
    grouped: list[list[jax.Array]] = []
    left = -1
    for leaf in leaves:
        if leaf.nbytes > left:
            grouped.append([])
            left = GROUP_BYTES
        grouped[-1].append(leaf)
        left -= leaf.nbytes
    return grouped


def reduce(task: tasks.Task, checkpoints: list[Checkpoint]) -> posterior.GaussianPosterior:
    """Mean and variance over checkpoints, streamed: a part is read while another is folded in.

    Memory holds the mean, the variance, two parts, and the buffers for reading a few tensors.

    Args:
      task: the config's task.
      checkpoints: as `checkpoint_list` returns them.
    """
    start, fold = jax.jit(posterior.start), jax.jit(posterior.update, donate_argnums=0)
    weights = task.config.posterior.weights
    moments: dict[int, list[posterior.Moments]] = {}
    structures: dict[int, Any] = {}
    mesh = parallel.make_mesh(task.config.parallel.fsdp)

    def read() -> Iterator[tuple[int, Params]]:
        for folder, some in itertools.groupby(checkpoints, lambda pair: pair[0]):
            yield from task.load_parts(folder, [step for _, step in some], weights, PARTS)

    with progress.bar(len(checkpoints), "posterior", unit="checkpoint") as bar:
        for index, part in prefetch.one_ahead(read()):
            leaves, structures[index] = jax.tree.flatten(part)
            some = groups(leaves)
            if index in moments:
                moments[index] = list(map(fold, moments[index], some))
            else:
                moments[index] = [start(parallel.place(group, mesh)) for group in some]
            jax.block_until_ready(moments[index])
            del part, leaves, some
            bar.update(index == 0)
    posteriors = []
    for index, structure in sorted(structures.items()):
        counts, *trees = zip(*moments.pop(index), strict=True)
        of_part = posterior.Moments(
            counts[0], *(jax.tree.unflatten(structure, itertools.chain(*some)) for some in trees)
        )
        posteriors.append(posterior.finish(of_part))
        del trees, of_part
    means, variances, counts = zip(*posteriors, strict=True)
    return posterior.GaussianPosterior(whole(means), whole(variances), counts[0])


def laplace(task: tasks.Task) -> posterior.GaussianPosterior:
    """The Laplace posterior of the original, with the diagonal Fisher information.

    The Fisher is estimated on images sampled from the original, which replace its training data: no
    training image is read.
    """
    section, request = task.config.posterior, task.request("posterior")
    params = task.original_params
    images = task.draw(params, request, section.fisher_seed, "posterior")
    source = task.drawn_source(images, request)

    def batches() -> Iterator[dict[str, Any]]:
        with progress.bar(len(images), "fisher", unit="image") as bar:
            for first in range(0, len(images), FISHER_BATCH):
                part = np.arange(first, min(first + FISHER_BATCH, len(images)))
                yield source.batch(part)
                bar.update(len(part))

    fisher = posterior.diagonal_fisher(
        task.score_fn,
        task.parameterization,
        params,
        batches(),
        jax.random.key(section.fisher_seed),
    )
    trained_on = section.training_images or task.trained_on
    return posterior.laplace(params, fisher, trained_on, section.prior_precision)


def fitted(task: tasks.Task, checkpoints: list[Checkpoint]) -> posterior.Posterior:
    """The posterior of the config's family, before variance floor and shrinkage.

    Args:
      task: the config's task.
      checkpoints: as `checkpoint_list` returns them.
    """
    family = task.config.posterior.family
    if family == "fisher":
        return laplace(task)
    if family == "low_rank":
        return posterior.low_rank(stream(task, checkpoints))
    return reduce(task, checkpoints)


def describe(section: ConfigDict, count: int) -> str:
    """A posterior in words, for the report.

    Args:
      section: `config.posterior`.
      count: number of checkpoints.
    """
    if section.family == "fisher":
        return f"Laplace, from the Fisher over {section.fisher_images} drawn images"
    more = ", and their deviations (low rank)" if section.family == "low_rank" else ""
    return f"Mean and variance over {count} checkpoints{more}"


def run(config: ConfigDict, workdir: Path, overwrite: bool = False) -> None:
    """Make the posterior, if a method of the config uses it.

    Args:
      config: all settings.
      workdir: the run's folder.
      overwrite: whether a finished stage is made again.

    Raises:
      UserError: if checkpoints are missing or do not fit the network, or a variance would be 0.
    """
    if not vdu_config.needs_posterior(config):
        return
    section, task = config.posterior, tasks.of(config, workdir)
    checkpoints = checkpoint_list(task)
    # Fingerprints of the runs, because a moved run is the same run.
    folders = dict.fromkeys(folder for folder, _ in checkpoints)
    stage = task.stage(
        "posterior",
        ("sampler",) if section.family == "fisher" else (),
        ("original",),
        posterior=section.to_dict() | {"runs": [*map(task.checkpoint_fingerprint, folders)]},
    )
    if stage.done(overwrite):
        return
    path = stage.begin()
    # The posterior has the size of several networks. No name holds it here, so `save` can free it.
    saved = save(section, fitted(task, checkpoints), path)
    names = [
        str(folder) if step is None else f"{folder} step {step}" for folder, step in checkpoints
    ]
    about = describe(section, len(names))
    stage.finish(
        saved
        | {"checkpoints": names, "count": len(names), "family": section.family, "about": about}
    )


def save(section: ConfigDict, result: posterior.Posterior, path: Path) -> dict[str, Any]:
    """Shrink and floor the variances of a posterior, and write it.

    Args:
      section: `config.posterior`.
      result: the posterior.
      path: folder of the stage.

    Returns:
      "floor", "fraction_floored" in [0, 1], and "median_variance".

    Raises:
      UserError: if a variance would be 0.
    """
    host = parallel.fetch(result)
    layers, median = posterior.layer_summary(host), posterior.relative_floor(host, 0.5)
    floor = max(section.variance_floor, posterior.relative_floor(host, section.floor_quantile))
    del host
    # One name for all versions, so that earlier ones are freed: each has the network's size.
    result = posterior.shrink_variance(result, section.shrinkage)
    variances = jax.tree.leaves(parallel.fetch(result.variance))
    smallest = float(min(v.min() for v in variances))
    below = sum(int((v < floor).sum()) for v in variances)
    del variances
    if max(floor, smallest) <= 0:
        raise UserError(
            "config key posterior.variance_floor: some variances over the checkpoints are 0; "
            "set it (or posterior.floor_quantile) above 0"
        )
    if floor > 0:
        result = posterior.floor_variance(result, floor)
    with Store(path / "gaussian") as store:
        store.save(0, {"posterior": result})
        store.wait()
    artifacts.write_json(path / "layers.json", layers)
    return {
        "floor": floor,
        "fraction_floored": below / posterior.num_parameters(result.mean),
        "median_variance": median,
    }


def shapes(params: Params, family: str, count: int) -> posterior.Posterior:
    """Shapes of a posterior.

    Args:
      params: shapes of the parameters.
      family: `posterior.family`.
      count: K, the number of checkpoints.
    """

    def zeros(*leading: int) -> Params:
        return jax.tree.map(lambda p: jnp.zeros((*leading, *p.shape), jnp.float32), params)

    def make() -> posterior.Posterior:
        number = jnp.zeros((), jnp.int32)
        if family == "low_rank":
            return posterior.LowRankPosterior(zeros(), zeros(), zeros(count), number)
        return posterior.GaussianPosterior(zeros(), zeros(), number)

    return jax.eval_shape(make)


def load(task: tasks.Task) -> posterior.Posterior:
    """Read the posterior that `run` wrote.

    Raises:
      UserError: if it is missing, damaged or of another network.
    """
    summary = artifacts.upstream(task.workdir, "posterior")["summary"]
    like = shapes(task.param_shapes, summary["family"], summary["count"])
    like = parallel.placed(like, parallel.make_mesh(task.config.parallel.fsdp))
    with Store(task.workdir / "posterior" / "gaussian", read_only=True) as store:
        return store.restore(0, "posterior", like)
