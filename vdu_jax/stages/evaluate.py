"""Measure the original and the unlearned models: PUL, u-FID, KID, precision, recall, classes.

    evaluate/<model>/metrics.json   one model's figures; equal configs give equal bytes
    evaluate/metrics.json           gathered from them

u-FID, KID, precision and recall are taken against D_r in the features that the file names
("features"); PUL, the histogram and the confidence are always the classifier's. For the original
the former four are those of its retained-class samples, its own quality on what must stay;
`u_fid_all` counts all its samples. If a method is "retrain", `tv_to_retrained` is the total
variation distance between a model's class histogram and that of the (first) retrained one.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from vdu_jax import data
from vdu_jax.errors import UserError
from vdu_jax.metrics import frechet, kid, precision_recall, pul
from vdu_jax.runtime import artifacts, parallel, progress
from vdu_jax.stages import build, classifier, features, replay, sample, unlearn

NEIGHBOURS = 3  # of precision and recall


class Retained(NamedTuple):
    """D_r in the features of the evaluation.

    stats: of all its images. some: (n, F) of at most `evaluate.reference_images` of them.
    """

    stats: frechet.FeatureStats
    some: np.ndarray


class Yardstick(NamedTuple):
    """What every model of a workdir is measured with.

    Attributes:
      classify: uint8 images -> Judgement, with the classifier's features.
      judge: uint8 images -> Judgement, with the features of the evaluation.
      accuracy: the classifier's on held-out images.
      retained: D_r.
      original: the Judgement of the original's images.
    """

    classify: Callable[[np.ndarray], classifier.Judgement]
    judge: Callable[[np.ndarray], classifier.Judgement]
    accuracy: float
    retained: Retained
    original: classifier.Judgement


def run(config: ConfigDict, workdir: Path, overwrite: bool = False) -> None:
    workdir = Path(workdir)
    yardstick = None
    for model in sample.models(config):
        if not stage_dir(config, workdir, model).done(overwrite):
            yardstick = yardstick or make_yardstick(config, workdir, overwrite)
            run_model(config, workdir, model, yardstick)
    path, metrics = workdir / "evaluate" / "metrics.json", gather(config, workdir)
    if not artifacts.holds(path, metrics):
        artifacts.write_json(path, metrics)


def stage_dir(config: ConfigDict, workdir: Path, model: str) -> artifacts.StageDir:
    second = "replay" if model == sample.ORIGINAL else f"samples/{model}"
    return build.stage(
        config,
        workdir,
        f"evaluate/{model}",
        ("forget",),
        upstream=(f"samples/{sample.ORIGINAL}", second),
        data=build.data_inputs(config),
        classifier=classifier.inputs(config),
        evaluate=features.inputs(config),
    )


def make_yardstick(config: ConfigDict, workdir: Path, overwrite: bool = False) -> Yardstick:
    """Train or load the classifier, and judge the original's images.

    Raises:
      UserError: if the classifier is too weak, or the original makes no image of the forget
        classes.
    """
    classify, accuracy, reference = classifier.ensure(config, workdir, overwrite)
    images = sample.load(workdir, sample.ORIGINAL)
    original = classify(images)
    forget = tuple(config.forget.classes)
    if pul.forget_rate(original.probabilities, forget) == 0:
        raise UserError(
            f"none of the original's {len(images)} images is of forget.classes {forget}: train it "
            "longer, or raise evaluate.images"
        )
    judge, reference = features.ensure(config, classify, reference)
    if judge is not classify:
        original = judge(images)
    retained = choose_retained(config, reference["features"], reference["labels"])
    return Yardstick(classify, judge, accuracy, retained, original)


def run_model(config: ConfigDict, workdir: Path, model: str, yardstick: Yardstick) -> None:
    """Measure one model, whatever has been measured before; see `stage_dir` for whether it has."""
    stage = stage_dir(config, workdir, model)
    path = stage.begin()
    classify, judge, accuracy, retained, original = yardstick
    forget = tuple(config.forget.classes)
    judged = original if model == sample.ORIGINAL else judge(sample.load(workdir, model))
    figures, kept = measure(config, judged, original, forget), judged.features
    metrics = {"figures": figures}
    if model == sample.ORIGINAL:
        figures["u_fid_all"] = distance(kept, retained)
        kept = kept[~np.isin(original.probabilities.argmax(-1), forget)]
        metrics["run"] = {
            "classifier": {"accuracy": accuracy},
            "features": config.evaluate.features,
            "images": config.evaluate.images,
            "forget_classes": forget,
            "u_fid_held_out": held_out_distance(config, judge, retained, forget),
            "replay": replay_cleaning(workdir, classify, forget),
        }
    else:
        metrics["curve"] = curve(config, workdir, model, judge, original, retained)
    figures |= quality(config, kept, retained)
    if config.evaluate.bits_per_dim_images:
        figures["bits_per_dim"] = evidence(config, workdir, model)
    artifacts.write_json(path / "metrics.json", metrics)
    stage.finish({})


def load(workdir: Path, model: str) -> dict:
    """What `run_model` wrote of a model."""
    artifacts.upstream(workdir, f"evaluate/{model}")
    return artifacts.read_json(Path(workdir) / "evaluate" / model / "metrics.json")


def gather(config: ConfigDict, workdir: Path) -> dict:
    """All models' figures in one."""
    measured = {model: load(workdir, model) for model in sample.models(config)}
    figures = {model: m["figures"] for model, m in measured.items()}
    retrained = [m for m in config.methods if unlearn.is_retrained(config, m)]
    for row in figures.values() if retrained else ():
        row["tv_to_retrained"] = pul.total_variation(
            *(np.array(r["histogram"]) for r in (row, figures[retrained[0]]))
        )
    return measured[sample.ORIGINAL]["run"] | {
        "models": figures,
        "curves": {model: m["curve"] for model, m in measured.items() if "curve" in m},
    }


