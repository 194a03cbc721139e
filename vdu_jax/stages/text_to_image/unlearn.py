"""Unlearn the feature with every method of the config, each on its part of the U-Net.

    unlearn/<method>/snapshots/<step>/params   of the part, or its adapters, and no more
    unlearn/<method>/curve/<step>.npz          images drawn there, all steps from the same noise
    unlearn/<method>/metrics.jsonl, events/

A step is kept by a rule that sees the model, the prompts and the feature's detector: least change
of what other prompts draw, among the steps at which the feature has gone as far as is asked for.
"""

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from vdu_jax import config as vdu_config
from vdu_jax import detector, objectives, posterior
from vdu_jax.errors import UserError
from vdu_jax.interop import pipeline
from vdu_jax.models import lora, subset
from vdu_jax.runtime import artifacts
from vdu_jax.stages import build as images_build
from vdu_jax.stages import unlearn as images_unlearn
from vdu_jax.stages.text_to_image import build, detectors, replay
from vdu_jax.stages.text_to_image import posterior as posterior_stage
from vdu_jax.types import Objective, Params


def stage_dir(config: ConfigDict, workdir: Path, name: str) -> artifacts.StageDir:
    """The folder of a method."""
    settings = config.methods[name]
    upstream = ("posterior", "replay") if vdu_config.takes_posterior(settings) else ("replay",)
    return build.stage(
        config,
        workdir,
        f"unlearn/{name}",
        ("forget", "sampler", "curve"),
        upstream,
        detector=detectors.inputs(config),
        method=settings.to_dict(),
        unlearn={"seed": config.unlearn.seed},
        replay={"prompts": list(config.replay.prompts)},
    )


def run(config: ConfigDict, workdir: Path, overwrite: bool = False) -> None:
    if not config.methods:
        raise UserError("config key methods is empty: name at least one method to unlearn with")
    for name in sorted(config.methods):
        run_method(config, Path(workdir), name, overwrite)


def split(unet: Params, settings: ConfigDict, name: str) -> tuple[Params, Params]:
    """The parameters that a method may change, and the rest.

    Raises:
      UserError: if there is no such part.
    """
    try:
        return subset.split(unet, settings.subset)
    except ValueError as error:
        raise UserError(f"config key methods.{name}.subset: {error}") from None


def make_objective(
    config: ConfigDict,
    name: str,
    model: pipeline.TextToImage,
    part: Params,
    rest: Params,
    trained: posterior.Posterior | None,
    num_forget: int,
) -> Objective:
    """The method's objective on its part of the U-Net; `trained` is that part's posterior."""
    settings = config.methods[name]
    factory, params = objectives.FACTORIES[settings.objective], settings.params.to_dict()

    def make(score_fn):
        return factory(score_fn, build.parameterization(model), trained, num_forget, **params)

    of_part = objectives.on_part(make, build.score_fn(model, config.parallel.remat), rest)
    return objectives.adapted(of_part, part) if settings.rank else of_part


def open_loaders(
    config: ConfigDict, workdir: Path, name: str, model: pipeline.TextToImage, sees: frozenset
) -> dict:
    """An iterator for each kind of data that the method may see, and for no other."""
    settings, loaders = config.methods[name], {}
    for kind in sorted(sees):
        if kind == "replay":
            source = replay.source(config, workdir, model)
        else:
            source = build.latent_source(config, workdir, model, kind)
        size = settings[f"{kind}_batch"]
        loaders[kind] = images_build.loader(source, size, config.unlearn.seed)
    return loaders


def run_method(config: ConfigDict, workdir: Path, name: str, overwrite: bool = False) -> None:
    """Unlearn with one method."""
    settings = config.methods[name]
    stage = stage_dir(config, workdir, name)
    if stage.done(overwrite):
        return
    images_unlearn.check_batches(config, name)
    model = build.original(config, workdir)
    part, rest = split(model.params["unet"], settings, name)
    trained = None
    if vdu_config.takes_posterior(settings):
        trained = part_of(posterior_stage.load(workdir, model.params["unet"]), settings.subset)
    found = build.captioned(config)
    num_forget = len(build.forget_retain(config, found).forget)
    objective = make_objective(config, name, model, part, rest, trained, num_forget)
    changed = what_changes(config, name, part)
    path = stage.begin()
    loaders = open_loaders(config, workdir, name, model, objective.sees)
    result = images_unlearn.fit_method(config, path, name, objective, changed, loaders, trained)
    judge = make_judge(config, workdir, model)
    snapshots = [
        judge(
            step, path / "curve", lambda step=step: load_step(config, path, step, model, name), name
        )
        for step in result.snapshots
    ]
    count = posterior.num_parameters(changed)
    images_unlearn.finish(stage, settings, objective, result, snapshots, parameters=count)


