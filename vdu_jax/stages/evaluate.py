"""The stage `evaluate`: PUL, u-FID, `quality.METRICS` and more, of the original and every method.

    evaluate/<model>/metrics.json   figures of one model; equal configs give equal bytes
    evaluate/metrics.json           the figures of all models

The task's `Evaluator` measures. u-FID and the other metrics of quality compare with its reference,
D_r, in the features that the file names under "features".

These metrics depend on the number of images, which stands beside them under "images". "u_fid_bias"
is the u-FID that equally many real images have in expectation (`frechet.expected_bias`). Points of
the curve have fewer images; "at_curve_images" has the original's u-FID with equally many.

If a method is "retrain", "tv_to_retrained" is the total variation distance between a model's class
histogram and that of the first retrained model.
"""

import functools
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vdu_jax import tasks
from vdu_jax.metrics import pul
from vdu_jax.metrics.quality import METRICS, Reference, counted_distance, listed, quality
from vdu_jax.runtime import artifacts, processes
from vdu_jax.stages import replay, sample, unlearn
from vdu_jax.tasks import ORIGINAL

CONSIDERABLE = 1 / 3  # a larger share of bias in a u-FID gives a warning


def run(config: ConfigDict, workdir: Path, overwrite: bool = False) -> None:
    """Measure all models and write their figures.

    Args:
      config: all settings.
      workdir: the run's folder.
      overwrite: whether a finished stage is made again.

    Raises:
      UserError: if an earlier stage has not finished, or as the task's evaluator.
    """
    task, evaluator = tasks.of(config, workdir), None
    for model in sample.models(config):
        if not stage_dir(task, model).done(overwrite):
            evaluator = evaluator or make_evaluator(task, overwrite)
            run_model(task, model, evaluator)
    path, metrics = Path(workdir) / "evaluate" / "metrics.json", gather(config, workdir)
    if not artifacts.holds(path, metrics):
        artifacts.write_json(path, metrics)


def stage_dir(task: tasks.Task, model: str) -> artifacts.StageDir:
    """The folder of a model's figures; `model` is "original" or the name of a method."""
    second = "replay" if model == ORIGINAL else f"samples/{model}"
    return task.stage(
        f"evaluate/{model}",
        ("forget",),
        upstream=(f"samples/{ORIGINAL}", second),
        **task.evaluation_inputs(),
    )


def make_evaluator(task: tasks.Task, overwrite: bool = False) -> tasks.Evaluator:
    """The evaluator of a workdir's models; see `tasks.Task.evaluator`."""
    return task.evaluator(sample.load(task.workdir, ORIGINAL), overwrite)


def run_model(task: tasks.Task, model: str, evaluator: tasks.Evaluator) -> None:
    """Measure one model, even if it has been measured before.

    Args:
      task: the config's task.
      model: "original" or the name of a method.
      evaluator: the workdir's evaluator.
    """
    config, stage = task.config, stage_dir(task, model)
    path, reference = stage.begin(), evaluator.reference
    load = functools.partial(sample.load_params, task, model)
    figures, kept = evaluator.measure(model, sample.load(task.workdir, model), load)
    metrics: dict[str, Any] = {"figures": figures}
    if model == ORIGINAL:
        metrics["run"] = evaluator.of_run(replay.load(task.workdir))
        metrics["run"]["features"] = config.evaluate.features
        if reference is not None:
            metrics["run"]["reference"] = {
                "images": reference.stats.count,
                "compared": len(reference.some),  # images for all metrics but u-FID
                "features": len(reference.stats.mean),
            }
    else:
        metrics["curve"] = curve(task, model, evaluator)
    if reference is not None:
        if model != ORIGINAL:
            best = min(metrics["curve"], key=lambda row: row["u_fid"])
            warn_of_bias(f"curve of {model}", "curve.images", best, reference)
        assert kept is not None, "an evaluator with a reference returns features"
        figures |= quality(kept, reference, config.evaluate.seed)
        warn_of_bias(model, "evaluate.images", figures, reference)
    artifacts.write_json(path / "metrics.json", metrics)
    stage.finish({})


def load(workdir: Path, model: str) -> dict[str, Any]:
    """Read the figures that `run_model` wrote.

    Raises:
      UserError: if they are missing or damaged.
    """
    artifacts.upstream(workdir, f"evaluate/{model}")
    return artifacts.read_json(Path(workdir) / "evaluate" / model / "metrics.json")


def gather(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """The figures of all models, the contents of evaluate/metrics.json.

    Raises:
      UserError: if a model has not been measured.
    """
    measured = {model: load(workdir, model) for model in sample.models(config)}
    figures = {model: m["figures"] for model, m in measured.items()}
    retrained = [m for m in config.methods if unlearn.is_retrained(config, m)]
    for row in figures.values() if retrained else ():
        if "histogram" in row:
            row["tv_to_retrained"] = pul.total_variation(
                *(np.array(r["histogram"]) for r in (row, figures[retrained[0]]))
            )
    return measured[ORIGINAL]["run"] | {
        "models": figures,
        "curves": {model: m["curve"] for model, m in measured.items() if "curve" in m},
    }


def curve(task: tasks.Task, model: str, evaluator: tasks.Evaluator) -> list[dict[str, Any]]:
    """PUL and u-FID of each snapshot of a method, from the images that scored it.

    Args:
      task: the config's task.
      model: name of the method.
      evaluator: the workdir's evaluator.

    Returns:
      A row for each snapshot, with its `Snapshot` beside the figures.
    """
    path, rows = task.workdir / "unlearn" / model, []
    for snapshot in artifacts.upstream(task.workdir, f"unlearn/{model}")["summary"]["snapshots"]:
        images = unlearn.curve_images(task, path, model, snapshot["step"])
        figures, features = evaluator.measure_curve(images)
        if evaluator.reference is not None:
            assert features is not None, "an evaluator with a reference returns features"
            figures |= counted_distance(features, evaluator.reference)
        rows.append(snapshot | figures)
    return rows


def warn_of_bias(name: str, key: str, figures: dict[str, Any], reference: Reference) -> None:
    """Warn on standard error if a u-FID is missing, or has a large bias for lack of images.

    Args:
      name: name of the model or curve.
      key: the setting that says how many images it has.
      figures: as `metrics.quality.counted_distance` returns them.
      reference: the reference of the u-FID.
    """
    images, u_fid, bias = figures["images"], figures["u_fid"], figures["u_fid_bias"]
    of, count = len(reference.stats.mean), reference.stats.count
    kid_too = "kid" in figures
    needs = {2: ["u-FID"]}  # number of images -> what needs them
    for metric in METRICS if kid_too else ():
        needs.setdefault(metric.needs, []).append(metric.name)
    if images < max(needs):
        verb = "need" if kid_too else "needs"
        need = ", ".join(f"{listed(names)} {verb} {few}" for few, names in sorted(needs.items()))
        processes.report(
            f"warning: {name}: {images} images show what is retained, and {need}: raise {key}, or "
            "train the model longer"
        )
    elif min(images, count) < of or bias is None or bias > CONSIDERABLE * u_fid:
        expected = "" if bias is None else f"; real images are expected at {bias:.4g} (the bias)"
        raising = f", raise {key}" if images < max(of, count) else ""
        reading = ", or read KID, which has no such bias" if kid_too else ""
        processes.report(
            f"warning: {name}: u-FID {u_fid:.4g} of {images} images against {count} in {of} "
            f"features{expected}: compare it only with u-FIDs of as many images{raising}{reading}"
        )