def choose_retained(config: ConfigDict, features: np.ndarray, labels: np.ndarray) -> Retained:
    """D_r from the features (N, F) and labels (N,) of all training images."""
    retained = features[~np.isin(labels, tuple(config.forget.classes))]
    limit = min(len(retained), config.evaluate.reference_images)
    chosen = np.random.default_rng(config.evaluate.seed).choice(len(retained), limit, replace=False)
    return Retained(frechet.feature_stats(retained), retained[np.sort(chosen)])


def distance(features: np.ndarray, retained: Retained) -> float | None:
    """Fréchet distance to D_r, or None for fewer than 2 images."""
    if len(features) < 2:
        return None
    return frechet.frechet_distance(frechet.feature_stats(features), retained.stats)


def quality(config: ConfigDict, features: np.ndarray, retained: Retained) -> dict:
    """u-FID, KID, precision and recall of features (N, F); None for too few images."""
    figures = {"u_fid": distance(features, retained), "kid": None}
    figures |= {"precision": None, "recall": None}
    if len(features) >= 2:
        estimate = kid.kid(features, retained.some, seed=config.evaluate.seed)
        figures["kid"] = estimate._asdict()
    if min(len(features), len(retained.some)) > NEIGHBOURS:
        figures |= precision_recall.precision_recall(
            features, retained.some, neighbours=NEIGHBOURS
        )._asdict()
    return figures


def measure(config: ConfigDict, judged, original, forget) -> dict:
    """The classifier's figures of one model's images."""
    interval = pul.pul(
        judged.probabilities,
        original.probabilities,
        forget,
        resamples=config.evaluate.bootstrap,
        seed=config.evaluate.seed,
    )
    return {
        "pul": interval.value,
        "pul_interval": [interval.low, interval.high],
        "forget_rate": pul.forget_rate(judged.probabilities, forget),
        "confidence": pul.confidence(judged.probabilities),
        "histogram": pul.histogram(judged.probabilities),
    }


def curve(config: ConfigDict, workdir: Path, model: str, judge, original, retained) -> list[dict]:
    """PUL and u-FID of each snapshot of a method, from the images that its rule saw.

    The rule's own estimates stand beside them.
    """
    forget = tuple(config.forget.classes)
    path = workdir / "unlearn" / model
    image_shape = build.dataset(config).image_shape
    rows = []
    for snapshot in artifacts.upstream(workdir, f"unlearn/{model}")["summary"]["snapshots"]:
        images = unlearn.curve_images(config, path, model, snapshot["step"], image_shape)
        judged = judge(images)
        figures = measure(config, judged, original, forget)
        row = {k: figures[k] for k in ("pul", "pul_interval")}
        rows.append(snapshot | row | {"u_fid": distance(judged.features, retained)})
    return rows


def held_out_distance(config: ConfigDict, judge, retained, forget) -> float | None:
    """Fréchet distance of the held-out retained images to D_r: what real images score."""
    held_out = build.open_split(config, build.dataset(config), "test")
    keep = np.flatnonzero(~np.isin(held_out.labels, forget))
    images, _ = held_out.read(keep)
    return distance(judge(images).features, retained)


def replay_cleaning(workdir: Path, classify, forget) -> dict:
    """How many replay images the detector removed, and how many wrongly by the classifier."""
    replayed = replay.load(workdir)
    truly = np.isin(classify(replayed.images).probabilities.argmax(-1), forget)
    removed = replayed.forget_like
    return {
        "images": len(removed),
        "removed": int(removed.sum()),
        "removed_rightly": int((removed & truly).sum()),
        "removed_wrongly": int((removed & ~truly).sum()),
        "left_in": int((~removed & truly).sum()),
    }


def evidence(config: ConfigDict, workdir: Path, model: str) -> dict:
    """Bits per dimension on held-out images of the forget and of the retained classes."""
    found = build.dataset(config)
    source = build.open_split(config, found, "test")
    params = sample.load_params(config, workdir, model, found.image_shape)
    bound = build.evidence_bound(config, found.image_shape)
    split = data.forget_retain_indices(source.labels, config.forget.classes)
    mesh = parallel.make_mesh()
    result = {}
    for kind in ("forget", "retain"):
        indices = getattr(split, kind)[: config.evaluate.bits_per_dim_images]
        images, _ = source.read(indices)
        values = []
        with progress.bar(len(images), f"evidence {model} {kind}", unit="image") as bar:
            for first in range(0, len(images), config.sampler.batch_size):
                x0 = data.to_model_range(images[first : first + config.sampler.batch_size])
                key = jax.random.fold_in(jax.random.key(config.evaluate.seed), first)
                values.append(parallel.fetch(bound(params, parallel.spread(x0, mesh), key)))
                bar.update(len(x0))
        result[kind] = float(np.concatenate(values).mean())
    return result
