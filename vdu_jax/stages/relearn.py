"""Relearning steps: show a model forget images again, and count until it makes the class again.

    relearn/<model>/images/<step>.npz   images drawn at a check, all from the same noise
    relearn/<model>/metrics.jsonl, events/
    relearn/original/images/<step>.npz  the same at the checkpoints of its training

The summary (done.json) holds `steps`, the first check at which the class has at least half the
original's rate, or null; `checks`, rows {step, rate} up to there; and `original_rate`. Check 0 is
the model as it is. The training sees m images of D_f and nothing else; the rates are the
evaluation's classifier's.

For the original, `steps` is the training step of its first kept checkpoint with half its final
rate, and `at_most` says that this is the first that was kept: the class may have been there before.
An imported original has no checkpoints, and null.
"""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from vdu_jax import data, objectives, tasks
from vdu_jax.errors import UserError
from vdu_jax.metrics import pul, relearning
from vdu_jax.runtime import artifacts, parallel, processes
from vdu_jax.runtime.fit import fit
from vdu_jax.stages import build, classifier, evaluate, sample
from vdu_jax.types import Params


def run(config: ConfigDict, workdir: Path, overwrite: bool = False) -> None:
    for model in sample.models(config):
        run_model(config, Path(workdir), model, overwrite)


def stage_dir(config: ConfigDict, workdir: Path, model: str) -> artifacts.StageDir:
    """Raises: UserError if `relearn.images` is 0."""
    if not config.relearn.images:
        raise UserError(
            "config key relearn.images = 0: set how many images each check draws, e.g. "
            "--config.relearn.images=500"
        )
    return build.stage(
        config,
        workdir,
        f"relearn/{model}",
        ("relearn", "forget", "sampler"),
        upstream=["original", *([] if model == sample.ORIGINAL else [f"unlearn/{model}"])],
        data=build.data_inputs(config),
        classifier=classifier.inputs(config),
    )


def run_model(config: ConfigDict, workdir: Path, model: str, overwrite: bool = False) -> None:
    """One model; a method's needs the original's rate, which is taken first if it is not there."""
    if model == sample.ORIGINAL:
        run_original(config, workdir, overwrite)
        return
    stage = stage_dir(config, workdir, model)
    if stage.done(overwrite):
        return
    run_original(config, workdir, overwrite)
    original = artifacts.upstream(workdir, f"relearn/{sample.ORIGINAL}")["summary"]["original_rate"]
    layout = build.layout(config)
    parallel.check_batch_size(config.relearn.batch_size, layout, "relearn.batch_size")
    image_shape = build.dataset(config).image_shape
    kept = sample.load_params(config, workdir, model, image_shape)
    classify, _, _ = classifier.ensure(config, workdir, overwrite)
    path = stage.begin()

    def load(step):
        return train(config, kept, path, step, f"relearn {model}") if step else kept

    rate = make_rate(config, path, classify, load, model)
    summary = until_back((0, *config.relearn.checks), rate, original)
    for name in ("snapshots", "state"):  # only to go on from
        processes.from_leader(shutil.rmtree, path / name, True)
    stage.finish(summary)


def run_original(config: ConfigDict, workdir: Path, overwrite: bool = False) -> None:
    stage = stage_dir(config, workdir, sample.ORIGINAL)
    if stage.done(overwrite):
        return
    folder = build.original_folder(config, workdir)
    trained = artifacts.finished(folder)["summary"]
    image_shape = build.dataset(config).image_shape
    pretrained = build.load_pretrained(config, workdir, image_shape)
    classify, _, _ = classifier.ensure(config, workdir, overwrite)
    path = stage.begin()

    def load(step):
        if step == trained["steps"]:
            return pretrained
        return build.load_snapshot(config, folder, step, build.weights(config), image_shape)

    rate = make_rate(config, path, classify, load, sample.ORIGINAL)
    final = rate(trained["steps"])
    if final == 0:
        raise UserError(
            f"none of the original's {config.relearn.images} images is of forget.classes "
            f"{tuple(config.forget.classes)}: train it longer, or raise relearn.images"
        )
    found = round(final * config.relearn.images)
    evaluate.warn_of_few(found, config.relearn.images, "relearn.images")
    snapshots = trained.get("snapshots", [])
    summary = until_back(snapshots, rate, final)
    stage.finish(summary | {"at_most": summary["steps"] in snapshots[:1]})


def until_back(steps: Iterable[int], rate: Callable[[int], float], original_rate: float) -> dict:
    """Check the steps in their order up to the first with half of `original_rate`."""
    checks, back = [], None
    for step in steps:
        checks.append(relearning.Check(step, rate(step)))
        back = relearning.relearning_steps(checks, original_rate)
        if back is not None:
            break
    return {
        "steps": back,
        "checks": [check._asdict() for check in checks],
        "original_rate": original_rate,
    }


def make_rate(
    config: ConfigDict, path: Path, classify, load: Callable[[int], Params], model: str
) -> Callable[[int], float]:
    """`rate(step)`: the share of forget-class images that the parameters `load(step)` draw.

    The images of a step are drawn once, then read back.
    """
    section = config.relearn
    sampler = build.sampler(config, build.dataset(config).image_shape)

    def rate(step):
        file = path / "images" / f"{step:08d}.npz"
        if not artifacts.exists(file):
            label = f"relearn {model} step {step}"
            images = sampler(load(step), section.seed, section.images, label)
            artifacts.write_npz(file, images=images)
        judged = classify(artifacts.read_npz(file)["images"])
        return pul.forget_rate(judged.probabilities, tuple(config.forget.classes))

    return rate


def shown(config: ConfigDict) -> data.ImageSource:
    """m images of D_f, drawn by `relearn.seed`, or all if there are fewer; a view of no others."""
    source = build.open_split(config, build.dataset(config), "train")
    forget = build.forget_retain(config, source).forget
    order = np.random.default_rng(config.relearn.seed).permutation(len(forget))
    return source.subset(forget[order[: config.relearn.forget_images]])


def train(config: ConfigDict, kept: Params, path: Path, step: int, label: str) -> Params:
    """The parameters after `step` steps of training from `kept`, going on from the last check."""
    section, source = config.relearn, shown(config)
    score_fn, told = build.score_fn(config, source.image_shape), tasks.of(config).source(source)
    fit(
        objectives.ddpm(score_fn, build.parameterization(config), kind="forget"),
        kept,
        {"forget": build.loader(told, section.batch_size, section.seed)},
        build.optimizer(section.learning_rate),
        key=jax.random.key(section.seed),
        num_steps=step,
        directory=path,
        snapshot_steps=[step],
        save_state_every=step,
        log_every=step,
        label=label,
        layout=build.layout(config),
    )
    return build.load_snapshot(config, path, step, "params", source.image_shape)
