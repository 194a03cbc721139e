"""The trained posterior: of K checkpoints, or (`posterior.family` = "fisher") of one.

posterior/gaussian/0/     the family's posterior, floored and shrunk
posterior/layers.json     one row per parameter tensor, before floor and shrinkage
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from vdu_jax import data, posterior, tasks
from vdu_jax.errors import UserError
from vdu_jax.runtime import artifacts, parallel, prefetch, progress
from vdu_jax.runtime.checkpoints import Store, whole
from vdu_jax.stages import build
from vdu_jax.types import Params

PARTS = 4  # that a checkpoint is read in
GROUP_BYTES = 2**16  # of arrays that are folded in at once
FISHER_BATCH = 50  # images between moves of the progress bar; gradients are taken one by one


def checkpoint_list(config: ConfigDict, workdir: Path) -> list[tuple[Path, int]]:
    """The (folder, step) of each checkpoint that the posterior is taken over.

    Of the family "fisher" it is the original model alone.

    Raises:
      UserError: if there are fewer than the config asks for, a run has not finished, or a model
        is of another network.
    """
    section, original = config.posterior, build.original_folder(config, workdir)
    if section.family == "fisher":
        return [(original, artifacts.finished(original)["summary"]["steps"])]
    if section.source == "trajectory":
        if original.name == "import":
            raise UserError(
                f"config key posterior.source = 'trajectory': {original} is a single checkpoint; "
                "use 'runs', with further imported workdirs in posterior.runs, or "
                "posterior.family = 'fisher'"
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
    """The checkpoints' parameters, one after the other."""
    with progress.bar(len(checkpoints), "posterior", unit="checkpoint") as bar:
        for directory, step in checkpoints:
            yield build.load_snapshot(
                config, directory, step, config.posterior.weights, image_shape
            )
            bar.update()


def groups(leaves: list) -> list[list]:
    """Arrays in groups of up to `GROUP_BYTES`, in their order; a larger one stands alone.

    A group is folded in by one program: one for each array would be dozens to compile, one for all
    would hold intermediate results of their whole size.
    """
    found, room = [], -1
    for leaf in leaves:
        if leaf.nbytes > room:
            found.append([])
            room = GROUP_BYTES
        found[-1].append(leaf)
        room -= leaf.nbytes
    return found


def reduce(
    config: ConfigDict, checkpoints: list, image_shape: tuple
) -> posterior.GaussianPosterior:
    """Mean and variance over the checkpoints, whose parts are read while others are folded in.

    In memory are the two results, two parts and what reading a few tensors takes.
    """
    start, fold = jax.jit(posterior.start), jax.jit(posterior.update, donate_argnums=0)
    weights, moments, structures = config.posterior.weights, {}, {}
    mesh = parallel.make_mesh(config.parallel.fsdp)

    def read():
        for directory, some in itertools.groupby(checkpoints, lambda pair: pair[0]):
            steps = [step for _, step in some]
            yield from build.load_snapshot_parts(
                config, directory, steps, weights, image_shape, PARTS
            )

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
    found = []
    for index, structure in sorted(structures.items()):
        counts, *trees = zip(*moments.pop(index), strict=True)
        of_part = posterior.Moments(
            counts[0], *(structure.unflatten(itertools.chain(*some)) for some in trees)
        )
        found.append(posterior.finish(of_part))
        del trees, of_part
    means, variances, counts = zip(*found, strict=True)
    return posterior.GaussianPosterior(whole(means), whole(variances), counts[0])


