"""The stage `relearn`: train a model on forget images again until it generates them.

    relearn/<model>/images/<step>.npz   images at a check, all from the same noise
    relearn/<model>/metrics.jsonl, events/
    relearn/original/images/<step>.npz  the same at the checkpoints of its training

The summary (done.json) has `steps`, the first check at which the rate of forget images (the task's
`forget_rate`) is at least half the original's, or null; `checks`, rows {step, rate} up to that one;
and `original_rate`. Check 0 is the model before relearning. Training sees
`relearn.forget_images` images of D_f and nothing else.

For the original, `steps` is the training step of its first stored checkpoint with half its final
rate. `at_most` is true if that is the first of all stored checkpoints: the rate may have been
reached earlier. An imported original has no such checkpoints, and null.
"""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from vdu_jax import objectives, tasks
from vdu_jax.errors import UserError
from vdu_jax.metrics import relearning
from vdu_jax.runtime import artifacts, parallel, processes
from vdu_jax.runtime.fit import fit
from vdu_jax.stages import sample
from vdu_jax.stages.train import adam
from vdu_jax.tasks import ORIGINAL, base, evaluators
from vdu_jax.types import Params


def run(config: ConfigDict, workdir: Path, overwrite: bool = False) -> None:
    """Relearn from all models.

    Args:
      config: all settings.
      workdir: the run's folder.
      overwrite: whether a finished stage is made again.

    Raises:
      UserError: if `relearn.images` is 0, or an earlier stage has not finished.
    """
    task = tasks.of(config, workdir)
    for model in sample.models(config):
        run_model(task, model, overwrite)


def stage_dir(task: tasks.Task, model: str) -> artifacts.StageDir:
    """The folder of a model's relearning.

    Args:
      task: the config's task.
      model: "original" or the name of a method.

    Raises:
      UserError: if `relearn.images` is 0.
    """
    config = task.config
    if not config.relearn.images:
        raise UserError(
            "config key relearn.images = 0: set how many images each check draws, e.g. "
            "--config.relearn.images=500"
        )
    return task.stage(
        f"relearn/{model}",
        ("relearn", "forget", "sampler"),
        upstream=[ORIGINAL, *([] if model == ORIGINAL else [f"unlearn/{model}"])],
        **task.relearning_inputs(),
    )


def run_model(task: tasks.Task, model: str, overwrite: bool = False) -> None:
    """Relearn from one model.

    Args:
      task: the config's task.
      model: "original" or the name of a method, which first measures the original's rate.
      overwrite: whether a finished model is measured again.

    Raises:
      UserError: if an earlier stage has not finished, or the devices cannot share a batch.
    """
    if model == ORIGINAL:
        run_original(task, overwrite)
        return
    config, stage = task.config, stage_dir(task, model)
    if stage.done(overwrite):
        return
    run_original(task, overwrite)
    summary = artifacts.upstream(task.workdir, f"relearn/{ORIGINAL}")["summary"]
    layout = base.layout(config)
    parallel.check_batch_size(config.relearn.batch_size, layout, "relearn.batch_size")
    kept = sample.load_params(task, model)
    measure = task.forget_rate(overwrite)
    path = stage.begin()

    def load(step: int) -> Params:
        return train(task, kept, path, step, f"relearn {model}") if step else kept

    rate = make_rate(task, path, measure, load, model)
    summary = until_back((0, *config.relearn.checks), rate, summary["original_rate"])
    for name in ("snapshots", "state"):  # needed only to resume
        processes.from_leader(shutil.rmtree, path / name, True)
    stage.finish(summary)


def run_original(task: tasks.Task, overwrite: bool = False) -> None:
    """Measure the original's rate, and the training step at which it reached half of that.

    Args:
      task: the config's task.
      overwrite: whether a finished measurement is made again.

    Raises:
      UserError: if no image of the original shows what is to be forgotten.
    """
    stage = stage_dir(task, ORIGINAL)
    if stage.done(overwrite):
        return
    folder, last = task.last_checkpoint()
    last = last or 0  # None for a diffusers folder, whose only check is step 0
    snapshots = task.trained_steps()
    pretrained, measure = task.original_params, task.forget_rate(overwrite)
    path = stage.begin()

    def load(step: int) -> Params:
        return pretrained if step == last else task.load_snapshot(folder, step, task.weights)

    rate = make_rate(task, path, measure, load, ORIGINAL)
    final, count = rate(last), task.request("relearn").count
    if final == 0:
        raise UserError(
            f"none of the original's {count} images shows what is to be forgotten "
            "(config section forget): train it longer, or raise relearn.images"
        )
    evaluators.warn_of_few(round(final * count), count, "relearn.images")
    summary = until_back(snapshots, rate, final)
    stage.finish(summary | {"at_most": summary["steps"] in snapshots[:1]})


def until_back(
    steps: Iterable[int], rate: Callable[[int], float], original_rate: float
) -> dict[str, Any]:
    """Measure checks in order, up to the first with half of `original_rate`.

    Args:
      steps: steps of the checks.
      rate: step -> rate of forget images, in [0, 1].
      original_rate: of the original, in [0, 1].

    Returns:
      The summary of the stage: "steps", "checks" and "original_rate".
    """
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
    task: tasks.Task,
    path: Path,
    measure: Callable[[np.ndarray], float],
    load: Callable[[int], Params],
    model: str,
) -> Callable[[int], float]:
    """A function that samples images at a step and measures them.

    Args:
      task: the config's task.
      path: folder of the model; a step's images are stored there and read back.
      measure: images (N, H, W, C) uint8 -> rate, in [0, 1].
      load: step -> parameters.
      model: name of the model, for the progress bar.

    Returns:
      `rate(step)`.
    """
    seed, request = task.config.relearn.seed, task.request("relearn")

    def rate(step: int) -> float:
        file = path / "images" / f"{step:08d}.npz"
        if not artifacts.exists(file):
            images = task.draw(load(step), request, seed, f"relearn {model} step {step}")
            artifacts.write_npz(file, images=images)
        return measure(artifacts.read_npz(file)["images"])

    return rate


def train(task: tasks.Task, kept: Params, path: Path, step: int, label: str) -> Params:
    """The parameters after `step` steps of relearning, which resumes from the last check.

    Args:
      task: the config's task.
      kept: the unlearned model's parameters.
      path: folder of the model.
      step: number of steps.
      label: of the progress bar.
    """
    section = task.config.relearn
    source = task.shown_again(section.forget_images, section.seed)
    fit(
        objectives.ddpm(task.score_fn, task.parameterization, kind="forget"),
        kept,
        {"forget": base.loader(source, section.batch_size, section.seed)},
        adam(section.learning_rate),
        key=jax.random.key(section.seed),
        num_steps=step,
        directory=path,
        snapshot_steps=[step],
        save_state_every=step,
        log_every=step,
        label=label,
        layout=base.layout(task.config),
    )
    return task.load_snapshot(path, step, "params")