def part_of(trained: posterior.GaussianPosterior, which: str) -> posterior.GaussianPosterior:
    """The posterior of a part of the parameters: a diagonal Gaussian's marginal."""
    mean, variance = (subset.split(tree, which)[0] for tree in (trained.mean, trained.variance))
    return posterior.GaussianPosterior(mean, variance, trained.count)


def what_changes(config: ConfigDict, name: str, part: Params) -> Params:
    """What a method's optimiser moves: its part of the U-Net, or adapters of that.

    Raises:
      UserError: if no matrix of the part is larger than its adapter.
    """
    rank = config.methods[name].rank
    if not rank:
        return part
    try:
        return lora.init_adapters(part, rank, jax.random.key(config.unlearn.seed))
    except ValueError as error:
        raise UserError(f"config key methods.{name}.rank: {error}") from None


def load_step(
    config: ConfigDict, path: Path, step: int, model: pipeline.TextToImage, name: str
) -> Params:
    """The whole U-Net of a snapshot."""
    part, rest = split(model.params["unet"], config.methods[name], name)
    changed = build.restore(path, step, "params", what_changes(config, name, part))
    if config.methods[name].rank:
        changed = lora.merge_adapters(changed, part)
    return subset.merge(changed, rest)


def make_judge(
    config: ConfigDict, workdir: Path, model: pipeline.TextToImage
) -> Callable[..., detector.Snapshot]:
    """`judge(step, folder, load, name) -> Snapshot`, with the detector and the original model.

    The estimated PUL is of the rate at which forget.prompts show the feature. The drift is the mean
    squared difference, in [0, 4], of what replay.prompts draw there and from the original model,
    pixel by pixel from the same noise.
    """
    section, has_feature = config.curve, detectors.make(config)
    draw = build.drawer(config, model)
    prompts = (*config.forget.prompts, *config.replay.prompts)
    asked = len(config.forget.prompts)

    def images_at(file: Path, load: Callable[[], Params], label: str) -> np.ndarray:
        if not artifacts.exists(file):
            drawn = draw(load(), prompts, section.images, section.seed, label)
            artifacts.write_npz(file, images=drawn)
        return artifacts.read_npz(file)["images"]

    def rate(images: np.ndarray) -> float:
        with_feature = images[:asked]
        return float((has_feature(with_feature.reshape(-1, *images.shape[2:])) > 0.5).mean())

    cache = build.stage(
        config,
        workdir,
        "curve",
        ("curve", "sampler"),
        prompts=list(prompts),
    )
    if not cache.done(overwrite=True):
        cache.begin()
        images_at(cache.path / "original.npz", lambda: model.params["unet"], "original")
        cache.finish({})
    original = artifacts.read_npz(cache.path / "original.npz")["images"]
    original_rate = rate(original)

    def judge(step: int, folder: Path, load: Callable, name: str) -> detector.Snapshot:
        images = images_at(folder / f"{step:08d}.npz", load, f"{name} step {step}")
        gap = (images[asked:].astype(float) - original[asked:]) / 127.5
        pul = detector.estimated_pul(original_rate, rate(images))
        return detector.Snapshot(step, pul, float(np.square(gap).mean()))

    return judge


def load_unet(config: ConfigDict, workdir: Path, model: pipeline.TextToImage, name: str) -> Params:
    """The U-Net of the step that a method kept."""
    kept = artifacts.upstream(workdir, f"unlearn/{name}")["summary"]["kept_step"]
    return load_step(config, Path(workdir) / "unlearn" / name, kept, model, name)
