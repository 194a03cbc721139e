"""Measure the original and the unlearned models: PUL, u-FID, KID, precision, recall, classes.

    evaluate/<model>/metrics.json   one model's figures; equal configs give equal bytes
    evaluate/metrics.json           gathered from them

u-FID, KID, precision and recall are taken against D_r in the features that the file names
("features"); PUL, the histogram and the confidence are always the classifier's. For the original
the former four are those of its retained-class samples, its own quality on what must stay;
`u_fid_all` counts all its samples. All four depend on how many images they are of: "images" says
so beside them, and "u_fid_bias" is the u-FID that as many real images are expected at
(`frechet.expected_bias`). Points of the curve have fewer images; the original's u-FID with as many
is under "at_curve_images". Of a class-conditional model "conditions" has what it draws when it is
asked for a class; see `of_conditions`. If a method is "retrain", `tv_to_retrained` is the total
variation distance between a model's class histogram and that of the (first) retrained one.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from vdu_jax import data, tasks
from vdu_jax.errors import UserError
from vdu_jax.metrics import conditions, frechet, kid, precision_recall, pul, tradeoff
from vdu_jax.runtime import artifacts, parallel, processes, progress
from vdu_jax.stages import build, classifier, features, replay, sample, unlearn

NEIGHBOURS = 3  # of precision and recall
CONSIDERABLE = 1 / 3  # share of a u-FID from which on its bias is warned of
FEW = 20  # of the original's images of the forget classes, below which PUL is warned of


class Retained(NamedTuple):
    """D_r in the features of the evaluation.

    Attributes:
      stats: of all its images.
      some: (n, F) of at most `evaluate.reference_images` of them.
      bias: number of images -> the u-FID that as many real ones are expected at, or None if there
        are too few of them or of D_r.
    """

    stats: frechet.FeatureStats
    some: np.ndarray
    bias: Callable[[int], float | None]


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
    found = int(np.isin(original.probabilities.argmax(-1), forget).sum())
    if not found:
        raise UserError(
            f"none of the original's {len(images)} images is of forget.classes {forget}: train it "
            "longer, or raise evaluate.images"
        )
    judge, reference = features.ensure(config, classify, reference)
    warn_of_few(found, len(images), "evaluate.images")
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
        few = kept[: config.curve.images]
        kept = kept[~np.isin(original.probabilities.argmax(-1), forget)]
        figures["at_curve_images"] = {
            "all": counted_distance(few, retained),
            "retained": counted_distance(kept[: config.curve.images], retained),
        }
        metrics["run"] = {
            "classifier": {"accuracy": accuracy},
            "features": config.evaluate.features,
            "images": config.evaluate.images,
            "forget_classes": forget,
            "reference": {
                "images": retained.stats.count,
                "compared": len(retained.some),  # of them, for KID, precision and recall
                "features": len(retained.stats.mean),
            },
            **held_out_distance(config, judge, retained, forget),
            "replay": replay_cleaning(workdir, classify, forget),
        }
    else:
        rows = metrics["curve"] = curve(config, workdir, model, judge, original, retained)
        best = min(rows, key=lambda row: row["u_fid"])
        warn_of_bias(f"curve of {model}", "curve.images", best, retained)
    figures |= quality(config, kept, retained)
    warn_of_bias(model, "evaluate.images", figures, retained)
    figures |= of_conditions(config, judged, retained)
    if config.evaluate.bits_per_dim_images:
        figures |= evidence(config, workdir, model)
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


def of_conditions(config: ConfigDict, judged, retained: Retained) -> dict:
    """Under "conditions" how often the class that was asked for is drawn, "forget" and "others"
    apart, UA, and u-FID of what was asked for with the others. Empty where nothing is asked for.
    """
    task, forget = tasks.of(config), tuple(config.forget.classes)
    to_forget = task.asked_to_forget(len(judged.probabilities), forget)
    if to_forget is None:
        return {}
    (asked,) = task.asked(len(to_forget))
    found = conditions.condition_accuracy(judged.probabilities, asked, forget)
    shares = {kind: share._asdict() for kind, share in found._asdict().items()}
    shares["unlearning_accuracy"] = found.unlearning_accuracy
    return {"conditions": shares | counted_distance(judged.features[~to_forget], retained)}


def choose_retained(config: ConfigDict, features: np.ndarray, labels: np.ndarray) -> Retained:
    """D_r from the features (N, F) and labels (N,) of all training images."""
    retained = features[~np.isin(labels, tuple(config.forget.classes))]
    return reference(retained, config.evaluate.reference_images, config.evaluate.seed)


def reference(features: np.ndarray, limit: int, seed: int) -> Retained:
    """A reference of images with features (N, F), N ≥ 2, of which at most `limit` are kept."""
    limit = min(len(features), limit)
    chosen = np.random.default_rng(seed).choice(len(features), limit, replace=False)
    some, stats = features[np.sort(chosen)], frechet.feature_stats(features)

    @functools.cache
    def bias(count: int) -> float | None:
        if min(count, stats.count // 2, len(some)) < 2:
            return None
        return frechet.expected_bias(some, stats, count, seed=seed)

    return Retained(stats, some, bias)


def distance(features: np.ndarray, retained: Retained) -> float | None:
    """Fréchet distance to D_r, or None for fewer than 2 images."""
    if len(features) < 2:
        return None
    return frechet.frechet_distance(frechet.feature_stats(features), retained.stats)


def counted_distance(features: np.ndarray, retained: Retained) -> dict:
    """u-FID with what it must not be read without: the number of images and the expected bias."""
    return {
        "images": len(features),
        "u_fid": distance(features, retained),
        "u_fid_bias": retained.bias(len(features)),
    }


def warn_of_bias(name: str, key: str, figures: dict, retained: Retained) -> None:
    """A line on standard error if a u-FID is of too few images for it, or missing.

    Args:
      name: whose it is. key: the setting that says of how many images. figures: see
        `counted_distance`.
    """
    images, u_fid, bias = figures["images"], figures["u_fid"], figures["u_fid_bias"]
    of, count = len(retained.stats.mean), retained.stats.count
    kid_too = "kid" in figures
    if images < 2 or (kid_too and images <= NEIGHBOURS):
        need = "u-FID and KID need 2, precision and recall 4" if kid_too else "u-FID needs 2"
        processes.report(
            f"warning: {name}: {images} images of what is retained, where {need}: raise {key}, or "
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


def warn_of_few(found: int, images: int, key: str) -> None:
    """A line on standard error if few of the original's images are of the forget classes.

    Args:
      found: how many are, of how many `images`. key: the setting that says how many there are.
    """
    if found < FEW:
        processes.report(
            f"warning: only {found} of the original's {images} images are of forget.classes, and "
            f"every share that is compared with theirs is as uncertain: raise {key}"
        )


def quality(config: ConfigDict, features: np.ndarray, retained: Retained) -> dict:
    """u-FID, KID, precision and recall of features (N, F); None for too few images."""
    figures = counted_distance(features, retained)
    figures |= {"kid": None, "precision": None, "recall": None}
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
        rows.append(snapshot | row | counted_distance(judged.features, retained))
    return rows


def held_out_distance(config: ConfigDict, judge, retained, forget) -> dict:
    """Fréchet distance of the held-out retained images to D_r: what real images score."""
    held_out = build.open_split(config, build.dataset(config), "test")
    keep = np.flatnonzero(~np.isin(held_out.labels, forget))
    found = None
    if len(keep) >= 2:
        images, _ = held_out.read(keep)
        found = distance(judge(images).features, retained)
    return {
        "u_fid_held_out": found,
        "held_out_images": len(keep),
        "u_fid_held_out_bias": retained.bias(len(keep)),
    }


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
    """Bits per dimension on held-out images of the forget and of the retained classes.

    "bits_per_dim" has the means, None without a held-out image; "bits_per_dim_of" the numbers of
    images and the standard errors over them.
    """
    found = build.dataset(config)
    source = build.open_split(config, found, "test")
    params = sample.load_params(config, workdir, model, found.image_shape)
    bound = build.evidence_bound(config, found.image_shape)
    is_forget = np.isin(source.labels, tuple(config.forget.classes))
    mesh = parallel.make_mesh()
    means, of = {}, {}
    for kind, members in (("forget", is_forget), ("retain", ~is_forget)):
        indices = choose(np.flatnonzero(members), config)
        images, labels = source.read(indices)
        told, values = tasks.of(config).told(labels), []
        with progress.bar(len(images), f"evidence {model} {kind}", unit="image") as bar:
            for first in range(0, len(images), config.sampler.batch_size):
                x0 = data.to_model_range(images[first : first + config.sampler.batch_size])
                key = jax.random.fold_in(jax.random.key(config.evaluate.seed), first)
                part = (rows[first : first + len(x0)] for rows in told)
                some = [parallel.spread(rows, mesh) for rows in (x0, *part)]
                values.extend(parallel.fetch(bound(params, some[0], key, *some[1:])))
                bar.update(len(x0))
        spread = tradeoff.spread(np.asarray(values, float)) if values else None
        means[kind] = spread and spread.mean
        of[kind] = {"images": len(indices), "standard_error": spread and spread.standard_error}
    return {"bits_per_dim": means, "bits_per_dim_of": of}


def choose(indices: np.ndarray, config: ConfigDict) -> np.ndarray:
    """At most `evaluate.bits_per_dim_images` of the indices, drawn at random: the first ones may be
    of a single class."""
    count = min(len(indices), config.evaluate.bits_per_dim_images)
    rng = np.random.default_rng(config.evaluate.seed)
    return np.sort(rng.choice(indices, count, replace=False))