def laplace(config: ConfigDict, workdir: Path, found: data.Dataset) -> posterior.GaussianPosterior:
    """The Laplace posterior of the original model, with the Fisher over images that it draws.

    They stand in for its training data, retained and to forget alike; no image of either is read.
    """
    section, count = config.posterior, config.posterior.fisher_images
    params = build.load_pretrained(config, workdir, found.image_shape)
    sampler = build.sampler(config, found.image_shape)
    images, task = sampler(params, section.fisher_seed, count, "posterior"), tasks.of(config)
    source = task.source(data.ArraySource(images, *task.asked(count)))

    def batches():
        with progress.bar(count, "fisher", unit="image") as bar:
            for first in range(0, count, FISHER_BATCH):
                part = np.arange(first, min(first + FISHER_BATCH, count))
                yield source.batch(part)
                bar.update(len(part))

    fisher = posterior.diagonal_fisher(
        build.score_fn(config, found.image_shape),
        build.parameterization(config),
        params,
        batches(),
        jax.random.key(section.fisher_seed),
    )
    trained_on = section.training_images or len(build.open_split(config, found, "train"))
    return posterior.laplace(params, fisher, trained_on, section.prior_precision)


def fitted(
    config: ConfigDict, workdir: Path, checkpoints: list, found: data.Dataset
) -> posterior.Posterior:
    """The posterior of the config's family as it comes."""
    if config.posterior.family == "fisher":
        return laplace(config, workdir, found)
    if config.posterior.family == "low_rank":
        return posterior.low_rank(stream(config, checkpoints, found.image_shape))
    return reduce(config, checkpoints, found.image_shape)


def describe(section: ConfigDict, count: int) -> str:
    """What the posterior of a family over so many checkpoints is, in words."""
    if section.family == "fisher":
        return f"Laplace, from the Fisher over {section.fisher_images} drawn images"
    more = ", and their deviations (low rank)" if section.family == "low_rank" else ""
    return f"Mean and variance over {count} checkpoints{more}"


def run(config: ConfigDict, workdir: Path, overwrite: bool = False) -> None:
    section = config.posterior
    checkpoints = checkpoint_list(config, workdir)
    # What the further runs are, not where they lie.
    runs = [artifacts.finished(f)["fingerprint"] for f in dict.fromkeys(f for f, _ in checkpoints)]
    stage = build.stage(
        config,
        workdir,
        "posterior",
        ("sampler",) if section.family == "fisher" else (),
        ("original",),
        posterior=section.to_dict() | {"runs": runs},
    )
    if stage.done(overwrite):
        return
    found = build.dataset(config)
    path = stage.begin()
    # Under no name here: these are the parameters' size, and `save` lets go of them.
    saved = save(section, fitted(config, workdir, checkpoints, found), path)
    names = [f"{directory} step {step}" for directory, step in checkpoints]
    about = describe(section, len(names))
    stage.finish(
        saved
        | {"checkpoints": names, "count": len(names), "family": section.family, "about": about}
    )


def save(section: ConfigDict, result: posterior.Posterior, path: Path) -> dict:
    """Write a posterior, floored and shrunk as `config.posterior` says; returns what was done.

    Raises:
      UserError: if a variance would be 0.
    """
    host = parallel.fetch(result)
    layers, median = posterior.layer_summary(host), posterior.relative_floor(host, 0.5)
    floor = max(section.variance_floor, posterior.relative_floor(host, section.floor_quantile))
    del host
    # Under one name, so that what is done with is not kept: these are the parameters' size.
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
    """Shapes of a family's posterior over `count` checkpoints of parameters of these shapes."""

    def wide(*leading):
        return jax.tree.map(
            lambda p: jax.ShapeDtypeStruct((*leading, *p.shape), jnp.float32), params
        )

    number = jax.ShapeDtypeStruct((), jnp.int32)
    if family == "low_rank":
        return posterior.LowRankPosterior(wide(), wide(), wide(count), number)
    return posterior.GaussianPosterior(wide(), wide(), number)


def load(config: ConfigDict, workdir: Path, image_shape: tuple) -> posterior.Posterior:
    """The posterior that `run` wrote.

    Raises:
      UserError: if it is missing, damaged or of another network.
    """
    summary = artifacts.upstream(workdir, "posterior")["summary"]
    like = shapes(build.param_shapes(config, image_shape), summary["family"], summary["count"])
    like = parallel.placed(like, parallel.make_mesh(config.parallel.fsdp))
    with Store(Path(workdir) / "posterior" / "gaussian", read_only=True) as store:
        return store.restore(0, "posterior", like)
